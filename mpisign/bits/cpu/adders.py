"""Operations made for a number of voters: trees of adders that count words, and fields taken apart."""

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


def adder(voters):
    """An intrinsic that counts 8 words of so many voters by an adder tree of its own.

    Its arguments: address of the first voter's words, bytes from voter to voter, address of the lowest plane, bytes
    from plane to plane.
    """

    @operation(types.void, ADDRESS, ADDRESS, ADDRESS, ADDRESS)
    def count(b, address, stride, planes, step):
        votes = [load(b, b.add(address, b.mul(stride, I64(r))), I64, WORDS) for r in range(voters)]
        for k, plane in enumerate(_tree(b, votes)):
            store(b, plane, b.add(planes, b.mul(step, I64(k))))

    return count


def picker(width):
    """An intrinsic that picks bit k of each of the 64 // width fields of a word."""
    lanes = 64 // width

    @operation(WORD, WORD, WORD)
    def pick(b, word, k):
        starts = ir.Constant(ir.VectorType(I64, lanes), [lane * width for lane in range(lanes)])
        shifted = b.lshr(splat(b, word, lanes), b.add(starts, splat(b, k, lanes)))
        picked = b.bitcast(b.trunc(shifted, ir.VectorType(I1, lanes)), ir.IntType(lanes))
        return picked if lanes == 64 else b.zext(picked, I64)

    return pick
