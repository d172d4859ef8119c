"""`butterfly`: counts of ever more ranks travel among few ranks at a time, for many ranks or small x.

n is a product of factors, the levels: n = 4096 = 16 * 16 * 16. At a level a rank deals with as many others as its
factor says, and goes on with its part of what they held together:

    1. send     level 1: Alltoall of words among r ranks that follow each other; each counts r votes on 1/r of a chunk
    2. receive  further levels: Alltoall of counts, w(ranks counted so far) planes of ever smaller parts, added up; the
                vote decides this rank's part of the last level
    3. publish  last level: Allgather of verdicts
    4. collect  the levels before it: Allgather of ever larger parts, until everyone holds the whole verdict

A rank sends sum of (r - 1) messages each way instead of n - 1, and 2.3 bits per coordinate at n = 4096 instead of 2:
see radices_of and cost. A level's messages of all chunks are posted in one order by all of its ranks.
"""

from __future__ import annotations  # which name classes of an MPI that may not have started

import os
from collections.abc import Callable, Iterator
from functools import cache
from itertools import accumulate, count
from math import prod
from operator import mul

from torch import Tensor

from mpisign import bits
from mpisign.algorithms.formats import Format, Planes
from mpisign.algorithms.messages import Ballots, Tally
from mpisign.algorithms.slots import Vote
from mpisign.exchange.base import Exchange
from mpisign.exchange.costs import cut, grain_of
from mpisign.exchange.late import MPI
from mpisign.exchange.registry import exchange
from mpisign.exchange.schedule import Level, message_sizes
from mpisign.exchange.staging import buffer
from mpisign.layout import WORD

RADIX = 16  # ranks of a level that are aimed at: 30 messages for 256 ranks, and 2.2 bits
FEW = 16  # ranks below which "auto" does without: the messages that are saved are few

Interval = tuple[int, int]


def radices_of(n: int) -> tuple[int, ...]:
    """Factors of n, the largest first: two, or as many as keep them near 16, as like each other as n allows."""
    levels = next(k for k in count(2) if RADIX**k >= n)
    factors = [1] * levels
    for prime in sorted(_primes(n), reverse=True):
        factors[factors.index(min(factors))] *= prime
    return tuple(sorted((f for f in factors if f > 1), reverse=True)) or (1,)


def _primes(n: int) -> Iterator[int]:
    candidate = 2
    while n > 1:
        if n % candidate == 0:
            n //= candidate
            yield candidate
        else:
            candidate += 1 if candidate * candidate <= n else n - candidate


def path_of(rank: int, chunk: Interval, grain: int, radices: tuple[int, ...]) -> list[Interval]:
    """A rank's part of a chunk after each level, each a part of the one before."""
    parts, stride, (lo, hi) = [], 1, chunk
    for radix in radices:
        lo, hi = cut(lo, hi, grain, radix, rank // stride % radix)
        parts.append((lo, hi))
        stride *= radix
    return parts


class Levels:
    """This rank's place at every level: radices, its digits, and a communicator of the level's ranks, each way."""

    def __init__(self, comm: MPI.Intracomm):
        """Collective."""
        self.radices, rank = radices_of(comm.Get_size()), comm.Get_rank()
        strides = [1, *accumulate(self.radices, mul)]
        self.counted = strides[1:]  # ranks whose votes are counted after each level
        self.up = [comm.Split(rank - rank // s % r * s) for s, r in zip(strides, self.radices, strict=False)]
        self.down = [level.Dup() for level in self.up]


_known: dict[int, tuple[MPI.Intracomm, Levels]] = {}


def levels_of(comm: MPI.Intracomm) -> Levels:
    """The levels of a communicator, made once. Collective."""
    key = comm.py2f()
    if key not in _known or _known[key][0] is not comm:
        _known[key] = comm, Levels(comm)
    return _known[key][1]


@exchange("butterfly")
class Butterfly(Exchange):
    """Levels of few ranks: few messages, for a few more bytes."""

    needs = frozenset({"counts", "pieces"})
    sharded = True

    @staticmethod
    def cost(s):
        """At each level all ranks send what they hold but their part, and down they send that part to the others."""
        radices, up, holders = radices_of(s.n), 0, s.n  # how many ranks hold each coordinate
        for level, planes in enumerate(_planes(s.up.planes, radices, s.vote)[:-1]):
            up += planes * (holders - holders // radices[level]) * sum(s.coordinates) // 8
            holders //= radices[level]
        return up, (s.n - 1) * s.message(s.down)

    @staticmethod
    def schedule(s):
        radices, grain = radices_of(s.n), grain_of(s.vote, s.up, s.down)
        planes, strides = _planes(s.up.planes, radices, s.vote), [1, *accumulate(radices, mul)]

        @cache
        def own(rank: int, level: int) -> list[list[int]]:
            parts = [path_of(rank, chunk, grain, radices)[level] for chunk in s.chunks]
            return [[end - first] for first, end in parts]

        def level(k: int, name: str, form: Format, at_once: bool, whose: int) -> Level:
            """whose: of (sender, receiver), the one whose part travels."""
            sizes = cache(lambda rank: message_sizes(form, own(rank, k), at_once)[:, 0])
            return Level(name, s.n, radix=radices[k], stride=strides[k], bytes_of=lambda *two: sizes(two[whose]))

        levels = range(len(radices))
        up = [level(k, "counts" if k else "messages", Planes(planes[k]), k > 0, 1) for k in levels]
        return up + [level(k, "verdicts", s.down, False, 0) for k in reversed(levels)]

    @classmethod
    def parts_of(cls, n):
        return radices_of(n)[0]

    @classmethod
    def useful(cls, comm, node_size):
        return comm.Get_size() >= FEW and len(radices_of(comm.Get_size())) > 1

    @property
    def prefetch(self):
        return len(self.chunks) if self.up.planes == 1 else 8

    def prepare(self):
        self._levels = levels_of(self.world.comm)
        radices, chunks = self._levels.radices, range(len(self.chunks))
        self._planes, self._last = _planes(self.up.planes, radices, self.vote), len(radices) - 1
        # of each chunk and level, in words: the parts that the level's ranks go on with, and this rank's own
        self._parts = [[self._parts_of(c, level) for level in range(len(radices))] for c in chunks]
        self._own_parts = [[self._words(c, p) for p in self._path(self.world.rank, *self.chunks[c])] for c in chunks]
        self._out = self.messages(self.up)
        self._in = [self._room(level) for level in range(len(radices))]
        self._counts = [self._out, *(self._room_for_counts(level) for level in range(1, len(radices)))]
        self._own = [self.verdict_of(hi - lo) for lo, hi, _ in self.shards]
        self._up_requests, self._down_requests = ([[[] for _ in chunks] for _ in radices] for _ in range(2))

    def _path(self, rank: int, lo: int, hi: int) -> list[Interval]:
        grain = grain_of(self.vote, self.up, self.down)
        return path_of(rank, (lo, hi), grain, radices_of(self.world.n))

    def shard_of(self, rank, lo, hi):
        return self._path(rank, lo, hi)[-1]

    def _words(self, c: int, part: Interval) -> Interval:
        lo = self.chunks[c][0]
        return (part[0] - lo) // WORD, (part[1] - lo) // WORD

    def _held(self, c: int, level: int) -> Interval:
        """The part that this rank holds before a level, in coordinates."""
        return self._path(self.world.rank, *self.chunks[c])[level - 1] if level else self.chunks[c]

    def _parts_of(self, c: int, level: int) -> list[Interval]:
        held, radix = self._held(c, level), self._levels.radices[level]
        grain = grain_of(self.vote, self.up, self.down)
        return [self._words(c, cut(*held, grain, radix, k)) for k in range(radix)]

    def _room(self, level: int) -> list[Tensor]:
        """Per chunk, what a level's ranks send for this rank's part: messages (planes, ranks, words), or counts."""
        planes, radix = self._planes[level], self._levels.radices[level]
        sizes = [end - first for first, end in (parts[level] for parts in self._own_parts)]
        shapes = [(planes, radix, size) if level == 0 else (radix, planes, size) for size in sizes]
        return self.ring(shapes, self.up.dtype)

    def _room_for_counts(self, level: int) -> list[Tensor]:
        """Per chunk, the counts of all that this rank holds before a level: a block (planes, words) for each part."""
        shapes = [(self._planes[level] * (p[level][-1][1] - p[level][0][0]),) for p in self._parts]
        return self.ring(shapes, self.up.dtype)

    def bytes_a_step(self):
        up = down = 0
        for parts, own in zip(self._parts, self._own_parts, strict=True):
            for level, (first, end) in enumerate(own):
                held = parts[level][-1][1] - parts[level][0][0]
                up += 8 * self._planes[level] * (held - (end - first))
                down += 8 * self.down.planes * (end - first) * (len(parts[level]) - 1)
        return up, down

    def open(self, counting):
        super().open(counting)
        self._sent, self._gathered = ([0] * len(self._levels.radices) for _ in range(2))  # chunks posted at each level

    def outgoing(self, voter, c):
        return self._out[c]

    # 1. send
    def send(self, c):
        parts, (first, end), out = self._parts[c][0], self._own_parts[c][0], self._out[c]
        counts, places = [last - start for start, last in parts], [start for start, _ in parts]
        own, ranks = end - first, range(len(parts))
        for words, into in zip(out, self._in[0][c], strict=True):
            sides = [buffer(words), (counts, places), MPI.INT64_T], [
                buffer(into), ([own] * len(parts), [own * r for r in ranks]), MPI.INT64_T,
            ]  # fmt: skip
            self._up_requests[0][c].append(self._levels.up[0].Ialltoallv(*sides))
        self._sent[0] = c + 1

    # 2. receive
    def receive(self, c):
        self._until(lambda: self.has_come(c), f"the counts of chunk {c}")
        self._up_requests[self._last][c].clear()
        if not self._last:
            return Ballots(*self.shards[c], self.world.n, planes=self._in[0][c])
        plus, *minus = self._added_up(c, self._last)
        tally = Tally(plus, minus[0] if minus else None, self.votes)
        return Ballots(*self.shards[c], self.world.n, counted=tally)

    def _added_up(self, c: int, level: int) -> list[Tensor]:
        """Counts (w, words) of all votes that are known after a level, of +1 and, where voters may abstain, of -1."""
        came, sets = self._in[level][c], self.up.planes
        if level == 0:
            radix = self._levels.radices[0]
            first = self.world.rank // radix * radix
            weights = self.vote.weights_of(range(first, first + radix))
            tally = Ballots(0, 0, 0, radix, planes=came, weights=weights, scratch=self.scratch).tally
            return [tally.plus] if tally.minus is None else [tally.plus, tally.minus]
        ranks, planes, words = came.shape
        blocks = came.view(ranks, sets, planes // sets, words)
        shape = sets, self._planes[level + 1] // sets, words
        totals = self.scratch(f"counted after level {level}", *shape).zero_()
        for block in blocks:
            for total, more in zip(totals, block, strict=True):
                bits.add(total, more)
        return list(totals)

    def _send_counts(self, c: int, level: int) -> None:
        """Counts what came at the level before, and sends its parts to the ranks of this one."""
        planes, parts, (first, end) = self._planes[level], self._parts[c][level], self._own_parts[c][level]
        sets, flat, start = self._added_up(c, level - 1), self._counts[level][c], self._parts[c][level][0][0]
        for lo, hi in parts:
            block = flat[planes * (lo - start) : planes * (hi - start)].view(len(sets), planes // len(sets), hi - lo)
            for counts, into in zip(sets, block, strict=True):
                into[: len(counts)] = counts[:, lo - start : hi - start]
                into[len(counts) :] = 0  # planes that votes of heavier ranks need
        sizes, own = [planes * (hi - lo) for lo, hi in parts], planes * (end - first)
        sides = [buffer(flat), (sizes, _places(sizes)), MPI.INT64_T], [
            buffer(self._in[level][c]), ([own] * len(parts), _places([own] * len(parts))), MPI.INT64_T,
        ]  # fmt: skip
        self._up_requests[level][c].append(self._levels.up[level].Ialltoallv(*sides))

    def own_verdict(self, c):
        return self._own[c]

    # 3. publish
    def publish(self, c):
        first, end = self._own_parts[c][self._last]
        self.decided[c][:, first:end] = self._own[c]
        self._gather(c, self._last)

    def _gather(self, c: int, level: int) -> None:
        """Sends what this rank holds of a verdict after a level to all of that level, who send theirs."""
        parts = self._parts[c][level]
        where = [end - first for first, end in parts], [first for first, _ in parts]
        for plane in self.decided[c]:
            request = self._levels.down[level].Iallgatherv(MPI.IN_PLACE, [buffer(plane), where, MPI.INT64_T])
            self._down_requests[level][c].append(request)
        self._gathered[level] = c + 1

    # 4. collect
    def has_come(self, c):
        self._advance()
        return self._sent[self._last] > c and MPI.Request.Testall(self._up_requests[self._last][c])

    def is_here(self, c):
        self._advance()
        return self._gathered[0] > c and MPI.Request.Testall(self._down_requests[0][c])

    def collect(self, c):
        self._until(lambda: self.is_here(c), f"the verdict of chunk {c}")
        self._down_requests[0][c].clear()

    def progress(self):
        self._advance()
        super().progress()

    def _advance(self) -> None:
        """Sends on what has come, level by level and in order of chunks: counts up, verdicts down."""
        for level in range(1, self._last + 1):
            while (c := self._sent[level]) < self._sent[level - 1] and _done(self._up_requests[level - 1][c]):
                self._send_counts(c, level)
                self._sent[level] = c + 1
        for level in range(self._last - 1, -1, -1):
            while (c := self._gathered[level]) < self._gathered[level + 1] and _done(self._down_requests[level + 1][c]):
                self._gather(c, level)

    def _until(self, ready: Callable[[], bool], what: str) -> None:
        if ready():
            return
        with self.world.watch(what):
            while not ready():
                super().progress()
                os.sched_yield()

    def arrays(self):
        lists = [some for kind in (self._in, self._counts) for some in kind]
        return super().arrays() + [t for some in lists for t in some]


def _planes(messages: int, radices: tuple[int, ...], vote: Vote) -> list[int]:
    """Planes of what travels at each level, and of the tally: messages, then counts of ever more votes.

    Ranks that were counted together follow each other; the planes are those of the heaviest of such groups.
    """
    groups = ((range(at, at + size) for at in range(0, prod(radices), size)) for size in accumulate(radices, mul))
    return [messages, *(messages * bits.width(max(map(vote.votes_of, group))) for group in groups)]


def _places(sizes: list[int]) -> list[int]:
    return [0, *accumulate(sizes)][:-1]


def _done(requests: list) -> bool:
    """Whether all have ended; then there are none any more."""
    if not MPI.Request.Testall(requests):
        return False
    requests.clear()
    return True
