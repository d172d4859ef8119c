"""v -> words: pack and stochastic pack."""

import numpy as np
from numba import njit, uint32, uint64

from mpisign.bits.cpu.common import ALL, COINS, NO_COUNTER, OPTIONS, RULES, coin_word, counter_of
from mpisign.bits.cpu.moving import add_signs, find_nonfinite
from mpisign.bits.cpu.vectors import (
    above,
    above_each,
    negative,
    ones,
    outside,
    outside_each,
    positive,
    special,
    unfit,
    vanishing,
)


@njit(**OPTIONS)
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


@njit(**OPTIONS)
def _pack(v, first_word, rule, counter, negate, planes):
    address, zeros, bad, whole = v.ctypes.data, uint64(0), uint64(0), len(v) // 64
    for w in range(whole):
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


@njit(**OPTIONS)
def _pack_rows(v, first_word, rule, counter, negate, planes):
    zeros, own = 0, counter.copy()
    for r in range(v.shape[0]):
        own[1] = counter[1] + uint32(r)
        zeros += _pack(v[r], first_word, rule, own, negate, planes[:, r])[0]
    return zeros


def _plain(found):
    return int(found[0]), int(found[1])


def pack_rows(v, at, zeros, draw, planes):
    counter, negate = counter_of(draw) if zeros in COINS else (NO_COUNTER, False)
    return int(_pack_rows(v, at // 64, RULES[zeros], counter, negate, planes)), None


def pack(v, at, zeros, draw, planes):
    counter, negate = counter_of(draw) if zeros in COINS else (NO_COUNTER, False)
    return _plain(_pack(v, at // 64, RULES[zeros], counter, negate, planes))


@njit(**OPTIONS)
def _pack_scaled(v, scale, first_word, rule, counter, negate, planes):
    zeros, bad = uint64(0), -1
    # by tiles, which are still in the cache when what was sent is taken off
    for lo in range(0, len(v), 4096):
        tile = v[lo : lo + 4096]
        words = planes[:, lo // 64 : (lo + len(tile) + 63) // 64]
        found = _pack(tile, first_word + lo // 64, rule, counter, negate, words)
        zeros += found[0]
        if bad < 0 <= found[1]:
            bad = lo + found[1]
        add_signs(tile, words, -scale)
    return zeros, bad


def pack_scaled(v, scale, at, zeros, draw, planes):
    counter, negate = counter_of(draw) if zeros in COINS else (NO_COUNTER, False)
    return _plain(_pack_scaled(v, np.float32(scale), at // 64, RULES[zeros], counter, negate, planes))


@njit(**OPTIONS)
def _pack_stochastic(v, radius, at, counter, planes):
    address, clips, bad, whole, first = v.ctypes.data, uint64(0), uint64(0), len(v) // 64, uint32(at // 4)
    s, voter, stream, k0, k1 = counter[0], counter[1], counter[2], counter[3], counter[4]
    for w in range(whole):
        lo = address + 256 * w
        planes[0, w] = above(lo, radius, first + uint32(16 * w), s, voter, stream, k0, k1)
        clips += ones(outside(lo, radius))
        bad |= unfit(lo)
    if whole < planes.shape[1]:
        rest, filled = _rest(v), (uint64(1) << uint64(len(v) - whole * 64)) - uint64(1)
        lo = rest.ctypes.data
        planes[0, whole] = filled & above(lo, radius, first + uint32(16 * whole), s, voter, stream, k0, k1)
        clips += ones(outside(lo, radius) & filled)
        bad |= unfit(lo)
    _present(v, planes)
    return clips, find_nonfinite(v) if bad else -1


@njit(**OPTIONS)
def _pack_stochastic_each(v, radii, at, counter, planes):
    address, radius, clips, bad, whole = v.ctypes.data, radii.ctypes.data, uint64(0), uint64(0), len(v) // 64
    first = uint32(at // 4)
    s, voter, stream, k0, k1 = counter[0], counter[1], counter[2], counter[3], counter[4]
    for w in range(whole):
        lo, limit = address + 256 * w, radius + 256 * w
        planes[0, w] = above_each(lo, limit, first + uint32(16 * w), s, voter, stream, k0, k1)
        clips += ones(outside_each(lo, limit))
        bad |= unfit(lo)
    if whole < planes.shape[1]:
        rest, limits = _rest(v), _rest(radii)
        filled = (uint64(1) << uint64(len(v) - whole * 64)) - uint64(1)
        lo, limit = rest.ctypes.data, limits.ctypes.data
        planes[0, whole] = filled & above_each(lo, limit, first + uint32(16 * whole), s, voter, stream, k0, k1)
        clips += ones(outside_each(lo, limit) & filled)
        bad |= unfit(lo)
    _present(v, planes)
    return clips, find_nonfinite(v) if bad else -1


def pack_stochastic(v, radius, at, draw, planes):
    counter = counter_of(draw)[0]
    if isinstance(radius, np.ndarray):
        return _plain(_pack_stochastic_each(v, radius, at, counter, planes))
    return _plain(_pack_stochastic(v, np.float32(radius), at, counter, planes))


@njit(**OPTIONS)
def _pack_stochastic_rows(v, radii, one, radius, at, counter, planes):
    clips, own = uint64(0), counter.copy()
    for r in range(v.shape[0]):
        own[1] = counter[1] + uint32(r)
        if one:
            clips += _pack_stochastic(v[r], radius, at, own, planes[:, r])[0]
        else:
            clips += _pack_stochastic_each(v[r], radii[r], at, own, planes[:, r])[0]
    return clips


def pack_stochastic_rows(v, radius, at, draw, planes):
    counter, one = counter_of(draw)[0], not isinstance(radius, np.ndarray)
    one_radius = np.float32(radius if one else 0)
    return int(_pack_stochastic_rows(v, v if one else radius, one, one_radius, at, counter, planes)), None
