"""Words -> tally -> verdict: count, majority, codes, agreement, and fields for an integer all-reduce."""

import math

import numpy as np
from numba import njit, uint64

from mpisign.bits.cpu.common import (
    ALL,
    COINS,
    NO_COUNTER,
    OPTIONS,
    RULES,
    coin_word,
    counter_of,
    number,
    philox_block,
    popcount,
)


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
            greater |= equal & coin_word(first_word + w, counter, negate)
        verdict[0, w] = greater


def majority(plus, minus, voters, at, ties, draw, verdict):
    counter, negate = counter_of(draw) if ties in COINS else (NO_COUNTER, False)
    abstentions = minus is not None
    minus = minus if abstentions else plus
    _majority(plus, minus, abstentions, voters, at // 64, RULES[ties], counter, negate, verdict)


@njit(**OPTIONS)
def _randomised_majority(plus, minus, abstentions, voters, at, counter, verdict):
    for w in range(verdict.shape[1]):
        bits = uint64(0)
        for b in range(16):
            draws = philox_block((at + w * 64) // 4 + b, counter)
            for j in range(4):
                p = number(plus, w, 4 * b + j)
                tally = p - number(minus, w, 4 * b + j) if abstentions else 2 * p - voters
                odd = 2 * np.int64(draws[j] >> uint64(8)) + 1 - 2**24
                bits |= uint64(tally * 2**24 > voters * odd) << uint64(4 * b + j)
        verdict[0, w] = bits


def randomised_majority(plus, minus, voters, at, draw, verdict):
    abstentions = minus is not None
    _randomised_majority(plus, minus if abstentions else plus, abstentions, voters, at, counter_of(draw)[0], verdict)


@njit(**OPTIONS)
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
        ties += np.int64(popcount(equal))
        for k in range(plus.shape[0]):
            gain = np.int64(popcount(plus[k, w] & greater)) - np.int64(popcount(plus[k, w] & less))
            if abstentions:
                gain -= np.int64(popcount(minus[k, w] & greater)) - np.int64(popcount(minus[k, w] & less))
            else:
                gain *= 2
            total += gain << k
        if not abstentions:
            total -= voters * (np.int64(popcount(greater)) - np.int64(popcount(less)))
    return total, ties


def agreement(plus, minus, voters):
    total, ties = _agreement(plus, plus if minus is None else minus, minus is not None, voters)
    return int(total), int(ties)


@njit(**OPTIONS)
def _differing(a, b):
    total = uint64(0)
    for w in range(len(a)):
        total += popcount(a[w] ^ b[w])
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
