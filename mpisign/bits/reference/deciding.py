"""Words -> tally -> verdict, as numbers."""

import math

import numpy as np

from mpisign.bits.reference.common import WORD, coin, to_bits, to_words

__all__ = [
    "add", "agreement", "codes", "count", "count_ones", "count_weighted", "differing_parts", "gather", "majority",
    "majority_of_ballots", "numbers", "randomised_majority", "spread", "tally", "weighted_majority",
]  # fmt: skip


def count(ballots, planes):
    """How many of ballots (n, W) have each bit set, as a binary number in planes (w, W), lowest first."""
    total = np.array([to_bits(b, ballots.shape[1] * WORD) for b in ballots]).sum(axis=0)
    for k, plane in enumerate(planes):
        plane[:] = to_words(total >> k & 1 == 1)


def count_weighted(ballots, weights, planes):
    """The count of as many copies of each of ballots (n, W) as its weight says."""
    count(np.repeat(ballots, weights, axis=0), planes)


def add(planes, more):
    """planes += more, binary numbers in planes, lowest first."""
    d = planes.shape[1] * WORD
    total = numbers(planes, d) + numbers(more, d)
    for k, plane in enumerate(planes):
        plane[:] = to_words(total >> k & 1 == 1)


def numbers(planes, count):
    """The binary numbers in planes (w, W) as integers (count,)."""
    return sum(to_bits(p, count).astype(np.int64) << k for k, p in enumerate(planes))


def tally(plus, minus, voters, count):
    """Sum of the votes a coordinate; minus is None where every voter voted."""
    p = numbers(plus, count)
    return 2 * p - voters if minus is None else p - numbers(minus, count)


def majority(plus, minus, voters, at, ties, draw, verdict):
    """The sign of the tally; returns agreement(plus, minus, voters).

    ties: "coin" or "random", which differ in the draw; "plus"; "minus"; or "zero" (verdict[1] is then 0 at a tie).
    """
    d = verdict.shape[1] * WORD
    t = tally(plus, minus, voters, d)
    bits = t > 0
    if ties in ("coin", "random"):
        bits |= (t == 0) & coin(draw, at, d)
    elif ties == "plus":
        bits |= t == 0
    verdict[0] = to_words(bits)
    if ties == "zero":
        verdict[1] = to_words(t != 0)
    return agreement(plus, minus, voters)


def majority_of_ballots(ballots, at, ties, draw, verdict, counting):
    """majority of the count of ballots (n, W)."""
    plus = np.empty((len(ballots).bit_length(), ballots.shape[1]), dtype=np.uint64)
    count(ballots, plus)
    found = majority(plus, None, len(ballots), at, ties, draw, verdict)
    return found if counting else (0, 0)


def randomised_majority(plus, minus, voters, at, draw, verdict):
    """+1 with probability (1 + tally / voters) / 2: tally / voters > u, compared as integers."""
    d = verdict.shape[1] * WORD
    k = draw.blocks(at // 4, d // 4).reshape(-1)[:d].astype(np.int64) >> 8
    verdict[0] = to_words(tally(plus, minus, voters, d) * 2**24 > voters * (2 * k + 1 - 2**24))


def codes(plus, minus, voters, verdict):
    """The tally as a binary number: plus itself, or with abstentions tally + (2**w - 1) in w + 1 planes."""
    d = verdict.shape[1] * WORD
    code = numbers(plus, d) if minus is None else tally(plus, minus, voters, d) + 2 ** len(plus) - 1
    for k, plane in enumerate(verdict):
        plane[:] = to_words(code >> k & 1 == 1)


def weighted_majority(ballots, score, rounds, rule, at, ties, draw, verdict):
    """The sign of the sum of weight * vote, and the score of each voter brought up to date.

    ballots (1 or 2, n, W); score float32 (n, d): how often a voter agreed so far with what was decided, forgotten
    by a factor `forget` a round, of `rounds` rounds counted alike. rule: (plain, resolution, limit, least, forget);
    plain: all weights 1. The weight is round(resolution * log(p / (1 - p))), p = score / rounds, in [least, limit].
    A voter that abstains counts as half an agreement. ties as in majority.
    """
    plain, resolution, limit, least, forget = rule
    present = np.ones(score.shape, dtype=bool)
    if len(ballots) == 2:
        present = np.array([to_bits(b, score.shape[1]) for b in ballots[1]])
    plus = np.array([to_bits(b, score.shape[1]) for b in ballots[0]])
    votes = np.where(present, np.where(plus, 1, -1), 0)
    verdict[:] = 0
    for i in range(score.shape[1]):
        total = 0
        for voter in range(len(score)):
            s, weight = float(score[voter, i]), 1.0
            if not plain:
                weight = limit if s >= rounds else least if s <= 0 else round(resolution * math.log(s / (rounds - s)))
                weight = min(max(weight, least), limit)
            total += int(weight) * int(votes[voter, i])
        fair = ties in ("coin", "random") and coin(draw, at, score.shape[1])[i]
        tie = total == 0 and (fair or ties == "plus")
        _set_bit(verdict[0], i, total > 0 or tie)
        if ties == "zero":
            _set_bit(verdict[1], i, total != 0)
        for voter in range(len(score)):
            agrees = plus[voter, i] == (total > 0 or tie)
            gain = np.float32(0.5 if not present[voter, i] or (total == 0 and ties == "zero") else agrees)
            score[voter, i] = np.float32(forget) * score[voter, i] + gain


def _set_bit(plane, i, value):
    one = np.uint64(1) << np.uint64(i % WORD)
    plane[i // WORD] = plane[i // WORD] | one if value else plane[i // WORD] & ~one


def agreement(plus, minus, voters):
    """Sum over all coordinates of |tally|, and the number of ties."""
    t = tally(plus, minus, voters, plus.shape[1] * WORD)
    return int(np.abs(t).sum()), int((t == 0).sum())


def count_ones(plane):
    """The number of bits that are 1."""
    return int(np.unpackbits(plane.view(np.uint8)).sum())


def differing_parts(a, b, parts, at):
    """The number of bits in which two planes, which start at coordinate `at`, differ in the words of these parts."""
    here = (range(max(lo - at, 0) // WORD, -(-min(hi - at, WORD * len(a)) // WORD)) for lo, hi, _ in parts.T.tolist())
    return sum(count_ones(a[w : w + 1] ^ b[w : w + 1]) for words in here for w in words)


def spread(plane, width, fields):
    """Each bit as a field of `width` bits, 64 // width of them in a word of fields."""
    bits = to_bits(plane, len(plane) * WORD).astype(np.uint64)
    per = WORD // width
    padded = np.zeros(len(fields) * per, dtype=np.uint64)
    padded[: len(bits)] = bits
    shifts = np.arange(per, dtype=np.uint64) * np.uint64(width)
    fields[:] = (padded.reshape(-1, per) << shifts).sum(axis=1, dtype=np.uint64)


def gather(fields, width, planes):
    """The fields of `width` bits as planes (width, W): the inverse of spread, after fields were added up."""
    per = WORD // width
    shifts = np.arange(per, dtype=np.uint64) * np.uint64(width)
    values = (fields[:, None] >> shifts & np.uint64(2**width - 1)).reshape(-1)
    for k, plane in enumerate(planes):
        plane[:] = to_words(values[: len(plane) * WORD] >> np.uint64(k) & np.uint64(1) == 1)
