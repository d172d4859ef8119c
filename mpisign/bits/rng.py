"""Counter-based random streams: Philox 4x32-10 (Salmon et al. 2011, SC'11).

A draw is a function of (seed, stream, voter or none, step, coordinate) and of nothing else: any
exchange, chunking, device or placement of voters sees the same numbers. The key is the run's seed,
the counter is (block of coordinates, step, voter or none, stream).
"""

from dataclasses import dataclass

import numpy as np

NO_VOTER = 0xFFFFFFFF
MASK = 0xFFFFFFFF

# The number of a stream is part of every stored trajectory: append, never renumber.
STREAMS = {
    "partition": 0,  # which rows belong to which voter
    "initial": 1,  # the starting point x_0
    "sample": 2,  # rows of a minibatch
    "noise": 3,  # noise of a synthetic problem
    "sign": 4,  # stochastic signs
    "zero": 5,  # the coin where an estimate is exactly zero
    "tie": 6,  # the coin where a vote is tied
    "server": 7,  # randomised votes
    "torch": 8,  # the seed torch gets before an estimate (dropout)
    "dither": 9,  # noise before the sign
    "output": 10,  # which iterate a run with keep = "uniform" puts out
    "start": 11,  # rows, or noise, of the batches that a first estimate takes beyond its own
    "direction": 12,  # directions along which function values are compared
    "augment": 13,  # how training images are varied
    "attack": 14,  # what lying voters make up
    "probe": 15,  # rows, or noise, of the minibatches whose noise is measured
    "choice": 16,  # coordinates that all voters send
    "low rank": 17,  # factors of low rank from which subspace iteration starts
    "retelling": 18,  # how the codes of lying voters round what they made up
    "silence": 19,  # which voters abstain by chance
}


def _rounds(c0, c1, c2, c3, k0: int, k1: int):
    """The ten rounds, on Python integers or on uint64 arrays; the constants are those of the paper's table 2."""
    for _ in range(10):
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & MASK, (p0 >> 32) ^ c3 ^ k1, p0 & MASK
        k0, k1 = (k0 + 0x9E3779B9) & MASK, (k1 + 0xBB67AE85) & MASK
    return c0, c1, c2, c3


def philox(counter: np.ndarray, key: tuple[int, int]) -> np.ndarray:
    """Philox 4x32-10.

    counter: (..., 4) integers below 2**32. key: two such integers.
    Returns (..., 4) uint32.
    """
    words = np.moveaxis(np.asarray(counter, dtype=np.uint64), -1, 0)
    return np.stack(_rounds(*words, *key), axis=-1).astype(np.uint32)


@dataclass(frozen=True)
class Draw:
    """One stream at one step for one voter: everything of the counter but the block of coordinates.

    origin: the coordinate at which the vector that asks starts in the whole one, where it is a shard of that.
    """

    key: tuple[int, int]
    step: int
    voter: int
    stream: int
    negate: bool = False
    origin: int = 0

    def blocks(self, first: int, count: int) -> np.ndarray:
        """(count, 4) uint32: the draws of blocks first, first + 1, ..."""
        counter = np.empty((count, 4), dtype=np.uint64)
        counter[:, 0] = np.arange(first, first + count)
        counter[:, 1:] = self.step, self.voter, self.stream
        return philox(counter, self.key)

    def seed(self) -> int:
        """64 bits for a generator of another library."""
        low, high, _, _ = _rounds(0, self.step, self.voter, self.stream, *self.key)
        return low | high << 32

    def generator(self) -> np.random.Generator:
        """A numpy generator that starts at this draw, for distributions other than bits."""
        return np.random.Generator(np.random.PCG64(self.seed()))


class Streams:
    """All random streams of a run."""

    def __init__(self, seed: int, origin: int = 0):
        """origin: of the shard of x that asks, if it is one; a multiple of 4096."""
        self.seed, self.origin = seed, origin
        self.key = (seed & MASK, seed >> 32 & MASK)

    def draw(self, stream: str, step: int, voter: int = NO_VOTER) -> Draw:
        """The draws of a stream at a step, a voter's own or (by default) everyone's."""
        return Draw(self.key, step & MASK, voter, STREAMS[stream], origin=self.origin)

    def coin(self, stream: str, step: int, voter: int = NO_VOTER) -> Draw:
        """A fair coin per coordinate, drawn at even steps and negated at the odd step that follows.

        A coordinate that nothing pushes is thus back where it was after two steps.
        """
        return Draw(self.key, (step // 2) & MASK, voter, STREAMS[stream], bool(step % 2), self.origin)
