"""v -> words: pack and stochastic pack, of one vector or of all parts of a chunk in one call.

A part lies in one tensor: (first coordinate, end, segment), as Layout.parts has it. Parts that reach beyond v, as
those of a chunk do when several threads each take a slice of it, are cut.
"""

import numpy as np
from numba import njit, uint32, uint64

from mpisign.bits.cpu.cache import cached_njit
from mpisign.bits.cpu.common import (
    ALL,
    COINS,
    NO_COUNTER,
    RULES,
    coin_word,
    counter_of,
    earlier,
    piece,
    striped,
    within,
)
from mpisign.bits.cpu.moving import add_signs, find_nonfinite
from mpisign.bits.cpu.vectors import (
    above,
    negative,
    ones,
    outside,
    positive,
    special,
    unfit,
    vanishing,
)

__all__ = [
    "pack", "pack_parts", "pack_rows", "pack_scaled_parts", "pack_scattered", "pack_stochastic",
    "pack_stochastic_parts", "pack_stochastic_rows",
]  # fmt: skip


@cached_njit
def _present(v, planes):
    """A second plane in which everybody votes."""
    if planes.shape[0] == 2:
        whole = len(v) // 64
        planes[1, :whole] = ALL
        if whole < planes.shape[1]:
            planes[1, whole] = (uint64(1) << uint64(len(v) - whole * 64)) - uint64(1)


@njit(inline="always")
def _settle(plus, zero, rule, word, counter, negate):
    """The bits of a word that holds zeros."""
    if rule == 0:
        return plus | (zero & coin_word(word, counter, negate))
    return plus | zero if rule == 1 else plus


@cached_njit
def _pack(v, first_word, rule, counter, negate, planes):
    address, zeros, bad, whole = v.ctypes.data, uint64(0), uint64(0), len(v) // 64
    for k in range(whole):
        w = striped(k, whole)
        lo, zero = address + 256 * w, uint64(0)
        plus = ~negative(lo)
        if special(lo):  # two comparisons for most words, more where something is out of the ordinary
            plus, zero = positive(lo), vanishing(lo)
            bad |= unfit(lo)
            zeros += ones(zero)
            plus = _settle(plus, zero, rule, first_word + w, counter, negate)
        planes[0, w] = plus
        if rule == 2:
            planes[1, w] = ~zero
    if whole < planes.shape[1]:
        rest = _rest(v)
        plus, filled = positive(rest.ctypes.data), (uint64(1) << uint64(len(v) - whole * 64)) - uint64(1)
        zero = vanishing(rest.ctypes.data) & filled
        bad |= unfit(rest.ctypes.data)
        zeros += ones(zero)
        planes[0, whole] = _settle(plus, zero, rule, first_word + whole, counter, negate)
        if rule == 2:
            planes[1, whole] = filled & ~zero
    return zeros, find_nonfinite(v) if bad else -1


@njit(inline="always")
def _rest(v):
    """What is left of v after its last whole word, filled up with zeros."""
    rest = np.zeros(64, dtype=np.float32)
    rest[: len(v) % 64] = v[len(v) // 64 * 64 :]
    return rest


@cached_njit
def _pack_parts(v, parts, at, rule, counter, negate, planes):
    zeros, bad = uint64(0), -1
    for k in range(parts.shape[1]):
        lo, hi = within(parts, k, at, len(v))
        if lo < hi:
            words = planes[:, lo // 64 : (hi + 63) // 64]
            packed = _pack(v[lo:hi], (at + lo) // 64, rule, counter, negate, words)
            zeros, bad = zeros + packed[0], earlier(bad, packed[1], lo)
    return zeros, bad


@cached_njit
def _pack_scattered(places, start, length, parts, at, rule, counter, negate, planes):
    """_pack_parts of coordinates start to start + length - 1 of a scattered vector, a part lying in one tensor."""
    zeros, bad, t = uint64(0), -1, 0
    for k in range(parts.shape[1]):
        lo, hi = within(parts, k, at, length)
        if lo < hi:
            while places[1, t] <= start + lo:
                t += 1
            v, words = piece(places, t, start + lo, start + hi), planes[:, lo // 64 : (hi + 63) // 64]
            packed = _pack(v, (at + lo) // 64, rule, counter, negate, words)
            zeros, bad = zeros + packed[0], earlier(bad, packed[1], lo)
    return zeros, bad


@cached_njit
def _pack_rows(v, parts, at, rule, counter, negate, planes):
    zeros, own = uint64(0), counter.copy()
    for r in range(v.shape[0]):
        own[1] = counter[1] + uint32(r)
        zeros += _pack_parts(v[r], parts, at, rule, own, negate, planes[:, r])[0]
    return zeros


def _plain(packed):
    return int(packed[0]), int(packed[1])


def _coin(zeros, draw):
    return RULES[zeros], *(counter_of(draw) if zeros in COINS else (NO_COUNTER, False))


def pack(v, at, zeros, draw, planes):
    return _plain(_pack(v, at // 64, *_coin(zeros, draw), planes))


def pack_parts(v, parts, at, zeros, draw, planes):
    return _plain(_pack_parts(v, parts, at, *_coin(zeros, draw), planes))


def pack_scattered(places, start, length, parts, at, zeros, draw, planes):
    return _plain(_pack_scattered(places, start, length, parts, at, *_coin(zeros, draw), planes))


def pack_rows(v, parts, at, zeros, draw, planes):
    return int(_pack_rows(v, parts, at, *_coin(zeros, draw), planes)), None


@cached_njit
def _pack_scaled(v, scale, first_word, rule, counter, negate, planes):
    zeros, bad = uint64(0), -1
    # by tiles, which are still in the cache when what was sent is taken off
    for lo in range(0, len(v), 4096):
        tile = v[lo : lo + 4096]
        words = planes[:, lo // 64 : (lo + len(tile) + 63) // 64]
        packed = _pack(tile, first_word + lo // 64, rule, counter, negate, words)
        zeros, bad = zeros + packed[0], earlier(bad, packed[1], lo)
        add_signs(tile, words, -scale)
    return zeros, bad


@cached_njit
def _pack_scaled_parts(v, scales, parts, at, rule, counter, negate, planes):
    zeros, bad = uint64(0), -1
    for k in range(parts.shape[1]):
        lo, hi = within(parts, k, at, len(v))
        if lo < hi:
            scale, words = scales[parts[2, k]], planes[:, lo // 64 : (hi + 63) // 64]
            packed = _pack_scaled(v[lo:hi], scale, (at + lo) // 64, rule, counter, negate, words)
            zeros, bad = zeros + packed[0], earlier(bad, packed[1], lo)
    return zeros, bad


def pack_scaled_parts(v, scales, parts, at, zeros, draw, planes):
    return _plain(_pack_scaled_parts(v, scales, parts, at, *_coin(zeros, draw), planes))


@cached_njit
def _pack_stochastic(v, radii, stride, at, counter, planes):
    """radii: of 64 coordinates, or of all; stride: bytes from one word's radii to the next one's, 0 or 256."""
    address, radius, clips, bad, whole = v.ctypes.data, radii.ctypes.data, uint64(0), uint64(0), len(v) // 64
    first = uint32(at // 4)
    s, voter, stream, k0, k1 = counter[0], counter[1], counter[2], counter[3], counter[4]
    for w in range(whole):
        lo, limit = address + 256 * w, radius + stride * w
        planes[0, w] = above(lo, limit, first + uint32(16 * w), s, voter, stream, k0, k1)
        clips += ones(outside(lo, limit))
        bad |= unfit(lo)
    if whole < planes.shape[1]:
        rest, limits = _rest(v), _rest(radii) if stride else radii
        filled = (uint64(1) << uint64(len(v) - whole * 64)) - uint64(1)
        lo, limit = rest.ctypes.data, limits.ctypes.data
        planes[0, whole] = filled & above(lo, limit, first + uint32(16 * whole), s, voter, stream, k0, k1)
        clips += ones(outside(lo, limit) & filled)
        bad |= unfit(lo)
    _present(v, planes)
    return clips, find_nonfinite(v) if bad else -1


@cached_njit
def _pack_stochastic_parts(v, radii, each, parts, at, counter, planes):
    clips, bad, limits = uint64(0), -1, np.empty(64, dtype=np.float32)
    for k in range(parts.shape[1]):
        lo, hi = within(parts, k, at, len(v))
        if lo < hi:
            here, words = v[lo:hi], planes[:, lo // 64 : (hi + 63) // 64]
            if each:
                packed = _pack_stochastic(here, radii[lo:hi], 256, at + lo, counter, words)
            else:
                limits[:] = radii[parts[2, k]]
                packed = _pack_stochastic(here, limits, 0, at + lo, counter, words)
            clips, bad = clips + packed[0], earlier(bad, packed[1], lo)
    return clips, bad


@cached_njit
def _pack_stochastic_rows(v, radii, each, parts, at, counter, planes):
    clips, own = uint64(0), counter.copy()
    for r in range(v.shape[0]):
        own[1] = counter[1] + uint32(r)
        clips += _pack_stochastic_parts(v[r], radii[r % len(radii)], each, parts, at, own, planes[:, r])[0]
    return clips


def pack_stochastic(v, radius, at, draw, planes):
    return _plain(_pack_stochastic(v, np.full(64, radius, dtype=np.float32), 0, at, counter_of(draw)[0], planes))


def pack_stochastic_parts(v, radii, each, parts, at, draw, planes):
    return _plain(_pack_stochastic_parts(v, radii, each, parts, at, counter_of(draw)[0], planes))


def pack_stochastic_rows(v, radii, each, parts, at, draw, planes):
    rows = radii if radii.ndim > 1 else radii[None]
    return int(_pack_stochastic_rows(v, rows, each, parts, at, counter_of(draw)[0], planes)), None
