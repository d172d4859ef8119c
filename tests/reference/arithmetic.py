"""Random draws and sums as design and papers define them, one number at a time."""

import math

import numpy as np

from mpisign.bits import gaussian
from mpisign.bits.rng import STREAMS, philox

F = np.float32


class Randomness:
    """A run's draws, each by its own call of Philox."""

    def __init__(self, seed):
        self.key = (seed & 0xFFFFFFFF, seed >> 32)

    def _block(self, block, step, voter, stream):
        return philox(np.array([block, step, voter, STREAMS[stream]]), self.key).tolist()

    def coin(self, coordinate, step, voter, stream):
        out = self._block(coordinate // 64, step // 2, voter, stream)
        word = out[0] | out[1] << 32
        heads = word >> (coordinate % 64) & 1
        return bool(heads) != (step % 2 == 1)

    def fresh_coin(self, coordinate, step, voter, stream):
        """Not negated in between: a draw of its own at every step."""
        out = self._block(coordinate // 64, step, voter, stream)
        return bool((out[0] | out[1] << 32) >> (coordinate % 64) & 1)

    def whole(self, coordinate, step, voter, stream):
        """All 32 bits of a coordinate's output."""
        return self._block(coordinate // 4, step, voter, stream)[coordinate % 4]

    def odds(self, coordinates, step, voter, stream):
        """(2k + 1) - 2**24 for the upper 24 bits k of each coordinate's output."""
        blocks = np.array([[c // 4, step, voter, STREAMS[stream]] for c in coordinates])
        k = philox(blocks, self.key)[np.arange(len(coordinates)), np.array(coordinates) % 4] >> np.uint32(8)
        return [2 * int(a) + 1 - 2**24 for a in k]

    def normal(self, coordinate, step, voter, stream):
        out = self._block(coordinate // 4, step, voter, stream)
        k, turn = out[:2] if coordinate % 4 < 2 else out[2:]
        length = math.sqrt(-2.0 * math.log((k + 1.0) * 2.0**-32))
        angle = (2.0 * math.pi * 2.0**-32) * turn
        return F(length * (math.cos(angle) if coordinate % 2 == 0 else math.sin(angle)))

    def common_normal(self, coordinate, step, voter, stream):
        word = self._block(coordinate // 4, step, voter, stream)[coordinate % 4]
        p = (word + 0.5) * 2.0**-32
        q = p - 0.5
        if abs(q) <= 0.425:
            return F(q * quotient(0.180625 - q * q, gaussian.MIDDLE))
        value = quotient(math.sqrt(-logarithm(p if q < 0 else 1 - p)) - 1.6, gaussian.ENDS)
        return F(math.copysign(value, q))


def quotient(r, functions):
    values = []
    for coefficients in functions:
        value = coefficients[0]
        for c in coefficients[1:]:
            value = value * r + c
        values.append(value)
    return values[0] / values[1]


def logarithm(p):
    m, e = math.frexp(p)
    if m < math.sqrt(0.5):
        m, e = 2 * m, e - 1
    s, series = (m - 1) / (m + 1), 0.0
    for k in range(21, 0, -2):
        series = series * (s * s) + 1 / k
    return e * math.log(2) + 2 * s * series


def tiled(v, offset, size, power):
    """float64 sum of |v|**power over coordinates [offset, offset + size): tiles, in 16 lanes each."""
    total, lo = 0.0, offset
    while lo < offset + size:
        hi = min((lo // 4096 + 1) * 4096, offset + size)
        lanes = [0.0] * 16
        for k, value in enumerate(v[lo:hi].astype(np.float64)):
            lanes[k % 16] += abs(value) ** power
        tile = 0.0
        for lane in lanes:
            tile += lane
        total += tile
        lo = hi
    return total


def norm(v, tensors):
    """Euclidean norm over all tensors."""
    total = 0.0
    for offset, size in tensors:
        total += tiled(v, offset, size, 2)
    return float(np.sqrt(total))


def nearest(units):
    """A float64 to the nearest whole number, halves to even ones."""
    return round(float(units))


def product(a, b):
    """Of matrices of whole numbers, exactly."""
    return [[sum(x * y for x, y in zip(row, column, strict=True)) for column in zip(*b, strict=True)] for row in a]


STEPS = {"muon": (5, 3.4445, -4.7750, 2.0315), "converged": (20, 1.875, -1.25, 0.375)}


def polar(matrix, norm, kind):
    """X <- aX + (bA + cA^2)X with A = X X^T, on whole numbers of 2^-25; X is at least as wide as high."""
    steps, a, b, c = STEPS[kind]
    grid = 2.0**25
    x = [[nearest(float(value) / norm * grid) for value in row] for row in matrix]
    for _ in range(steps):
        gram = [[nearest(value / grid) for value in row] for row in product(x, list(zip(*x, strict=True)))]
        square = [[value / grid for value in row] for row in product(gram, gram)]
        change = [
            [nearest(b * g + c * s) for g, s in zip(*rows, strict=True)] for rows in zip(gram, square, strict=True)
        ]
        moved = product(change, x)
        x = [
            [nearest(a * old + new / grid) for old, new in zip(*rows, strict=True)]
            for rows in zip(x, moved, strict=True)
        ]
    return np.array([[F(value / grid) for value in row] for row in x], dtype=F)


def polar_of_each(v, run, kind):
    """v with the polar factor in the place of every matrix that is not 0."""
    out = v.copy()
    for (offset, size), shape in zip(run.tensors, run.shapes, strict=True):
        length = math.sqrt(tiled(v, offset, size, 2))
        if len(shape) < 2 or not length:
            continue
        m = v[offset : offset + size].reshape(shape[0], -1)
        flat = m.shape[0] > m.shape[1]
        factor = polar(m.T if flat else m, length, kind)
        out[offset : offset + size] = (factor.T if flat else factor).reshape(-1)
    return out


def basis(size):
    """The orthonormal DCT-II as whole numbers of 2^-24: row k is the cosine of frequency k."""
    root = [math.sqrt((2 if k else 1) / size) for k in range(size)]
    cosine = [[math.cos(math.pi * (2 * i + 1) * k / (2 * size)) for i in range(size)] for k in range(size)]
    return [[nearest(root[k] * value * 2**24) for value in row] for k, row in enumerate(cosine)]


def transposed(matrix):
    return [list(column) for column in zip(*matrix, strict=True)]


def transformed(chunk, left, right):
    """left @ chunk @ right^T, on whole numbers of 22 bits; the largest value sets the grid."""
    exponent = math.frexp(float(np.abs(chunk).max()))[1]
    x = [[nearest(math.ldexp(float(value), 22 - exponent)) for value in row] for row in chunk]
    x = [[nearest(value / 2**24) for value in row] for row in product(left, x)]
    x = [[nearest(value / 2**24) for value in row] for row in product(x, transposed(right))]
    return np.array([[F(math.ldexp(value, exponent - 22)) for value in row] for row in x], dtype=F)


def cosines_of_each(v, run, most, inverse):
    """v with the coefficients of its chunks in the place of every tensor, or what such coefficients stand for."""
    out = v.copy()
    for (offset, size), shape in zip(run.tensors, run.shapes, strict=True):
        rows = shape[0] if len(shape) > 1 else 1
        height, width = (
            max(side for side in range(1, most + 1) if whole % side == 0) for whole in (rows, size // rows)
        )
        tensor, left, right = v[offset : offset + size], basis(height), basis(width)
        made, place = tensor.reshape(rows, -1).copy(), 0
        for i in range(0, rows, height):
            for j in range(0, size // rows, width):
                here, flat = (slice(i, i + height), slice(j, j + width)), slice(place, place + height * width)
                if inverse:
                    chunk = tensor[flat].reshape(height, width)
                    made[here] = transformed(chunk, transposed(left), transposed(right))
                else:
                    chunk = tensor.reshape(rows, -1)[here]
                    out[offset:][flat] = transformed(chunk, left, right).reshape(-1)
                place += height * width
        if inverse:
            out[offset : offset + size] = made.reshape(-1)
    return out


def doubling(intervals):
    """The lengths of intervals that double, one after the other."""
    length = 1
    while True:
        for _ in range(intervals.each):
            yield min(length, intervals.most)
        length *= 2
