"""Messages of levels: v -> norms and codes, or means and sides; and their way back into a sum."""

import math

import numpy as np
from numba import njit, uint32, uint64

from mpisign.bits.cpu.cache import cached_njit
from mpisign.bits.cpu.common import ALL, TILE, counter_of, within
from mpisign.bits.cpu.selecting import add_either, add_from_table, add_side, bit_of, draw_odd, largest_size, nonnegative
from mpisign.bits.cpu.vectors import add_plane, ones, sum_of_tile

__all__ = ["add_quantised", "add_two_means", "pack_quantised", "pack_two_means"]

SPACINGS = {"linear": 0, "powers": 1, "exponents": 2, "whole": 3}  # from exponents on without norms
LINEAR, POWERS, EXPONENTS, WHOLE = SPACINGS.values()
NAN = np.float32(np.nan)


@cached_njit
def _norm(v, squares, rest):
    """The l2 norm of a bucket, or its largest |v|; every NaN is the same one."""
    address = v.ctypes.data
    if squares:
        norm = np.float32(math.sqrt(sum_of_tile(address, uint64(len(v)), rest.ctypes.data, True)))
    else:
        norm = np.uint32(largest_size(address, uint64(len(v) // 64))).view(np.float32)
    return norm if norm == norm else NAN


@cached_njit
def _linear(v, odd, levels, norm, codes):
    """Codes of a bucket, for levels l/levels of its norm."""
    s, wide = np.float64(levels), np.float64(norm)
    for i in range(len(v)):
        y = np.float64(abs(v[i])) * s / wide
        whole = np.floor(y)
        up = np.float64(odd[i]) * 2.0**-25 < y - whole
        level = min(np.int32(whole) + np.int32(up), levels)
        codes[i] = levels - level if v[i] < 0 else levels + level


@cached_njit
def _powers(v, odd, levels, norm, codes):
    """Codes of a bucket, for levels 2**(l - levels) of its norm."""
    wide, least = np.float64(norm), math.ldexp(1.0, 1 - levels)
    for i in range(len(v)):
        y = np.float64(abs(v[i])) / wide
        # y = 2**power * (1 + part), as its bits have it
        pattern = np.float64(y).view(np.int64)
        power, part = (pattern >> 52) - 1023, np.float64(pattern & 0xFFFFFFFFFFFFF) * 2.0**-52
        level = power + levels if y >= least else 0
        up = np.float64(odd[i]) * 2.0**-25 < (part if y >= least else y / least)
        level = min(level + np.int64(up), levels)
        codes[i] = levels - level if v[i] < 0 else levels + level


@cached_njit
def _exponents(v, odd, levels, codes):
    """Codes of a bucket, for powers of two as levels: the exponent's field, and one more with chance mantissa/2**23."""
    patterns = v.view(np.int32)
    for i in range(len(v)):
        size = np.int32(patterns[i] & np.int32(0x7FFFFFFF))
        exponent, mantissa = np.int32(size >> 23), np.int32(size & np.int32(0x7FFFFF))
        level = exponent if exponent == 255 else min(exponent + np.int32(odd[i] < 4 * mantissa), 254)
        codes[i] = levels - level if v[i] < 0 else levels + level


@cached_njit
def _whole(v, odd, levels, codes):
    """Codes of a bucket, for whole numbers; what is not finite goes by the first code that says nothing."""
    for i in range(len(v)):
        y = min(np.float64(abs(v[i])), np.float64(levels))
        if not np.isfinite(v[i]):
            codes[i] = 2 * levels + 1
            continue
        whole = np.floor(y)
        level = np.int32(whole) + np.int32(np.float64(odd[i]) * 2.0**-25 < y - whole)
        codes[i] = levels - level if v[i] < 0 else levels + level


@cached_njit
def _pack_bucket(v, block, spacing, levels, norm, counter, odd, codes):
    if spacing < EXPONENTS and (norm == 0 or not np.isfinite(norm)):
        codes[: len(v)] = levels
        return
    step, voter, stream, k0, k1, address = counter[0], counter[1], counter[2], counter[3], counter[4], odd.ctypes.data
    for w in range(len(v) // 64):
        draw_odd(address + 256 * w, uint32(block + 16 * w), step, voter, stream, k0, k1)
    if spacing == LINEAR:
        _linear(v, odd, levels, norm, codes)
    elif spacing == POWERS:
        _powers(v, odd, levels, norm, codes)
    elif spacing == WHOLE:
        _whole(v, odd, levels, codes)
    else:
        _exponents(v, odd, levels, codes)


@cached_njit
def _write_codes(codes, planes, stride, message, words):
    """The codes of so many words into planes that are `stride` words apart."""
    address = codes.ctypes.data
    for k in range(planes):
        for w in range(words):
            message[k * stride + w] = bit_of(address + 256 * w, uint32(k))


@cached_njit
def _pack_quantised(v, at, spacing, levels, bucket, planes, squares, counter, message):
    odd, codes, rest = np.empty(TILE, np.int32), np.empty(TILE, np.int32), np.zeros(16, np.float32)
    place = 0
    for lo in range(0, len(v), TILE):
        tile = v[lo : lo + TILE]
        words, count = len(tile) // 64, 0 if spacing >= EXPONENTS else (len(tile) + bucket - 1) // bucket
        heads = (count + 1) // 2
        message[place : place + heads] = 0
        norms, norm = message[place : place + heads].view(np.float32), NAN
        place += heads
        for b in range(0, len(tile), bucket):
            some = tile[b : b + bucket]
            if count:
                norm = _norm(some, squares, rest)
                norms[b // bucket] = norm
            _pack_bucket(some, (at + lo + b) // 4, spacing, levels, norm, counter, odd, codes)
            _write_codes(codes, planes, words, message[place + b // 64 :], len(some) // 64)
        place += planes * words


def pack_quantised(v, at, scheme, draw, message):
    spacing, squares = SPACINGS[scheme.spacing], scheme.norm == "l2"
    counter = counter_of(draw)[0]
    _pack_quantised(v, at, spacing, scheme.levels, scheme.bucket, scheme.planes, squares, counter, message)


@cached_njit
def _fill_table(spacing, levels, norm, weight, table):
    """weight * value of each code in a bucket of this norm; NaN for what no packing makes."""
    for code in range(len(table)):
        level, value = abs(code - levels), np.float32(0)
        if spacing == LINEAR:
            value = np.float32(code - levels) * (norm / np.float32(levels))
        elif spacing == WHOLE:
            value = np.float32(code - levels)
        elif level:
            if spacing == POWERS:
                value = norm * np.float32(math.ldexp(1.0, level - levels))
            else:
                value = np.float32(math.ldexp(1.0, level - 127)) if level < 255 else NAN
            value = value if code > levels else -value
        moved = weight * value
        known = code <= 2 * levels and (spacing >= EXPONENTS or np.isfinite(norm)) and moved == moved
        table[code] = moved if known else NAN


@cached_njit
def _add_bucket(total, message, stride, planes, table, codes):
    """Codes read from planes that are `stride` words apart."""
    address, word, step, values = total.ctypes.data, message.ctypes.data, 8 * stride, table.ctypes.data
    for w in range(len(total) // 64):
        # the usual numbers of planes have operations of their own
        if planes == 2:
            add_from_table(2, address + 256 * w, word + 8 * w, step, values)
        elif planes == 3:
            add_from_table(3, address + 256 * w, word + 8 * w, step, values)
        elif planes == 4:
            add_from_table(4, address + 256 * w, word + 8 * w, step, values)
        else:
            codes[:] = 0
            for k in range(planes):
                add_plane(codes.ctypes.data, message[k * stride + w], uint32(k))
            for j in range(64):
                total[64 * w + j] += table[codes[j]]


@cached_njit
def _add_quantised(total, message, spacing, levels, bucket, planes, weight):
    table, codes, place = np.empty(1 << planes, np.float32), np.empty(64, np.uint32), 0
    if spacing >= EXPONENTS:
        _fill_table(spacing, levels, NAN, weight, table)
    for lo in range(0, len(total), TILE):
        tile = total[lo : lo + TILE]
        words, count = len(tile) // 64, 0 if spacing >= EXPONENTS else (len(tile) + bucket - 1) // bucket
        heads = (count + 1) // 2
        norms = message[place : place + heads].view(np.float32)
        place += heads
        for b in range(0, len(tile), bucket):
            if count:
                _fill_table(spacing, levels, norms[b // bucket], weight, table)
            _add_bucket(tile[b : b + bucket], message[place + b // 64 :], words, planes, table, codes)
        place += planes * words


def add_quantised(total, message, scheme, weight):
    spacing, weight = SPACINGS[scheme.spacing], np.float32(weight)
    _add_quantised(total, message, spacing, scheme.levels, scheme.bucket, scheme.planes, weight)


@cached_njit
def _within(parts, at, words):
    """Bits of the coordinates of so many words that lie in parts."""
    inside = np.zeros(words, np.uint64)
    for k in range(parts.shape[1]):
        lo, hi = within(parts, k, at, 64 * words)
        while lo < hi:
            end = min(hi, lo // 64 * 64 + 64)
            bits = ALL >> uint64(64 - (end - lo))
            inside[lo // 64] |= bits << uint64(lo % 64)
            lo = end
    return inside


@njit(inline="always")
def _mean(lanes, count):
    """The mean of values in 16 running sums; every NaN is the same one."""
    total = 0.0
    for lane in lanes:
        total += lane
    mean = np.float32(total / np.float64(count)) if count else np.float32(0)
    return mean if mean == mean else NAN


@cached_njit
def _pack_two_means(v, at, parts, bucket, message):
    inside, lanes, place = _within(parts, at, len(v) // 64), np.empty((2, 16)), 0
    for lo in range(0, len(v), TILE):
        tile = v[lo : lo + TILE]
        count = (len(tile) + bucket - 1) // bucket
        means = message[place : place + count].view(np.float32)
        place += count
        for b in range(0, len(tile), bucket):
            uppers = lowers = uint64(0)
            lanes[:] = 0
            for w in range(b // 64, min(b + bucket, len(tile)) // 64):
                address, here = tile.ctypes.data + 256 * w, inside[lo // 64 + w]
                upper = nonnegative(address) & here
                lower = here & ~upper
                add_side(address, lower, lanes.ctypes.data)
                add_side(address, upper, lanes.ctypes.data + 128)
                lowers, uppers = lowers + ones(lower), uppers + ones(upper)
                message[place + w] = upper
            means[2 * (b // bucket)], means[2 * (b // bucket) + 1] = _mean(lanes[0], lowers), _mean(lanes[1], uppers)
        place += len(tile) // 64


def pack_two_means(v, at, parts, bucket, message):
    _pack_two_means(v, at, parts, bucket, message)


@cached_njit
def _add_two_means(total, message, at, parts, bucket, weight):
    inside, place = _within(parts, at, len(total) // 64), 0
    for lo in range(0, len(total), TILE):
        tile = total[lo : lo + TILE]
        count = (len(tile) + bucket - 1) // bucket
        means = message[place : place + count].view(np.float32)
        place += count
        for w in range(len(tile) // 64):
            b = 64 * w // bucket
            lower, upper = weight * means[2 * b], weight * means[2 * b + 1]
            add_either(tile.ctypes.data + 256 * w, message[place + w], inside[lo // 64 + w], lower, upper)
        place += len(tile) // 64


def add_two_means(total, message, at, parts, bucket, weight):
    _add_two_means(total, message, at, parts, bucket, np.float32(weight))
