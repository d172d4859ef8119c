"""What the reference kernels share: bits and words, draws, parts of a chunk."""

import math

import numpy as np

from mpisign.bits.rng import Draw
from mpisign.bits.sizes import TILE

__all__ = [
    "chance", "coin", "first_nonfinite", "from_pairs", "halves", "normal", "tiles_with", "to_bits", "to_pairs",
    "to_words", "uniform",
]  # fmt: skip

WORD = 64


def to_words(bits: np.ndarray) -> np.ndarray:
    """Booleans (d,) as words (ceil(d/64),), the last one filled up with zeros."""
    padded = np.zeros(-(-len(bits) // WORD) * WORD, dtype=np.uint8)
    padded[: len(bits)] = bits
    return np.packbits(padded, bitorder="little").view("<u8")


def to_bits(words: np.ndarray, count: int) -> np.ndarray:
    """The first `count` bits of words as booleans."""
    return np.unpackbits(words.view(np.uint8), bitorder="little")[:count].astype(bool)


def to_pairs(values) -> np.ndarray:
    """float32 values two per word, the first in the low half, the last half filled up with 0."""
    padded = np.zeros(-(-len(values) // 2) * 2, dtype="<f4")
    padded[: len(values)] = values
    return padded.view("<u8")


def from_pairs(words: np.ndarray, count: int) -> np.ndarray:
    """The first `count` values of words of float32 pairs."""
    return words.view("<f4")[:count]


def coin(draw: Draw, at: int, count: int) -> np.ndarray:
    """One 64-bit word of coins for 64 coordinates: outputs 0 (low half) and 1 of the block of that word."""
    blocks = draw.blocks(at // WORD, -(-count // WORD)).astype(np.uint64)
    words = blocks[:, 0] | blocks[:, 1] << np.uint64(32)
    return to_bits(~words if draw.negate else words, count)


def uniform(draw: Draw, at: int, count: int) -> np.ndarray:
    """u = ((2k + 1) - 2**24) / 2**24 for the upper 24 bits k of one output a coordinate, float32 in (-1, 1)."""
    k = draw.blocks(at // 4, -(-count // 4)).reshape(-1)[:count] >> np.uint32(8)
    return ((2 * k.astype(np.int64) + 1 - 2**24) / 2**24).astype(np.float32)


def chance(draw: Draw, at: int, count: int) -> np.ndarray:
    """u = (2k + 1) / 2**25 for the upper 24 bits k of one output per coordinate, float64 in (0, 1)."""
    k = draw.blocks(at // 4, -(-count // 4)).reshape(-1)[:count] >> np.uint32(8)
    return (2 * k.astype(np.int64) + 1) / 2**25


def halves(draw: Draw, at: int, count: int) -> np.ndarray:
    """16 bits per coordinate, uint32 (count,): a Philox block is for eight of them, the low half of an output first."""
    outputs = draw.blocks(at // 8, -(-count // 8)).reshape(-1)
    return np.stack([outputs & np.uint32(0xFFFF), outputs >> np.uint32(16)], axis=-1).reshape(-1)[:count]


def normal(draw: Draw, at: int, count: int) -> np.ndarray:
    """N(0, 1) a coordinate, float32: Box and Muller in float64 on the two halves of a Philox block."""
    drawn = []
    for block in draw.blocks(at // 4, -(-count // 4)).tolist():
        for k, turn in (block[:2], block[2:]):
            length = math.sqrt(-2.0 * math.log((k + 1.0) * 2.0**-32))
            angle = (2.0 * math.pi * 2.0**-32) * turn
            drawn += [length * math.cos(angle), length * math.sin(angle)]
    return np.array(drawn[:count], dtype=np.float32)


def of_parts(parts, at, items):
    """(items, words, first coordinate, segment) of each part that lies in a vector which starts at `at`."""
    for first, end, segment in parts.T:
        lo, hi = max(first - at, 0), min(end - at, items)
        if lo < hi:
            yield slice(lo, hi), slice(lo // WORD, -(-hi // WORD)), at + lo, segment


def tiles_with(v, message, words_of):
    """(start, coordinates, words) of each tile of v; words_of tells how many words so many coordinates take."""
    place = 0
    for lo in range(0, len(v), TILE):
        tile = v[lo : lo + TILE]
        end = place + words_of(len(tile))
        yield lo, tile, message[place:end]
        place = end


def first_nonfinite(v):
    """Index of the first infinite or NaN value, or -1."""
    bad = np.flatnonzero(~np.isfinite(v))
    return int(bad[0]) if len(bad) else -1
