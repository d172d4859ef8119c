"""Words -> tally -> verdict: count and majority."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from mpisign.bits.cuda import fallback
from mpisign.bits.cuda.common import COINS, DRAW, RULES, WORDS, coin_words, draw_of, ones, programs, words_of

__all__ = ["count", "count_weighted", "majority"]

MOST = 255  # votes that eight planes can count


@triton.jit
def _store(planes, plane, word, inside, p0, p1, p2, p3, p4, p5, p6, p7, PLANES: tl.constexpr):
    """Stores a count's planes, of which there may be fewer than eight."""
    tl.store(planes + word, p0, mask=inside)
    tl.store(planes + plane + word, p1, mask=inside & (PLANES > 1))
    tl.store(planes + 2 * plane + word, p2, mask=inside & (PLANES > 2))
    tl.store(planes + 3 * plane + word, p3, mask=inside & (PLANES > 3))
    tl.store(planes + 4 * plane + word, p4, mask=inside & (PLANES > 4))
    tl.store(planes + 5 * plane + word, p5, mask=inside & (PLANES > 5))
    tl.store(planes + 6 * plane + word, p6, mask=inside & (PLANES > 6))
    tl.store(planes + 7 * plane + word, p7, mask=inside & (PLANES > 7))


@triton.jit
def _count(ballots, ballot, planes, plane, voters, words, PLANES: tl.constexpr, WORDS: tl.constexpr):
    word = tl.program_id(0) * WORDS + tl.arange(0, WORDS)
    inside = word < words
    p0 = tl.zeros((WORDS,), tl.int32)
    p1, p2, p3, p4, p5, p6, p7 = p0, p0, p0, p0, p0, p0, p0
    for r in range(voters):
        # a carry runs through the planes; those that no count reaches stay zero
        carry = tl.load(ballots + r * ballot + word, mask=inside, other=0)
        p0, carry = p0 ^ carry, p0 & carry
        p1, carry = p1 ^ carry, p1 & carry
        p2, carry = p2 ^ carry, p2 & carry
        p3, carry = p3 ^ carry, p3 & carry
        p4, carry = p4 ^ carry, p4 & carry
        p5, carry = p5 ^ carry, p5 & carry
        p6, carry = p6 ^ carry, p6 & carry
        p7 = p7 ^ carry
    _store(planes, plane, word, inside, p0, p1, p2, p3, p4, p5, p6, p7, PLANES)


def count(ballots: Tensor, planes: Tensor):
    if len(ballots) > MOST or not ballots.shape[1]:
        fallback.count(ballots, planes)
        return
    votes, counts = words_of(ballots), words_of(planes)
    arguments = (votes, votes.stride(0), counts, counts.stride(0), len(votes), votes.shape[1])
    _count[(programs(votes.shape[1]),)](*arguments, PLANES=len(counts), WORDS=WORDS.value)


@triton.jit
def _full_add(p, carry, word, weight, k: tl.constexpr):
    """Adds words to plane k if the weight has that bit, and the carry from the plane below; and the carry from it."""
    votes = word & -((weight >> k) & 1)
    half = p ^ votes
    return half ^ carry, (p & votes) | (half & carry)


@triton.jit
def _count_weighted(
    ballots, ballot, weights, planes, plane, voters, words, PLANES: tl.constexpr, WORDS: tl.constexpr
):  # fmt: skip
    word = tl.program_id(0) * WORDS + tl.arange(0, WORDS)
    inside = word < words
    p0 = tl.zeros((WORDS,), tl.int32)
    p1, p2, p3, p4, p5, p6, p7 = p0, p0, p0, p0, p0, p0, p0
    for r in range(voters):
        votes, weight = tl.load(ballots + r * ballot + word, mask=inside, other=0), tl.load(weights + r)
        p0, carry = _full_add(p0, tl.zeros((WORDS,), tl.int32), votes, weight, 0)
        p1, carry = _full_add(p1, carry, votes, weight, 1)
        p2, carry = _full_add(p2, carry, votes, weight, 2)
        p3, carry = _full_add(p3, carry, votes, weight, 3)
        p4, carry = _full_add(p4, carry, votes, weight, 4)
        p5, carry = _full_add(p5, carry, votes, weight, 5)
        p6, carry = _full_add(p6, carry, votes, weight, 6)
        p7, carry = _full_add(p7, carry, votes, weight, 7)
    _store(planes, plane, word, inside, p0, p1, p2, p3, p4, p5, p6, p7, PLANES)


def count_weighted(ballots: Tensor, weights: tuple[int, ...], planes: Tensor):
    if sum(weights) > MOST or not ballots.shape[1]:
        fallback.count_weighted(ballots, weights, planes)
        return
    votes, counts = words_of(ballots), words_of(planes)
    of_voters = torch.tensor(weights, dtype=torch.int32, device=ballots.device)
    arguments = (votes, votes.stride(0), of_voters, counts, counts.stride(0), len(votes), votes.shape[1])
    _count_weighted[(programs(votes.shape[1]),)](*arguments, PLANES=len(counts), WORDS=WORDS.value)


@triton.jit(do_not_specialize=(*DRAW, "voters"))
def _majority(
    plus, plus_plane, minus, minus_plane, verdict, verdict_plane, sums, voters, words, first,
    step, voter, stream, k0, k1,
    PLANES: tl.constexpr, ABSTENTIONS: tl.constexpr, RULE: tl.constexpr, NEGATE: tl.constexpr, WORDS: tl.constexpr,
):  # fmt: skip
    word = tl.program_id(0) * WORDS + tl.arange(0, WORDS)
    inside = word < words
    greater = tl.zeros((WORDS,), tl.int32)
    equal = ~greater
    total = greater
    for j in tl.static_range(PLANES):
        # binary numbers are compared from the highest plane down: with -1, or with half of the voters
        k = PLANES - 1 - j
        p = tl.load(plus + k * plus_plane + word, mask=inside, other=0)
        if ABSTENTIONS:
            q = tl.load(minus + k * minus_plane + word, mask=inside, other=0)
        else:
            q = tl.zeros((WORDS,), tl.int32) - ((voters >> (k + 1)) & 1)
        greater |= equal & p & ~q
        equal &= ~(p ^ q)
    if not ABSTENTIONS:
        equal = equal & ((voters & 1) - 1)
    less = ~(greater | equal)
    for k in tl.static_range(PLANES):
        p = tl.load(plus + k * plus_plane + word, mask=inside, other=0)
        gain = ones(p & greater) - ones(p & less)
        if ABSTENTIONS:
            q = tl.load(minus + k * minus_plane + word, mask=inside, other=0)
            gain -= ones(q & greater) - ones(q & less)
        else:
            gain *= 2
        total += gain << k
    if not ABSTENTIONS:
        total -= voters * (ones(greater) - ones(less))
    tl.atomic_add(sums, tl.sum(tl.where(inside, total, 0).to(tl.int64)))
    tl.atomic_add(sums + 1, tl.sum(tl.where(inside, ones(equal), 0).to(tl.int64)))
    if RULE == 0:
        greater |= equal & coin_words(first + word, step, voter, stream, k0, k1, NEGATE)
    if RULE == 1:
        greater |= equal
    if RULE == 2:
        tl.store(verdict + verdict_plane + word, ~equal, mask=inside)
    tl.store(verdict + word, greater, mask=inside)


def majority(plus, minus, voters, at, ties, draw, verdict):
    if not verdict.shape[1]:
        return 0, 0
    p, out = words_of(plus), words_of(verdict)
    q = p if minus is None else words_of(minus)
    sums = torch.zeros(2, dtype=torch.int64, device=plus.device)
    arguments = (p, p.stride(0), q, q.stride(0), out, out.stride(0), sums, voters, out.shape[1], at // 32)
    coins = ties in COINS
    constants = {
        "PLANES": len(p),
        "ABSTENTIONS": minus is not None,
        "RULE": RULES[ties],
        "NEGATE": coins and draw.negate,
    }
    drawn = draw_of(draw) if coins else (0,) * 5
    _majority[(programs(out.shape[1]),)](*arguments, *drawn, WORDS=WORDS.value, **constants)
    return tuple(sums.tolist())
