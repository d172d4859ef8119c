"""`hierarchical`: a node's ranks count in shared memory what they packed there; counts travel between nodes, sharded.

    1. send     nothing travels: words are packed where all ranks of the node see them
    2. receive  each of a node's g ranks counts its part of the node's words into w(g) planes; the node's first rank
                sends them by Alltoall over N nodes, w(g) * (N-1)/N bits a coordinate and node; each rank adds up all
                nodes' counts of its part of the node's share, and the vote decides it
    3. publish  verdicts go into shared memory, and by Allgather to other nodes: (N-1)/N bits
    4. collect  everyone sees the whole verdict

Headers lie in the window beside the words where there is one node and all is packed before any is counted.

Nodes may have different numbers of ranks. Ranks of a node wait for each other by flags in shared memory that hold the
step at which something was last done. Counts and verdicts have a communicator each, since which of them is ready first
is a matter of time.
"""

import os
from functools import cached_property
from itertools import chain, count

import numpy as np

from mpisign import bits
from mpisign.algorithms.formats import Planes
from mpisign.algorithms.messages import Ballots, Tally
from mpisign.exchange.base import Exchange
from mpisign.exchange.costs import cut, grain_of
from mpisign.exchange.late import MPI
from mpisign.exchange.nodes import Shared, nodes_of
from mpisign.exchange.registry import exchange
from mpisign.exchange.schedule import Spread, message_sizes
from mpisign.exchange.staging import pin
from mpisign.layout import WORD

PUSH = 16  # looks at a flag for each call into MPI, where a rank has nothing of its own on its way
PACKED, COUNTED, CAME, DECIDED, HERE = range(5)  # what flags tell of a chunk: each rank's, or the first rank's


@exchange("hierarchical")
class Hierarchical(Exchange):
    """Counts inside a node through shared memory, sharded across nodes."""

    needs = frozenset({"counts", "pieces"})
    sharded = True
    gpu_aware = False

    @staticmethod
    def cost(s):
        """Every node sends its counts of all but its share up, and its share of the verdict to all other nodes."""
        up = down = 0
        for k, votes in enumerate(s.votes_of_nodes):
            for lo, hi in s.chunks:
                first, end = cut(lo, hi, grain_of(s.vote, s.up, s.down), len(s.nodes), k)
                up += s.up.planes * bits.width(votes) * (hi - lo - (end - first)) // 8
                down += s.down.planes * (end - first) * (len(s.nodes) - 1) // 8
        return up, down

    @staticmethod
    def schedule(s):
        shares, size = s.shares(len(s.nodes)), s.nodes[0]
        planes = {votes: Planes(s.up.planes * bits.width(votes)) for votes in set(s.votes_of_nodes)}
        up = {votes: message_sizes(form, shares, at_once=True) for votes, form in planes.items()}
        down = message_sizes(s.down, shares)
        return [
            Spread("counts", s.n, size, bytes_of=lambda node, to: up[s.votes_of_nodes[node]][:, to]),
            Spread("verdicts", s.n, size, bytes_of=lambda node, to: down[:, node]),
        ]

    @staticmethod
    def header_cost(s, size):
        """Nothing where headers lie in the memory of the only node."""
        return 0 if _together(s) else Exchange.header_cost(s, size)

    @classmethod
    def with_headers(cls, s, size):
        """Of one node nothing travels."""
        return cls.schedule(s) if _together(s) else super().with_headers(s, size)

    @classmethod
    def useful(cls, comm, node_size):
        return any(len(members) > 1 for members in nodes_of(comm, node_size).members)

    @property
    def prefetch(self):
        return _prefetch(self.chunks, self.up)

    @cached_property
    def _nodes(self):
        return nodes_of(self.world.comm, self.node_size)

    def prepare(self):
        nodes, chunks = self._nodes, range(len(self.chunks))
        self._g, self._local, self._several = nodes.node.Get_size(), nodes.node.Get_rank(), len(nodes.members) > 1
        # of each node's counts: of +1, and where voters may abstain of -1 as well
        self._planes = [self.up.planes * bits.width(self.vote.votes_of(members)) for members in nodes.members]
        # words of every node's share of each chunk: (first, end) in the chunk
        self._shares = [
            [self._words(c, self._share(k, *self.chunks[c])) for k in range(len(nodes.members))] for c in chunks
        ]
        self._own_share = [share[nodes.index] for share in self._shares]
        self._last = None if self._several else self.last_before_header
        self.carries = self._last is not None
        self._allocate(self._planes[nodes.index])
        self._own = [self.verdict_of(hi - lo) for lo, hi, _ in self.shards]
        self._turn = 0
        self._going_up, self._going_down = {}, {}

    def _allocate(self, planes):
        """Arrays in the node's window: all ranks' messages, the node's counts, all nodes' counts, and the verdict.

        planes: of the node's counts.
        """
        words = [(hi - lo) // WORD for lo, hi in self.chunks]
        shares = [end - start for start, end in self._own_share]
        messages = [(self.up.planes, self._g, w) for w in words]
        counts = [(planes * w,) for w in words] if self._several else []
        came = [(sum(self._planes) * w,) for w in shares] if self._several else []
        verdicts = [(self.down.planes, w) for w in words]
        sizes = [self.held(shapes) for shapes in (messages, counts, came)] + [[p * w for p, w in verdicts]]
        headers = 2 * self._g * self.header if self.carries else 0
        flags = 5 * len(words) * self._g
        self._window = Shared(self.world.comm, self._nodes.node, [*chain(*sizes), headers], flags)
        if self.layout.device.type != "cpu":
            pin(self, self._window.whole)
        arrays = iter(self._window.arrays)
        messages_held, counts_held, came_held, whole = ([next(arrays) for _ in part] for part in sizes)
        self._messages = self.cut_into(messages_held, messages)
        self._out = [message[:, self._local] for message in self._messages]
        self._counts, self._came = self.cut_into(counts_held, counts), self.cut_into(came_held, came)
        self.decided = [flat.view(shape) for flat, shape in zip(whole, verdicts, strict=True)]
        # this rank's share of all messages, and of the verdict
        words = [slice(*self._words(c, self.shards[c][:2])) for c in range(len(self.chunks))]
        self._share_of = [message[:, :, w] for message, w in zip(self._messages, words, strict=True)]
        self._decided_here = [whole[:, w] for whole, w in zip(self.decided, words, strict=True)]
        # of two steps: who is ahead may send its next header before others have read this one, but no later one
        self._headers = next(arrays).numpy().view(np.float64).reshape(2, self._g, -1)

    def shard_of(self, rank, lo, hi):
        index, members = next((k, m) for k, m in enumerate(self._nodes.members) if rank in m)
        start, end = self._share(index, lo, hi)
        return cut(start, end, grain_of(self.vote, self.up, self.down), len(members), members.index(rank))

    def _share(self, node, lo, hi):
        return cut(lo, hi, grain_of(self.vote, self.up, self.down), len(self._nodes.members), node)

    def _words(self, c, shard):
        lo = self.chunks[c][0]
        return (shard[0] - lo) // WORD, (shard[1] - lo) // WORD

    def bytes_a_step(self):
        if not self._nodes.up or not self._several:
            return 0, 0
        planes, own = self._planes[self._nodes.index], [end - start for start, end in self._own_share]
        whole = sum((hi - lo) // WORD for lo, hi in self.chunks)
        return 8 * planes * (whole - sum(own)), 8 * self.down.planes * sum(own) * (len(self._planes) - 1)

    def open(self, counting):
        super().open(counting)
        self._turn += 1
        self._sent = self._counted = self._posted = self._gathered = 0

    def outgoing(self, voter, c):
        if c >= self.in_flight and not self._several:
            # of a single node, others may still be reading what is about to be packed over
            before = c - self.in_flight
            self._until(lambda: self._raised(DECIDED, before), f"the node's verdicts on chunk {before}")
        return self._out[c]

    # 1. send
    def send(self, c):
        if c != self._last:
            self._tell(c)

    def _tell(self, c):
        self._raise(PACKED, c)
        self._sent = c + 1

    def start_header(self, rows):
        self._headers[self._turn % 2, self._local] = rows[0]
        self._tell(self._last)

    def finish_header(self):
        self._until(lambda: self._counted > self._last, "the node's words and headers")
        return self._headers[self._turn % 2].copy()

    # 2. receive
    def receive(self, c):
        self._until(lambda: self._counted > c, f"the node's words of chunk {c}")
        lo, hi, _ = shard = self.shards[c]
        if not self._several:
            return Ballots(*shard, self.world.n, planes=self._share_of[c])
        self._until(lambda: self._raised(CAME, c, 1), f"the counts of chunk {c} from other nodes")
        return Ballots(*shard, self.world.n, counted=self._added_up(c, self._words(c, (lo, hi))))

    def _work(self):
        """Counts what all ranks of the node have packed, in order of chunks, and sends on what all have counted."""
        while self._counted < self._sent and self._raised(PACKED, self._counted):
            if self._several:
                self._count(self._counted)
            self._counted += 1
        self._advance()

    def _count(self, c):
        """Counts this rank's part of every node's share of chunk c."""
        whole, planes = self._messages[c], self._planes[self._nodes.index]
        weights = self.vote.weights_of(self._nodes.members[self._nodes.index])
        for start, end in self._shares[c]:
            block = self._counts[c][planes * start : planes * end].view(planes, end - start)
            lo, hi = cut(start, end, 1, self._g, self._local)
            tally = Ballots(0, 0, 0, self._g, planes=whole[:, :, lo:hi], weights=weights, scratch=self.scratch).tally
            block[: len(tally.plus), lo - start : hi - start] = tally.plus
            if tally.minus is not None:
                block[len(tally.plus) :, lo - start : hi - start] = tally.minus
        self._raise(COUNTED, c)

    def _added_up(self, c, words):
        """The tally of all voters for some words of the chunk, which lie in this node's share."""
        sets, at = self.up.planes, 0
        start, end = self._own_share[c]
        total = [
            self.scratch(name, bits.width(self.votes), words[1] - words[0]).zero_()
            for name in ("all plus", "all minus")[:sets]
        ]
        for planes in self._planes:
            size = planes * (end - start)
            block = self._came[c][at : at + size].view(sets, planes // sets, end - start)
            for counts, more in zip(total, block, strict=True):
                bits.add(counts, more[:, words[0] - start : words[1] - start])
            at += size
        return Tally(total[0], total[1] if total[1:] else None, self.votes)

    def own_verdict(self, c):
        return self._own[c]

    # 3. publish
    def publish(self, c):
        self._decided_here[c].copy_(self._own[c])
        self._raise(DECIDED, c)
        self._advance()

    # 4. collect
    def has_come(self, c):
        self._work()
        return self._counted > c and (not self._several or self._raised(CAME, c, 1))

    def is_here(self, c):
        self._advance()
        return self._raised(HERE, c, 1) if self._several else self._raised(DECIDED, c)

    def collect(self, c):
        self._until(lambda: self.is_here(c), f"the verdict of chunk {c}")

    def progress(self):
        self._work()
        if self._several or len(self.chunks) > 1:  # of a node's only chunk nobody has been told yet
            super().progress()

    # Between nodes: what the first rank of a node does whenever it is asked

    def _advance(self):
        """Posts what all ranks of the node have made ready, in order of chunks, and tells them of what has come."""
        if not self._several or not self._nodes.up:
            return
        while self._posted < self._sent and self._raised(COUNTED, self._posted):
            self._going_up[self._posted] = self._send_counts(self._posted)
            self._posted += 1
        while self._gathered < self._posted and self._raised(DECIDED, self._gathered):
            self._going_down[self._gathered] = self._send_verdicts(self._gathered)
            self._gathered += 1
        for going, flag in ((self._going_up, CAME), (self._going_down, HERE)):
            for c in [c for c, requests in going.items() if MPI.Request.Testall(requests)]:
                del going[c]
                self._raise(flag, c)

    def _send_counts(self, c):
        own, (start, end) = self._planes[self._nodes.index], self._own_share[c]
        out = [own * (last - first) for first, last in self._shares[c]]
        into = [planes * (end - start) for planes in self._planes]
        sides = [
            [array.numpy(), (sizes, _places(sizes)), MPI.INT64_T]
            for array, sizes in ((self._counts[c], out), (self._came[c], into))
        ]
        return [self._nodes.up.Ialltoallv(*sides)]

    def _send_verdicts(self, c):
        sizes = [last - first for first, last in self._shares[c]]
        places = [first for first, _ in self._shares[c]]
        return [
            self._nodes.down.Iallgatherv(MPI.IN_PLACE, [plane, (sizes, places), MPI.INT64_T])
            for plane in self.decided[c].numpy()
        ]

    # Flags

    def _raise(self, kind, c):
        self._window.raise_flag(self._flag(kind, c) + (self._local if kind not in (CAME, HERE) else 0), self._turn)

    def _raised(self, kind, c, count=0):
        return self._window.raised(self._flag(kind, c), count or self._g, self._turn)

    def _flag(self, kind, c):
        return (kind * len(self.chunks) + c) * self._g

    def _until(self, ready, what):
        self._work()
        if ready():
            return
        with self.world.watch(what):
            for turn in count():
                if ready():
                    break
                # only a first rank among several nodes has something on its way; what was sent before needs a push
                self._work()
                if (self._several and self._nodes.up) or turn % PUSH == PUSH - 1:
                    super().progress()
                else:
                    os.sched_yield()

    def memory(self):
        # the window belongs to all ranks of the node
        window = [self._messages, self._counts, self._came, self.decided]
        held = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for some in window for t in some}
        return super().memory() - sum(held.values()) + self._window.nbytes // self._g

    @property
    def shared(self):
        return self._window.nbytes

    def close(self):
        views = (self._out, self._share_of, self._decided_here)
        for some in (self._messages, self._counts, self._came, self.decided, *views):
            some.clear()
        del self._headers
        self._window.close()


def _prefetch(chunks, up):
    """Messages on their way before the first is counted: of more planes than one, what memory allows."""
    return len(chunks) if up.planes == 1 else 8


def _together(s):
    """Whether headers lie in the only node's window, as all chunks are packed before one is counted."""
    return len(s.nodes) == 1 and len(s.chunks) <= _prefetch(s.chunks, s.up)


def _places(sizes):
    return [sum(sizes[:k]) for k in range(len(sizes))]
