"""What codes of floats decode to, one number at a time; `run` is the Reference, `voter` whose code it is."""

import math

import numpy as np

from tests.reference.arithmetic import tiled

F = np.float32


class Slot:
    def begin(self):
        pass

    def uniforms(self, v, stream):
        """u in (0, 1) of each coordinate."""
        odds = self.run.random.odds(list(range(len(v))), self.run.t, self.voter, stream)
        return [(odd + 2**24) / 2**25 for odd in odds]


class Levels(Slot):
    def decoded(self, v, stream):
        out, u = np.zeros_like(v), self.uniforms(v, stream)
        for lo in range(0, len(v), self.bucket):
            some = v[lo : lo + self.bucket]
            size = F(math.sqrt(tiled(v, lo, len(some), 2))) if self.norm == "l2" else max(abs(some))
            for i in range(lo, lo + len(some)):
                out[i] = np.sign(v[i]) * self._rounded(float(abs(v[i])), size, u[i])
        return out

    def _rounded(self, magnitude, size, u):
        """|v| as float32, one of the two levels around it."""
        if magnitude == 0:
            return F(0)
        if self.spacing == "linear":
            y = magnitude * self.levels / float(size)
            level = math.floor(y)
            level += u < y - level
            return F(min(level, self.levels)) * (size / F(self.levels))
        if self.spacing == "powers":
            return size * F(self._power(magnitude / float(size), 1 - self.levels, u, most=0))
        return F(self._power(magnitude, -126, u, most=127))

    def _power(self, y, least, u, most):
        """One of 0 and the powers of two from 2**least to 2**most that are next to y."""
        exponent = math.frexp(y)[1] - 1
        if exponent >= most:
            return 2.0**most
        lower, upper = (2.0**exponent, 2.0 ** (exponent + 1)) if exponent >= least else (0.0, 2.0**least)
        return upper if u < (y - lower) / (upper - lower) else lower


class TwoMeans(Slot):
    def decoded(self, v, stream):
        out, there = np.zeros_like(v), set(self.run.coordinates)
        for lo in range(0, len(v), self.bucket):
            some = [i for i in range(lo, min(lo + self.bucket, len(v))) if i in there]
            for side in ([i for i in some if v[i] < 0], [i for i in some if v[i] >= 0]):
                lanes = [0.0] * 16
                for i in side:
                    lanes[(i - lo) % 16] += float(v[i])
                for i in side:
                    out[i] = F(sum(lanes) / len(side))
        return out
