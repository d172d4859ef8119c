"""Codes of floats, one number at a time: what each coordinate comes to at who reads the message."""

import math

import numpy as np

from mpisign.bits.rng import NO_VOTER
from tests.reference.arithmetic import tiled

F = np.float32
TILE = 4096


class Slot:
    signs = False  # whether what is sent are signs, to be counted

    def begin(self):
        pass

    def encode(self, v, voter, stream):
        """What is read of v (d,), float32, 0 where nothing was sent. stream: of the voter's random draws."""
        raise NotImplementedError

    def uniforms(self, v, voter, stream):
        """u in (0, 1) of each coordinate."""
        odds = self.run.random.odds(list(range(len(v))), self.run.t, voter, stream)
        return [(odd + 2**24) / 2**25 for odd in odds]


class Levels(Slot):
    def encode(self, v, voter, stream):
        out, u = np.zeros_like(v), self.uniforms(v, voter, stream)
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


class WholeNumbers(Slot):
    def encode(self, v, voter, stream):
        out, u = np.zeros_like(v), self.uniforms(v, voter, stream)
        for i, value in enumerate(v):
            size = float(abs(value))
            out[i] = np.sign(value) * (math.floor(size) + (u[i] < size - math.floor(size)))
        return np.clip(out, -self.most, self.most)


class TwoMeans(Slot):
    def encode(self, v, voter, stream):
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


def largest(v, places, k):
    """The k of these places with the largest |v|; of equal ones the first. NaN counts as larger than infinity."""
    size = {i: float("inf") if np.isnan(v[i]) else float(abs(v[i])) for i in places}
    return sorted(places, key=lambda i: (not np.isnan(v[i]), -size[i], i))[:k]


class OfTiles(Slot):
    def tiles(self, v):
        """The places of each tile, with how many of them are sent."""
        k = max(1, round(self.density * TILE))
        for lo in range(0, len(v), TILE):
            places = range(lo, min(lo + TILE, len(v)))
            yield places, max(1, math.ceil(k * len(places) / TILE))


class Largest(OfTiles):
    def encode(self, v, voter, stream):
        out, self.sent = np.zeros(len(v), dtype=F), []
        for places, k in self.tiles(v):
            self.sent += largest(v, places, k)
        out[self.sent] = v[self.sent]
        return out


class LargestMeans(OfTiles):
    def encode(self, v, voter, stream):
        out = np.zeros(len(v), dtype=F)
        for places, k in self.tiles(v):
            sizes = {i: abs(float(v[i])) for i in sorted(largest(v, places, k))}
            middle = (min(sizes.values()) + max(sizes.values())) / 2
            lower, upper = ([i for i in sizes if (sizes[i] >= middle) == above] for above in (False, True))
            for half in (lower, upper):
                for i in half:
                    mean = F(sum(sizes[i] for i in half) / len(half))
                    out[i] = -mean if v[i] < 0 else mean
        return out


class LargestSigns(OfTiles):
    signs = True

    def encode(self, v, voter, stream):
        out, self.sent = np.zeros(len(v), dtype=F), []
        for places, k in self.tiles(v):
            self.sent += largest(v, places, k)
        for i in self.sent:
            coin = self.run.random.fresh_coin(i, self.run.t, voter, stream)
            out[i] = 1 if v[i] > 0 or (v[i] == 0 and coin) else -1
        return out


class BlockSigns(Slot):
    signs = True

    def encode(self, v, voter, stream):
        out, (turns, turn) = np.zeros(len(v), dtype=F), divmod(self.run.t, self.blocks)
        if self.shuffled:
            keys = [self.run.random.whole(4 * k, turns, NO_VOTER, "choice") for k in range(self.blocks)]
            turn = sorted(range(self.blocks), key=lambda k: (keys[k], k))[turn]
        for i in self.run.coordinates:
            if i // 64 % self.blocks == turn:
                coin = self.run.random.fresh_coin(i, self.run.t, voter, stream)
                out[i] = np.sign(v[i]) or (1 if coin else -1)
        return out


class Chosen(OfTiles):
    def encode(self, v, voter, stream):
        out, draw = np.zeros(len(v), dtype=F), self.run.random.whole
        for places, k in self.tiles(v):
            draws = {i: draw(i, self.run.t, NO_VOTER, "choice") for i in places}
            for i in sorted(places, key=lambda i: (draws[i], i))[:k]:
                out[i] = F(len(places) / k) * v[i] if self.unbiased else v[i]
        return out


class GlobalLargest(Slot):
    def encode(self, v, voter, stream):
        out, k = np.zeros(len(v), dtype=F), max(1, round(self.density * len(self.run.coordinates)))
        self.sent = largest(v, range(len(v)), k)
        out[self.sent] = v[self.sent]
        return out


class Drawn(Slot):
    """Wangni et al. 2018 algorithm 3: p = min(1, c|v|), c grown while what is certain leaves room for the others."""

    def encode(self, v, voter, stream):
        out, c = np.zeros(len(v), dtype=F), self._factor(v)
        odds = self.run.random.odds(self.run.coordinates, self.run.t, voter, stream)
        for i, odd in zip(self.run.coordinates, odds, strict=True):
            p = min(1.0, c * float(abs(v[i])))
            if (odd + 2**24) / 2**25 < p:
                out[i] = v[i] if p == 1.0 else F(np.sign(v[i]) / c)
        return out

    def _factor(self, v):
        wanted = self.density * len(self.run.coordinates)
        total = self._sum(v)
        c = wanted / total if total else 0.0
        for _ in range(self.passes):
            certain = [i for i in self.run.coordinates if c * float(abs(v[i])) >= 1]
            rest = v.copy()
            rest[certain] = 0
            if not certain or not self._sum(rest):
                break
            c *= max((wanted - len(certain)) / (c * self._sum(rest)), 1.0)
        return c

    def _sum(self, v):
        total = 0.0
        for offset, size in self.run.tensors:
            total += tiled(v, offset, size, 1)
        return total
