"""What the CPU kernels share: Philox on one block, coins, normal draws, parts of a chunk.

These are inlined into the kernels.
"""

import math

import numpy as np
from numba import carray, njit, uint32, uint64

from mpisign.bits.cpu.vectors import pointer

RULES = {"coin": 0, "random": 0, "plus": 1, "abstain": 2, "zero": 2, "minus": 3}
COINS = ("coin", "random")  # alike to a kernel: they differ in the draw
TILE = 4096  # coordinates of a tile
LONG = 1024  # words of a vector of 256 KiB
ALL = np.uint64(0xFFFFFFFFFFFFFFFF)


def counter_of(draw):
    return (
        np.array([draw.step, draw.voter, draw.stream, draw.key[0], draw.key[1]], dtype=np.uint32),
        draw.negate,
    )


NO_COUNTER = np.zeros(5, dtype=np.uint32)


@njit(inline="always")
def philox_block(block, c):
    c0, c1, c2, c3 = uint32(block), c[0], c[1], c[2]
    k0, k1 = c[3], c[4]
    for _ in range(10):
        p0, p1 = uint64(0xD2511F53) * uint64(c0), uint64(0xCD9E8D57) * uint64(c2)
        c0, c1, c2, c3 = (
            uint32(p1 >> uint64(32)) ^ c1 ^ k0,
            uint32(p1),
            uint32(p0 >> uint64(32)) ^ c3 ^ k1,
            uint32(p0),
        )
        k0, k1 = uint32(k0 + uint32(0x9E3779B9)), uint32(k1 + uint32(0xBB67AE85))
    return uint64(c0), uint64(c1), uint64(c2), uint64(c3)


@njit(inline="always")
def normal_pair(k, turn):
    """Two draws from N(0, 1) by Box and Muller."""
    length = math.sqrt(-2.0 * math.log((np.float64(k) + 1.0) * 2.0**-32))
    angle = (2.0 * math.pi * 2.0**-32) * np.float64(turn)
    return np.float32(length * math.cos(angle)), np.float32(length * math.sin(angle))


@njit(inline="always")
def coin_word(word, c, negate):
    low, high, _, _ = philox_block(word, c)
    bits = uint64(low) | uint64(high) << uint64(32)
    return ~bits if negate else bits


@njit(inline="always")
def striped(k, words):
    """The word to be seen as the k-th: in turns from the four quarters of a long vector, then what is left.

    A core that reads memory at one place waits for it half of the time; of four places more is fetched ahead. What
    fits into a cache is seen in order.
    """
    quarter = words >> 2 if words >= LONG else 0
    return (k & 3) * quarter + (k >> 2) if k < 4 * quarter else k


@njit(inline="always")
def within(parts, k, at, length):
    """Where part k lies in a vector of that length that starts at coordinate `at`; empty where it lies outside."""
    return max(parts[0, k] - at, 0), min(parts[1, k] - at, length)


@njit(inline="always")
def piece(places, k, lo, hi):
    """Coordinates lo to hi - 1 of a scattered vector, which lie in its k-th tensor; see Scattered.places."""
    return carray(pointer(uint64(places[2, k] + 4 * lo)), hi - lo, np.float32)


@njit(inline="always")
def earlier(bad, found, lo):
    """The first bad index so far, and what was found in a part from lo; -1 for none."""
    return lo + found if bad < 0 <= found else bad
