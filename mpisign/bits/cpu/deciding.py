"""Words -> tally -> verdict: count, majority, codes, agreement, and fields for an integer all-reduce."""

import math
from functools import cache

import numpy as np
from numba import njit, uint32, uint64, uintp

from mpisign.bits.cpu.adders import add_agreement, add_up, decide, pick
from mpisign.bits.cpu.cache import cached_njit
from mpisign.bits.cpu.common import ALL, COINS, NO_COUNTER, RULES, coin_word, counter_of, within
from mpisign.bits.cpu.vectors import add_plane, coins, drawn, ones
from mpisign.bits.sizes import AT_ONCE

__all__ = [
    "add", "agreement", "codes", "count", "count_ones", "count_weighted", "differing_parts", "gather", "majority",
    "majority_of_ballots", "randomised_majority", "spread", "weighted_majority",
]  # fmt: skip

BLOCK = 8  # words that a tree counts at once


@cache
def _counter(voters):
    """The kernel that counts so many voters, compiled when first asked for."""

    @cached_njit
    def kernel(ballots, planes):
        words, width = planes.shape[1], planes.shape[0]
        address, stride = ballots.ctypes.data, uintp(ballots.strides[0])
        plane, step = planes.ctypes.data, uintp(planes.strides[0])
        for lo in range(0, words - BLOCK + 1, BLOCK):
            add_up(voters, address + 8 * lo, stride, plane + 8 * lo, step)
        left = words % BLOCK
        if left:
            rest, out = np.zeros((voters, BLOCK), dtype=np.uint64), np.empty((width, BLOCK), dtype=np.uint64)
            rest[:, :left] = ballots[:, words - left :]
            add_up(voters, rest.ctypes.data, uintp(8 * BLOCK), out.ctypes.data, uintp(8 * BLOCK))
            planes[:, words - left :] = out[:, :left]

    return kernel


@cached_njit
def add(planes, more):
    """planes += more, binary numbers in planes, lowest first."""
    for i in range(planes.shape[1]):
        carry = uint64(0)
        for k in range(planes.shape[0]):
            p, q = planes[k, i], more[k, i] if k < more.shape[0] else uint64(0)
            planes[k, i] = p ^ q ^ carry
            carry = (p & q) | (carry & (p ^ q))


def count(ballots, planes):
    voters, words = ballots.shape
    if voters <= AT_ONCE:  # a tree of adders made for their number
        _counter(voters)(ballots, planes)
        return
    # groups of 15, whose counts fill four planes, over blocks that stay in the cache
    for lo in range(0, words, 1024):
        total = planes[:, lo : lo + 1024]
        total[:] = 0
        for r in range(0, voters, 15):
            group = ballots[r : r + 15, lo : lo + 1024]
            more = np.empty((len(group).bit_length(), total.shape[1]), dtype=np.uint64)
            _counter(len(group))(group, more)
            add(total, more)


def count_weighted(ballots, weights, planes):
    # the voters whose weight has bit k are counted together, and that count is added from plane k on
    ones_of = [np.array([[ALL * (weight >> k & 1)] for weight in weights]) for k in range(max(weights).bit_length())]
    for lo in range(0, ballots.shape[1], 1024):
        block, total = ballots[:, lo : lo + 1024], planes[:, lo : lo + 1024]
        chosen, counted = np.empty_like(block), np.empty((len(block).bit_length(), block.shape[1]), dtype=np.uint64)
        total[:] = 0
        for k, ones_of_bit in enumerate(ones_of):
            np.bitwise_and(block, ones_of_bit, out=chosen)
            count(chosen, counted)
            add(total[k:], counted)


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


@njit(inline="always")
def _agreed(plus, minus, abstentions, voters, w, greater, less):
    """Sum of |tally| over the 64 coordinates of a word."""
    total = 0
    for k in range(plus.shape[0]):
        gain = np.int64(ones(plus[k, w] & greater)) - np.int64(ones(plus[k, w] & less))
        if abstentions:
            gain -= np.int64(ones(minus[k, w] & greater)) - np.int64(ones(minus[k, w] & less))
        else:
            gain *= 2
        total += gain << k
    if not abstentions:
        total -= voters * (np.int64(ones(greater)) - np.int64(ones(less)))
    return total


@cached_njit
def _majority(plus, minus, abstentions, voters, first_word, rule, counter, negate, verdict):
    s, voter, stream, k0, k1 = counter[0], counter[1], counter[2], counter[3], counter[4]
    agreement, ties, drawn_for = 0, 0, -1
    coin = np.empty(BLOCK, dtype=np.uint64)
    for w in range(verdict.shape[1]):
        greater, equal = _decide(plus, minus, abstentions, voters, w)
        agreement += _agreed(plus, minus, abstentions, voters, w, greater, ~(greater | equal))
        ties += np.int64(ones(equal))
        if rule == 2:
            verdict[1, w] = ~equal
        elif rule == 1:
            greater |= equal
        elif rule == 0 and equal:
            if w // BLOCK != drawn_for:
                drawn_for = w // BLOCK
                coins(coin.ctypes.data, uint32(first_word + drawn_for * BLOCK), s, voter, stream, k0, k1)
            drawn = coin[w % BLOCK]
            greater |= equal & (~drawn if negate else drawn)
        verdict[0, w] = greater
    return agreement, ties


def majority(plus, minus, voters, at, ties, draw, verdict):
    counter, negate = counter_of(draw) if ties in COINS else (NO_COUNTER, False)
    abstentions = minus is not None
    minus = minus if abstentions else plus
    agreement_and_ties = _majority(plus, minus, abstentions, voters, at // 64, RULES[ties], counter, negate, verdict)
    return int(agreement_and_ties[0]), int(agreement_and_ties[1])


@cache
def _decider(voters):
    """The kernel that counts and decides what so many voters say, compiled when first asked for."""

    @cached_njit
    def kernel(ballots, first_word, rule, counter, negate, counting, verdict):
        s, voter, stream, k0, k1 = counter[0], counter[1], counter[2], counter[3], counter[4]
        words, drawing = ballots.shape[1], rule == 0 and voters % 2 == 0
        address, stride = ballots.ctypes.data, uintp(ballots.strides[0])
        coin, flip = np.full(BLOCK, ALL if rule == 1 else uint64(0)), ALL if drawing and negate else uint64(0)
        tied, sums = np.zeros(BLOCK, dtype=np.uint64), np.zeros(2 * BLOCK, dtype=np.int64)
        rest, out = np.zeros((voters, BLOCK), dtype=np.uint64), np.empty(BLOCK, dtype=np.uint64)
        for lo in range(0, words, BLOCK):
            here, apart, to, left = address + 8 * lo, stride, out.ctypes.data, words - lo
            if left < BLOCK:
                rest[:, :left] = ballots[:, lo:]
                here, apart = rest.ctypes.data, uintp(8 * BLOCK)
            else:
                to = verdict.ctypes.data + 8 * lo
            if drawing:
                coins(coin.ctypes.data, uint32(first_word + lo), s, voter, stream, k0, k1)
            decide(voters, here, apart, coin.ctypes.data, flip, to, tied.ctypes.data)
            if counting:
                add_agreement(voters, here, apart, sums.ctypes.data)
            if rule == 2:
                verdict[1, lo : lo + BLOCK] = ~tied[:left]
            if left < BLOCK:
                verdict[0, lo:] = out[:left]
        # the words that fill the last block up are those of voters who all say -1
        blocks = (words + BLOCK - 1) // BLOCK
        agreement = sums[:BLOCK].sum() - 64 * voters * (2 * BLOCK * blocks - words) if counting else 0
        return agreement, sums[BLOCK:].sum()

    return kernel


def majority_of_ballots(ballots, at, ties, draw, verdict, counting):
    counter, negate = counter_of(draw) if ties in COINS else (NO_COUNTER, False)
    found = _decider(len(ballots))(ballots, at // 64, RULES[ties], counter, negate, counting, verdict)
    return int(found[0]), int(found[1])


@cached_njit
def _randomised_majority(plus, minus, abstentions, voters, at, counter, verdict):
    s, voter, stream, k0, k1 = counter[0], counter[1], counter[2], counter[3], counter[4]
    tally, against = np.empty(64, dtype=np.int32), np.empty(64, dtype=np.int32)
    for w in range(verdict.shape[1]):
        tally[:], against[:] = 0, 0
        for k in range(plus.shape[0]):
            add_plane(tally.ctypes.data, plus[k, w], uint32(k))
            if abstentions:
                add_plane(against.ctypes.data, minus[k, w], uint32(k))
        for j in range(64):
            tally[j] = tally[j] - against[j] if abstentions else 2 * tally[j] - np.int32(voters)
        block = uint32((at + w * 64) // 4)
        verdict[0, w] = drawn(tally.ctypes.data, uint64(voters), block, s, voter, stream, k0, k1)


def randomised_majority(plus, minus, voters, at, draw, verdict):
    abstentions = minus is not None
    _randomised_majority(plus, minus if abstentions else plus, abstentions, voters, at, counter_of(draw)[0], verdict)


@cached_njit
def _weighted_majority(
    ballots, score, rounds, plain, resolution, limit, least, forget, first_word, tie_rule, counter, negate, verdict
):
    for w in range(verdict.shape[1]):
        coins = coin_word(first_word + w, counter, negate) if tie_rule == 0 else uint64(0)
        plus, present = uint64(0), uint64(0)
        for j in range(min(64, score.shape[1] - w * 64)):
            i, at = w * 64 + j, uint64(j)
            total = 0
            for r in range(score.shape[0]):
                if ballots.shape[0] == 2 and not (ballots[1, r, w] >> at) & uint64(1):
                    continue
                weight, s = 1.0, np.float64(score[r, i])
                if not plain:
                    if s >= rounds:
                        weight = limit
                    elif s <= 0:
                        weight = least
                    else:
                        weight = min(max(np.rint(resolution * math.log(s / (rounds - s))), least), limit)
                total += np.int64(weight) if (ballots[0, r, w] >> at) & uint64(1) else -np.int64(weight)
            tied = total == 0
            up = total > 0 or (tied and (tie_rule == 1 or (tie_rule == 0 and (coins >> at) & uint64(1))))
            plus |= uint64(up) << at
            present |= uint64(not tied) << at
            for r in range(score.shape[0]):
                gain = np.float32(((ballots[0, r, w] >> at) & uint64(1)) == uint64(up))
                absent = ballots.shape[0] == 2 and not (ballots[1, r, w] >> at) & uint64(1)
                if absent or (tied and tie_rule == 2):
                    gain = np.float32(0.5)
                score[r, i] = forget * score[r, i] + gain
        verdict[0, w] = plus
        if tie_rule == 2:
            verdict[1, w] = present


def weighted_majority(ballots, score, rounds, rule, at, ties, draw, verdict):
    plain, resolution, limit, least, forget = rule
    counter, negate = counter_of(draw) if ties in COINS else (NO_COUNTER, False)
    numbers = float(resolution), float(limit), float(least), np.float32(forget)
    _weighted_majority(
        ballots, score, float(rounds), bool(plain), *numbers, at // 64, RULES[ties], counter, negate, verdict
    )


@cached_njit
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


@cached_njit
def _agreement(plus, minus, abstentions, voters):
    total, ties = 0, 0
    for w in range(plus.shape[1]):
        greater, equal = _decide(plus, minus, abstentions, voters, w)
        total += _agreed(plus, minus, abstentions, voters, w, greater, ~(greater | equal))
        ties += np.int64(ones(equal))
    return total, ties


def agreement(plus, minus, voters):
    total, ties = _agreement(plus, plus if minus is None else minus, minus is not None, voters)
    return int(total), int(ties)


@cached_njit
def _count_ones(plane):
    total = uint64(0)
    for w in range(len(plane)):
        total += ones(plane[w])
    return total


def count_ones(plane):
    return int(_count_ones(plane))


@cached_njit
def _differing_parts(a, b, parts, at):
    total = uint64(0)
    for k in range(parts.shape[1]):
        lo, hi = within(parts, k, at, 64 * len(a))
        if lo < hi:
            for w in range(lo // 64, (hi + 63) // 64):
                total += ones(a[w] ^ b[w])
    return total


def differing_parts(a, b, parts, at):
    return int(_differing_parts(a, b, parts, at))


@cached_njit
def spread(plane, width, fields):
    per = 64 // width
    for f in range(len(fields)):
        word = uint64(0)
        for j in range(per):
            i = f * per + j
            if i < len(plane) * 64:
                word |= ((plane[i >> 6] >> uint64(i & 63)) & uint64(1)) << uint64(j * width)
        fields[f] = word


@cache
def _gatherer(width):
    """The kernel that takes fields of this width apart, compiled when first asked for."""
    per = 64 // width

    @cached_njit
    def kernel(fields, planes):
        planes[:] = uint64(0)
        for f in range(len(fields)):
            w, at = f * per // 64, uint64(f * per % 64)
            if w >= planes.shape[1]:
                break
            for k in range(width):
                picked = pick(width, fields[f], uint64(k))
                planes[k, w] |= picked << at
                if at + uint64(per) > uint64(64) and w + 1 < planes.shape[1]:
                    planes[k, w + 1] |= picked >> (uint64(64) - at)

    return kernel


def gather(fields, width, planes):
    _gatherer(width)(fields, planes)
