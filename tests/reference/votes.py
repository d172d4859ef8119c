"""What messages decide: (levels float64, scales a tensor or None, whether those are in units of x)."""

import math

import numpy as np

from mpisign.bits.rng import NO_VOTER

F = np.float32


class Slot:
    def begin(self):
        pass

    def tie(self, i, value):
        """value where it is not 0, else what the rule for ties says."""
        if value != 0:
            return int(np.sign(value))
        if self.ties in ("coin", "random"):
            return self.run.coin(i, NO_VOTER, "tie", self.ties)
        return {"plus": 1, "minus": -1, "zero": 0}[self.ties]

    def decided(self, values):
        out = np.zeros(len(values))
        for i in self.run.coordinates:
            out[i] = self.tie(i, values[i])
        return out

    def odds(self):
        return zip(
            self.run.coordinates,
            self.run.random.odds(self.run.coordinates, self.run.t, NO_VOTER, "server"),
            strict=True,
        )

    def mean_told(self, messages):
        """The mean of what scaled signs, or codes, say: added in the voters' order, from zero."""
        total = self.run.zeros()
        for m in messages:
            total += m.floats(self.run.tensors)
        return total / F(self.run.n)


def tally(messages):
    return sum(m.signs for m in messages)


class Majority(Slot):
    def decide(self, messages):
        return self.decided(tally(messages)), None, False


class PresentMajority(Slot):
    def decide(self, messages):
        return np.sign(tally(messages)).astype(float), None, False


class BlockMajority(Slot):
    def decide(self, messages):
        out, total = self.run.zeros(), tally(messages)
        for i in self.run.coordinates:
            if messages[0].signs[i]:
                out[i] = np.sign(total[i]) or self.run.coin(i, NO_VOTER, "tie", "random")
        return out, None, False


class RandomisedMajority(Slot):
    def decide(self, messages):
        total, out = tally(messages), np.zeros(len(self.run.x))
        for i, odd in self.odds():
            out[i] = 1 if int(total[i]) * 2**24 > len(messages) * odd else -1
        return out, None, False


class Average(Slot):
    def decide(self, messages):
        return tally(messages) / len(messages), None, False


class Weighted(Slot):
    """As many copies of each voter's message as it has votes, in the hands of the plain vote."""

    def begin(self):
        from tests.reference import votes

        self.plain = self.run.slot(votes, self.vote)

    def decide(self, messages):
        return self.plain.decide([m for m, votes in zip(messages, self.weights, strict=True) for _ in range(votes)])


class LearnedWeights(Slot):
    def begin(self):
        self.score = np.zeros((self.run.n, len(self.run.x)), dtype=F)

    def _weight(self, score, rounds):
        most = self.resolution * self.limit
        least = -most if self.negative else 0.0
        if score >= rounds:
            return most
        odds = least if score <= 0 else round(self.resolution * math.log(score / (rounds - score)))
        return min(max(odds, least), most)

    def decide(self, messages):
        t, out = self.run.t, np.zeros(len(self.run.x))
        rounds = t if self.forget == 1 else (1 - self.forget**t) / (1 - self.forget)
        for i in self.run.coordinates:
            total = 0
            for j, m in enumerate(messages):
                weight = 1 if t < self.plain else int(self._weight(float(self.score[j, i]), rounds))
                total += weight * int(m.signs[i])
            out[i] = self.tie(i, total)
            for j, m in enumerate(messages):
                gain = 0.5 if m.signs[i] == 0 or out[i] == 0 else float(m.signs[i] == out[i])
                self.score[j, i] = F(self.forget) * self.score[j, i] + F(gain)
        return out, None, False


class SignErrorFeedback(Slot):
    def begin(self):
        self.e = self.run.zeros()

    def decide(self, messages):
        p = self.e + (tally(messages) / self.run.n).astype(F)
        s = self.decided(p)
        self.e = p - F(self.factor or 1 / self.run.n) * s.astype(F)
        return s, None, False


class ServerErrorFeedback(Slot):
    def begin(self):
        self.e = self.run.zeros()

    def decide(self, messages):
        from tests.reference.arithmetic import tiled

        p = self.e + self.mean_told(messages)
        scales = [F(tiled(p, offset, size, 1) / size) for offset, size in self.run.tensors]
        s = self.decided(p)
        for scale, (offset, size) in zip(scales, self.run.tensors, strict=True):
            here = slice(offset, offset + size)
            p[here] -= scale * s[here].astype(F)
        self.e = p
        return s, scales, self.in_x


class Tracked(Slot):
    def begin(self):
        self.z = self.run.zeros()

    def track(self, messages):
        came = self.mean_told(messages) if messages[0].raw is None else mean(messages)
        t = self.run.t
        keep, weight = (t / (t + 1), 1 / (t + 1)) if self.start else (1 - self.beta, 1.0)
        self.z = F(keep) * self.z + F(weight) * came


class TrackedSign(Tracked):
    def decide(self, messages):
        self.track(messages)
        return self.decided(self.z), None, False


class TrackedQuantised(Tracked):
    def decide(self, messages):
        self.track(messages)
        radius, scales, out = self.run.zeros(), [], np.zeros(len(self.run.x))
        for offset, size in self.run.tensors:
            scales.append(max(np.abs(self.z[offset : offset + size])))
            radius[offset : offset + size] = scales[-1]
        for i, odd in self.odds():
            out[i] = 1 if self.z[i] > F(radius[i] * F(odd / 2**24)) else -1
        return out, scales, False


def mean(messages):
    total = messages[0].raw.copy()
    for m in messages[1:]:
        total += m.raw
    return total / F(len(messages))


class Mean(Slot):
    def decide(self, messages):
        return mean(messages), None, False


class SignOfMean(Slot):
    def decide(self, messages):
        return self.decided(sum(m.raw.astype(int) for m in messages)), None, False


class CompressedMean(Slot):
    def begin(self):
        from tests.reference import compressors

        self.code = self.run.slot(compressors, self.form, NO_VOTER)

    def decide(self, messages):
        return self.code.encode(self.mean_told(messages), NO_VOTER, "server"), None, False


class CompressedFeedback(CompressedMean):
    def begin(self):
        super().begin()
        self.e = self.run.zeros()

    def decide(self, messages):
        p = self.e + self.mean_told(messages)
        told = self.code.encode(p, NO_VOTER, "server")
        self.e = p - told
        return told, None, self.in_x


class MemoryMean(Slot):
    def begin(self):
        self.h = self.run.zeros()

    def decide(self, messages):
        came = self.mean_told(messages)
        estimate = self.h + came
        self.h = self.h + F(self.alpha) * came
        return estimate, None, False


class ScaledMean(Slot):
    def decide(self, messages):
        return self.mean_told(messages), None, self.in_x


class Median(Slot):
    def decide(self, messages):
        return np.median(np.array([m.raw for m in messages]), axis=0), None, False


class Unanimous(Slot):
    def decide(self, messages):
        return messages[0].raw, None, False
