"""Kernels on torch tensors: pack, count, decide, apply; and the random streams (rng) that they draw from.

One API over the kernels of the CPU and of the GPU.

Floats are float32. Words are int64 tensors used as bit patterns: 64 coordinates per word, little-endian,
bit 1 is +1; padding bits are never read back. A set of planes is a tensor (planes, words). `at` is the
coordinate of an argument's first element, a multiple of 64; `draw` is an rng.Draw.

Every function here is defined, bit for bit, by the function of the same name in reference; cuda/ states where it is
not. A chunk of x holds parts of several tensors: `parts`, int64 (3, k), has first coordinate, end and segment of each,
as Layout.parts tells, so that one call serves them all. pack_parts, pack_stochastic_parts and add_normal also take a
row for each of several voters: v (n, d), planes (P, n, W), draw that of the first one. All tensors of a call lie on one
device.

Messages that are not planes, from pack_quantised to pack_chosen, are int64 (words,), contiguous, as many as sizes
tells: the messages of tiles of 4096 coordinates, one after the other. There v, total and y are contiguous, of a
multiple of 64 coordinates, of which the first is a multiple of 4096. What adds such a message rounds weight * value to
float32, and then the sum; a message that no packing makes never leads out of an array, but to NaN.
"""

from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from mpisign.bits import gaussian, host
from mpisign.bits.rng import Draw
from mpisign.bits.scattered import Scattered as Scattered
from mpisign.bits.sizes import AT_ONCE as AT_ONCE
from mpisign.bits.sizes import Scheme as Scheme
from mpisign.bits.sizes import chosen_words as chosen_words
from mpisign.bits.sizes import kept as kept
from mpisign.bits.sizes import largest_means_words as largest_means_words
from mpisign.bits.sizes import largest_words as largest_words
from mpisign.bits.sizes import two_means_words as two_means_words
from mpisign.bits.threads import use_threads as use_threads

Found = tuple[int, int | None]  # a count, and the first index of v that is not finite: -1 if none is, None if unknown

_everywhere: ModuleType | None = None


def use_everywhere(kernels: ModuleType | None) -> None:
    """From now on one kind of kernels for tensors of any device, or each for its own (None): for tests."""
    global _everywhere
    _everywhere = kernels


def _of(tensor: Tensor | Scattered) -> ModuleType:
    """The kernels for a tensor's device. Those of the GPU are compiled by Triton, which not everyone has."""
    if isinstance(tensor, Scattered):
        return host
    if _everywhere is not None:
        return _everywhere
    if not tensor.is_cuda:
        return host
    from mpisign.bits import cuda

    return cuda


def _at(at: int, draw: Draw) -> int:
    """Where a vector that starts at coordinate `at` of a shard starts in the whole vector, of which draws are."""
    return at + draw.origin


def _placed(parts: np.ndarray, at: int, draw: Draw) -> tuple[np.ndarray, int]:
    """The same with the parts of it."""
    if not draw.origin:
        return parts, at
    return parts + np.array([[draw.origin], [draw.origin], [0]]), at + draw.origin


def width(voters: int) -> int:
    """w(n) = ceil(log2(n + 1)): the planes that hold a count of up to n."""
    return voters.bit_length()


def new_planes(planes: int, words: int, device: torch.device | str = "cpu") -> Tensor:
    """Uninitialised planes."""
    return torch.empty((planes, words), dtype=torch.int64, device=device)


def pack(v: Tensor, at: int, zeros: str, draw: Draw, planes: Tensor) -> Found:
    """Signs of v (d,) into planes (1 or 2, ceil(d/64)); returns how many are exactly zero, and the first not finite.

    zeros: "coin", "random", "plus", "minus", or "abstain", which needs a second plane: 0 where v is zero.
    """
    return _of(v).pack(v, _at(at, draw), zeros, draw, planes)


def pack_parts(v: Tensor | Scattered, parts: np.ndarray, at: int, zeros: str, draw: Draw, planes: Tensor) -> Found:
    """pack for each part of v (d,), or of each row of v (n, d), where the first bad coordinate stays unknown.

    Of a scattered v each part lies in one tensor.
    """
    return _of(v).pack_parts(v, *_placed(parts, at, draw), zeros, draw, planes)


def pack_scaled_parts(
    v: Tensor, scales: np.ndarray, parts: np.ndarray, at: int, zeros: str, draw: Draw, planes: Tensor
) -> Found:
    """pack_parts, and v -= scale * sign where a vote is cast, in one pass: what error feedback keeps.

    scales: float32 (segments,). Returns as pack.
    """
    return _of(v).pack_scaled_parts(v, scales, *_placed(parts, at, draw), zeros, draw, planes)


def pack_stochastic(v: Tensor, radius: float, at: int, draw: Draw, planes: Tensor) -> Found:
    """Stochastic signs of v (d,), P(+1) = (1 + v/radius)/2.

    Returns how many |v| exceed the radius, and the first value that is not finite.
    """
    return _of(v).pack_stochastic(v, radius, _at(at, draw), draw, planes)


def pack_stochastic_parts(
    v: Tensor, radii: Tensor | np.ndarray, parts: np.ndarray, at: int, draw: Draw, planes: Tensor
) -> Found:
    """pack_stochastic for each part of v (d,), or of each row of v (n, d), as in pack_parts.

    radii: a float32 tensor of v's shape, or an array (segments,).
    """
    return _of(v).pack_stochastic_parts(v, radii, *_placed(parts, at, draw), draw, planes)


def count(ballots: Tensor, planes: Tensor) -> None:
    """Ballots (n, W) counted into binary numbers: planes (w(n), W), lowest first."""
    _of(ballots).count(ballots, planes)


def count_weighted(ballots: Tensor, weights: tuple[int, ...], planes: Tensor) -> None:
    """Ballots (n, W) counted as if that of voter r were there weights[r] times: planes (w(sum of weights), W)."""
    _of(ballots).count_weighted(ballots, weights, planes)


def add(planes: Tensor, more: Tensor) -> None:
    """planes += more: binary numbers, lowest plane first; more has no more planes, and the sums fit."""
    _of(planes).add(planes, more)


def majority(
    plus: Tensor, minus: Tensor | None, voters: int, at: int, ties: str, draw: Draw, verdict: Tensor
) -> tuple[int, int]:
    """Signs of the tally into verdict (1 or 2, W); returns what agreement does, counted in the same pass.

    ties: "coin", "random", "plus", "minus", or "zero" with a second plane.
    """
    return _of(plus).majority(plus, minus, voters, _at(at, draw), ties, draw, verdict)


def majority_of_ballots(
    ballots: Tensor, at: int, ties: str, draw: Draw, verdict: Tensor, counting: bool = True
) -> tuple[int, int]:
    """What count and majority make of ballots (n, W) of up to AT_ONCE voters, in one pass that keeps no tally.

    Words lie side by side in ballots and in the verdict, which shares no memory with them. counting: whether to count
    agreement and ties; else 0 and 0.
    """
    return _of(ballots).majority_of_ballots(ballots, _at(at, draw), ties, draw, verdict, counting)


def randomised_majority(plus: Tensor, minus: Tensor | None, voters: int, at: int, draw: Draw, verdict: Tensor) -> None:
    """+1 with probability (1 + tally/voters)/2 into verdict (1, W)."""
    _of(plus).randomised_majority(plus, minus, voters, _at(at, draw), draw, verdict)


def weighted_majority(
    ballots: Tensor, score: Tensor, rounds: float, rule: tuple, at: int, ties: str, draw: Draw, verdict: Tensor
) -> None:
    """Signs of a vote whose integer weights are learned from score (n, d), which is brought up to date.

    rule: (plain, resolution, limit, least, forget); see reference.
    """
    _of(ballots).weighted_majority(ballots, score, rounds, rule, _at(at, draw), ties, draw, verdict)


def codes(plus: Tensor, minus: Tensor | None, voters: int, verdict: Tensor) -> None:
    """The tally as a binary number: the count of +1, or with abstentions tally + 2**w - 1 in w + 1 planes."""
    _of(plus).codes(plus, minus, voters, verdict)


def agreement(plus: Tensor, minus: Tensor | None, voters: int) -> tuple[int, int]:
    """Sum of |tally| over all 64*W coordinates, and the number of ties."""
    return _of(plus).agreement(plus, minus, voters)


def apply(x: Tensor, planes: Tensor, parts: np.ndarray, at: int, tables: np.ndarray, decays: np.ndarray) -> None:
    """x = fl(fl(decay*x) - table[code]) in each part of x (d,), code read from planes (P, W).

    tables: float32 (segments, 2**P). decays: float32 (segments,).
    """
    _of(x).apply(x, planes, parts, at, tables, decays)


def blend(y: Tensor, x: Tensor, a: float, b: float) -> None:
    """y = fl(fl(a*y) + fl(b*x)): a moving average with rounding that no library may change. Any one shape."""
    _of(y).blend(y, x, a, b)


def add_signed(total: Tensor, planes: Tensor, scale: float) -> None:
    """total += scale * sign; nothing where a second plane is 0."""
    _of(total).add_signed(total, planes, scale)


def add_levels(total: Tensor, planes: Tensor, table: np.ndarray) -> None:
    """total += table[code], code read from planes (P, W); table float32 (2**P,)."""
    _of(total).add_levels(total, planes, table)


def add_normal(y: Tensor, scale: float, at: int, draw: Draw) -> None:
    """y = fl(y + fl(scale*xi)), xi from N(0, 1), one per coordinate."""
    _of(y).add_normal(y, scale, _at(at, draw), draw)


def root(v: Tensor) -> Tensor:
    """sqrt(v) as IEEE 754 rounds it, by way of float64; torch's own in float32 may be off by the last bit on a CPU."""
    return torch.sqrt(v.double()).float()


def normals(count: int, draw: Draw, voters: int | None = None, device: torch.device | str = "cpu") -> Tensor:
    """N(0, 1) for coordinates 0 to count - 1, float32 (count,); or (voters, count), draw that of the first voter."""
    drawn = torch.zeros(count if voters is None else (voters, count), device=device)
    add_normal(drawn, 1.0, 0, draw)
    return drawn


def common_normals(count: int, draw: Draw) -> Tensor:
    """N(0, 1) as normals(), with bits that no processor or library changes: for what every rank draws for itself."""
    return torch.from_numpy(gaussian.normals(count, draw))


def uniforms(count: int, draw: Draw, voters: int | None = None) -> Tensor:
    """Uniform in (-1, 1) for coordinates 0 to count - 1, float32; shapes as in normals."""
    return host.uniforms(count, draw, voters)


def round_stochastic(v: Tensor, at: int, draw: Draw, out: Tensor) -> None:
    """v (d,) rounded to one of the two bfloat16 around it, at random, so that v is the mean: into out, int16 (d,).

    out has the bits of the bfloat16 values: bits(v) + u, shifted right by 16, for a uniform u of 16 bits, so that v is
    rounded away from zero with the probability low16(v)/65536. Infinities and NaN stay what they are. Source: Gupta et
    al. 2015, arXiv:1502.02551; for weights in bfloat16 Zamirai et al. 2020, arXiv:2010.06192.
    """
    _of(v).round_stochastic(v, _at(at, draw), draw, out)


def pack_quantised(v: Tensor, at: int, scheme: Scheme, draw: Draw, message: Tensor) -> None:
    """v rounded at random to one of two levels around it, as the scheme tells, without bias where norms are not 0.

    A tile's message has its buckets' norms (float32 pairs), then planes of codes, lowest first: levels + l for v >= 0,
    levels - l for v < 0. A bucket whose norm is not finite is sent with that norm, so that all of it is read as NaN.
    """
    _of(v).pack_quantised(v, _at(at, draw), scheme, draw, message)


def add_quantised(total: Tensor, message: Tensor, scheme: Scheme, weight: float) -> None:
    """total += weight * value for each coordinate of a message of pack_quantised."""
    _of(total).add_quantised(total, message, scheme, weight)


def pack_two_means(v: Tensor, at: int, parts: np.ndarray, bucket: int, message: Tensor) -> None:
    """One bit per coordinate, v >= 0, and per bucket the means of both sides (Seide et al. 2014, Interspeech).

    A tile's message has a word per bucket, the float32 means of v < 0 (low half) and of v >= 0, and then the plane.
    Means are those of coordinates in parts, 0 where there are none; elsewhere bits are 0.
    """
    _of(v).pack_two_means(v, at, parts, bucket, message)


def add_two_means(total: Tensor, message: Tensor, at: int, parts: np.ndarray, bucket: int, weight: float) -> None:
    """total += weight * mean of its side for each coordinate in parts."""
    _of(total).add_two_means(total, message, at, parts, bucket, weight)


def pack_largest(v: Tensor, k: int, signs: bool, at: int, draw: Draw, message: Tensor) -> None:
    """The largest |v| of each tile, kept(k, tile) of them, in ascending order of their places.

    A tile's message has the places, a stream of 12-bit numbers, and then the values (float32 pairs), or one bit of sign
    each: the coin of its coordinate, as in pack, where v is 0. Of equal |v| the first ones are sent; NaN is largest.
    """
    _of(v).pack_largest(v, k, signs, _at(at, draw), draw, message)


def add_largest(total: Tensor, message: Tensor, k: int, signs: bool, weight: float) -> None:
    """total += weight * value, or weight * sign, where something was sent.

    A place beyond a short tile makes the first coordinate of that tile NaN.
    """
    _of(total).add_largest(total, message, k, signs, weight)


def pack_largest_means(v: Tensor, k: int, message: Tensor) -> None:
    """The places of pack_largest, and two bits for each: v's sign, and whether |v| is in the upper half of their range.

    A tile's message has the places, the means of |v| in the lower and in the upper half (a float32 pair), 0 where there
    is none, a plane of signs, plus for 0, and a plane of halves. A tile with a NaN has a mean that is NaN.
    """
    _of(v).pack_largest_means(v, k, message)


def add_largest_means(total: Tensor, message: Tensor, k: int, weight: float) -> None:
    """total += weight * sign * mean of its half where something was sent; places beyond a tile as in add_largest."""
    _of(total).add_largest_means(total, message, k, weight)


def clear_largest(y: Tensor, message: Tensor, k: int, signs: bool) -> None:
    """y = 0 where something was sent."""
    _of(y).clear_largest(y, message, k, signs)


def planes_of_largest(message: Tensor, k: int, planes: Tensor) -> None:
    """A message of pack_largest with signs as planes (2, W): the signs, and where something was sent."""
    _of(message).planes_of_largest(message, k, planes)


def pack_chosen(v: Tensor, k: int, unbiased: bool, at: int, draw: Draw, message: Tensor) -> None:
    """v at kept(k, tile) random places of each tile, which everyone with the same draw knows: no place is sent.

    They are those of the smallest 32-bit draws. A tile's message has their values (float32 pairs) in ascending order of
    places, if unbiased times tile/kept, rounded to float32.
    """
    _of(v).pack_chosen(v, k, unbiased, _at(at, draw), draw, message)


def add_chosen(total: Tensor, message: Tensor, k: int, at: int, draw: Draw, weight: float) -> None:
    """total += weight * value at the places that the draw chooses."""
    _of(total).add_chosen(total, message, k, _at(at, draw), draw, weight)


def pack_greatest(v: Tensor, k: int, message: Tensor) -> None:
    """Entries of the k largest |v| of all, k at most len(v), ties as in pack_largest; more than k words have room.

    The first word is the number of entries; an entry has the place in v (uint32, low half) and the float32 value.
    """
    _of(v).pack_greatest(v, k, message)


def pack_drawn(v: Tensor, at: int, c: float, draw: Draw, message: Tensor) -> int:
    """Entries of coordinates drawn with probability p = min(1, c*|v|): v/p, which is 1/c or -1/c where p < 1.

    Wangni et al. 2018, arXiv:1710.09854. What is not finite is always sent. Writes the first ones if there is not room
    for all; returns how many were drawn.
    """
    return _of(v).pack_drawn(v, _at(at, draw), c, draw, message)


def add_entries(total: Tensor, message: Tensor, weight: float) -> None:
    """total += weight * value where an entry is.

    A number of entries that the message can't hold, or a place beyond total, makes total[0] NaN.
    """
    _of(total).add_entries(total, message, weight)


def clear_entries(y: Tensor, message: Tensor) -> None:
    """y = 0 where an entry is."""
    _of(y).clear_entries(y, message)


def tile_maxima(v: Tensor, tiles: np.ndarray) -> np.ndarray:
    """The largest |v| in each tile of a Layout, float64, relative to v's own start."""
    return _of(v).tile_maxima(v, tiles)


def tile_sums(v: Tensor, tiles: np.ndarray, squares: bool = False) -> np.ndarray:
    """float64 sum of |v| (or of squares) over each tile of a Layout, relative to v's own start."""
    return _of(v).tile_sums(v, tiles, squares)


def add_and_sum(y: Tensor, x: Tensor, factors: np.ndarray, tiles: np.ndarray) -> np.ndarray:
    """y = fl(y + fl(factor*x)) with a float32 factor per segment, and tile_sums of |y|, in one pass over both."""
    return _of(y).add_and_sum(y, x, factors, tiles)


def first_nonfinite(v: Tensor | Scattered) -> int:
    """Index of the first infinite or NaN value, or -1."""
    return _of(v).first_nonfinite(v)


def count_ones(plane: Tensor) -> int:
    """How many bits of a plane (W,) are 1."""
    return _of(plane).count_ones(plane)


def differing_parts(a: Tensor, b: Tensor, parts: np.ndarray, at: int) -> int:
    """The number of bits in which two planes, which start at coordinate `at`, differ in the words of these parts."""
    return _of(a).differing_parts(a, b, parts, at)


def spread(plane: Tensor, voters: int, fields: Tensor) -> None:
    """Each bit of a plane as a field of w(voters) bits; fields (fields_for(d, voters),)."""
    _of(plane).spread(plane, voters, fields)


def gather(fields: Tensor, voters: int, planes: Tensor) -> None:
    """Summed fields as planes (w(voters), W): the way back from spread."""
    _of(fields).gather(fields, voters, planes)


def fields_for(coordinates: int, voters: int) -> int:
    """64-bit words that hold a w(voters)-bit field per coordinate, no field across two words."""
    return -(-coordinates // (64 // width(voters)))
