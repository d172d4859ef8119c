"""Signs of momenta, a majority, decoupled weight decay, and an x in bfloat16 that is rounded at random: plain numpy."""

import numpy as np

from mpisign.bits.rng import Streams

F = np.float32


class Rounded:
    """x of signsgd-mv and signum-mv with rounding="stochastic", ties and zeros as in the mathematics."""

    def __init__(self, x, lr, weight_decay, beta, voters, seed):
        """x: float32 (length,), pads included, which no vote moves by more than anything else."""
        self.x, self.lr, self.decay, self.beta = x.astype(F), lr, F(1 - lr * weight_decay), beta
        self.m, self.streams, self.t = [np.zeros_like(x) for _ in range(voters)], Streams(seed), 0

    def step(self, gradients):
        """gradients: one float32 (length,) per voter."""
        tally = np.zeros(len(self.x))
        for m, g in zip(self.m, gradients, strict=True):
            m[:] = F(self.beta) * m + F(1 - self.beta) * g
            tally += np.sign(m)
        moved = self.decay * self.x - F(self.lr) * np.sign(tally).astype(F)
        self.blocks = self.streams.draw("rounding", self.t).blocks(0, -(-len(moved) // 8)).tolist()
        self.x = np.array([self.rounded(v, i) for i, v in enumerate(moved)], dtype=F)
        self.t += 1

    def rounded(self, v, i):
        """v to the next bfloat16 towards zero, or with the probability of what is left of it to the next one beyond."""
        pattern = int(F(v).view(np.uint32))
        below, left = pattern & 0xFFFF0000, pattern & 0xFFFF
        up = left + self.drawn(i) >= 2**16
        return np.uint32(below + 2**16 * up).view(F)

    def drawn(self, i):
        """The 16 bits of coordinate i: eight coordinates share a Philox block of four outputs, low halves first."""
        output = self.blocks[i // 8][i % 8 // 2]
        return output >> 16 * (i % 2) & 0xFFFF
