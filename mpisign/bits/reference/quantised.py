"""Messages of levels: each coordinate is rounded to one of a few values, relative to its bucket."""

import math

import numpy as np

from mpisign.bits.reference.common import WORD, chance, from_pairs, of_parts, tiles_with, to_bits, to_pairs, to_words
from mpisign.bits.reference.deciding import numbers
from mpisign.bits.reference.moving import lane_sum
from mpisign.bits.sizes import TILE

__all__ = ["add_quantised", "add_two_means", "pack_quantised", "pack_two_means"]


def pack_quantised(v, at, scheme, draw, message):
    """Codes of v: levels + l for v >= 0, levels - l for v < 0, after the norms of the buckets."""
    for lo, tile, words in tiles_with(v, message, scheme.words):
        codes, norms = [], []
        for b in range(0, len(tile), scheme.bucket):
            bucket = tile[b : b + scheme.bucket]
            norms.append(_norm(bucket, scheme.norm))
            level = _level(bucket, norms[-1], scheme, chance(draw, at + lo + b, len(bucket)))
            down = (bucket < 0) & (level <= scheme.levels)
            codes.append(np.where(down, scheme.levels - level, scheme.levels + level))
        some = norms if scheme.norms(len(tile)) else []
        planes = [to_words(np.concatenate(codes) >> k & 1 == 1) for k in range(scheme.planes)]
        words[:] = np.concatenate([to_pairs(some), *planes])


def _norm(bucket, kind):
    """float32, of which every NaN is the same one."""
    with np.errstate(over="ignore"):
        if kind == "l2":
            norm = np.float32(math.sqrt(lane_sum(bucket.astype(np.float64) ** 2)))
        else:
            norm = np.abs(bucket).max()
    return np.float32(np.nan) if np.isnan(norm) else norm


def _level(bucket, norm, scheme, u):
    """l of each coordinate, by its draw u from (0, 1)."""
    size, s = np.abs(bucket).astype(np.float64), scheme.levels
    if scheme.spacing == "exponents":
        powers = [2.0 ** (l - 127) for l in range(1, 256)]  # noqa: E741
        finite = np.isfinite(bucket)
        level = _between(np.where(finite, size, 0.0), np.array([0.0, *powers]), u)
        return np.where(finite, np.minimum(level, 254), 255)
    if scheme.spacing == "whole":
        finite = np.isfinite(bucket)
        y = np.where(finite, np.minimum(size, s), 0.0)
        # what is not finite goes by the first code that says nothing
        return np.where(finite, np.floor(y).astype(np.int64) + (u < y - np.floor(y)), s + 1)
    if norm == 0 or not np.isfinite(norm):
        return np.zeros(len(bucket), dtype=np.int64)
    if scheme.spacing == "linear":
        y = size * s / np.float64(norm)
        level = np.floor(y).astype(np.int64) + (u < y - np.floor(y))
    else:
        level = _between(size / np.float64(norm), np.array([0.0, *(2.0 ** (k - s) for k in range(1, s + 1)), 2.0]), u)
    return np.minimum(level, s)


def _between(y, levels, u):
    """The number of one of the two levels around y: the upper one where u < (y - lower) / (upper - lower)."""
    below = np.searchsorted(levels, y, side="right") - 1
    lower, upper = levels[below], levels[below + 1]
    return below + (u < (y - lower) / (upper - lower))


def add_quantised(total, message, scheme, weight):
    """total = fl(total + fl(weight * value)), the value of a code that no packing makes being NaN."""
    for _, tile, words in tiles_with(total, message, scheme.words):
        count = scheme.norms(len(tile))
        norms = from_pairs(words, count) if count else [None]
        codes = numbers(words[-(-count // 2) :].reshape(scheme.planes, -1), len(tile))
        bucket = scheme.bucket if count else TILE
        for b, norm in enumerate(norms):
            some = slice(b * bucket, (b + 1) * bucket)
            with np.errstate(over="ignore", invalid="ignore"):
                table = np.array([np.float32(weight) * _value(code, norm, scheme) for code in range(2**scheme.planes)])
                tile[some] += np.where(np.isnan(table), np.float32(np.nan), table)[codes[some]]


def _value(code, norm, scheme):
    """What a code stands for, float32."""
    level, sign, s = abs(code - scheme.levels), np.sign(np.float32(code - scheme.levels)), scheme.levels
    if code > 2 * s or (norm is not None and not np.isfinite(norm)):
        return np.float32(np.nan)
    if scheme.spacing == "linear":
        return np.float32(code - s) * (norm / np.float32(s))
    if scheme.spacing == "whole":
        return np.float32(code - s)
    if level == 0:
        return np.float32(0.0)
    if scheme.spacing == "powers":
        return sign * (norm * np.float32(2.0 ** (level - s)))
    return sign * np.float32(2.0 ** (level - 127)) if level < 255 else np.float32(np.nan)


def pack_two_means(v, at, parts, bucket, message):
    """Bit 1 where v >= 0, after the means of the other side and of this one, a word per bucket.

    Only coordinates in parts count; elsewhere bits are 0. NaN lies on the other side, whose mean tells of it.
    """
    within = _within(parts, at, len(v))
    for lo, tile, words in tiles_with(v, message, lambda size: _two_means_words(size, bucket)):
        inside = within[lo : lo + len(tile)]
        upper = inside & (tile >= 0)
        means = []
        for b in range(0, len(tile), bucket):
            some = slice(b, b + bucket)
            means += [_mean(tile[some], side[some]) for side in (inside & ~upper, upper)]
        words[:] = np.concatenate([to_pairs(means), to_words(upper)])


def _two_means_words(size, bucket):
    return -(-size // bucket) + size // WORD


def _within(parts, at, count):
    inside = np.zeros(count, dtype=bool)
    for i, _, _, _ in of_parts(parts, at, count):
        inside[i] = True
    return inside


def _mean(values, side):
    """float32, 0 of no values; every NaN is the same one."""
    if not side.any():
        return np.float32(0.0)
    mean = np.float32(lane_sum(np.where(side, values, 0).astype(np.float64)) / side.sum())
    return np.float32(np.nan) if np.isnan(mean) else mean


def add_two_means(total, message, at, parts, bucket, weight):
    """total = fl(total + fl(weight * mean of its side)) in parts."""
    within = _within(parts, at, len(total))
    for lo, tile, words in tiles_with(total, message, lambda size: _two_means_words(size, bucket)):
        count = -(-len(tile) // bucket)
        means = from_pairs(words, 2 * count).reshape(count, 2)
        sides = to_bits(words[count:], len(tile)).astype(np.int64)
        with np.errstate(over="ignore"):
            moves = np.float32(weight) * means[np.arange(len(tile)) // bucket, sides]
            moved = tile + moves
        tile[:] = np.where(within[lo : lo + len(tile)], moved, tile)
