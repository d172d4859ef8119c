"""Operations made for a number of voters: trees of adders that count words, and fields taken apart.

That number is known when a kernel is compiled. A kernel must not keep an operation made for it in a closure instead:
numba's cache would not know it again, and every process would compile it anew.
"""

from llvmlite import ir
from numba import types

from mpisign.bits.cpu.vectors import ADDRESS, I1, I64, WORD, WORDS, load, operation, splat, store


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


@operation(WORD, WORD, WORD, number=True)
def pick(b, width, word, k):
    """Bit k of each of the 64 // width fields of a word."""
    lanes = 64 // width
    starts = ir.Constant(ir.VectorType(I64, lanes), [lane * width for lane in range(lanes)])
    shifted = b.lshr(splat(b, word, lanes), b.add(starts, splat(b, k, lanes)))
    picked = b.bitcast(b.trunc(shifted, ir.VectorType(I1, lanes)), ir.IntType(lanes))
    return picked if lanes == 64 else b.zext(picked, I64)
