"""Random draws and sums as design and papers define them, one number at a time."""

import math

import numpy as np

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
