"""Messages of a few coordinates: the largest or randomly chosen ones of each tile, or entries of a whole vector."""

import numpy as np
from numba import njit, uint32, uint64

from mpisign.bits.cpu.cache import cached_njit
from mpisign.bits.cpu.common import NO_COUNTER, TILE, coin_word, counter_of
from mpisign.bits.cpu.selecting import count_greater, draw_inverted, draw_odd, equal, greater, lowest, store_sizes

__all__ = [
    "add_chosen", "add_entries", "add_largest", "clear_entries", "clear_largest", "pack_chosen", "pack_drawn",
    "pack_greatest", "pack_largest", "planes_of_largest",
]  # fmt: skip

ONE, LOW = np.uint64(1), np.uint64(0xFFFFFFFF)
ADD, CLEAR = 0, 1
NAN = np.float32(np.nan)


@cached_njit
def _least(keys, k):
    """The k-th largest key, or a smaller one that as many reach: exactly k do, then."""
    address, words, least = keys.ctypes.data, uint64(len(keys) // 64), uint32(0)
    for bit in range(31, -1, -1):
        tried = uint32(least | (uint32(1) << uint32(bit)))
        reached = count_greater(address, words, uint32(tried - uint32(1)))
        if reached >= uint64(k):
            least = tried
        if reached == uint64(k):
            break
    return least


@cached_njit
def _choose(keys, k, places):
    """Places of the k largest keys in ascending order; of equal keys the first ones."""
    address, words, least, found = keys.ctypes.data, len(keys) // 64, _least(keys, k), 0
    spare = k - np.int64(count_greater(address, uint64(words), least))
    for w in range(words):
        left, ties = greater(address + 256 * w, least), uint64(0)
        if spare:
            ties = equal(address + 256 * w, least)
            left |= ties
        while left and found < k:
            j = lowest(left)
            left &= left - ONE
            if ties >> j & ONE:
                if spare == 0:
                    continue
                spare -= 1
            places[found] = 64 * w + np.int64(j)
            found += 1


@njit(inline="always")
def _kept(k, size):
    return max(1, (k * size + TILE - 1) // TILE)


@njit(inline="always")
def _sizes(v, keys):
    for w in range(len(v) // 64):
        store_sizes(v.ctypes.data + 256 * w, keys.ctypes.data + 256 * w)


@njit(inline="always")
def _set_place(stream, p, place):
    """Writes the p-th of a stream of 12-bit numbers, whose words were 0."""
    word, shift = 12 * p // 64, 12 * p % 64
    stream[word] |= uint64(place) << uint64(shift)
    if shift > 52:
        stream[word + 1] |= uint64(place) >> uint64(64 - shift)


@njit(inline="always")
def _place(stream, p):
    """The p-th of a stream of 12-bit numbers."""
    word, shift = 12 * p // 64, 12 * p % 64
    place = stream[word] >> uint64(shift)
    if shift > 52:
        place |= stream[word + 1] << uint64(64 - shift)
    return np.int64(place & uint64(0xFFF))


@njit(inline="always")
def _sign(value, i, word, counter, negate):
    """The bit of a value's sign: the coin of coordinate i of a word where it is 0, plus where it is NaN."""
    if value == 0:
        return coin_word(word, counter, negate) >> uint64(i % 64) & ONE
    return uint64(0) if value < 0 else ONE


@cached_njit
def _pack_largest(v, k, signs, at, counter, negate, message):
    keys, places, start = np.empty(TILE, np.uint32), np.empty(TILE, np.int64), 0
    for lo in range(0, len(v), TILE):
        tile = v[lo : lo + TILE]
        count = _kept(k, len(tile))
        heads, tails = (12 * count + 63) // 64, (count + 63) // 64 if signs else (count + 1) // 2
        _sizes(tile, keys)
        _choose(keys[: len(tile)], count, places)
        message[start : start + heads + tails] = 0
        stream, content = message[start : start + heads], message[start + heads : start + heads + tails]
        values = content.view(np.float32)
        for p in range(count):
            i = places[p]
            _set_place(stream, p, i)
            if signs:
                content[p // 64] |= _sign(tile[i], i, (at + lo + i) // 64, counter, negate) << uint64(p % 64)
            else:
                values[p] = tile[i]
        start += heads + tails


def pack_largest(v, k, signs, at, draw, message):
    counter, negate = counter_of(draw) if signs else (NO_COUNTER, False)
    _pack_largest(v, k, signs, at, counter, negate, message)


@cached_njit
def _over_largest(y, message, k, signs, weight, what):
    """What is to be done with y where something was sent: it is added, or y is cleared."""
    start = 0
    for lo in range(0, len(y), TILE):
        tile = y[lo : lo + TILE]
        count, astray = _kept(k, len(tile)), False
        heads, tails = (12 * count + 63) // 64, (count + 63) // 64 if signs else (count + 1) // 2
        stream, content = message[start : start + heads], message[start + heads : start + heads + tails]
        values = content.view(np.float32)
        for p in range(count):
            i = _place(stream, p)
            if i >= len(tile):
                astray = True
            elif what == CLEAR:
                tile[i] = 0
            elif signs:
                tile[i] += weight if content[p // 64] >> uint64(p % 64) & ONE else -weight
            else:
                tile[i] += weight * values[p]
        if astray and what == ADD:
            tile[0] = NAN
        start += heads + tails


def add_largest(total, message, k, signs, weight):
    _over_largest(total, message, k, signs, np.float32(weight), ADD)


def clear_largest(y, message, k, signs):
    _over_largest(y, message, k, signs, np.float32(0), CLEAR)


@cached_njit
def _planes_of_largest(message, k, planes):
    planes[:] = 0
    start, size = 0, 64 * planes.shape[1]
    for lo in range(0, size, TILE):
        length = min(TILE, size - lo)
        count = _kept(k, length)
        heads, tails = (12 * count + 63) // 64, (count + 63) // 64
        stream, content = message[start : start + heads], message[start + heads : start + heads + tails]
        for p in range(count):
            i = _place(stream, p)
            if i < length:
                w, bit = (lo + i) // 64, ONE << uint64(i % 64)
                planes[1, w] |= bit
                planes[0, w] = planes[0, w] | bit if content[p // 64] >> uint64(p % 64) & ONE else planes[0, w] & ~bit
        start += heads + tails


def planes_of_largest(message, k, planes):
    _planes_of_largest(message, k, planes)


@cached_njit
def _drawn_places(size, k, at, counter, keys, places):
    """Places of the k smallest draws of a tile of so many coordinates."""
    step, voter, stream, k0, k1 = counter[0], counter[1], counter[2], counter[3], counter[4]
    for w in range(size // 64):
        draw_inverted(keys.ctypes.data + 256 * w, uint32(at // 4 + 16 * w), step, voter, stream, k0, k1)
    _choose(keys[:size], k, places)


@cached_njit
def _pack_chosen(v, k, unbiased, at, counter, message):
    keys, places, start = np.empty(TILE, np.uint32), np.empty(TILE, np.int64), 0
    for lo in range(0, len(v), TILE):
        tile = v[lo : lo + TILE]
        count = _kept(k, len(tile))
        words = (count + 1) // 2
        _drawn_places(len(tile), count, at + lo, counter, keys, places)
        message[start + words - 1] = 0
        values = message[start : start + words].view(np.float32)
        scale = np.float32(np.float64(len(tile)) / np.float64(count))
        for p in range(count):
            values[p] = scale * tile[places[p]] if unbiased else tile[places[p]]
        start += words


def pack_chosen(v, k, unbiased, at, draw, message):
    _pack_chosen(v, k, unbiased, at, counter_of(draw)[0], message)


@cached_njit
def _add_chosen(total, message, k, at, counter, weight):
    keys, places, start = np.empty(TILE, np.uint32), np.empty(TILE, np.int64), 0
    for lo in range(0, len(total), TILE):
        tile = total[lo : lo + TILE]
        count = _kept(k, len(tile))
        words = (count + 1) // 2
        _drawn_places(len(tile), count, at + lo, counter, keys, places)
        values = message[start : start + words].view(np.float32)
        for p in range(count):
            tile[places[p]] += weight * values[p]
        start += words


def add_chosen(total, message, k, at, draw, weight):
    _add_chosen(total, message, k, at, counter_of(draw)[0], np.float32(weight))


@njit(inline="always")
def _entry(patterns, i):
    return uint64(i) | uint64(patterns[i]) << uint64(32)


@cached_njit
def _pack_greatest(v, k, message):
    message[0] = uint64(k)
    if k:
        keys, places, patterns = np.empty(len(v), np.uint32), np.empty(k, np.int64), v.view(np.uint32)
        _sizes(v, keys)
        _choose(keys, k, places)
        for p in range(k):
            message[1 + p] = _entry(patterns, places[p])


def pack_greatest(v, k, message):
    _pack_greatest(v, k, message)


@cached_njit
def _pack_drawn(v, at, c, counter, message):
    odd, patterns, drawn, room = np.empty(64, np.int32), v.view(np.uint32), 0, len(message) - 1
    step, voter, stream, k0, k1 = counter[0], counter[1], counter[2], counter[3], counter[4]
    reciprocal = np.empty(2, np.float32)
    reciprocal[0], reciprocal[1] = 1.0 / c, -1.0 / c
    scaled = reciprocal.view(np.uint32)
    for lo in range(0, len(v), 64):
        draw_odd(odd.ctypes.data, uint32((at + lo) // 4), step, voter, stream, k0, k1)
        for j in range(64):
            value = v[lo + j]
            p = c * np.float64(abs(value)) if np.isfinite(value) else 1.0
            if np.float64(odd[j]) * 2.0**-25 < p:
                if drawn < room:
                    pattern = patterns[lo + j] if p >= 1.0 else scaled[1 if value < 0 else 0]
                    message[1 + drawn] = uint64(lo + j) | uint64(pattern) << uint64(32)
                drawn += 1
    message[0] = uint64(min(drawn, room))
    return drawn


def pack_drawn(v, at, c, draw, message):
    return int(_pack_drawn(v, at, np.float64(c), counter_of(draw)[0], message))


@cached_njit
def _over_entries(y, message, weight, what):
    """What is to be done with y where an entry is: it is added, or y is cleared."""
    count = np.int64(message[0])
    astray = count < 0 or count > len(message) - 1
    if not astray:
        values = message[1:].view(np.float32)
        for p in range(count):
            i = np.int64(message[1 + p] & LOW)
            if i >= len(y):
                astray = True
            elif what == CLEAR:
                y[i] = 0
            else:
                y[i] += weight * values[2 * p + 1]
    if astray and what == ADD:
        y[:1] = NAN


def add_entries(total, message, weight):
    _over_entries(total, message, np.float32(weight), ADD)


def clear_entries(y, message):
    _over_entries(y, message, np.float32(0), CLEAR)
