"""Who sends what to whom in a step, for any number of ranks: what `mpisign project` simulates.

A schedule is a list of phases, one after the other. In each round of a phase a rank sends to one other at most, and
hears from one at most; rounds of one batch are posted together. Exchanges make theirs (`Exchange.schedule`) from the
functions by which they cut chunks and shares, and the test of it counts what MPI was given. The sums of float32 are
those of MPI libraries and NCCL, to compare with.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mpisign.algorithms.formats import Format
from mpisign.exchange.costs import cut

BATCH = 32  # rounds on their way together: what MPICH posts of an Alltoall before it waits (ALLTOALL_THROTTLE)


@dataclass(frozen=True)
class Phase:
    """Messages that travel for one purpose. Ranks that take part are those at multiples of `every`, of n in all."""

    name: str
    n: int
    every: int = 1

    batch: ClassVar[int] = 1  # rounds that are posted together
    alike: ClassVar[bool] = False  # whether some of the rounds stand for all
    same: ClassVar[bool] = False  # whether each of them does: all are between the same ranks

    @property
    def members(self) -> int:
        """The ranks that take part."""
        return -(-self.n // self.every)

    @property
    def rounds(self) -> int:
        raise NotImplementedError

    def to(self, rank: int, k: int) -> int | None:
        """To whom a rank sends in round k."""
        return self._rank(rank, self._to, k)

    def source(self, rank: int, k: int) -> int | None:
        """From whom it hears."""
        return self._rank(rank, self._source, k)

    def sizes(self, rank: int, k: int) -> Sequence[int]:
        """Bytes of each message that a rank sends in round k; of nothing none is sent."""
        raise NotImplementedError

    def _rank(self, rank: int, other: Callable[[int, int], int | None], k: int) -> int | None:
        if rank % self.every:
            return None
        member = other(rank // self.every, k)
        return None if member is None else member * self.every

    def _to(self, member: int, k: int) -> int | None:
        raise NotImplementedError

    def _source(self, member: int, k: int) -> int | None:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Spread(Phase):
    """Everyone sends to everyone, the next rank first: an Alltoall, or what each has of an Allgather.

    bytes_of(member, member): the sizes of the messages from the one to the other.
    """

    bytes_of: Callable[[int, int], Sequence[int]]

    batch, alike = BATCH, True

    @property
    def rounds(self):
        return self.members - 1

    def sizes(self, rank, k):
        sender = rank // self.every
        return self.bytes_of(sender, self._to(sender, k))

    def _to(self, member, k):
        return (member + 1 + k) % self.members

    def _source(self, member, k):
        return (member - 1 - k) % self.members


@dataclass(frozen=True, kw_only=True)
class Level(Spread):
    """The same among groups of `radix` ranks, which are `stride` apart."""

    radix: int
    stride: int

    @property
    def rounds(self):
        return self.radix - 1

    def _to(self, member, k):
        return self._after(member, 1 + k)

    def _source(self, member, k):
        return self._after(member, -1 - k)

    def _after(self, member: int, digits: int) -> int:
        digit = member // self.stride % self.radix
        return member + ((digit + digits) % self.radix - digit) * self.stride


@dataclass(frozen=True, kw_only=True)
class Ring(Phase):
    """Half of a ring's all-reduce of d values: n - 1 blocks from each rank to the next, each after the one before."""

    d: int
    itemsize: int = 4
    first: int = 0  # the block that rank 0 sends first

    alike = same = True

    @property
    def rounds(self):
        return self.n - 1

    def sizes(self, rank, k):
        lo, hi = cut(0, self.d, 1, self.n, (rank + self.first - k) % self.n)
        return [(hi - lo) * self.itemsize]

    def _to(self, member, k):
        return (member + 1) % self.n

    def _source(self, member, k):
        return (member - 1) % self.n


@dataclass(frozen=True, kw_only=True)
class Doubling(Phase):
    """Bruck's Allgather of a few bytes: in round k all that a rank holds goes 2**k ranks further."""

    each: int  # bytes of a rank

    @property
    def rounds(self):
        return (self.n - 1).bit_length()

    def sizes(self, rank, k):
        return [min(1 << k, self.n - (1 << k)) * self.each]

    def _to(self, member, k):
        return (member - (1 << k)) % self.n

    def _source(self, member, k):
        return (member + (1 << k)) % self.n


@dataclass(frozen=True, kw_only=True)
class Halving(Phase):
    """Half of an all-reduce by recursive halving of d values, or, reversed, the doubling after it.

    Half of x goes to the nearest rank, a quarter to the one two ranks away, and so on, as in MPICH's and Open MPI's.
    Of ranks beyond a power of two, the first pairs are one each, whose odd rank acts for both; see Folding.
    """

    d: int
    itemsize: int = 4
    reverse: bool = False

    @property
    def rounds(self):
        return self.n.bit_length() - 1

    def sizes(self, rank, k):
        if self._to(rank, k) is None:
            return []
        return [-(-self.d // (2 << self._level(k))) * self.itemsize]

    def _level(self, k: int) -> int:
        return self.rounds - 1 - k if self.reverse else k

    def _to(self, member, k):
        pairs = self.n - (1 << self.rounds)
        if member < 2 * pairs and member % 2 == 0:
            return None
        acting = member // 2 if member < 2 * pairs else member - pairs
        partner = acting ^ (1 << self._level(k))
        return 2 * partner + 1 if partner < pairs else partner + pairs

    _source = _to


@dataclass(frozen=True, kw_only=True)
class Folding(Phase):
    """What even ranks of the first pairs send to their odd ones before halving, or, reversed, get back after it."""

    d: int
    itemsize: int = 4
    reverse: bool = False

    @property
    def rounds(self):
        return int(self._pairs > 0)

    @property
    def _pairs(self) -> int:
        return self.n - (1 << (self.n.bit_length() - 1))

    def sizes(self, rank, k):
        return [] if self._to(rank, k) is None else [self.d * self.itemsize]

    def _to(self, member, k):
        return self._partner(member, int(self.reverse))

    def _source(self, member, k):
        return self._partner(member, int(not self.reverse))

    def _partner(self, member: int, parity: int) -> int | None:
        return member ^ 1 if member < 2 * self._pairs and member % 2 == parity else None


def message_sizes(form: Format, coordinates: Iterable[Iterable[int]], at_once: bool = False) -> np.ndarray:
    """Bytes (messages, parts) of the messages on each part's coordinates of each chunk.

    A message per chunk and plane; at_once: per chunk.
    """
    rows = [[form.items(c) * form.item_bytes for c in chunk] for chunk in coordinates]
    table, planes = np.array(rows, dtype=np.int64), form.planes or 1
    return table * planes if at_once else np.repeat(table, planes, axis=0)


def ring(d: int, n: int, itemsize: int = 4) -> list[Phase]:
    """An all-reduce of d values along a ring: 2(n-1) messages of d/n values each."""
    halves = (("reduce-scatter", 0), ("allgather", 1))
    return [Ring(name, n, d=d, itemsize=itemsize, first=first) for name, first in halves]


def halving_doubling(d: int, n: int, itemsize: int = 4) -> list[Phase]:
    """An all-reduce of d values by recursive halving and doubling [Thakur et al. 2005]: 2 log2(n) messages."""
    sums = {"d": d, "itemsize": itemsize}
    phases = [
        Folding("fold", n, **sums),
        Halving("halving", n, **sums),
        Halving("doubling", n, **sums, reverse=True),
        Folding("unfold", n, **sums, reverse=True),
    ]
    return [phase for phase in phases if phase.rounds]
