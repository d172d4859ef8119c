"""Codes for floats: quantised levels, two means, the largest or random coordinates.

Each is a Format that a sign rule sends (signs.Compressed) and that a vote may send back (votes.CompressedMean). A
message consists of the messages of its tiles of 4096 coordinates, so that ranks can count a share of it; only `Entries`
is about the whole vector, and its length varies.
"""

from dataclasses import dataclass
from math import ceil, sqrt

import numpy as np
import torch
from torch import Tensor

from mpisign import bits
from mpisign.algorithms.formats import Format
from mpisign.errors import NumericalError, UsageError
from mpisign.layout import TILE, WORD, Layout

PLANES = 9  # most that a code of levels takes
MOST_POWERS = 100  # halvings of a norm that float32 holds beside it


class Compressor(Format):
    """A code between floats and messages."""

    coded, grain = True, TILE

    def omega(self) -> float:
        """omega of E|C(v) - v|^2 <= omega |v|^2 for an unbiased code; infinite for a biased one."""
        return float("inf")


@dataclass(frozen=True)
class Levels(Compressor):
    """N * (+-l/s) with l in 0..s rounded at random, so that its mean is v; N a norm of each bucket of coordinates.

    spacing: "linear" [Alistarh et al. 2017 eq. 3.1], "powers" for the levels 0, 2^(1-s), ..., 1/2, 1 [Horvath et al.
    2019, natural dithering], or "exponents" for the powers of two next to v, which need no norm [the same, C_nat].
    norm: "l2" or "max". Buckets lie in x as they come and may hold the end of one tensor and the start of the next.
    Raises UsageError for levels beyond 9 planes and for a bucket that does not divide a tile.
    """

    levels: int = 7
    bucket: int = 512
    norm: str = "max"
    spacing: str = "linear"

    def __post_init__(self):
        _check_bucket(self.bucket)
        if self.spacing == "powers" and self.levels > MOST_POWERS:
            raise UsageError(
                f"algorithm.levels = {self.levels}: natural levels halve each time, and float32 holds {MOST_POWERS} of "
                'them; take fewer, or spacing = "linear"'
            )
        if self.scheme.planes > PLANES:
            most = 2 ** (PLANES - 1) - 1
            raise UsageError(
                f"algorithm.levels = {self.levels}: codes 0 to {2 * self.levels} take {self.scheme.planes} bits, and a "
                f"message holds {PLANES} at most; take 1 to {most} levels"
            )

    @property
    def scheme(self) -> bits.Scheme:
        return bits.Scheme(self.spacing, self.levels, self.bucket, self.norm)

    @property
    def _norms(self) -> bool:
        return self.spacing != "exponents"

    def items(self, coordinates):
        return self.scheme.words(coordinates)

    def cost(self, coordinates):
        return self.scheme.planes * coordinates + (32 * ceil(coordinates / self.bucket) if self._norms else 0)

    def omega(self):
        """The least that holds for linear levels, within the papers' bounds; else the bound of Horvath et al. 2019.

        A coordinate y levels from 0 has variance p(1 - p), p the fraction of y, so the worst v lies within the first
        level, at one place y throughout: of the l2 norm y = s/sqrt(b), or 1/2 beyond that; of the max norm at the y
        that makes (b - 1)(y - y^2)/(s^2 + (b - 1)y^2) largest, beside one coordinate of the norm.
        """
        b, s = self.bucket, self.levels
        if self.spacing == "exponents":
            return 1 / 8
        if self.spacing == "powers":
            # a power of two apart costs 1/8; below the least level a coin decides [Horvath et al. 2019 thm. 7]
            least = 2.0 ** (1 - s)
            return 1 / 8 + min(sqrt(b) * least, b * least**2)
        if self.norm == "l2":
            return sqrt(b) / s - 1 if 2 * s <= sqrt(b) else b / (4 * s**2)
        return (sqrt(1 + (b - 1) / s**2) - 1) / 2

    def encode(self, v, lo, draw, out, step):
        bits.pack_quantised(v, lo, self.scheme, draw, out[0])

    def add(self, message, total, lo, step, weight=1.0):
        bits.add_quantised(total, message[0], self.scheme, weight)


@dataclass(frozen=True)
class WholeNumbers(Compressor):
    """Whole numbers from -most to most, as they are, in ceil(log2(2*most + 1)) bits each.

    What lies between two of them is rounded to one at random, so that its mean is v, and what is beyond is cut off.
    Raises UsageError for numbers beyond 9 planes.
    """

    most: int = 4

    def __post_init__(self):
        if self.scheme.planes > PLANES:
            raise UsageError(
                f"algorithm.local_steps = {self.most}: whole numbers up to it take {self.scheme.planes} bits, and a "
                f"message holds {PLANES} at most; take 1 to {2 ** (PLANES - 1) - 1}"
            )

    @property
    def scheme(self) -> bits.Scheme:
        return bits.Scheme("whole", self.most, TILE, "max")

    def items(self, coordinates):
        return self.scheme.words(coordinates)

    def cost(self, coordinates):
        return self.scheme.planes * coordinates

    def encode(self, v, lo, draw, out, step):
        bits.pack_quantised(v, lo, self.scheme, draw, out[0])

    def add(self, message, total, lo, step, weight=1.0):
        bits.add_quantised(total, message[0], self.scheme, weight)


@dataclass(frozen=True)
class TwoMeans(Compressor):
    """One bit per coordinate: v >= 0 becomes the mean of those of its bucket, v < 0 that of the others."""

    bucket: int = 512

    def __post_init__(self):
        _check_bucket(self.bucket)

    def items(self, coordinates):
        return coordinates // WORD + ceil(coordinates / self.bucket)

    def cost(self, coordinates):
        return coordinates + 64 * ceil(coordinates / self.bucket)

    def encode(self, v, lo, draw, out, step):
        bits.pack_two_means(v, lo, step.layout.parts(lo, lo + len(v)), self.bucket, out[0])

    def add(self, message, total, lo, step, weight=1.0):
        parts = step.layout.parts(lo, lo + len(total))
        bits.add_two_means(total, message[0], lo, parts, self.bucket, weight)


class _OfTiles(Compressor):
    """Keeps k coordinates of every tile: k = density * 4096, at least one; of a shorter tile its part of k."""

    density: float

    def __post_init__(self):
        check_density(self.density)

    @property
    def k(self) -> int:
        return max(1, round(self.density * TILE))

    def _kept(self, coordinates: int) -> int:
        whole, rest = divmod(coordinates, TILE)
        return whole * self.k + (bits.kept(self.k, rest) if rest else 0)


@dataclass(frozen=True)
class Largest(_OfTiles):
    """The largest |v| of each tile, as 12-bit places within the tile and float32 values: block top-k."""

    density: float = 0.01

    def items(self, coordinates):
        return bits.largest_words(self.k, coordinates, False)

    def cost(self, coordinates):
        return (12 + 32) * self._kept(coordinates)

    def encode(self, v, lo, draw, out, step):
        bits.pack_largest(v, self.k, False, lo, draw, out[0])

    def add(self, message, total, lo, step, weight=1.0):
        bits.add_largest(total, message[0], self.k, False, weight)

    def clear(self, message, y):
        bits.clear_largest(y, message[0], self.k, False)


@dataclass(frozen=True)
class LargestMeans(_OfTiles):
    """The largest |v| of each tile in two bits beside their places: a sign, and one of two means of |v|.

    Those are of the lower and of the upper half of the range of |v| that is sent, two float32 per tile.
    """

    density: float = 0.01

    def items(self, coordinates):
        return bits.largest_means_words(self.k, coordinates)

    def cost(self, coordinates):
        return (12 + 2) * self._kept(coordinates) + 64 * ceil(coordinates / TILE)

    def encode(self, v, lo, draw, out, step):
        bits.pack_largest_means(v, self.k, out[0])

    def add(self, message, total, lo, step, weight=1.0):
        bits.add_largest_means(total, message[0], self.k, weight)


@dataclass(frozen=True)
class LargestSigns(_OfTiles):
    """The signs of the largest |v| of each tile; of zeros among them, a fair coin."""

    density: float = 0.01

    signs = True

    def items(self, coordinates):
        return bits.largest_words(self.k, coordinates, True)

    def cost(self, coordinates):
        return (12 + 1) * self._kept(coordinates)

    def encode(self, v, lo, draw, out, step):
        bits.pack_largest(v, self.k, True, lo, draw, out[0])

    def add(self, message, total, lo, step, weight=1.0):
        bits.add_largest(total, message[0], self.k, True, weight)

    def clear(self, message, y):
        bits.clear_largest(y, message[0], self.k, True)

    def to_planes(self, message, planes, step):
        bits.planes_of_largest(message[0], self.k, planes)
        told = bits.count_ones(planes[1])
        if told != (sent := self._kept(WORD * planes.shape[1])):
            raise NumericalError(
                f"a message of {sent} signs names {told} coordinates: a place in it was sent twice, or is none; "
                "all ranks stop, no vote of it is counted"
            )


@dataclass(frozen=True)
class Chosen(_OfTiles):
    """Random coordinates of each tile, the same for all voters, so that only values travel: random-k.

    unbiased: values are multiplied by the coordinates over the chosen ones of the tile, so that the mean is v.
    """

    density: float = 0.01
    unbiased: bool = False

    def items(self, coordinates):
        return bits.chosen_words(self.k, coordinates)

    def cost(self, coordinates):
        return 32 * self._kept(coordinates)

    def omega(self):
        return TILE / self.k - 1 if self.unbiased else float("inf")

    def encode(self, v, lo, draw, out, step):
        bits.pack_chosen(v, self.k, self.unbiased, lo, _choice(step), out[0])

    def encode_decoded(self, v, lo, draw, out, step):
        bits.pack_chosen(v, self.k, False, lo, _choice(step), out[0])

    def add(self, message, total, lo, step, weight=1.0):
        bits.add_chosen(total, message[0], self.k, lo, _choice(step), weight)


@dataclass(frozen=True)
class BlockSigns(Compressor):
    """The signs of one of `blocks` blocks of x, the same for all voters at a step; of zeros in it, a fair coin.

    Block k has the words of 64 coordinates k, k + blocks, k + 2*blocks, ...; blocks is a power of two up to 64.
    shuffled: all blocks have their turns in a new order each time, instead of in the same one.
    """

    blocks: int = 4
    shuffled: bool = False

    signs = True

    def __post_init__(self):
        if self.blocks not in (valid := [1 << k for k in range(7)]):
            raise UsageError(f"blocks = {self.blocks}; give one of: {', '.join(map(str, valid))}")

    def items(self, coordinates):
        return ceil(coordinates / WORD / self.blocks)

    def cost(self, coordinates):
        return ceil(coordinates / self.blocks)

    def encode(self, v, lo, draw, out, step):
        words = torch.zeros(1, len(v) // WORD, dtype=self.dtype, device=v.device)
        bits.pack(v, lo, "random", draw, words)
        self.take(words[0], out, step)

    def take(self, words, message, step):
        """The message that has the block's part of words (W,), of signs."""
        block = words[self._turn(step) :: self.blocks]
        message.zero_()[0, : len(block)] = block

    def add(self, message, total, lo, step, weight=1.0):
        planes = torch.empty(2, len(total) // WORD, dtype=self.dtype, device=message.device)
        self.to_planes(message, planes, step)
        bits.add_signed(total, planes, weight)

    def to_planes(self, message, planes, step):
        block = planes.zero_()[:, self._turn(step) :: self.blocks]
        block[0] = message[0, : block.shape[1]]
        block[1] = -1

    def _turn(self, step) -> int:
        """Which block's turn it is."""
        turns, turn = divmod(step.t, self.blocks)
        if not self.shuffled:
            return turn
        keys = step.streams.draw("choice", turns).blocks(0, self.blocks)[:, 0]
        return int(np.argsort(keys, kind="stable")[turn])


class _Entries(Compressor):
    """(32-bit place, float32 value) of some coordinates of the whole vector, as many as there are.

    The first word is the number of entries. Such messages travel by `allgather` alone.
    """

    density: float
    varies = True

    def __post_init__(self):
        check_density(self.density)

    def items(self, coordinates):
        return 1 + self.room(coordinates)

    def room(self, coordinates: int) -> int:
        """Entries that a message holds at most."""
        raise NotImplementedError

    def cost(self, coordinates):
        return 64 * max(1, round(self.density * coordinates))

    def add(self, message, total, lo, step, weight=1.0):
        bits.add_entries(total, message[0], weight)

    def clear(self, message, y):
        bits.clear_entries(y, message[0])

    def length(self, message):
        return 1 + int(message[0, 0])


@dataclass(frozen=True)
class GlobalLargest(_Entries):
    """The largest |v| of the whole vector: top-k."""

    density: float = 0.01

    def room(self, coordinates):
        return min(coordinates, max(1, round(self.density * coordinates)))

    def encode(self, v, lo, draw, out, step):
        bits.pack_greatest(v, self.room(step.layout.size), out[0])


@dataclass(frozen=True)
class Drawn(_Entries):
    """v_i/p_i with probability p_i = min(1, c |v_i|), else nothing: unbiased; c such that few are sent on average.

    p is found by `passes` of the greedy algorithm [Wangni et al. 2018 alg. 3], from c = density*d/|v|_1. A message has
    room for six standard deviations more than are sent on average, and 64; what is beyond that is not sent.
    """

    density: float = 0.01
    passes: int = 2

    def room(self, coordinates):
        most = max(1, round(self.density * coordinates))
        return min(coordinates, most + ceil(6 * sqrt(most)) + WORD)

    def omega(self):
        """A bound: p >= c|v| bounds v^2/p by |v|/c, and c >= density*d/|v|_1."""
        return 1 / self.density

    def encode(self, v, lo, draw, out, step):
        bits.pack_drawn(v, lo, self.factor(v, step), draw, out[0])

    def factor(self, v, step) -> float:
        """c, in float64, by sums of tiles, so that it is a matter of bits."""
        wanted, total = self.density * step.layout.size, _sum(v, step.layout)
        c = wanted / total if total else 0.0
        for _ in range(self.passes):
            certain = v.abs().double() * c >= 1
            rest = _sum(v.masked_fill(certain, 0.0), step.layout)
            if not certain.any() or not rest:
                break
            c *= max((wanted - int(certain.sum())) / (c * rest), 1.0)
        return c


def _sum(v: Tensor, layout: Layout) -> float:
    """|v|_1, float64."""
    return float(np.add.accumulate(layout.block_sums(bits.tile_sums(v, layout.all_tiles)))[-1])


def _choice(step):
    """The draws by which coordinates are chosen: everybody's."""
    return step.streams.draw("choice", step.t)


def check_density(density: float) -> None:
    """Raises UsageError for a share of coordinates that is none."""
    if not 0 < density <= 1:
        raise UsageError(
            f"algorithm.density = {density:g}: the share of coordinates that are sent is above 0, at most 1"
        )


def _check_bucket(bucket: int) -> None:
    if bucket < WORD or TILE % bucket:
        valid = ", ".join(str(WORD << k) for k in range(7))
        raise UsageError(
            f"algorithm.bucket = {bucket}: a bucket must divide the {TILE} coordinates of a tile; take one of {valid}"
        )
