"""Messages of a few coordinates: the largest or randomly chosen ones of each tile, or entries of a whole vector."""

import numpy as np

from mpisign.bits.reference.common import chance, coin, from_pairs, tiles_with, to_bits, to_pairs, to_words
from mpisign.bits.sizes import PLACE, chosen_words, kept, largest_means_words, largest_words

__all__ = [
    "add_chosen", "add_entries", "add_largest", "add_largest_means", "clear_entries", "clear_largest", "pack_chosen",
    "pack_drawn", "pack_greatest", "pack_largest", "pack_largest_means", "planes_of_largest",
]  # fmt: skip


def _sizes(v):
    """|v| as integers, in whose order NaN comes last."""
    return v.view(np.uint32).astype(np.int64) & 0x7FFFFFFF


def _first(keys, k):
    """Places of the k smallest keys in ascending order; of equal keys the first ones."""
    return np.sort(np.argsort(keys, kind="stable")[:k])


def pack_largest(v, k, signs, at, draw, message):
    """Places of the largest |v| of each tile, 12 bits each, and then their values or their signs.

    Of equal |v| the first ones are sent. The sign of 0 is the coin of its coordinate, that of NaN is plus.
    """
    for lo, tile, words in tiles_with(v, message, lambda size: largest_words(k, size, signs)):
        places = _first(-_sizes(tile), kept(k, len(tile)))
        stream, values = _stream(places), tile[places]
        if signs:
            coins = coin(draw, at + lo, len(tile))[places]
            content = to_words(np.where(values == 0, coins, ~(values < 0)))
        else:
            content = to_pairs(values)
        words[:] = np.concatenate([stream, content])


def _stream(places):
    return to_words((places[:, None] >> np.arange(PLACE) & 1).reshape(-1))


def _places(words, count):
    return to_bits(words, PLACE * count).reshape(count, PLACE) @ (1 << np.arange(PLACE))


def _largest(v, message, k, signs):
    """(place in v or -1 where it is beyond the tile, value, start of the tile) of all that was sent."""
    for lo, tile, words in tiles_with(v, message, lambda size: largest_words(k, size, signs)):
        count = kept(k, len(tile))
        places = _places(words, count)
        content = words[-(-PLACE * count // 64) :]
        values = np.where(to_bits(content, count), 1, -1) if signs else from_pairs(content, count)
        for place, value in zip(places, values.astype(np.float32), strict=True):
            yield lo + place if place < len(tile) else -1, value, lo


def add_largest(total, message, k, signs, weight):
    """total += weight * value; a place beyond its tile makes the first coordinate of the tile NaN."""
    for place, value, start in _largest(total, message, k, signs):
        if place < 0:
            total[start] = np.nan
        else:
            _add(total, place, value, weight)


def _add(total, place, value, weight):
    with np.errstate(over="ignore", invalid="ignore"):
        total[place] += np.float32(weight) * value


def pack_largest_means(v, k, message):
    """Places of the largest |v| of each tile, the means of the lower and the upper half of their |v|, signs and halves.

    The middle is half of the least and the largest |v| sent, in float64; what is not below it is in the upper half.
    """
    for _, tile, words in tiles_with(v, message, lambda size: largest_means_words(k, size)):
        places = _first(-_sizes(tile), kept(k, len(tile)))
        sizes = np.abs(tile[places]).astype(np.float64)
        upper = ~(sizes < 0.5 * (sizes.min() + sizes.max()))
        means = [_mean(sizes[half]) for half in (~upper, upper)]
        words[:] = np.concatenate([_stream(places), to_pairs(means), to_words(~(tile[places] < 0)), to_words(upper)])


def _mean(values):
    """float32, added up one after the other; 0 of none, and every NaN is the same one."""
    total = 0.0
    for value in values:
        total += value
    mean = np.float32(total / len(values)) if len(values) else np.float32(0)
    return np.float32(np.nan) if np.isnan(mean) else mean


def add_largest_means(total, message, k, weight):
    """total += fl(weight * +-mean); a place beyond its tile makes the first coordinate of the tile NaN."""
    for _, tile, words in tiles_with(total, message, lambda size: largest_means_words(k, size)):
        count = kept(k, len(tile))
        means, planes = np.split(words[-(-PLACE * count // 64) :], [1])
        signs, halves = (to_bits(plane, count) for plane in np.split(planes, 2))
        values = np.where(signs, 1, -1) * from_pairs(means, 2)[halves.astype(int)]
        places = _places(words, count)
        for place, value in zip(places, values.astype(np.float32), strict=True):
            if place < len(tile):
                _add(tile, place, value, weight)
        if (places >= len(tile)).any():
            tile[0] = np.nan


def clear_largest(y, message, k, signs):
    """y = 0 at what was sent."""
    for place, _, _ in _largest(y, message, k, signs):
        if place >= 0:
            y[place] = 0.0


def planes_of_largest(message, k, planes):
    """A message of signs as planes (2, W): signs, which are 0 where nothing was sent, and what was sent."""
    signs, present = np.zeros((2, 64 * planes.shape[1]), dtype=bool)
    for place, value, _ in _largest(signs, message, k, True):
        if place >= 0:
            signs[place], present[place] = value > 0, True
    planes[0], planes[1] = to_words(signs), to_words(present)


def pack_chosen(v, k, unbiased, at, draw, message):
    """Values at the places of the smallest 32-bit draws of each tile, times tile/kept if unbiased."""
    for lo, tile, words in tiles_with(v, message, lambda size: chosen_words(k, size)):
        values = tile[_chosen(k, len(tile), at + lo, draw)]
        with np.errstate(over="ignore"):
            words[:] = to_pairs(np.float32(len(tile) / len(values)) * values if unbiased else values)


def _chosen(k, size, at, draw):
    return _first(draw.blocks(at // 4, size // 4).reshape(-1).astype(np.int64), kept(k, size))


def add_chosen(total, message, k, at, draw, weight):
    """total += weight * value at the same places."""
    for lo, tile, words in tiles_with(total, message, lambda size: chosen_words(k, size)):
        places = _chosen(k, len(tile), at + lo, draw)
        for place, value in zip(places, from_pairs(words, len(places)), strict=True):
            _add(tile, place, value, weight)


def pack_greatest(v, k, message):
    """Entries of the k largest |v|, of equal ones the first."""
    places = _first(-_sizes(v), k)
    _write(message, places, v[places])


def _write(message, places, values):
    """The count, and then an entry each: place in the low half, value in the high half."""
    entries = places.astype(np.uint64) | values.view(np.uint32).astype(np.uint64) << np.uint64(32)
    message[0] = len(entries)
    message[1 : 1 + len(entries)] = entries


def pack_drawn(v, at, c, draw, message):
    """Entries of coordinates that are drawn with probability p = min(1, c * |v|); 1/c or -1/c where p < 1.

    What is not finite is always sent. Writes what message has room for; returns how many were drawn.
    """
    u = chance(draw, at, len(v))
    places, values = [], []
    for i, value in enumerate(v):
        p = 1.0 if not np.isfinite(value) else min(1.0, c * float(abs(value)))
        if u[i] < p:
            places.append(i)
            values.append(value if p == 1.0 else np.float32((-1.0 if value < 0 else 1.0) / c))
    room = len(message) - 1
    _write(message, np.array(places[:room], dtype=np.int64), np.array(values[:room], dtype=np.float32))
    return len(places)


def _entries(message, count):
    """(place, value) of each entry, place -1 where it lies beyond `count` coordinates."""
    entries = message[1 : 1 + int(message[:1].view(np.int64)[0])]
    values = (entries >> np.uint64(32)).astype(np.uint32).view(np.float32)
    places = (entries & np.uint64(0xFFFFFFFF)).astype(np.int64)
    return list(zip(np.where(places < count, places, -1), values, strict=True))


def _is_whole(message):
    return 0 <= int(message[:1].view(np.int64)[0]) <= len(message) - 1


def add_entries(total, message, weight):
    """total += weight * value; a wrong number of entries adds nothing, a place beyond total is passed over.

    Either makes total[0] NaN.
    """
    entries = _entries(message, len(total)) if _is_whole(message) else [(-1, 0.0)]
    for place, value in entries:
        if place >= 0:
            _add(total, place, value, weight)
    if any(place < 0 for place, _ in entries):
        total[:1] = np.nan


def clear_entries(y, message):
    """y = 0 where an entry is; nothing if their number is wrong."""
    for place, _ in _entries(message, len(y)) if _is_whole(message) else []:
        if place >= 0:
            y[place] = 0.0
