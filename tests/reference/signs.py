"""Messages for an estimate v."""

import math

import numpy as np

from tests.reference.arithmetic import norm, tiled

F = np.float32


class Slot:
    def begin(self):
        pass

    def agree(self, estimates):
        """What all voters agreed on beforehand."""

    def unit(self, agreed):
        """What the direction is in units of, a scale a tensor, or None."""

    def signed(self, v, zeros):
        """-1, 0 or +1 for each coordinate that belongs to a parameter."""
        s = np.zeros(len(v), dtype=np.int64)
        for i in self.run.coordinates:
            s[i] = np.sign(v[i])
            if v[i] == 0 and zeros != "abstain":
                fixed = {"plus": 1, "minus": -1}.get(zeros)
                s[i] = fixed or self.run.coin(i, self.voter, "zero", zeros)
        return s

    def stochastic(self, v, radius):
        """radius: a float32 for each coordinate."""
        s = np.zeros(len(v), dtype=np.int64)
        odds = self.run.random.odds(self.run.coordinates, self.run.t, self.voter, "sign")
        for i, odd in zip(self.run.coordinates, odds, strict=True):
            s[i] = 1 if v[i] > F(F(radius[i]) * F(odd / 2**24)) else -1
        return s


class Sign(Slot):
    def message(self, v, agreed):
        from tests.reference import Message

        return Message(self.signed(v, self.zeros))


class NoisySign(Slot):
    def message(self, v, agreed):
        from tests.reference import Message

        noisy = v.copy()
        for i in self.run.coordinates if self.scale else ():
            scale = self.scale / (self.run.t + 1) ** self.decay
            noisy[i] = v[i] + F(F(scale) * self.run.random.normal(i, self.run.t, self.voter, "dither"))
        return Message(self.signed(noisy, self.zeros))


class StochasticSign(Slot):
    def begin(self):
        self.most = np.full(len(self.run.x), 1e-20, dtype=F)

    def agree(self, estimates):
        for sign in self.run.stages[self.run.turns.stage(self.run.t)]["sign"]:
            sign.learn(estimates)

    def learn(self, estimates):
        if self.radius == "max" and self.run.t % self.refresh == 0:
            self.most = np.maximum(np.max([np.abs(v) for v in estimates], axis=0), F(1e-20))

    def message(self, v, agreed):
        from tests.reference import Message

        if self.radius == "norm":
            length = F(norm(v, self.run.tensors))
            if length == 0:
                return Message(self.signed(v, self.zeros))
            return Message(self.stochastic(v, np.full(len(v), length)))
        if self.radius == "running":
            self.most = np.maximum(self.most, np.abs(v))
        each = self.most if isinstance(self.radius, str) else np.full(len(v), F(self.radius))
        return Message(self.stochastic(v, each))


class ScaledStochasticSign(Slot):
    def message(self, v, agreed):
        from tests.reference import Message

        radius, scales = np.zeros(len(v), dtype=F), []
        for offset, size in self.run.tensors:
            here = slice(offset, offset + size)
            scales.append(max(np.abs(v[here])) if size else F(0))
            radius[here] = scales[-1]
        return Message(self.stochastic(v, radius), scales)


class ScaledSign(Slot):
    def message(self, v, agreed):
        from tests.reference import Message

        scales = [F(tiled(v, offset, size, 1) / size) for offset, size in self.run.tensors]
        return Message(self.signed(v, self.zeros), scales)


class Ternary(Slot):
    def agree(self, estimates):
        """The largest magnitude of each tensor over all voters, after clipping."""
        return [
            max(F(0), *(abs(self._clipped(v)[offset + i]) for v in estimates for i in range(size)))
            for offset, size in self.run.tensors
        ]

    def unit(self, agreed):
        return agreed

    def _clipped(self, v):
        out = v.copy()
        for offset, size in self.run.tensors if self.clip else ():
            limit = F(self.clip * math.sqrt(tiled(v, offset, size, 2) / size))
            for i in range(offset, offset + size):
                out[i] = min(max(v[i], -limit), limit)
        return out

    def message(self, v, agreed):
        from tests.reference import Message

        clipped, odds, radius = self._clipped(v), np.zeros_like(v), np.zeros_like(v)
        for most, (offset, size) in zip(agreed, self.run.tensors, strict=True):
            here = slice(offset, offset + size)
            radius[here], odds[here] = most, F(2) * abs(clipped[here]) - most
        present = self.stochastic(odds, radius) == 1
        return Message(np.where(present, np.sign(clipped), 0).astype(np.int64))


class ErrorFeedback(Slot):
    def begin(self):
        from tests.reference import signs

        self.e, self.inner = self.run.zeros(), self.run.slot(signs, self.rule, self.voter)

    def message(self, v, agreed):
        p = F(self.decay) * self.e + F(self.run.lr if self.in_x else 1.0) * v
        sent = self.inner.message(p, agreed)
        self.e = p - sent.floats(self.run.tensors)
        return sent


class Memory(Slot):
    def begin(self):
        from tests.reference import signs

        self.h, self.inner = self.run.zeros(), self.run.slot(signs, self.rule, self.voter)

    def message(self, v, agreed):
        sent = self.inner.message(v - self.h, agreed)
        self.h = self.h + F(self.alpha) * sent.floats(self.run.tensors)
        return sent


class ThresholdSign(Slot):
    def message(self, v, agreed):
        from tests.reference import Message

        s = np.zeros(len(v), dtype=np.int64)
        for i in self.run.coordinates:
            s[i] = np.sign(v[i]) if abs(v[i]) > F(self.threshold) else 0
        return Message(s, [F(self.threshold)] * len(self.run.tensors))


class ConfidentSign(Slot):
    def message(self, v, agreed):
        from tests.reference import Message

        s = np.zeros(len(v), dtype=np.int64)
        for offset, size in self.run.tensors:
            limit = F(self.threshold) * F(tiled(v, offset, size, 1) / max(size, 1))
            for i in range(offset, offset + size):
                s[i] = np.sign(v[i]) if abs(v[i]) > limit else 0
        return Message(s)


class Silenced(Slot):
    def begin(self):
        from tests.reference import signs

        self.inner = self.run.slot(signs, self.rule, self.voter)

    def agree(self, estimates):
        # radii that are shared reach every voter's rule
        for sign in self.run.stages[self.run.turns.stage(self.run.t)]["sign"]:
            sign.inner.learn(estimates)

    def message(self, v, agreed):
        said, here = self.inner.message(v, agreed), self.run.coordinates
        for i, odd in zip(here, self.run.random.odds(here, self.run.t, self.voter, "silence"), strict=True):
            if F(1 - 2 * self.silence) <= F(odd / 2**24):
                said.signs[i] = 0
        return said


class Compressed(Slot):
    def begin(self):
        from tests.reference import compressors

        self.code = self.run.slot(compressors, self.form, self.voter)

    def message(self, v, agreed):
        from tests.reference import Message

        read = self.code.encode(v, self.voter, "sign")
        return Message(signs=read.astype(np.int64)) if self.code.signs else Message(raw=read)


class InMeans(Compressed):
    def message(self, v, agreed):
        units = self.run.zeros()
        for offset, size in self.run.tensors:
            mean = F(tiled(v, offset, size, 1) / max(size, 1))
            for i in range(offset, offset + size):
                units[i] = v[i] / mean * F(self.resolution) if mean else 0
        return super().message(units, agreed)


class MaskedMomentum(Compressed):
    """Lin et al. 2018 algorithms 1 and 3: u and v are local, and both are forgotten where v was sent."""

    def begin(self):
        super().begin()
        self.u, self.v = self.run.zeros(), self.run.zeros()

    def message(self, g, agreed):
        scale, length = 1.0, norm(g, self.run.tensors)
        if self.clip and length > self.clip / math.sqrt(self.run.n):
            scale = self.clip / math.sqrt(self.run.n) / length
        if self.nesterov:
            self.u = F(self.momentum) * self.u + F(self.momentum * scale) * g
            self.v = self.v + F(scale) * g + self.u
        else:
            self.u = F(self.momentum) * self.u + F(scale) * g
            self.v = self.v + self.u
        sent = super().message(self.v, agreed)
        self.u[self.code.sent] = self.v[self.code.sent] = 0
        return sent


class Raw(Slot):
    def message(self, v, agreed):
        from tests.reference import Message

        out = v.copy()
        for i in range(len(v)) if self.noise else ():
            out[i] += F(F(self.noise) * self.run.random.normal(i, self.run.t, self.voter, "dither"))
        return Message(raw=out)


class Silent(Slot):
    """Nothing is sent: v is what all voters have agreed on."""

    def message(self, v, agreed):
        from tests.reference import Message

        return Message(raw=v.copy())
