"""v -> words: pack and stochastic pack."""

import numpy as np
from numba import njit, uint32, uint64

from mpisign.bits.cpu.common import (
    ALL,
    COINS,
    NO_COUNTER,
    OPTIONS,
    RULES,
    coin_word,
    counter_of,
    philox_block,
    popcount,
)


@njit(inline="always")
def _compare(v, lo, hi):
    """Bits of v > 0 and v == 0 for up to 64 coordinates."""
    plus, zero = uint64(0), uint64(0)
    for j in range(hi - lo):
        plus |= uint64(v[lo + j] > 0) << uint64(j)
        zero |= uint64(v[lo + j] == 0) << uint64(j)
    return plus, zero


@njit(**OPTIONS)
def _pack(v, first_word, rule, counter, negate, planes):
    zeros = uint64(0)
    for w in range(planes.shape[1]):
        lo = w * 64
        hi = min(lo + 64, len(v))
        plus, zero = _compare(v, lo, lo + 64) if hi == lo + 64 else _compare(v, lo, hi)
        if zero:
            zeros += popcount(zero)
            if rule == 0:
                plus |= zero & coin_word(first_word + w, counter, negate)
            elif rule == 1:
                plus |= zero
        planes[0, w] = plus
        if rule == 2:
            filled = ALL if hi == lo + 64 else (uint64(1) << uint64(hi - lo)) - uint64(1)
            planes[1, w] = filled & ~zero
    return zeros


@njit(**OPTIONS)
def _pack_rows(v, first_word, rule, counter, negate, planes):
    zeros, own = 0, counter.copy()
    for r in range(v.shape[0]):
        own[1] = counter[1] + uint32(r)
        zeros += _pack(v[r], first_word, rule, own, negate, planes[:, r])
    return zeros


def pack_rows(v, at, zeros, draw, planes):
    counter, negate = counter_of(draw) if zeros in COINS else (NO_COUNTER, False)
    return int(_pack_rows(v, at // 64, RULES[zeros], counter, negate, planes))


def pack(v, at, zeros, draw, planes):
    counter, negate = counter_of(draw) if zeros in COINS else (NO_COUNTER, False)
    return int(_pack(v, at // 64, RULES[zeros], counter, negate, planes))


@njit(**OPTIONS)
def _pack_stochastic(v, radius, at, counter, planes):
    clips = 0
    k = np.empty(64, dtype=np.uint32)
    shift, unit, full = uint32(8), np.float32(2.0**-24), np.int32(2**24)
    for w in range(planes.shape[1]):
        lo = w * 64
        hi = min(lo + 64, len(v))
        for b in range(16):
            k[b], k[16 + b], k[32 + b], k[48 + b] = philox_block((at + lo) // 4 + b, counter)
        bits = uint64(0)
        for j in range(hi - lo):
            odd = np.int32(uint32(2) * (k[(j & 3) * 16 + (j >> 2)] >> shift) + uint32(1)) - full
            u = np.float32(odd) * unit
            bits |= uint64(v[lo + j] > radius * u) << uint64(j)
            clips += abs(v[lo + j]) > radius
        planes[0, w] = bits
        if planes.shape[0] == 2:
            planes[1, w] = ALL if hi == lo + 64 else (uint64(1) << uint64(hi - lo)) - uint64(1)
    return clips


@njit(**OPTIONS)
def _pack_stochastic_each(v, radii, at, counter, planes):
    clips = 0
    for w in range(planes.shape[1]):
        lo = w * 64
        hi = min(lo + 64, len(v))
        bits = uint64(0)
        for b in range(-(-(hi - lo) // 4)):
            draws = philox_block((at + lo) // 4 + b, counter)
            for j in range(min(4, hi - lo - 4 * b)):
                i = lo + 4 * b + j
                odd = np.int32(uint32(2) * uint32(draws[j] >> uint64(8)) + uint32(1)) - np.int32(2**24)
                bits |= uint64(v[i] > radii[i] * (np.float32(odd) * np.float32(2.0**-24))) << uint64(4 * b + j)
                clips += abs(v[i]) > radii[i]
        planes[0, w] = bits
        if planes.shape[0] == 2:
            planes[1, w] = ALL if hi == lo + 64 else (uint64(1) << uint64(hi - lo)) - uint64(1)
    return clips


def pack_stochastic(v, radius, at, draw, planes):
    counter = counter_of(draw)[0]
    if isinstance(radius, np.ndarray):
        return int(_pack_stochastic_each(v, radius, at, counter, planes))
    return int(_pack_stochastic(v, np.float32(radius), at, counter, planes))


@njit(**OPTIONS)
def _pack_stochastic_rows(v, radii, one, radius, at, counter, planes):
    clips, own = 0, counter.copy()
    for r in range(v.shape[0]):
        own[1] = counter[1] + uint32(r)
        if one:
            clips += _pack_stochastic(v[r], radius, at, own, planes[:, r])
        else:
            clips += _pack_stochastic_each(v[r], radii[r], at, own, planes[:, r])
    return clips


def pack_stochastic_rows(v, radius, at, draw, planes):
    counter, one = counter_of(draw)[0], not isinstance(radius, np.ndarray)
    return int(
        _pack_stochastic_rows(v, v if one else radius, one, np.float32(radius if one else 0), at, counter, planes)
    )
