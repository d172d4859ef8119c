"""The kernels for one CPU thread, compiled by numba: same names, arguments and bits as reference.py.

Loops go over slices and release the GIL; callers bring their own threads. Nothing is contracted to a
fused multiply-add and nothing is reassociated, since rounding is part of a kernel's definition.
"""

import numpy as np
from numba import njit, uint32, uint64

OPTIONS = {"cache": True, "nogil": True, "error_model": "numpy"}
RULES = {"coin": 0, "plus": 1, "abstain": 2, "zero": 2}
ALL = np.uint64(0xFFFFFFFFFFFFFFFF)


def _counter(draw):
    return (
        np.array([draw.step, draw.voter, draw.stream, draw.key[0], draw.key[1]], dtype=np.uint32),
        draw.negate,
    )


NO_COUNTER = np.zeros(5, dtype=np.uint32)


@njit(inline="always")
def _philox(block, c):
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
def _coin(word, c, negate):
    low, high, _, _ = _philox(word, c)
    bits = uint64(low) | uint64(high) << uint64(32)
    return ~bits if negate else bits


@njit(inline="always")
def _popcount(w):
    w = w - ((w >> uint64(1)) & uint64(0x5555555555555555))
    w = (w & uint64(0x3333333333333333)) + ((w >> uint64(2)) & uint64(0x3333333333333333))
    w = (w + (w >> uint64(4))) & uint64(0x0F0F0F0F0F0F0F0F)
    return (w * uint64(0x0101010101010101)) >> uint64(56)


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
            zeros += _popcount(zero)
            if rule == 0:
                plus |= zero & _coin(first_word + w, counter, negate)
            elif rule == 1:
                plus |= zero
        planes[0, w] = plus
        if rule == 2:
            filled = ALL if hi == lo + 64 else (uint64(1) << uint64(hi - lo)) - uint64(1)
            planes[1, w] = filled & ~zero
    return zeros


def pack(v, at, zeros, draw, planes):
    counter, negate = _counter(draw) if zeros == "coin" else (NO_COUNTER, False)
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
            k[b], k[16 + b], k[32 + b], k[48 + b] = _philox((at + lo) // 4 + b, counter)
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


def pack_stochastic(v, radius, at, draw, planes):
    return int(_pack_stochastic(v, np.float32(radius), at, _counter(draw)[0], planes))


@njit(**OPTIONS)
def count(ballots, planes):
    """Ripple-carry over blocks of words that stay in the cache; 64 coordinates an operation."""
    width, words = planes.shape
    carry = np.empty(512, dtype=np.uint64)
    for lo in range(0, words, 512):
        size = min(512, words - lo)
        planes[:, lo : lo + size] = uint64(0)
        for r in range(ballots.shape[0]):
            for i in range(size):
                carry[i] = ballots[r, lo + i]
            # voter r can carry no further than the width of r + 1
            reach, most = 0, r + 1
            while most:
                reach += 1
                most >>= 1
            for k in range(min(reach, width)):
                for i in range(size):
                    p = planes[k, lo + i]
                    planes[k, lo + i] = p ^ carry[i]
                    carry[i] &= p


@njit(inline="always")
def _decide(plus, minus, abstentions, voters, w):
    """Words of tally > 0 and tally == 0, comparing binary numbers from the highest plane down."""
    greater, equal = uint64(0), ALL
    half, odd = voters >> 1, voters & 1
    for k in range(plus.shape[0] - 1, -1, -1):
        p = plus[k, w]
        if abstentions:
            q = minus[k, w]
        else:
            q = ALL if (half >> k) & 1 else uint64(0)
        greater |= equal & p & ~q
        equal &= ~(p ^ q)
    if not abstentions and odd:
        equal = uint64(0)
    return greater, equal


@njit(**OPTIONS)
def _majority(plus, minus, abstentions, voters, first_word, rule, counter, negate, verdict):
    for w in range(verdict.shape[1]):
        greater, equal = _decide(plus, minus, abstentions, voters, w)
        if rule == 2:
            verdict[1, w] = ~equal
        elif rule == 1:
            greater |= equal
        elif equal:
            greater |= equal & _coin(first_word + w, counter, negate)
        verdict[0, w] = greater


def majority(plus, minus, voters, at, ties, draw, verdict):
    counter, negate = _counter(draw) if ties == "coin" else (NO_COUNTER, False)
    abstentions = minus is not None
    minus = minus if abstentions else plus
    _majority(plus, minus, abstentions, voters, at // 64, RULES[ties], counter, negate, verdict)


@njit(inline="always")
def _number(planes, w, j):
    value = 0
    for k in range(planes.shape[0]):
        value |= np.int64((planes[k, w] >> uint64(j)) & uint64(1)) << k
    return value


@njit(**OPTIONS)
def _randomised_majority(plus, minus, abstentions, voters, at, counter, verdict):
    for w in range(verdict.shape[1]):
        bits = uint64(0)
        for b in range(16):
            draws = _philox((at + w * 64) // 4 + b, counter)
            for j in range(4):
                p = _number(plus, w, 4 * b + j)
                tally = p - _number(minus, w, 4 * b + j) if abstentions else 2 * p - voters
                odd = 2 * np.int64(draws[j] >> uint64(8)) + 1 - 2**24
                bits |= uint64(tally * 2**24 > voters * odd) << uint64(4 * b + j)
        verdict[0, w] = bits


def randomised_majority(plus, minus, voters, at, draw, verdict):
    abstentions = minus is not None
    _randomised_majority(
        plus, minus if abstentions else plus, abstentions, voters, at, _counter(draw)[0], verdict
    )


@njit(**OPTIONS)
def _codes(plus, minus, verdict):
    width = plus.shape[0]
    for w in range(verdict.shape[1]):
        # plus + (the complement of minus) = tally + 2**width - 1
        carry = uint64(0)
        for k in range(width):
            p, q = plus[k, w], ~minus[k, w]
            verdict[k, w] = p ^ q ^ carry
            carry = (p & q) | (carry & (p ^ q))
        verdict[width, w] = carry


def codes(plus, minus, voters, verdict):
    if minus is None:
        verdict[:] = plus
    else:
        _codes(plus, minus, verdict)


@njit(**OPTIONS)
def _agreement(plus, minus, abstentions, voters):
    total, ties = 0, 0
    for w in range(plus.shape[1]):
        greater, equal = _decide(plus, minus, abstentions, voters, w)
        less = ~(greater | equal)
        ties += np.int64(_popcount(equal))
        for k in range(plus.shape[0]):
            gain = np.int64(_popcount(plus[k, w] & greater)) - np.int64(_popcount(plus[k, w] & less))
            if abstentions:
                gain -= np.int64(_popcount(minus[k, w] & greater)) - np.int64(_popcount(minus[k, w] & less))
            else:
                gain *= 2
            total += gain << k
        if not abstentions:
            total -= voters * (np.int64(_popcount(greater)) - np.int64(_popcount(less)))
    return total, ties


def agreement(plus, minus, voters):
    total, ties = _agreement(plus, plus if minus is None else minus, minus is not None, voters)
    return int(total), int(ties)


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
def _apply_levels(x, planes, table, decay):
    for i in range(len(x)):
        x[i] = decay * x[i] - table[_number(planes, i >> 6, i & 63)]


def apply(x, planes, table, decay):
    if len(planes) == 1:
        _apply_signs(x, planes[0], table[0], table[1], np.float32(decay))
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


@njit(**OPTIONS)
def _differing(a, b):
    total = uint64(0)
    for w in range(len(a)):
        total += _popcount(a[w] ^ b[w])
    return total


def differing(a, b):
    return int(_differing(a, b))


@njit(**OPTIONS)
def spread(plane, width, fields):
    per = 64 // width
    for f in range(len(fields)):
        word = uint64(0)
        for j in range(per):
            i = f * per + j
            if i < len(plane) * 64:
                word |= ((plane[i >> 6] >> uint64(i & 63)) & uint64(1)) << uint64(j * width)
        fields[f] = word


@njit(**OPTIONS)
def gather(fields, width, planes):
    per = 64 // width
    planes[:] = uint64(0)
    for i in range(planes.shape[1] * 64):
        field = fields[i // per] >> uint64(i % per * width)
        for k in range(width):
            planes[k, i >> 6] |= ((field >> uint64(k)) & uint64(1)) << uint64(i & 63)
