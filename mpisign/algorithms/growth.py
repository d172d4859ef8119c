"""Intervals that grow as a run goes on."""

from bisect import bisect_left
from dataclasses import dataclass


@dataclass(frozen=True)
class Doubling:
    """Intervals of 1 at first, which double after every `each` of them until they are `most` long; numbered from 0.

    Source: Lu et al. 2022, whose kappa is `each` and H `most`; both are 16 there.
    """

    each: int = 16
    most: int = 16

    def length(self, k: int) -> int:
        """Of the k-th interval."""
        return min(self.most, 1 << min(k // self.each, self._doublings))

    def begin(self, k: int) -> int:
        """Where the k-th interval begins: the length of all before it."""
        doubled = min(k // self.each, self._doublings)
        # `each` intervals of 1, of 2, of 4, ..., and those that are as long as the k-th or as the longest
        return self.each * ((1 << doubled) - 1) + (k - self.each * doubled) * self.length(k)

    def count(self, age: int) -> int:
        """Intervals that begin before `age`."""
        return bisect_left(range(age), age, key=self.begin)

    def due(self, age: int) -> bool:
        """Whether one begins there."""
        return self.begin(self.count(age)) == age

    @property
    def _doublings(self) -> int:
        """After which an interval is as long as any."""
        return (self.most - 1).bit_length()
