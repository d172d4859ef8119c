"""64 coordinates at once: the few operations that a compiler's own vectoriser does not find, as LLVM vectors.

Each is a numba intrinsic on addresses (`array.ctypes.data`), since numba has no vector type. LLVM turns a vector of 64
comparisons into one mask instruction a register where the CPU has one, and into the best it has elsewhere; what comes
out is defined by IEEE arithmetic alone, so that every CPU gives the same bits.
"""

from inspect import Parameter, Signature

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

F32, F64 = ir.FloatType(), ir.DoubleType()
I1, I16, I32, I64 = (ir.IntType(width) for width in (1, 16, 32, 64))
LANES = 64  # coordinates in a word
WORDS = 8  # words counted at once
SUMS = 16  # running sums in a tile

ADDRESS, WORD, UINT, FLOAT, DOUBLE = types.uintp, types.uint64, types.uint32, types.float32, types.float64
COUNTER = (UINT,) * 5  # step, voter, stream and the two halves of the key


# What the operations are made of


def constant(kind, value, lanes):
    return ir.Constant(ir.VectorType(kind, lanes), [value] * lanes)


def _numbered(lanes):
    return ir.Constant(ir.VectorType(I32, len(lanes)), [*lanes])


def splat(b, value, lanes):
    empty = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    first = b.insert_element(empty, value, I32(0))
    return b.shuffle_vector(first, first, constant(I32, 0, lanes))


def load(b, address, kind, lanes):
    value = b.load(b.inttoptr(address, ir.VectorType(kind, lanes).as_pointer()))
    value.align = kind.width // 8 if isinstance(kind, ir.IntType) else 4
    return value


def store(b, value, address):
    b.store(value, b.inttoptr(address, value.type.as_pointer()), align=2 if value.type.element == I16 else 4)


def population(b, words):
    """How many bits of each of several words are 1."""
    kind = words.type
    name = f"llvm.ctpop.v{kind.count}i{kind.element.width}"
    return b.call(cgutils.get_or_insert_function(b.module, ir.FunctionType(kind, [kind]), name), [words])


def _magnitude(b, v):
    lanes = v.type.count
    pattern = b.and_(b.bitcast(v, ir.VectorType(I32, lanes)), constant(I32, 0x7FFFFFFF, lanes))
    return b.bitcast(pattern, v.type)


def _philox(b, block, counter):
    """Philox 4x32-10 of blocks `block` (vector of i32): four vectors."""
    lanes, (step, voter, stream, k0, k1) = block.type.count, counter
    narrow, wide = block.type, ir.VectorType(I64, block.type.count)

    def product(factor, c):
        # the upper halves of c are anything: a multiplication of lower halves is one instruction
        return b.mul(b.and_(c, constant(I64, 0xFFFFFFFF, lanes)), constant(I64, factor, lanes))

    def mixed(p, c, key):
        return b.xor(b.xor(b.lshr(p, constant(I64, 32, lanes)), c), splat(b, b.zext(key, I64), lanes))

    c0, c1, c2, c3 = b.zext(block, wide), *(splat(b, b.zext(part, I64), lanes) for part in (step, voter, stream))
    for _ in range(10):
        p0, p1 = product(0xD2511F53, c0), product(0xCD9E8D57, c2)
        c0, c1, c2, c3 = mixed(p1, c1, k0), p1, mixed(p0, c3, k1), p0
        k0, k1 = b.add(k0, I32(0x9E3779B9)), b.add(k1, I32(0xBB67AE85))
    return tuple(b.trunc(c, narrow) for c in (c0, c1, c2, c3))


def _from(b, first, lanes):
    """first, first + 1, ... as a vector of i32."""
    return b.add(splat(b, first, lanes), ir.Constant(ir.VectorType(I32, lanes), list(range(lanes))))


def _outputs(b, block, counter):
    """One Philox output a coordinate: a vector of 64 i32."""
    four = _philox(b, _from(b, block, 16), counter)
    double = ir.Constant(ir.VectorType(I32, 32), list(range(32)))
    pairs = [b.shuffle_vector(x, y, double) for x, y in (four[:2], four[2:])]
    # output j of block i belongs to coordinate 4i + j
    order = [16 * j + i for i in range(16) for j in range(4)]
    return b.shuffle_vector(*pairs, ir.Constant(ir.VectorType(I32, 64), order))


def _odd(b, block, counter):
    """(2k + 1) - 2**24 for the upper 24 bits k of one Philox output a coordinate: a vector of 64 i32."""
    k = b.lshr(_outputs(b, block, counter), constant(I32, 8, 64))
    return b.sub(b.or_(b.shl(k, constant(I32, 1, 64)), constant(I32, 1, 64)), constant(I32, 1 << 24, 64))


def operation(result, *parameters, number=False):
    """An intrinsic of these types, made of a function that gets a builder and the arguments.

    number: whether an integer comes first that is known when the kernel is compiled, for which code is made.
    """

    def decorate(body):
        def typing(context, *kinds):
            known = kinds[: int(number)]

            def generate(context, builder, signature, arguments):
                made = body(builder, *(k.literal_value for k in known), *arguments[int(number) :])
                return context.get_dummy_value() if made is None else made

            return result(*known, *parameters), generate

        names = ["context", *(f"argument{i}" for i in range(len(parameters) + number))]
        typing.__signature__ = Signature([Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in names])
        typing.__name__, typing.__doc__, typing.__module__ = body.__name__, body.__doc__, body.__module__
        return intrinsic(prefer_literal=number)(typing)

    return decorate


@operation(types.voidptr, ADDRESS)
def pointer(b, address):
    """An address as a pointer, which numba.carray makes an array of."""
    return b.inttoptr(address, ir.IntType(8).as_pointer())


# 64 floats -> a word


@operation(WORD, ADDRESS)
def positive(b, address):
    """Bits of v > 0."""
    v = load(b, address, F32, LANES)
    return b.bitcast(b.fcmp_ordered(">", v, constant(F32, 0.0, LANES)), I64)


@operation(WORD, ADDRESS)
def vanishing(b, address):
    """Bits of v == 0."""
    v = load(b, address, F32, LANES)
    return b.bitcast(b.fcmp_ordered("==", v, constant(F32, 0.0, LANES)), I64)


@operation(WORD, ADDRESS)
def negative(b, address):
    """Bits of a sign that is set, that of -0 and of NaN too."""
    return b.bitcast(b.icmp_signed("<", load(b, address, I32, LANES), constant(I32, 0, LANES)), I64)


@operation(types.boolean, ADDRESS)
def special(b, address):
    """Whether any v is 0, infinite or NaN: the largest |v| - 1 as integers, 0 wrapping round to the largest of all."""
    size = b.and_(load(b, address, I32, LANES), constant(I32, 0x7FFFFFFF, LANES))
    most = b.sub(size, constant(I32, 1, LANES))
    # halves are compared down to a register's width, where one mask tells
    while (lanes := most.type.count // 2) >= 8:
        low, high = (b.shuffle_vector(most, most, _numbered(range(lo, lo + lanes))) for lo in (0, lanes))
        most = b.select(b.icmp_unsigned(">", low, high), low, high)
    above = b.icmp_unsigned(">", most, constant(I32, 0x7F7FFFFE, 8))
    return b.icmp_unsigned("!=", b.bitcast(above, ir.IntType(8)), ir.IntType(8)(0))


@operation(WORD, ADDRESS)
def unfit(b, address):
    """Bits of v that is infinite or NaN: an exponent of all ones."""
    exponent = constant(I32, 0x7F800000, LANES)
    pattern = load(b, address, I32, LANES)
    return b.bitcast(b.icmp_unsigned("==", b.and_(pattern, exponent), exponent), I64)


@operation(WORD, ADDRESS, ADDRESS)
def outside(b, address, radii):
    """Bits of |v| > radius, one per coordinate."""
    v = _magnitude(b, load(b, address, F32, LANES))
    return b.bitcast(b.fcmp_ordered(">", v, load(b, radii, F32, LANES)), I64)


@operation(WORD, ADDRESS, ADDRESS, UINT, *COUNTER)
def above(b, address, radii, block, *counter):
    """Bits of v > fl(radius * u), one radius per coordinate, u from Philox blocks block to block + 15."""
    u = b.fmul(b.sitofp(_odd(b, block, counter), ir.VectorType(F32, LANES)), constant(F32, 2.0**-24, LANES))
    radius = load(b, radii, F32, LANES)
    return b.bitcast(b.fcmp_ordered(">", load(b, address, F32, LANES), b.fmul(radius, u)), I64)


# 64 floats -> 64 bfloat16


def _halves(b, block, counter):
    """16 bits of Philox per coordinate, from blocks block to block + 7: a vector of 64 i32."""
    four = _philox(b, _from(b, block, 8), counter)
    double = ir.Constant(ir.VectorType(I32, 16), list(range(16)))
    pairs = [b.shuffle_vector(x, y, double) for x, y in (four[:2], four[2:])]
    # output j of block i belongs to coordinates 8i + 2j, its low half, and 8i + 2j + 1
    order = [8 * j + i for i in range(8) for j in range(4)]
    outputs = b.shuffle_vector(*pairs, ir.Constant(ir.VectorType(I32, 32), order))
    return b.zext(b.bitcast(outputs, ir.VectorType(I16, LANES)), ir.VectorType(I32, LANES))


@operation(types.void, ADDRESS, ADDRESS, UINT, *COUNTER)
def round_word(b, address, to, block, *counter):
    """Stores (bits(v) + u) >> 16, u of 16 bits from Philox blocks block to block + 7; what is not finite is kept."""
    pattern, infinite = load(b, address, I32, LANES), constant(I32, 0x7F800000, LANES)
    size = b.and_(pattern, constant(I32, 0x7FFFFFFF, LANES))
    # a NaN whose upper half would be that of an infinity is made quiet
    kept = b.or_(pattern, constant(I32, 0x00400000, LANES))
    kept = b.select(b.icmp_unsigned(">", size, infinite), kept, pattern)
    moved = b.add(pattern, _halves(b, block, counter))
    rounded = b.select(b.icmp_unsigned("<", size, infinite), moved, kept)
    upper = b.trunc(b.lshr(rounded, constant(I32, 16, LANES)), ir.VectorType(I16, LANES))
    store(b, upper, to)


# Words of coins and of codes


@operation(types.void, ADDRESS, UINT, *COUNTER)
def coins(b, address, block, *counter):
    """Stores 8 words: outputs 0 (low half) and 1 of Philox blocks block to block + 7."""
    low, high, _, _ = _philox(b, _from(b, block, WORDS), counter)
    wide = ir.VectorType(I64, WORDS)
    store(b, b.or_(b.zext(low, wide), b.shl(b.zext(high, wide), constant(I64, 32, WORDS))), address)


@operation(types.void, ADDRESS, WORD, UINT)
def add_plane(b, address, word, k):
    """Adds 2**k to those of 64 int32 whose bit is 1."""
    kind = ir.VectorType(I32, LANES)
    bit = b.shl(b.zext(b.bitcast(word, ir.VectorType(I1, LANES)), kind), splat(b, k, LANES))
    store(b, b.or_(load(b, address, I32, LANES), bit), address)


@operation(WORD, ADDRESS, WORD, UINT, *COUNTER)
def drawn(b, address, voters, block, *counter):
    """Bits of tally * 2**24 > voters * ((2k + 1) - 2**24) for 64 int32 tallies, compared as integers."""
    wide = ir.VectorType(I64, LANES)
    tally = b.shl(b.sext(load(b, address, I32, LANES), wide), constant(I64, 24, LANES))
    threshold = b.mul(b.sext(_odd(b, block, counter), wide), splat(b, voters, LANES))
    return b.bitcast(b.icmp_signed(">", tally, threshold), I64)


@operation(WORD, WORD)
def ones(b, word):
    """How many bits are 1."""
    return b.ctpop(word)


# Tiles


@operation(DOUBLE, ADDRESS, WORD, ADDRESS, types.boolean)
def sum_of_tile(b, address, count, rest, squares):
    """Sum of |v| or of squares over count floats: 16 running float64 sums, added in order at the end.

    rest: address of 16 floats, room for what is left after the last whole row of 16.
    """
    kind, row = ir.VectorType(F64, SUMS), I64(4 * SUMS)
    held = cgutils.alloca_once_value(b, constant(F64, 0.0, SUMS))

    def add(place):
        v = load(b, place, F32, SUMS)
        value = b.fpext(v, kind)
        b.store(b.fadd(b.load(held), b.select(squares, b.fmul(value, value), b.fpext(_magnitude(b, v), kind))), held)

    rows = b.udiv(count, I64(SUMS))
    with cgutils.for_range(b, rows) as loop:
        add(b.add(address, b.mul(loop.index, row)))
    left = b.sub(count, b.mul(rows, I64(SUMS)))
    with cgutils.if_unlikely(b, b.icmp_unsigned("!=", left, I64(0))):
        store(b, constant(F32, 0.0, SUMS), rest)
        with cgutils.for_range(b, left) as loop:
            i = loop.index
            one = load(b, b.add(b.add(address, b.mul(rows, row)), b.mul(i, I64(4))), F32, 1)
            store(b, one, b.add(rest, b.mul(i, I64(4))))
        add(rest)
    lanes, total = b.load(held), F64(0.0)
    for lane in range(SUMS):
        total = b.fadd(total, b.extract_element(lanes, I32(lane)))
    return total


@operation(FLOAT, ADDRESS, WORD)
def largest_of_rows(b, address, rows):
    """The largest |v| over rows of 16 floats."""
    held = cgutils.alloca_once_value(b, constant(F32, 0.0, SUMS))
    with cgutils.for_range(b, rows) as loop:
        size = _magnitude(b, load(b, b.add(address, b.mul(loop.index, I64(4 * SUMS))), F32, SUMS))
        most = b.load(held)
        b.store(b.select(b.fcmp_ordered(">", size, most), size, most), held)
    lanes, most = b.load(held), F32(0.0)
    for lane in range(SUMS):
        size = b.extract_element(lanes, I32(lane))
        most = b.select(b.fcmp_ordered(">", size, most), size, most)
    return most
