"""What all exchanges share: chunks, the order of calls, and the numbers a run records.

A step calls, in this order,

    open(counting)              a step begins
    packed_into(voter, chunk)   the buffer into which a voter packs its message for the chunk
    send_chunk(chunk)           the message starts to travel
    verdicts(...)               waits, lets the vote absorb and decide, yields the direction chunk by chunk

A chunk is packed while others travel, and applied while others are counted: `in_flight` of them are sent before the
first is waited for, and whoever waits for one lets all of them proceed. Buffers of messages are used again after
`in_flight` chunks. Where a step is `alone` one message, that goes with its header, outgoing(), send() and
decided_at_once() take the place of the last three. An exchange fills in hooks, in every file in this order: outgoing,
send, receive, publish, collect.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from mpisign import bits
from mpisign.algorithms.formats import Format, of_method
from mpisign.algorithms.messages import Ballots, Direction, Scratch
from mpisign.algorithms.slots import Step, Vote
from mpisign.errors import NumericalError, UsageError
from mpisign.exchange import costs
from mpisign.exchange.arrays import Arrays
from mpisign.exchange.decoding import Decoding, looked_at
from mpisign.exchange.late import library_of
from mpisign.exchange.schedule import Doubling, Phase
from mpisign.exchange.staging import Staging
from mpisign.layout import WORD, Layout
from mpisign.parallel.device import synchronize
from mpisign.parallel.world import World


@dataclass
class VoteCounts:
    """Sums over coordinates; added over all ranks they count every coordinate once."""

    agreement: int = 0  # sum of |tally|
    ties: int = 0
    flips: int = 0  # signs of the verdict that differ from the step counted before


class MessageHook(Protocol):
    """Lying voters: run/adversary.py has one."""

    def tamper(self, exchange: "Exchange", c: int) -> None:
        """Changes what lying local voters packed for chunk c; all ranks call it in the same order."""

    def inflate(self, scales: list[np.ndarray]) -> list[np.ndarray]:
        """The scales (segments,) that local voters announce, given the honest ones."""


class VerdictHook(Protocol):
    """Sees what departs and what was decided; run/probe.py has one."""

    def sending(self, exchange: "Exchange", c: int) -> None:
        """Local voters' messages for chunk c lie in exchange.packed_into, as they will be sent."""

    def decided(self, direction: Direction) -> None:
        """A chunk's verdict."""


class Exchange(Arrays):
    """How messages travel. Every exchange gives the same direction, bit for bit."""

    name: str
    raw: ClassVar[bool] = False  # whether it carries raw floats, or else words
    # of messages: "counts", that they may be added up on their way; "pieces", that each rank may get a part of them
    needs: ClassVar[frozenset[str]] = frozenset()
    sharded: ClassVar[bool] = False  # whether each rank counts only its share of each chunk
    even: ClassVar[bool] = False  # whether that share is one of n alike, so that what a vote keeps can go to another
    gpu_aware: ClassVar[bool] = True  # whether MPI may be given memory of a GPU
    prefetch = 2  # messages on their way before the first is counted
    shared = 0  # bytes of memory that the ranks of this node share
    progress_engine = None  # what lets messages proceed, where any travel: a progress.ProgressEngine
    on_groups: ClassVar[bool] = False  # whether it takes what is MPI's from `library`, where torch may stand in for it
    alone = False  # whether all of a step is one message, that goes with the header and is counted by every rank
    carries = False  # whether it takes headers along: the world's start_header() and finish_header() are then its own

    @staticmethod
    def cost(s: costs.Sizes) -> tuple[int, int]:
        """Bytes that all ranks together send in a step, up and down, by formula: what a simulation counts."""
        raise NotImplementedError

    @staticmethod
    def schedule(s: costs.Sizes) -> list[Phase]:
        """Who sends what to whom in a step, headers apart: what a projection simulates."""
        raise NotImplementedError

    @classmethod
    def with_headers(cls, s: costs.Sizes, size: int) -> list[Phase]:
        """The schedule with each rank's header of so many bytes, here a message of its own behind the first ones."""
        first, *others = cls.schedule(s)
        return [first, Doubling("headers", s.n, each=size), *others]

    @classmethod
    def parts_of(cls, n: int) -> int:
        """Ranks of n that a chunk is cut among at once: a message is such a part of it."""
        return n if cls.sharded else 1

    @staticmethod
    def header_cost(s: costs.Sizes, size: int) -> int:
        """Bytes that all ranks together send for their headers of so many bytes each, by formula."""
        return s.n * (s.n - 1) * size

    @classmethod
    def useful(cls, comm, node_size: int) -> bool:
        """Whether "auto" should try it on these ranks. Collective."""
        return True

    def __init__(
        self,
        world: World,
        layout: Layout,
        up: Format,
        vote: Vote,
        chunk: int,
        reverse: bool = False,
        node_size: int = 0,
        staged: bool = False,
        header: int = 0,
    ):
        """chunk: coordinates of a chunk, rounded up to a multiple of 4096. reverse: the last one travels first.

        node_size: ranks of a node, where nodes are not the hosts. staged: whether messages and verdicts lie on the
        host, whatever the layout's device. header: float64 numbers of each voter that it may take along.
        """
        self.world, self.layout, self.vote, self.node_size, self.header = world, layout, vote, node_size, header
        self.library = library_of(world)  # MPI, or what stands in for it
        self.device = torch.device("cpu") if staged else layout.device  # of messages, verdicts and the vote's arrays
        self.votes, self._weights = vote.votes_of(world.voters), vote.weights_of(world.voters)  # n, () if all are alike
        self.up, self.down = up, vote.down(up, self.votes)
        self.method_bits = of_method(layout, self.up, self.down, world.n)  # of all ranks in a step, up and down
        few = self.device.type == "cpu" and self.votes <= bits.AT_ONCE
        self._plain = few and self.up.planes == 1 and not (self.up.coded or self._weights)
        self.levels = vote.levels(up, self.votes)
        self.chunks = costs.chunks_of(layout.length, chunk, up)
        if reverse:
            self.chunks.reverse()
        # verdicts are published before all messages are sent where steps overlap with gradients, each rank in its time
        self.overlapped = reverse
        self.decided = [self.verdict_of(hi - lo) for lo, hi in self.chunks]
        self.guarded = looked_at(self.up, self.down)
        self._decode = Decoding(self.down, layout, self.chunks, self.array)
        self.shards = self.shards_of(world.rank)
        state = vote.init(layout, sum(hi - lo for lo, hi, _ in self.shards), world.n)
        self.state = {name: array.to(self.device) for name, array in state.items()}
        self.counts, self.scratch = VoteCounts(), Scratch(self.device)
        self.adversary: MessageHook | None = None  # changes what some voters packed, before it departs
        self.probe: VerdictHook | None = None  # sees what departs and what was decided
        self.before: Tensor | None = None  # words of the verdict counted before, over the whole vector; on rank 0
        self._requests: list[list[Any]] = [[] for _ in self.chunks]  # of MPI, that are on their way
        self.prepare()
        self.staging = None
        if staged:
            shapes = [self.up.shape(coordinates=hi - lo) for lo, hi in self.chunks]
            self.staging = Staging(shapes, self.up.dtype, self._decode.arrays or self.decided, layout.device)
        self.at_once = self.alone and not (staged or self.guarded or vote.shares)  # see decided_at_once
        self._copying: int | None = None  # the chunk that is on its way to the host

    def shards_of(self, rank: int) -> list[tuple[int, int, int]]:
        """(lo, hi, at) of the coordinates a rank counts in each chunk; `at` counts on from chunk to chunk."""
        shards, at = [], 0
        for lo, hi in self.chunks:
            start, end = self.shard_of(rank, lo, hi)
            shards.append((start, end, at))
            at += end - start
        return shards

    def shard_of(self, rank: int, lo: int, hi: int) -> tuple[int, int]:
        """The coordinates of [lo, hi) that a rank counts: all, unless the exchange shards them."""
        return lo, hi

    def verdicts(
        self, step: Step, post: Callable[[int], None], agree: Callable[[], np.ndarray | None]
    ) -> Iterator[Direction]:
        """Finishes what send() started for the chunks of `initial_chunks`, and sees to all others.

        post: packs and sends the message of a chunk. agree: waits for all headers and returns the scales
        (voters, segments) float32, if messages have them; raises where a header says so, after drain(). Yields the
        direction of each chunk, in order, once it is decided and here; what lies behind it is then still on its way.
        """
        scales = agree() if (early := self._waits) else None
        for c in range(self._absorbed, len(self.chunks)):
            ballots = self._absorb(c, scales, step)
            if not self.vote.shares:
                self._decide(c, ballots, step)
            if c + self.in_flight < len(self.chunks):
                post(c + self.in_flight)  # into the buffers of the messages just counted
                self.flush()
            if not early and c == self.initial_chunks[-1]:
                agree()
            if not self.vote.shares and (early or c >= self.initial_chunks[-1]):
                yield from self._arrived(c + 1, step)
        if self.vote.shares:
            self._shared = self.vote.scales(self.gather_tiles(self._tiles), self.layout)
            for c in range(len(self.chunks)):
                self._decide(c, Ballots(*self.shards[c], self.world.n, scratch=self.scratch), step)
                yield from self._arrived(c + 1, step)
        if self.guarded:
            yield from self._looked_at(step)
        else:
            yield from self._arrived(len(self.chunks), step, wait=True)
        if self.progress_engine:
            self.progress_engine.pause()

    @cached_property
    def _waits(self) -> bool:
        """Whether headers must be in before a message is counted.

        They travel behind the first messages, which a vote that keeps nothing counts while it waits.
        """
        return self.up.scaled or self.up.varies or self.vote.shares or self.vote.stateful

    @property
    def watched(self) -> bool:
        """Whether somebody looks at messages, or changes them."""
        return bool(self.adversary or self.probe)

    @property
    def collected(self) -> bool:
        """Whether all verdicts of this step have come."""
        return self._done == len(self.chunks)

    def open(self, counting: bool) -> None:
        """Begins a step. counting: whether to count agreement, ties and flips."""
        self.counts, self._shared, self._tiles = VoteCounts(), None, []
        self._absorbed = self._published = self._done = 0
        # of what each rank counts in whole, the first one tells
        self._counting = counting and self.up.signs and (self.sharded or not self.world.rank)
        self.world.count_step(self._bytes_a_step, (0, 0) if self.up.varies else self.method_bits)
        # every rank holds the same verdict, so one of them counts its flips
        self._flips = counting and not self.world.rank and self.down.planes in (1, 2)
        self._known = self.before is not None
        if self._flips and not self._known:
            self.before = torch.empty(self.layout.length // WORD, dtype=torch.int64, device=self.device)

    def packed_into(self, voter: int, c: int) -> Tensor:
        """Where the voter-th local voter packs its message (planes, items) for chunk c: on the layout's device."""
        return self.staging.messages[c] if self.staging else self.outgoing(voter, c)

    def send_chunk(self, c: int) -> None:
        """Sends what was packed for chunk c, once it is where MPI takes it from.

        Where words are staged, a chunk is sent when the next one departs, or by flush(): so one is packed while
        another is copied, and every rank sends in the same order.
        """
        if self.adversary:
            self.adversary.tamper(self, c)
        if self.probe:
            self.probe.sending(self, c)
        if self.staging:
            self.staging.to_host(c, self.outgoing(0, c))
            self.flush()
            self._copying = c
        else:
            synchronize(self.device)
            self.send(c)

    def flush(self) -> None:
        """Sends the chunk that is still on its way to the host, if any."""
        if self._copying is not None:
            c, self._copying = self._copying, None
            self.staging.wait_for(c)
            self.send(c)

    def progress(self) -> None:
        """Lets messages that are on their way move on."""
        if self.progress_engine:
            self.progress_engine.progress()

    def count_ahead(self, step: Step, sent: int) -> None:
        """Counts and decides what has come of the first `sent` chunks, without waiting, if the vote allows it."""
        self.flush()
        while not self._waits and self._absorbed < min(sent, self.initial_chunks[-1]) and self.has_come(self._absorbed):
            c = self._absorbed
            self._decide(c, self._absorb(c, None, step), step)

    def decided_at_once(self, scales: np.ndarray | None, step: Step) -> Direction:
        """What verdicts() yields where the only message has come with its header: for exchanges that are `at_once`."""
        self._decide(0, self._absorb(0, scales, step), step)
        (direction,) = self._arrived(1, step, wait=True)
        return direction

    def _absorb(self, c: int, scales: np.ndarray | None, step: Step) -> Ballots:
        ballots = self.receive(c)
        self._absorbed = c + 1
        ballots.scales, ballots.scratch, ballots.form, ballots.step = scales, self.scratch, self.up, step
        ballots.weights, ballots.counting = self._weights, self._counting
        ballots.plain = self._plain and ballots.counted is None
        if ballots.counted and ballots.counted.votes != self.votes:
            raise UsageError(f"exchange {self.name} counts voters without their weights; take another", agreed=True)
        self.vote.absorb(ballots, self.state, step)
        if self.vote.shares:
            self._tiles.append(self.vote.shared(ballots, self.state, step))
            self._count_agreement(ballots)
        return ballots

    def _decide(self, c: int, ballots: Ballots, step: Step) -> None:
        self.vote.verdict(ballots, self._shared, self.state, self.own_verdict(c), step)
        synchronize(self.device)
        self.publish(c)
        self._published = c + 1
        if not self.vote.shares:
            self._count_agreement(ballots)

    def _arrived(self, end: int, step: Step, wait: bool = False) -> Iterator[Direction]:
        """The directions of chunks up to `end` that are here, or, if told to wait, all of them."""
        while self._done < end and not self.guarded and (wait or self.is_here(self._done)):
            c, self._done = self._done, self._done + 1
            self.collect(c)
            if self._flips:
                self._count_flips(c, self._known)
            told = self._decode(c, self.decided[c], step) if self.down.coded else self.decided[c]
            verdict = self.staging.to_device(c, told) if self.staging else told
            yield self._direction(c, verdict)

    def _direction(self, c: int, verdict: Tensor) -> Direction:
        direction = Direction(*self.chunks[c], verdict, self.levels, self._shared, self.vote.in_x)
        if self.probe:
            self.probe.decided(direction)
        return direction

    def _looked_at(self, step: Step) -> Iterator[Direction]:
        """All directions, as floats, once all of them are here.

        Raises NumericalError if one is not finite: on all ranks, which hold the same verdicts.
        """
        for c in range(len(self.chunks)):
            self.collect(c)
            if self.down.coded:
                self._decode(c, self.decided[c], step)
        self._done = len(self.chunks)
        verdicts = self._decode.arrays or self.decided
        for (lo, _), verdict in zip(self.chunks, verdicts, strict=True):
            if (bad := bits.first_nonfinite(verdict[0])) >= 0:
                raise NumericalError(
                    f"what arrived for parameter {self.layout.name_of(lo + bad)} is {float(verdict[0, bad])} at step "
                    f"{step.t}: a norm, a value or an index that a voter sent is none; all ranks stop, x is as it was "
                    "before the step. Lower schedule.lr, or set algorithm.clip",
                    agreed=True,
                )
        for c, verdict in enumerate(verdicts):
            yield self._direction(c, self.staging.to_device(c, verdict) if self.staging else verdict)

    def _count_agreement(self, ballots: Ballots) -> None:
        if not self._counting:
            return
        agreement, ties = ballots.agreement()
        # pads are sign -1 from every voter, or abstentions (a tie) where there is a second plane
        pads = self.layout.pads(ballots.lo, ballots.hi)
        one_plane = self.up.planes == 1
        self.counts.agreement += agreement - (self.votes * pads if one_plane else 0)
        self.counts.ties += ties - (0 if one_plane else pads)

    def _count_flips(self, c: int, known: bool) -> None:
        now, (lo, hi) = self.decided[c][0], self.chunks[c]
        before = self.before[lo // WORD : hi // WORD]
        if known:
            self.counts.flips += bits.differing_parts(now, before, self.layout.parts(lo, hi), lo)
        before.copy_(now)

    @cached_property
    def in_flight(self) -> int:
        """Messages on their way before the first is counted: all of them where they are sent while gradients come."""
        return len(self.chunks) if self.overlapped else self.prefetch

    @cached_property
    def initial_chunks(self) -> range:
        """The chunks that travel before any is waited for."""
        return range(min(self.in_flight, len(self.chunks)))

    @cached_property
    def last_before_header(self) -> int | None:
        """The chunk with which a header can go, as nothing is packed after it and nothing leaves before the header."""
        whole = 0 < len(self.chunks) == len(self.initial_chunks) and not self.overlapped
        return len(self.chunks) - 1 if whole and self.header and not self.up.varies else None

    # What an exchange fills in

    def prepare(self) -> None:
        """Allocates what travels."""

    def bytes_a_step(self) -> tuple[int, int]:
        """Bytes of words or floats that this rank sends in a step, up and down."""
        return 0, 0

    @cached_property
    def _bytes_a_step(self) -> tuple[int, int]:
        return self.bytes_a_step()

    def start_header(self, rows: np.ndarray) -> None:
        """As the world's, of one that carries headers: all messages of initial_chunks are packed."""
        raise NotImplementedError

    def finish_header(self) -> np.ndarray:
        """As the world's."""
        raise NotImplementedError

    def drain(self) -> None:
        """Waits for all that is on its way, in a step that ends without moving x."""
        for c in self.initial_chunks[self._absorbed :]:
            self.receive(c)
        for c in range(self._published):
            self.collect(c)
        if self.progress_engine:
            self.progress_engine.pause()

    def close(self) -> None:
        """Gives back what is not just memory of this process; collective. The exchange is then of no more use."""

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

    def has_come(self, c: int) -> bool:
        """Whether receive(c) would not wait."""
        return False

    def is_here(self, c: int) -> bool:
        """Whether collect(c) would not wait."""
        return True

    def collect(self, c: int) -> None:
        """Waits until self.decided[c] is whole."""

    def gather_tiles(self, own: list[np.ndarray]) -> np.ndarray:
        """Tile sums of this rank's shards as those of the whole vector, in coordinate order."""
        return np.concatenate(own) if own else np.zeros(0)

    def bytes_foretold(self) -> int:
        """Bytes that this rank sends in a step, both ways; of messages whose length varies, on average."""
        if not self.up.varies:
            return sum(self.bytes_a_step())
        words = 2 + self.up.cost(self.layout.size) // 64
        return 8 * words * len(self.world.local) * (self.world.n - 1)

    def count_lengths(self, lengths: Sequence[int]) -> None:
        """Counts messages whose length varies: every local voter's goes to all others, its length in a word before it.

        lengths: words of all voters' messages, in their order.
        """
        n = self.world.n
        sent = sum(8 * (1 + lengths[self.world.voters.index(voter)]) for voter in self.world.local) * (n - 1)
        # a word of each message is the number of its entries, which is no part of the method
        self.world.count_step((sent, 0), (64 * (n - 1) * sum(length - 1 for length in lengths), 0))

    def wait(self, c: int, what: str) -> None:
        """Waits for the requests of chunk c. what: their kind, for a message that they have not ended."""
        with self.world.watch(f"the {what} of chunk {c}"):
            self.library.Request.Waitall(self._requests[c])
        self._requests[c].clear()
