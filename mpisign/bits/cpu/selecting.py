"""What messages of levels and of few coordinates are made with, as LLVM vectors: draws, bits of codes, selection."""

from llvmlite import ir
from numba import types
from numba.core import cgutils

from mpisign.bits.cpu.vectors import (
    ADDRESS,
    COUNTER,
    F32,
    F64,
    FLOAT,
    I1,
    I32,
    I64,
    LANES,
    SUMS,
    UINT,
    WORD,
    _odd,
    _outputs,
    constant,
    load,
    operation,
    splat,
    store,
)

# Draws and sizes: 64 coordinates each


@operation(types.void, ADDRESS, UINT, *COUNTER)
def draw_odd(b, address, block, *counter):
    """Stores 64 int32: 2k + 1 for the upper 24 bits k of each coordinate's draw, from 16 Philox blocks."""
    store(b, b.add(_odd(b, block, counter), constant(I32, 1 << 24, LANES)), address)


@operation(types.void, ADDRESS, UINT, *COUNTER)
def draw_inverted(b, address, block, *counter):
    """Stores 64 uint32: all bits of each coordinate's draw, inverted."""
    store(b, b.xor(_outputs(b, block, counter), constant(I32, 0xFFFFFFFF, LANES)), address)


@operation(types.void, ADDRESS, ADDRESS)
def store_sizes(b, address, keys):
    """Stores 64 uint32: the bits of |v|, in whose order NaN is largest."""
    store(b, b.and_(load(b, address, I32, LANES), constant(I32, 0x7FFFFFFF, LANES)), keys)


# 64 numbers -> a word


@operation(WORD, ADDRESS, UINT)
def bit_of(b, address, k):
    """Bit k of 64 int32."""
    bit = b.and_(load(b, address, I32, LANES), splat(b, b.shl(I32(1), k), LANES))
    return b.bitcast(b.icmp_unsigned("!=", bit, constant(I32, 0, LANES)), I64)


@operation(WORD, ADDRESS, UINT)
def greater(b, address, least):
    """Bits of key > least, keys uint32."""
    return b.bitcast(b.icmp_unsigned(">", load(b, address, I32, LANES), splat(b, least, LANES)), I64)


@operation(WORD, ADDRESS, UINT)
def equal(b, address, key):
    """Bits of key == another, keys uint32."""
    return b.bitcast(b.icmp_unsigned("==", load(b, address, I32, LANES), splat(b, key, LANES)), I64)


@operation(WORD, ADDRESS)
def nonnegative(b, address):
    """Bits of v >= 0."""
    return b.bitcast(b.fcmp_ordered(">=", load(b, address, F32, LANES), constant(F32, 0.0, LANES)), I64)


@operation(WORD, ADDRESS, WORD, UINT)
def count_greater(b, address, words, least):
    """How many of 64 * words keys are > least."""
    kind = ir.VectorType(I32, LANES)
    held, limit = cgutils.alloca_once_value(b, constant(I32, 0, LANES)), splat(b, least, LANES)
    with cgutils.for_range(b, words) as loop:
        keys = load(b, b.add(address, b.mul(loop.index, I64(4 * LANES))), I32, LANES)
        b.store(b.add(b.load(held), b.zext(b.icmp_unsigned(">", keys, limit), kind)), held)
    total, lanes = b.load(held), LANES
    while lanes > 1:
        lanes //= 2
        halves = [ir.Constant(ir.VectorType(I32, lanes), [lo + i for i in range(lanes)]) for lo in (0, lanes)]
        total = b.add(*(b.shuffle_vector(total, total, half) for half in halves))
    return b.zext(b.extract_element(total, I32(0)), I64)


@operation(WORD, WORD)
def lowest(b, word):
    """The number of the lowest bit that is 1."""
    return b.cttz(word, I1(1))


# Two sides


@operation(types.void, ADDRESS, WORD, ADDRESS)
def add_side(b, address, side, lanes):
    """Adds those of 64 float32 whose bit is 1 to 16 running float64 sums, row by row."""
    v = b.select(b.bitcast(side, ir.VectorType(I1, LANES)), load(b, address, F32, LANES), constant(F32, 0.0, LANES))
    total = load(b, lanes, F64, SUMS)
    for lo in range(0, LANES, SUMS):
        row = b.shuffle_vector(v, v, ir.Constant(ir.VectorType(I32, SUMS), [lo + i for i in range(SUMS)]))
        total = b.fadd(total, b.fpext(row, ir.VectorType(F64, SUMS)))
    store(b, total, lanes)


@operation(types.void, ADDRESS, WORD, WORD, FLOAT, FLOAT)
def add_either(b, address, sides, here, other, this):
    """Adds `this` to those of 64 float32 whose bit of sides is 1, `other` to the others, nothing where here is 0."""
    v, bits = load(b, address, F32, LANES), ir.VectorType(I1, LANES)
    move = b.select(b.bitcast(sides, bits), splat(b, this, LANES), splat(b, other, LANES))
    store(b, b.select(b.bitcast(here, bits), b.fadd(v, move), v), address)
