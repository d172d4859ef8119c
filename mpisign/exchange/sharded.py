"""`sharded` (and `dense`, the same way for raw floats): every rank counts its share of each chunk.

    1. send     Alltoall: rank r gets everyone's message for its share      (n-1)/n * up bits per coordinate
    2. receive  r holds n messages for its share; the vote decides it
    3. publish  Allgather of the verdicts                                   (n-1)/n * down bits
    4. collect  everyone holds the whole verdict

2(n-1)/n bits for a one-bit vote is the least known for an exact majority. Floats are summed in voter
order by one rank for each coordinate, so `dense` promises the bits that a library's all-reduce does not.
"""

import numpy as np

from mpisign.algorithms.messages import Ballots
from mpisign.exchange.base import Exchange
from mpisign.exchange.costs import cut, grain_of
from mpisign.exchange.registry import exchange
from mpisign.exchange.schedule import Spread, message_sizes
from mpisign.exchange.staging import buffer
from mpisign.layout import TILE


@exchange("sharded")
class Sharded(Exchange):
    """Alltoall of words, count, Allgather of verdicts."""

    needs = frozenset({"pieces"})
    sharded = even = on_groups = True

    @staticmethod
    def cost(s):
        """Every rank sends all but its share up, and its share of the verdict to all others."""
        return (s.n - 1) * s.message(s.up), (s.n - 1) * s.message(s.down)

    @staticmethod
    def schedule(s):
        shares = s.shares(s.n)
        up, down = message_sizes(s.up, shares), message_sizes(s.down, shares)
        # of the sums that a scaled verdict needs there is one per tile; tensors that end within one add to that
        tiles = np.sum(-(-np.array(shares) // TILE), axis=0, keepdims=True) * 8
        return [
            Spread("messages", s.n, bytes_of=lambda rank, to: up[:, to]),
            *([Spread("tile sums", s.n, bytes_of=lambda rank, to: tiles[:, rank])] if s.vote.shares else ()),
            Spread("verdicts", s.n, bytes_of=lambda rank, to: down[:, rank]),
        ]

    @property
    def prefetch(self):
        # all of one plane: then packing takes the search for NaN along; of more, what memory allows
        return len(self.chunks) if self.up.planes == 1 else 8

    def prepare(self):
        n = self.world.n
        self._down = self.world.second_comm if self.overlapped else self.world.comm
        self._shards = [[self.shard_of(r, lo, hi) for r in range(n)] for lo, hi in self.chunks]
        self._up_parts = [self._parts(c, self.up) for c in range(len(self.chunks))]
        self._down_parts = [self._parts(c, self.down) for c in range(len(self.chunks))]
        self._out, self._in = self.messages(self.up), self.parts(self.up, n)
        # verdicts may travel for long after the messages they were made of
        self._own = [self.verdict_of(hi - lo) for lo, hi, _ in self.shards]

    def bytes_a_step(self):
        others = self.world.n - 1
        kept = sum(buffer.nbytes for buffer in self._in) // self.world.n
        up = sum(buffer.nbytes for buffer in self._out) - kept  # a view a chunk: those of the whole vector
        return up, others * sum(buffer.nbytes for buffer in self._own)

    def shard_of(self, rank, lo, hi):
        return cut(lo, hi, grain_of(self.vote, self.up, self.down), self.world.n, rank)

    def _parts(self, c, form):
        """Counts and displacements, in items of chunk c, of every rank's share."""
        counts = [form.items(hi - lo) for lo, hi in self._shards[c]]
        return counts, [sum(counts[:r]) for r in range(len(counts))]

    def _type(self, form):
        return self.library.FLOAT if form.raw else self.library.INT64_T

    def outgoing(self, voter, c):
        return self._out[c]

    # 1. send
    def send(self, c):
        counts, places = self._up_parts[c]
        own, n, kind = counts[self.world.rank], self.world.n, self._type(self.up)
        for out, into in zip(self._out[c], self._in[c], strict=True):
            request = self.world.comm.Ialltoallv(
                [buffer(out), (counts, places), kind], [buffer(into), ([own] * n, [own * r for r in range(n)]), kind]
            )
            self._requests[c].append(request)

    # 2. receive
    def receive(self, c):
        self.wait(c, "Ialltoallv of messages")
        return Ballots(*self.shards[c], self.world.n, planes=self._in[c])

    def own_verdict(self, c):
        return self._own[c]

    # 3. publish
    def publish(self, c):
        kind = self._type(self.down)
        for own, whole in zip(self._own[c], self.decided[c], strict=True):
            request = self._down.Iallgatherv([buffer(own), kind], [buffer(whole), self._down_parts[c], kind])
            self._requests[c].append(request)

    # 4. collect
    def is_here(self, c):
        return self.library.Request.Testall(self._requests[c])

    has_come = is_here

    def collect(self, c):
        self.wait(c, "Iallgatherv of verdicts")

    def gather_tiles(self, own):
        mine = np.concatenate(own)
        counts = [sum(self.layout.tiles(*share[r]).shape[1] for share in self._shards) for r in range(self.world.n)]
        gathered = np.empty(sum(counts))
        with self.world.watch("the Allgatherv of tile sums"):
            self.world.comm.Allgatherv(mine, [gathered, counts])
        self.world.traffic.down += mine.nbytes * (self.world.n - 1)
        # ranks sent their tiles chunk by chunk; the whole vector wants chunk by chunk, rank by rank
        parts, places = [], [sum(counts[:r]) for r in range(self.world.n)]
        for share in self._shards:
            for r, (lo, hi) in enumerate(share):
                size = self.layout.tiles(lo, hi).shape[1]
                parts.append(gathered[places[r] : places[r] + size])
                places[r] += size
        return np.concatenate(parts)


@exchange("dense")
class Dense(Sharded):
    """Raw floats the same way: Alltoall, sum in voter order, Allgather."""

    raw = True
