"""Votes in which voters count unequally: a few votes each, such as those to which their rows are rounded."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mpisign.algorithms.slots import Vote

MOST = 15  # votes of one voter: four planes


def weights_of(sizes: Sequence[int]) -> tuple[int, ...]:
    """Weights from 1 to 15 in proportion to sizes, which are positive: the largest has 15.

    w = round(15 * size / largest), halves up, at least 1. So a size counts as one that is off by up to 1/30 of the
    largest, and what is smaller than that as 1/15 of it.
    """
    largest = int(max(sizes))
    return tuple(max(1, (2 * MOST * int(size) + largest) // (2 * largest)) for size in sizes)


def in_lowest_terms(weights: Sequence[int]) -> tuple[int, ...]:
    """The weights over their greatest common divisor: the same decisions, in counts of fewer planes."""
    common = math.gcd(*weights)
    return tuple(weight // common for weight in weights)


@dataclass(frozen=True)
class Weighted(Vote):
    """What a vote decides where voter r has weights[r] votes: all that it knows is their tally."""

    vote: Vote
    weights: tuple[int, ...]

    @property
    def rules(self):
        return self.vote.rules

    def with_ties(self, rule):
        return replace(self, vote=self.vote.with_ties(rule))

    def weights_of(self, voters):
        return tuple(self.weights[voter] for voter in voters)

    def down(self, up, votes):
        return self.vote.down(up, votes)

    def levels(self, up, votes):
        return self.vote.levels(up, votes)

    def verdict(self, ballots, scales, state, out, step):
        self.vote.verdict(ballots, scales, state, out, step)
