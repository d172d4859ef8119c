"""Kernels on torch tensors: pack, count, decide, apply. One API over the CPU kernels in cpu/.

Floats are float32. Words are int64 tensors used as bit patterns: 64 coordinates a word, little-endian,
bit 1 is +1; padding bits are never read back. A set of planes is a tensor (planes, words). `at` is the
coordinate of an argument's first element, a multiple of 64; `draw` is an rng.Draw.

Every function here is defined, bit for bit, by the function of the same name in reference. A chunk of x holds parts
of several tensors: `parts`, int64 (3, k), has first coordinate, end and segment of each, as Layout.parts tells, so that
one call serves them all. pack_parts, pack_stochastic_parts and add_normal also take a row for each of several voters:
v (n, d), planes (P, n, W), draw that of the first one. Long vectors are cut into slices for several threads, as many as
use_threads() says.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from mpisign.bits import cpu
from mpisign.bits.slices import in_slices
from mpisign.bits.slices import use_threads as use_threads
from mpisign.rng import Draw

Found = tuple[int, int | None]  # a count, and the first index of v that is not finite: -1 if none is, None if unknown


def width(voters: int) -> int:
    """w(n) = ceil(log2(n + 1)): the planes that hold a count of up to n."""
    return voters.bit_length()


def new_planes(planes: int, words: int) -> Tensor:
    """Uninitialised planes."""
    return torch.empty((planes, words), dtype=torch.int64)


def _words(planes: Tensor) -> np.ndarray:
    return planes.numpy().view(np.uint64)


def _joined(items: int, work: Callable[[int, int], Found]) -> Found:
    """What the slices of a vector found, as one."""
    total, first = 0, -1

    def shifted(lo, hi):
        count, bad = work(lo, hi)
        return count, bad + lo if bad >= 0 else -1

    for count, bad in in_slices(items, shifted):
        total, first = total + count, first if first >= 0 else bad
    return total, first


def _within(lo: int, hi: int) -> slice:
    """The words of coordinates lo to hi - 1; lo is a multiple of 64."""
    return slice(lo // 64, -(-hi // 64))


def pack(v: Tensor, at: int, zeros: str, draw: Draw, planes: Tensor) -> Found:
    """Signs of v (d,) into planes (1 or 2, ceil(d/64)); returns how many are exactly zero, and the first not finite.

    zeros: "coin", "random", "plus", or "abstain", which needs a second plane: 0 where v is zero.
    """
    values, words = v.numpy(), _words(planes)
    return _joined(len(v), lambda lo, hi: cpu.pack(values[lo:hi], at + lo, zeros, draw, words[:, _within(lo, hi)]))


def pack_parts(v: Tensor, parts: np.ndarray, at: int, zeros: str, draw: Draw, planes: Tensor) -> Found:
    """pack for each part of v (d,), or of each row of v (n, d), where the first bad coordinate stays unknown."""
    values, words = v.numpy(), _words(planes)
    if values.ndim > 1:
        return cpu.pack_rows(values, parts, at, zeros, draw, words)

    def work(lo, hi):
        return cpu.pack_parts(values[lo:hi], parts, at + lo, zeros, draw, words[:, _within(lo, hi)])

    return _joined(len(values), work)


def pack_scaled_parts(
    v: Tensor, scales: np.ndarray, parts: np.ndarray, at: int, zeros: str, draw: Draw, planes: Tensor
) -> Found:
    """pack_parts, and v -= scale * sign where a vote is cast, in one pass: what error feedback keeps.

    scales: float32 (segments,). Returns as pack.
    """
    values, words = v.numpy(), _words(planes)

    def work(lo, hi):
        return cpu.pack_scaled_parts(values[lo:hi], scales, parts, at + lo, zeros, draw, words[:, _within(lo, hi)])

    return _joined(len(values), work)


def pack_stochastic(v: Tensor, radius: float, at: int, draw: Draw, planes: Tensor) -> Found:
    """Stochastic signs of v (d,), P(+1) = (1 + v/radius)/2.

    Returns how many |v| exceed the radius, and the first value that is not finite.
    """
    values, words = v.numpy(), _words(planes)
    return _joined(
        len(v), lambda lo, hi: cpu.pack_stochastic(values[lo:hi], radius, at + lo, draw, words[:, _within(lo, hi)])
    )


def pack_stochastic_parts(
    v: Tensor, radii: Tensor | np.ndarray, parts: np.ndarray, at: int, draw: Draw, planes: Tensor
) -> Found:
    """pack_stochastic for each part of v (d,), or of each row of v (n, d), as in pack_parts.

    radii: a float32 tensor of v's shape, or an array (segments,).
    """
    each = isinstance(radii, Tensor)
    values, limits, words = v.numpy(), radii.numpy() if each else radii, _words(planes)
    if values.ndim > 1:
        return cpu.pack_stochastic_rows(values, limits, each, parts, at, draw, words)

    def work(lo, hi):
        own = limits[lo:hi] if each else limits
        return cpu.pack_stochastic_parts(values[lo:hi], own, each, parts, at + lo, draw, words[:, _within(lo, hi)])

    return _joined(len(values), work)


def count(ballots: Tensor, planes: Tensor) -> None:
    """Ballots (n, W) counted into binary numbers: planes (w(n), W), lowest first."""
    votes, counts = _words(ballots), _words(planes)
    in_slices(votes.shape[1], lambda lo, hi: cpu.count(votes[:, lo:hi], counts[:, lo:hi]), each=64)


def add(planes: Tensor, more: Tensor) -> None:
    """planes += more: binary numbers, lowest plane first; more has no more planes, and the sums fit."""
    to, of = _words(planes), _words(more)
    in_slices(to.shape[1], lambda lo, hi: cpu.add(to[:, lo:hi], of[:, lo:hi]), each=64)


def majority(
    plus: Tensor, minus: Tensor | None, voters: int, at: int, ties: str, draw: Draw, verdict: Tensor
) -> tuple[int, int]:
    """Signs of the tally into verdict (1 or 2, W); returns what agreement does, counted in the same pass.

    ties: "coin", "plus", or "zero" with a second plane.
    """
    p, q, out = _words(plus), _optional(minus), _words(verdict)

    def work(lo, hi):
        absent = None if q is None else q[:, lo:hi]
        return cpu.majority(p[:, lo:hi], absent, voters, at + 64 * lo, ties, draw, out[:, lo:hi])

    found = in_slices(out.shape[1], work, each=64)
    return sum(agreement for agreement, _ in found), sum(ties for _, ties in found)


def randomised_majority(plus: Tensor, minus: Tensor | None, voters: int, at: int, draw: Draw, verdict: Tensor) -> None:
    """+1 with probability (1 + tally/voters)/2 into verdict (1, W)."""
    cpu.randomised_majority(_words(plus), _optional(minus), voters, at, draw, _words(verdict))


def weighted_majority(
    ballots: Tensor, score: Tensor, rounds: float, rule: tuple, at: int, ties: str, draw: Draw, verdict: Tensor
) -> None:
    """Signs of a vote whose integer weights are learned from score (n, d), which is brought up to date.

    rule: (plain, resolution, limit, least, forget); see reference.
    """
    cpu.weighted_majority(_words(ballots), score.numpy(), rounds, rule, at, ties, draw, _words(verdict))


def codes(plus: Tensor, minus: Tensor | None, voters: int, verdict: Tensor) -> None:
    """The tally as a binary number: the count of +1, or with abstentions tally + 2**w - 1 in w + 1 planes."""
    cpu.codes(_words(plus), _optional(minus), voters, _words(verdict))


def agreement(plus: Tensor, minus: Tensor | None, voters: int) -> tuple[int, int]:
    """Sum of |tally| over all 64*W coordinates, and the number of ties."""
    return cpu.agreement(_words(plus), _optional(minus), voters)


def apply(x: Tensor, planes: Tensor, parts: np.ndarray, at: int, tables: np.ndarray, decays: np.ndarray) -> None:
    """x = fl(fl(decay*x) - table[code]) in each part of x (d,), code read from planes (P, W).

    tables: float32 (segments, 2**P). decays: float32 (segments,).
    """
    values, words = x.numpy(), _words(planes)

    def work(lo, hi):
        cpu.apply(values[lo:hi], words[:, _within(lo, hi)], parts, at + lo, tables, decays)

    in_slices(len(values), work)


def blend(y: Tensor, x: Tensor, a: float, b: float) -> None:
    """y = fl(fl(a*y) + fl(b*x)): a moving average with rounding that no library may change. Any one shape."""
    to, of = y.view(-1).numpy(), x.view(-1).numpy()
    in_slices(len(to), lambda lo, hi: cpu.blend(to[lo:hi], of[lo:hi], a, b))


def add_signed(total: Tensor, planes: Tensor, scale: float) -> None:
    """total += scale * sign; nothing where a second plane is 0."""
    values, words = total.numpy(), _words(planes)
    in_slices(len(total), lambda lo, hi: cpu.add_signed(values[lo:hi], words[:, _within(lo, hi)], scale))


def add_levels(total: Tensor, planes: Tensor, table: np.ndarray) -> None:
    """total += table[code], code read from planes (P, W); table float32 (2**P,)."""
    values, words = total.numpy(), _words(planes)
    in_slices(len(total), lambda lo, hi: cpu.add_levels(values[lo:hi], words[:, _within(lo, hi)], table))


def add_normal(y: Tensor, scale: float, at: int, draw: Draw) -> None:
    """y = fl(y + fl(scale*xi)), xi from N(0, 1), one a coordinate."""
    values = y.numpy()
    if y.dim() > 1:
        cpu.add_normal_rows(values, scale, at, draw)
    else:
        in_slices(len(y), lambda lo, hi: cpu.add_normal(values[lo:hi], scale, at + lo, draw))


def normals(count: int, draw: Draw, voters: int | None = None) -> Tensor:
    """N(0, 1) for coordinates 0 to count - 1, float32 (count,); or (voters, count), draw that of the first voter."""
    found = torch.zeros(count if voters is None else (voters, count))
    add_normal(found, 1.0, 0, draw)
    return found


def uniforms(count: int, draw: Draw, voters: int | None = None) -> Tensor:
    """Uniform in (-1, 1) for coordinates 0 to count - 1, float32; shapes as in normals."""
    found = torch.empty(voters or 1, count)
    cpu.uniform_rows(found.numpy(), draw)
    return found[0] if voters is None else found


def tile_maxima(v: Tensor, tiles: np.ndarray) -> np.ndarray:
    """The largest |v| in each tile of a Layout, float64, relative to v's own start."""
    maxima, values = np.empty(tiles.shape[1]), v.numpy()
    in_slices(len(maxima), lambda lo, hi: cpu.tile_maxima(values, tiles[:, lo:hi], maxima[lo:hi]), each=4096)
    return maxima


def tile_sums(v: Tensor, tiles: np.ndarray, squares: bool = False) -> np.ndarray:
    """float64 sum of |v| (or of squares) over each tile of a Layout, relative to v's own start."""
    sums, values = np.empty(tiles.shape[1]), v.numpy()
    in_slices(len(sums), lambda lo, hi: cpu.tile_sums(values, tiles[:, lo:hi], squares, sums[lo:hi]), each=4096)
    return sums


def add_and_sum(y: Tensor, x: Tensor, factors: np.ndarray, tiles: np.ndarray) -> np.ndarray:
    """y = fl(y + fl(factor*x)) with a float32 factor a segment, and tile_sums of |y|, in one pass over both."""
    sums, to, of = np.empty(tiles.shape[1]), y.numpy(), x.numpy()
    in_slices(len(sums), lambda lo, hi: cpu.add_and_sum(to, of, factors, tiles[:, lo:hi], sums[lo:hi]), each=4096)
    return sums


def first_nonfinite(v: Tensor) -> int:
    """Index of the first infinite or NaN value, or -1."""
    values = v.numpy()

    def work(lo, hi):
        found = cpu.first_nonfinite(values[lo:hi])
        return found + lo if found >= 0 else -1

    return next((found for found in in_slices(len(v), work) if found >= 0), -1)


def differing(a: Tensor, b: Tensor) -> int:
    """The number of bits in which two planes differ."""
    return cpu.differing(_words(a), _words(b))


def spread(plane: Tensor, voters: int, fields: Tensor) -> None:
    """Each bit of a plane as a field of w(voters) bits; fields (fields_for(d, voters),)."""
    cpu.spread(_words(plane), width(voters), _words(fields))


def gather(fields: Tensor, voters: int, planes: Tensor) -> None:
    """Summed fields as planes (w(voters), W): the way back from spread."""
    cpu.gather(_words(fields), width(voters), _words(planes))


def fields_for(coordinates: int, voters: int) -> int:
    """64-bit words that hold a w(voters)-bit field a coordinate, no field across two words."""
    return -(-coordinates // (64 // width(voters)))


def _optional(planes: Tensor | None) -> np.ndarray | None:
    return None if planes is None else _words(planes)
