"""Whole algorithms as slow, obvious numpy in one process: the definition of a trajectory.

The gradients come from the problem; everything after them is written here from the papers, sharing no code
with mpisign but Philox itself (which its own test ties to published answers).
"""

import numpy as np

from mpisign.rng import NO_VOTER, STREAMS, philox

F = np.float32


class Randomness:
    def __init__(self, seed):
        self.key = (seed & 0xFFFFFFFF, seed >> 32)

    def _block(self, block, step, voter, stream):
        return philox(np.array([block, step, voter, STREAMS[stream]]), self.key).tolist()

    def coin(self, coordinate, step, voter, stream):
        out = self._block(coordinate // 64, step // 2, voter, stream)
        word = out[0] | out[1] << 32
        heads = word >> (coordinate % 64) & 1
        return bool(heads) != (step % 2 == 1)

    def uniforms(self, coordinates, step, voter, stream):
        blocks = np.array([[c // 4, step, voter, STREAMS[stream]] for c in coordinates])
        k = philox(blocks, self.key)[np.arange(len(coordinates)), np.array(coordinates) % 4] >> np.uint32(8)
        return [(2 * int(a) + 1 - 2**24, 2**24) for a in k]


class Reference:
    """One run of `name` by n voters. tensors: (offset, size) of each, as they lie in x."""

    def __init__(self, name, n, seed, x, tensors, gradient, zeros, ties, **hyper):
        self.name, self.n, self.x, self.tensors = name, n, x.copy(), tensors
        self.gradient, self.random = gradient, Randomness(seed)
        self.zeros, self.ties, self.hyper = zeros, ties, hyper
        self.coordinates = [i for offset, size in tensors for i in range(offset, offset + size)]
        self.m = [np.zeros_like(x) for _ in range(n)]
        self.e = [np.zeros_like(x) for _ in range(n)]
        self.server = np.zeros_like(x)
        self.x_before = x.copy()
        self.t = 0

    def step(self, lr):
        directions = {
            "signsgd-mv": self._signs_of_gradients,
            "signum-mv": self._signs_of_momentum,
            "ssdm": self._ssdm,
            "dist-ef-signsgd": self._error_feedback,
            "ssvr-mv": self._ssvr,
        }
        x_now = self.x.copy()
        directions[self.name](lr)
        self.x_before = x_now
        self.t += 1

    # What is shared

    def _momentum(self, beta):
        for j in range(self.n):
            g = self.gradient(j, self.t, self.x)
            self.m[j] = F(beta) * self.m[j] + F(1 - beta) * g
        return self.m

    def _sign(self, v, voter):
        """-1, 0 or +1 for each coordinate that belongs to a parameter."""
        s = np.zeros(len(v), dtype=np.int64)
        for i in self.coordinates:
            s[i] = np.sign(v[i]) if v[i] != 0 else self._zero(i, voter)
        return s

    def _zero(self, i, voter):
        if self.zeros == "coin":
            return 1 if self.random.coin(i, self.t, voter, "zero") else -1
        return {"plus": 1, "abstain": 0}[self.zeros]

    def _tie(self, i):
        if self.ties == "coin":
            return 1 if self.random.coin(i, self.t, NO_VOTER, "tie") else -1
        return {"plus": 1, "zero": 0}[self.ties]

    def _majority(self, signs):
        total = sum(signs)
        decided = np.sign(total)
        for i in self.coordinates:
            if total[i] == 0:
                decided[i] = self._tie(i)
        return decided

    def _move(self, lr, levels):
        """x = fl(fl(c*x) - fl(lr*level)), level float64 a coordinate."""
        c = F(1 - lr * self.hyper.get("weight_decay", 0.0))
        moves = (lr * np.asarray(levels, dtype=np.float64)).astype(F)
        for i in self.coordinates:
            self.x[i] = F(c * self.x[i]) - moves[i]

    @staticmethod
    def _tiled(v, offset, size, power):
        """float64 sum of |v|**power over coordinates [offset, offset + size): tiles, in 16 lanes each."""
        total = 0.0
        lo = offset
        while lo < offset + size:
            hi = min((lo // 4096 + 1) * 4096, offset + size)
            lanes = [0.0] * 16
            for k, value in enumerate(v[lo:hi].astype(np.float64)):
                lanes[k % 16] += abs(value) ** power
            tile = 0.0
            for lane in lanes:
                tile += lane
            total += tile
            lo = hi
        return total

    def _norm(self, v):
        total = 0.0
        for offset, size in self.tensors:
            total += self._tiled(v, offset, size, 2)
        return float(np.sqrt(total))

    def _stochastic(self, v, radius, voter):
        s = np.zeros(len(v), dtype=np.int64)
        uniforms = self.random.uniforms(self.coordinates, self.t, voter, "sign")
        for i, (numerator, denominator) in zip(self.coordinates, uniforms, strict=True):
            u = F(numerator / denominator)
            s[i] = 1 if v[i] > F(F(radius) * u) else -1
        return s

    # The algorithms

    def _signs_of_gradients(self, lr):
        signs = [self._sign(self.gradient(j, self.t, self.x), j) for j in range(self.n)]
        self._move(lr, self._majority(signs))

    def _signs_of_momentum(self, lr):
        m = self._momentum(self.hyper.get("beta", 0.9))
        self._move(lr, self._majority([self._sign(m[j], j) for j in range(self.n)]))

    def _ssdm(self, lr):
        if self.t == 0:
            self.m = [self.gradient(j, 0, self.x) for j in range(self.n)]
        else:
            self._momentum(self.hyper.get("beta", 0.9))
        signs = []
        for j in range(self.n):
            radius = F(self._norm(self.m[j]))
            signs.append(self._stochastic(self.m[j], radius, j) if radius else self._sign(self.m[j], j))
        self._move(lr, sum(signs) / self.n)

    def _error_feedback(self, lr):
        sent = np.zeros_like(self.x)
        for j in range(self.n):
            p = self.e[j] + F(lr) * self.gradient(j, self.t, self.x)
            s = self._sign(p, j)
            for offset, size in self.tensors:
                scale = F(self._tiled(p, offset, size, 1) / size)
                here = slice(offset, offset + size)
                message = (scale * s[here].astype(F)).astype(F)
                sent[here] += message
                p[here] -= message
            self.e[j] = p
        p = self.server + sent / F(self.n)
        c = F(1 - lr * self.hyper.get("weight_decay", 0.0))
        for offset, size in self.tensors:
            scale = F(self._tiled(p, offset, size, 1) / size)
            for i in range(offset, offset + size):
                s = F(np.sign(p[i])) if p[i] != 0 else F(self._tie(i))
                p[i] -= F(scale * s)
                self.x[i] = F(c * self.x[i]) - F(scale * s)
        self.server = p

    def _ssvr(self, lr):
        beta, radius = self.hyper.get("beta", 0.5), self.hyper.get("radius", 1.0)
        signs = []
        for j in range(self.n):
            g = self.gradient(j, self.t, self.x)
            if self.t == 0:
                v = g
            else:
                v = F(1 - beta) * (self.m[j] - self.gradient(j, self.t, self.x_before)) + g
            norm = self._norm(v)
            if norm > radius:
                v = v * F(radius / norm)
            self.m[j] = v
            signs.append(self._stochastic(v, radius, j))
        total = sum(signs)
        decided = np.zeros(len(self.x), dtype=np.int64)
        uniforms = self.random.uniforms(self.coordinates, self.t, NO_VOTER, "server")
        for i, (numerator, denominator) in zip(self.coordinates, uniforms, strict=True):
            decided[i] = 1 if int(total[i]) * denominator > self.n * numerator else -1
        self._move(lr, decided)
