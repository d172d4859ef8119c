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
