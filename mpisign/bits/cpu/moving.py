"""Float vectors: apply a verdict, moving averages, residuals, sums by tile, the search for NaN."""

import numpy as np
from numba import njit, uint32, uint64

from mpisign.bits.cpu.common import OPTIONS, counter_of, normal_pair, number, philox_block


@njit(**OPTIONS)
def _apply_signs(x, plane, minus, plus, decay):
    for w in range(len(x) // 64):
        bits = plane[w]
        for j in range(64):
            i = w * 64 + j
            x[i] = decay * x[i] - (plus if (bits >> uint64(j)) & uint64(1) else minus)
    for i in range(len(x) // 64 * 64, len(x)):
        x[i] = decay * x[i] - (plus if (plane[i >> 6] >> uint64(i & 63)) & uint64(1) else minus)


@njit(**OPTIONS)
def _apply_signs_or_zero(x, signs, present, table, decay):
    absent_minus, absent_plus, minus, plus = table[0], table[1], table[2], table[3]
    for w in range(len(x) // 64):
        bits, here = signs[w], present[w]
        for j in range(64):
            i = w * 64 + j
            sign = (bits >> uint64(j)) & uint64(1)
            voted = plus if sign else minus
            absent = absent_plus if sign else absent_minus
            x[i] = decay * x[i] - (voted if (here >> uint64(j)) & uint64(1) else absent)
    for i in range(len(x) // 64 * 64, len(x)):
        code = (signs[i >> 6] >> uint64(i & 63)) & uint64(1)
        code |= ((present[i >> 6] >> uint64(i & 63)) & uint64(1)) << uint64(1)
        x[i] = decay * x[i] - table[code]


@njit(**OPTIONS)
def _apply_levels(x, planes, table, decay):
    for i in range(len(x)):
        x[i] = decay * x[i] - table[number(planes, i >> 6, i & 63)]


def apply(x, planes, table, decay):
    if len(planes) == 1:
        _apply_signs(x, planes[0], table[0], table[1], np.float32(decay))
    elif len(planes) == 2:
        _apply_signs_or_zero(x, planes[0], planes[1], table, np.float32(decay))
    else:
        _apply_levels(x, planes, table, np.float32(decay))


@njit(**OPTIONS)
def _blend(y, x, a, b):
    for i in range(len(y)):
        y[i] = a * y[i] + b * x[i]


def blend(y, x, a, b):
    _blend(y, x, np.float32(a), np.float32(b))


@njit(**OPTIONS)
def _add_signed(total, planes, scale):
    for i in range(len(total)):
        w, j = i >> 6, uint64(i & 63)
        if planes.shape[0] == 1 or (planes[1, w] >> j) & uint64(1):
            total[i] += scale if (planes[0, w] >> j) & uint64(1) else -scale


def add_signed(total, planes, scale):
    _add_signed(total, planes, np.float32(scale))


@njit(**OPTIONS)
def add_levels(total, planes, table):
    for i in range(len(total)):
        total[i] += table[number(planes, i >> 6, i & 63)]


@njit(**OPTIONS)
def _add_normal(y, scale, at, counter):
    for lo in range(0, len(y), 4):
        draws = philox_block((at + lo) // 4, counter)
        for half in range(0, min(4, len(y) - lo), 2):
            first, second = normal_pair(draws[half], draws[half + 1])
            y[lo + half] += scale * first
            if lo + half + 1 < len(y):
                y[lo + half + 1] += scale * second


def add_normal(y, scale, at, draw):
    _add_normal(y, np.float32(scale), at, counter_of(draw)[0])


@njit(**OPTIONS)
def _add_normal_rows(y, scale, at, counter):
    own = counter.copy()
    for r in range(y.shape[0]):
        own[1] = counter[1] + uint32(r)
        _add_normal(y[r], scale, at, own)


def add_normal_rows(y, scale, at, draw):
    _add_normal_rows(y, np.float32(scale), at, counter_of(draw)[0])


@njit(**OPTIONS)
def _uniform_rows(u, counter):
    own = counter.copy()
    for r in range(u.shape[0]):
        own[1] = counter[1] + uint32(r)
        for lo in range(0, u.shape[1], 4):
            draws = philox_block(lo // 4, own)
            for j in range(min(4, u.shape[1] - lo)):
                odd = 2 * np.int64(draws[j] >> uint64(8)) + 1 - 2**24
                u[r, lo + j] = np.float32(odd) * np.float32(2.0**-24)


def uniform_rows(u, draw):
    _uniform_rows(u, counter_of(draw)[0])


@njit(**OPTIONS)
def tile_maxima(v, tiles, maxima):
    for t in range(tiles.shape[1]):
        most = np.float32(0.0)
        for i in range(tiles[0, t], tiles[1, t]):
            most = max(most, abs(v[i]))
        maxima[t] = most


@njit(**OPTIONS)
def tile_sums(v, tiles, squares, sums):
    lanes = np.empty(16)
    for t in range(tiles.shape[1]):
        lo, hi = tiles[0, t], tiles[1, t]
        lanes[:] = 0.0
        whole = lo + (hi - lo) // 16 * 16
        for i in range(lo, whole, 16):
            for j in range(16):
                value = np.float64(v[i + j])
                lanes[j] += value * value if squares else abs(value)
        for i in range(whole, hi):
            value = np.float64(v[i])
            lanes[i - whole] += value * value if squares else abs(value)
        total = 0.0
        for j in range(16):
            total += lanes[j]
        sums[t] = total


@njit(**OPTIONS)
def _first_nonfinite(patterns):
    # an exponent of all ones, and no other, carries into bit 31
    exponent, one, top = uint32(0x7F800000), uint32(0x00800000), uint32(0x80000000)
    for lo in range(0, len(patterns), 4096):
        hi = min(lo + 4096, len(patterns))
        carried = uint32(0)
        for i in range(lo, hi):
            carried |= (patterns[i] & exponent) + one
        if carried & top:
            for i in range(lo, hi):
                if patterns[i] & exponent == exponent:
                    return i
    return -1


def first_nonfinite(v):
    return int(_first_nonfinite(v.view(np.uint32)))
