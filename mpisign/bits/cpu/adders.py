"""Operations made for a number of voters: trees of adders that count words, and fields taken apart.

That number is known when a kernel is compiled. A kernel must not keep an operation made for it in a closure instead:
numba's cache would not know it again, and every process would compile it anew.
"""

from llvmlite import ir
from numba import types

from mpisign.bits.cpu.vectors import ADDRESS, I1, I64, WORD, WORDS, constant, load, operation, population, splat, store


def _full_adder(b, x, y, z):
    half = b.xor(x, y)
    return b.xor(half, z), b.or_(b.and_(x, y), b.and_(half, z))


def _tree(b, votes):
    """Votes of weight 1 as a binary number, lowest plane first: three planes of a weight into one of it and a carry."""
    planes, weight = [], votes
    while weight:
        carries = []
        while len(weight) > 2:
            low, high = _full_adder(b, *weight[:3])
            weight, carries = [*weight[3:], low], [*carries, high]
        if len(weight) == 2:
            low, high = b.xor(*weight), b.and_(*weight)
            weight, carries = [low], [*carries, high]
        planes, weight = [*planes, weight[0]], carries
    return planes


@operation(types.void, ADDRESS, ADDRESS, ADDRESS, ADDRESS, number=True)
def add_up(b, voters, address, stride, planes, step):
    """Counts 8 words of so many voters by an adder tree of their own.

    Arguments: address of the first voter's words, bytes from voter to voter, address of the lowest plane, bytes from
    plane to plane.
    """
    votes = [load(b, b.add(address, b.mul(stride, I64(r))), I64, WORDS) for r in range(voters)]
    for k, plane in enumerate(_tree(b, votes)):
        store(b, plane, b.add(planes, b.mul(step, I64(k))))


def _compared(b, planes, voters):
    """Bits of more than half of so many votes, and of just half; None for the latter where there is no half."""
    greater, equal = constant(I64, 0, WORDS), constant(I64, -1, WORDS)
    for k, plane in reversed([*enumerate(planes)]):
        if (voters >> 1) >> k & 1:
            equal = b.and_(equal, plane)
        else:
            greater = b.or_(greater, b.and_(equal, plane))
            equal = b.and_(equal, b.not_(plane))
    return greater, None if voters % 2 else equal


@operation(types.void, ADDRESS, ADDRESS, ADDRESS, WORD, ADDRESS, ADDRESS, number=True)
def decide(b, voters, address, stride, coin, flip, verdict, tied):
    """The majority of so many voters in 8 words, counted by an adder tree of their own.

    Arguments: address of the first voter's words, bytes from voter to voter, address of 8 words of coins for ties, what
    they are XORed with, and where to store 8 words of verdicts, and of ties.
    """
    votes = [load(b, b.add(address, b.mul(stride, I64(r))), I64, WORDS) for r in range(voters)]
    greater, equal = _compared(b, _tree(b, votes), voters)
    if equal is not None:
        fair = b.xor(load(b, coin, I64, WORDS), splat(b, flip, WORDS))
        greater = b.or_(greater, b.and_(equal, fair))
        store(b, equal, tied)
    store(b, greater, verdict)


@operation(types.void, ADDRESS, ADDRESS, ADDRESS, number=True)
def add_agreement(b, voters, address, stride, sums):
    """Adds |tally| + voters of the 64 coordinates of each of 8 words to 8 sums, and their ties to the 8 behind these.

    With w planes of counts p_k and the bits l of less than half, the sum of |tally| over a word is
    2 * sum of 2^k * ones(p_k ^ l) - 2 * (2^w - 1 - voters) * ones(l) - 64 * voters.
    """
    planes = _tree(b, [load(b, b.add(address, b.mul(stride, I64(r))), I64, WORDS) for r in range(voters)])
    greater, equal = _compared(b, planes, voters)
    less = b.not_(greater if equal is None else b.or_(greater, equal))
    total = load(b, sums, I64, WORDS)
    for k, plane in enumerate(planes):
        total = b.add(total, b.shl(population(b, b.xor(plane, less)), constant(I64, k + 1, WORDS)))
    if unused := (1 << len(planes)) - 1 - voters:
        total = b.sub(total, b.mul(population(b, less), constant(I64, 2 * unused, WORDS)))
    store(b, total, sums)
    if equal is not None:
        ties = b.add(sums, I64(8 * WORDS))
        store(b, b.add(load(b, ties, I64, WORDS), population(b, equal)), ties)


@operation(WORD, WORD, WORD, number=True)
def pick(b, width, word, k):
    """Bit k of each of the 64 // width fields of a word."""
    lanes = 64 // width
    starts = ir.Constant(ir.VectorType(I64, lanes), [lane * width for lane in range(lanes)])
    shifted = b.lshr(splat(b, word, lanes), b.add(starts, splat(b, k, lanes)))
    picked = b.bitcast(b.trunc(shifted, ir.VectorType(I1, lanes)), ir.IntType(lanes))
    return picked if lanes == 64 else b.zext(picked, I64)
