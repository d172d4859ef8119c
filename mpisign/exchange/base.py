"""What all exchanges share: chunks, the order of calls, and the numbers a run records.

A step calls, in this order,

    outgoing(voter, chunk)   the buffer into which a voter packs its message for the chunk
    send(chunk)              the message starts to travel
    verdicts(...)            waits, lets the vote absorb and decide, yields the direction chunk by chunk

An exchange fills in four hooks, in every file in this order: send, receive, publish, collect.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mpisign import bits
from mpisign.layout import TILE, WORD, Layout
from mpisign.messages import Ballots, Direction, Format
from mpisign.slots import Step, Vote
from mpisign.world import World


@dataclass
class VoteCounts:
    """Sums over coordinates; added over all ranks they count every coordinate once."""

    agreement: int = 0  # sum of |tally|
    ties: int = 0
    flips: int = 0  # signs of the verdict that differ from the step counted before


class Exchange:
    """How messages travel. Every exchange gives the same direction, bit for bit."""

    name: str
    raw = False  # carries raw floats
    shards = False  # counts only this rank's share of each chunk

    def __init__(self, world: World, layout: Layout, up: Format, vote: Vote, chunk: int):
        """chunk: coordinates of a chunk, rounded up to a multiple of 4096."""
        self.world, self.layout, self.vote = world, layout, vote
        self.up, self.down = up, vote.down(up, world.n)
        self.levels = vote.levels(up, world.n)
        size = max(-(-chunk // TILE) * TILE, TILE)
        self.chunks = [(lo, min(lo + size, layout.length)) for lo in range(0, layout.length, size)]
        self.decided = [self.down.empty(coordinates=hi - lo) for lo, hi in self.chunks]
        self.stretches = self.stretches_of(world.rank)
        self.state = vote.init(layout, sum(hi - lo for lo, hi, _ in self.stretches), world.n)
        self.counts = VoteCounts()
        self.before: Tensor | None = None  # words of the verdict counted before, over the whole vector; on rank 0
        self.prepare()

    def stretches_of(self, rank: int) -> list[tuple[int, int, int]]:
        """(lo, hi, at) of the coordinates a rank counts in each chunk; `at` counts on from chunk to chunk."""
        found, at = [], 0
        for lo, hi in self.chunks:
            start, end = self.share_of(rank, lo, hi)
            found.append((start, end, at))
            at += end - start
        return found

    def share_of(self, rank: int, lo: int, hi: int) -> tuple[int, int]:
        """The coordinates of [lo, hi) that a rank counts: all, unless the exchange shards them."""
        return lo, hi

    def verdicts(self, scales: np.ndarray | None, step: Step, counting: bool) -> Iterator[Direction]:
        """Finishes what send() started.

        scales: (voters, segments) float32, where messages have them. counting: whether to count
        agreement, ties and flips. Yields the direction of each chunk as soon as it is decided.
        """
        self.counts, decided = VoteCounts(), None
        up, down = self.bytes_a_step()
        self.world.traffic.up += up
        self.world.traffic.down += down
        if self.vote.shares:
            ballots = [self._absorb(c, scales, step) for c in range(len(self.chunks))]
            own = [self.vote.shared(b, self.state, step) for b in ballots]
            decided = self.vote.scales(self.assemble(own), self.layout)
            for c, ballot in enumerate(ballots):
                self._decide(c, ballot, decided, step, counting)
        else:
            for c in range(len(self.chunks)):
                self._decide(c, self._absorb(c, scales, step), None, step, counting)
        # every rank holds the same verdict, so one of them counts its flips
        flips, known = counting and not self.world.rank and self.down.planes in (1, 2), self.before is not None
        if flips and not known:
            self.before = torch.empty(self.layout.length // WORD, dtype=torch.int64)
        for c, (lo, hi) in enumerate(self.chunks):
            self.collect(c)
            if flips:
                self._count_flips(c, known)
            yield Direction(lo, hi, self.decided[c], self.levels, decided, self.vote.in_x)

    def _absorb(self, c: int, scales: np.ndarray | None, step: Step) -> Ballots:
        ballots = self.receive(c)
        ballots.scales = scales
        self.vote.absorb(ballots, self.state, step)
        return ballots

    def _decide(self, c: int, ballots: Ballots, scales: np.ndarray | None, step: Step, counting: bool) -> None:
        self.vote.verdict(ballots, scales, self.state, self.own_verdict(c), step)
        self.publish(c)
        if counting and not self.up.raw and (self.shards or self.world.rank == 0):
            agreement, ties = ballots.agreement()
            # pads are sign -1 from every voter, or abstentions (a tie) where there is a second plane
            pads = self.layout.pads(ballots.lo, ballots.hi)
            one_plane = self.up.planes == 1
            self.counts.agreement += agreement - (self.world.n * pads if one_plane else 0)
            self.counts.ties += ties - (0 if one_plane else pads)

    def _count_flips(self, c: int, known: bool) -> None:
        now, (lo, hi) = self.decided[c][0], self.chunks[c]
        before = self.before[lo // WORD : hi // WORD]
        for span in self.layout.spans(lo, hi) if known else ():
            self.counts.flips += bits.differing(now[span.words(lo)], before[span.words(lo)])
        before.copy_(now)

    # What an exchange fills in

    def prepare(self) -> None:
        """Allocates what travels."""

    def bytes_a_step(self) -> tuple[int, int]:
        """Bytes of words or floats that this rank sends in a step, up and down."""
        return 0, 0

    def drain(self) -> None:
        """Waits for what was sent in a step that ends without a verdict."""
        for c in range(len(self.chunks)):
            self.receive(c)

    def memory(self) -> int:
        """Bytes in this exchange's buffers and the vote's state."""
        held = [self.state.values(), *(v for v in vars(self).values() if isinstance(v, list))]
        return sum(t.nbytes for group in held for t in group if isinstance(t, Tensor))

    def outgoing(self, voter: int, c: int) -> Tensor:
        """The buffer (planes, items) for the message of the voter-th local voter in chunk c."""
        raise NotImplementedError

    def send(self, c: int) -> None:
        raise NotImplementedError

    def receive(self, c: int) -> Ballots:
        raise NotImplementedError

    def own_verdict(self, c: int) -> Tensor:
        """The buffer for the verdict on this rank's part of chunk c."""
        return self.decided[c]

    def publish(self, c: int) -> None:
        """Sends this rank's part of the verdict to everyone."""

    def collect(self, c: int) -> None:
        """Waits until self.decided[c] is whole."""

    def assemble(self, own: list[np.ndarray]) -> np.ndarray:
        """Tile sums of this rank's stretches as those of the whole vector, in coordinate order."""
        return np.concatenate(own) if own else np.zeros(0)
