"""Messages of a few coordinates: the largest or randomly chosen ones of each tile, or entries of a whole vector."""

import numpy as np
from numba import njit, uint32, uint64

from mpisign.bits.cpu.cache import cached_njit
from mpisign.bits.cpu.common import NO_COUNTER, TILE, coin_word, counter_of
from mpisign.bits.cpu.selecting import count_greater, draw_inverted, draw_odd, equal, greater, lowest, store_sizes

__all__ = [
    "add_chosen", "add_entries", "add_largest", "add_largest_means", "clear_entries", "clear_largest", "pack_chosen",
    "pack_drawn", "pack_greatest", "pack_largest", "pack_largest_means", "planes_of_largest",
]  # fmt: skip

ZERO, ONE, LOW = np.uint64(0), np.uint64(1), np.uint64(0xFFFFFFFF)
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


@cached_njit
def _sizes(v, keys):
    address, to = v.ctypes.data, keys.ctypes.data
    for w in range(len(v) // 64):
        store_sizes(address + 256 * w, to + 256 * w)


@cached_njit
def _write_places(places, stream):
    """Places in a tile as a stream of 12-bit numbers."""
    stream[:] = 0
    for p in range(len(places)):
        word, shift, place = (12 * p) >> 6, (12 * p) & 63, uint64(places[p])
        stream[word] |= place << uint64(shift)
        if shift > 52:
            stream[word + 1] |= place >> uint64(64 - shift)


@cached_njit
def _read_places(stream, places):
    for p in range(len(places)):
        word, shift = (12 * p) >> 6, (12 * p) & 63
        place = stream[word] >> uint64(shift)
        if shift > 52:
            place |= stream[word + 1] << uint64(64 - shift)
        places[p] = np.int64(place & uint64(0xFFF))


@cached_njit
def _write_values(tile, places, values):
    for p in range(len(places)):
        values[p] = tile[places[p]]


@cached_njit
def _write_signs(tile, places, first_word, counter, negate, content):
    """A bit per value: the coin of its coordinate where it is 0, plus where it is NaN."""
    for p in range(len(places)):
        i, bit = places[p], ONE
        value = tile[i]
        if value < 0:
            bit = ZERO
        elif value == 0:
            bit = coin_word(first_word + (i >> 6), counter, negate) >> uint64(i & 63) & ONE
        content[p >> 6] |= bit << uint64(p & 63)


@njit(inline="always")
def _layout(k, size, signs):
    """How many coordinates of a tile are sent, the words of their places, and those of what is sent of them."""
    count = _kept(k, size)
    return count, (12 * count + 63) // 64, (count + 63) // 64 if signs else (count + 1) // 2


@cached_njit
def _pack_largest(v, k, signs, at, counter, negate, message):
    keys, room, start = np.empty(TILE, np.uint32), np.empty(TILE, np.int64), 0
    for lo in range(0, len(v), TILE):
        tile = v[lo : lo + TILE]
        count, heads, tails = _layout(k, len(tile), signs)
        places, content = room[:count], message[start + heads : start + heads + tails]
        _sizes(tile, keys)
        _choose(keys[: len(tile)], count, places)
        _write_places(places, message[start : start + heads])
        content[:] = 0
        if signs:
            _write_signs(tile, places, (at + lo) // 64, counter, negate, content)
        else:
            _write_values(tile, places, content.view(np.float32))
        start += heads + tails


def pack_largest(v, k, signs, at, draw, message):
    counter, negate = counter_of(draw) if signs else (NO_COUNTER, False)
    _pack_largest(v, k, signs, at, counter, negate, message)


@cached_njit
def _add_values(y, places, values, weight):
    """y += weight * value at places of it; returns whether there was one beyond."""
    astray = False
    for p in range(len(places)):
        i = places[p]
        if i < len(y):
            y[i] += weight * values[p]
        else:
            astray = True
    return astray


@cached_njit
def _add_signs(y, places, content, weight):
    astray = False
    for p in range(len(places)):
        i, bit = places[p], content[p >> 6] >> uint64(p & 63) & ONE
        if i < len(y):
            y[i] += weight if bit else -weight
        else:
            astray = True
    return astray


@cached_njit
def _clear(y, places):
    for i in places:
        if i < len(y):
            y[i] = 0


@cached_njit
def _add_largest(total, message, k, signs, weight):
    room, start = np.empty(TILE, np.int64), 0
    for lo in range(0, len(total), TILE):
        tile = total[lo : lo + TILE]
        count, heads, tails = _layout(k, len(tile), signs)
        places, content = room[:count], message[start + heads : start + heads + tails]
        _read_places(message[start : start + heads], places)
        if signs:
            astray = _add_signs(tile, places, content, weight)
        else:
            astray = _add_values(tile, places, content.view(np.float32), weight)
        if astray:
            tile[0] = NAN
        start += heads + tails


@cached_njit
def _clear_largest(y, message, k, signs):
    room, start = np.empty(TILE, np.int64), 0
    for lo in range(0, len(y), TILE):
        tile = y[lo : lo + TILE]
        count, heads, tails = _layout(k, len(tile), signs)
        _read_places(message[start : start + heads], room[:count])
        _clear(tile, room[:count])
        start += heads + tails


def add_largest(total, message, k, signs, weight):
    _add_largest(total, message, k, signs, np.float32(weight))


def clear_largest(y, message, k, signs):
    _clear_largest(y, message, k, signs)


@njit(inline="always")
def _mean(total, count):
    """Of values added up; 0 of none, and every NaN is the same one."""
    mean = np.float32(total / np.float64(count)) if count else np.float32(0)
    return mean if mean == mean else NAN


@cached_njit
def _write_halves(tile, places, means, signs, halves):
    """Signs, and halves of the range of |v|, as planes, and the mean of either half."""
    least, most = np.float64(abs(tile[places[0]])), np.float64(abs(tile[places[0]]))
    for i in places:
        size = np.float64(abs(tile[i]))
        least, most = np.float64(size if size < least or size != size else least), max(size, most)
    middle, lower, upper, above = 0.5 * (least + most), 0.0, 0.0, 0
    for p in range(len(places)):
        value = tile[places[p]]
        size, bit = np.float64(abs(value)), ONE << uint64(p & 63)
        if not value < 0:
            signs[p >> 6] |= bit
        if size < middle:
            lower += size
        else:
            halves[p >> 6] |= bit
            upper, above = upper + size, above + 1
    means[0], means[1] = _mean(lower, len(places) - above), _mean(upper, above)


@cached_njit
def _pack_largest_means(v, k, message):
    keys, room, start = np.empty(TILE, np.uint32), np.empty(TILE, np.int64), 0
    for lo in range(0, len(v), TILE):
        tile = v[lo : lo + TILE]
        count, heads, words = _layout(k, len(tile), True)
        places, content = room[:count], message[start + heads : start + heads + 1 + 2 * words]
        _sizes(tile, keys)
        _choose(keys[: len(tile)], count, places)
        _write_places(places, message[start : start + heads])
        content[:] = 0
        _write_halves(tile, places, content[:1].view(np.float32), content[1 : 1 + words], content[1 + words :])
        start += heads + 1 + 2 * words


def pack_largest_means(v, k, message):
    _pack_largest_means(v, k, message)


@cached_njit
def _add_halves(y, places, means, signs, halves, weight):
    """y += weight * +-mean at places of it; returns whether there was one beyond."""
    astray = False
    for p in range(len(places)):
        i, w, shift = places[p], p >> 6, uint64(p & 63)
        if i < len(y):
            signed = weight if signs[w] >> shift & ONE else -weight
            y[i] += signed * means[np.int64(halves[w] >> shift & ONE)]
        else:
            astray = True
    return astray


@cached_njit
def _add_largest_means(total, message, k, weight):
    room, start = np.empty(TILE, np.int64), 0
    for lo in range(0, len(total), TILE):
        tile = total[lo : lo + TILE]
        count, heads, words = _layout(k, len(tile), True)
        places, content = room[:count], message[start + heads : start + heads + 1 + 2 * words]
        _read_places(message[start : start + heads], places)
        means, signs, halves = content[:1].view(np.float32), content[1 : 1 + words], content[1 + words :]
        if _add_halves(tile, places, means, signs, halves, weight):
            tile[0] = NAN
        start += heads + 1 + 2 * words


def add_largest_means(total, message, k, weight):
    _add_largest_means(total, message, k, np.float32(weight))


@cached_njit
def _mark(signs, present, places, content):
    for p in range(len(places)):
        i, plus = places[p], content[p >> 6] >> uint64(p & 63) & ONE
        w, bit = i >> 6, ONE << uint64(i & 63)
        if w < len(present):
            present[w] |= bit
            signs[w] = signs[w] | bit if plus else signs[w] & ~bit


@cached_njit
def _planes_of_largest(message, k, planes):
    planes[:] = 0
    room, start = np.empty(TILE, np.int64), 0
    for w in range(0, planes.shape[1], TILE // 64):
        signs, present = planes[0, w : w + TILE // 64], planes[1, w : w + TILE // 64]
        count, heads, tails = _layout(k, 64 * len(present), True)
        _read_places(message[start : start + heads], room[:count])
        _mark(signs, present, room[:count], message[start + heads : start + heads + tails])
        start += heads + tails


def planes_of_largest(message, k, planes):
    _planes_of_largest(message, k, planes)


@cached_njit
def _drawn_places(size, at, counter, keys, places):
    """Places of the smallest draws of a tile of so many coordinates, as many as there is room for."""
    step, voter, stream, k0, k1, address = counter[0], counter[1], counter[2], counter[3], counter[4], keys.ctypes.data
    for w in range(size // 64):
        draw_inverted(address + 256 * w, uint32(at // 4 + 16 * w), step, voter, stream, k0, k1)
    _choose(keys[:size], len(places), places)


@cached_njit
def _pack_chosen(v, k, unbiased, at, counter, message):
    keys, room, start = np.empty(TILE, np.uint32), np.empty(TILE, np.int64), 0
    for lo in range(0, len(v), TILE):
        tile = v[lo : lo + TILE]
        places = room[: _kept(k, len(tile))]
        words = (len(places) + 1) // 2
        _drawn_places(len(tile), at + lo, counter, keys, places)
        message[start + words - 1] = 0
        values = message[start : start + words].view(np.float32)
        _write_values(tile, places, values)
        if unbiased:
            values *= np.float32(np.float64(len(tile)) / np.float64(len(places)))
        start += words


def pack_chosen(v, k, unbiased, at, draw, message):
    _pack_chosen(v, k, unbiased, at, counter_of(draw)[0], message)


@cached_njit
def _add_chosen(total, message, k, at, counter, weight):
    keys, room, start = np.empty(TILE, np.uint32), np.empty(TILE, np.int64), 0
    for lo in range(0, len(total), TILE):
        tile = total[lo : lo + TILE]
        places = room[: _kept(k, len(tile))]
        words = (len(places) + 1) // 2
        _drawn_places(len(tile), at + lo, counter, keys, places)
        _add_values(tile, places, message[start : start + words].view(np.float32), weight)
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
def _add_entries(total, message, weight):
    count, values = np.int64(message[0]), message.view(np.float32)
    astray = count < 0 or count > len(message) - 1
    for p in range(0 if astray else count):
        i = np.int64(message[1 + p] & LOW)
        if i < len(total):
            total[i] += weight * values[2 * p + 3]
        else:
            astray = True
    if astray:
        total[:1] = NAN


def add_entries(total, message, weight):
    _add_entries(total, message, np.float32(weight))


@cached_njit
def _clear_entries(y, message):
    count = np.int64(message[0])
    if 0 <= count <= len(message) - 1:
        for entry in message[1 : 1 + count]:
            i = np.int64(entry & LOW)
            if i < len(y):
                y[i] = 0


def clear_entries(y, message):
    _clear_entries(y, message)
