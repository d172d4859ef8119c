"""An exchange as another package would write it: one rank counts for all, as a parameter server does."""

import numpy as np

from mpisign.algorithms.messages import Ballots
from mpisign.exchange.base import Exchange
from mpisign.exchange.late import MPI
from mpisign.exchange.registry import exchange


@exchange("hub")
class Hub(Exchange):
    """Igather of messages on rank 0, which counts all of them, and Ibcast of verdicts."""

    sharded = True

    @staticmethod
    def cost(s):
        return (s.n - 1) * s.message(s.up), (s.n - 1) * s.message(s.down)

    def shard_of(self, rank, lo, hi):
        return (lo, hi) if rank == 0 else (lo, lo)

    def prepare(self):
        self._out = self.messages(self.up)
        self._in = self.parts(self.up, self.world.n)
        self._nothing = self.verdict_of(0)

    def bytes_a_step(self):
        n, sent = self.world.n, sum(out.nbytes for out in self._out)
        return (0, (n - 1) * sum(own.nbytes for own in self.decided)) if self.world.rank == 0 else (sent, 0)

    def outgoing(self, voter, c):
        return self._out[c]

    def send(self, c):
        for out, gathered in zip(self._out[c], self._in[c], strict=True):
            into = gathered.numpy() if self.world.rank == 0 else None
            self._requests[c].append(self.world.comm.Igather(out.numpy(), into))

    def receive(self, c):
        self.collect(c)
        return Ballots(*self.shards[c], self.world.n, planes=self._in[c])

    def own_verdict(self, c):
        return self._nothing if self.world.rank else self.decided[c]

    def publish(self, c):
        self._requests[c] += [self.world.comm.Ibcast(plane.numpy()) for plane in self.decided[c]]

    def is_here(self, c):
        return MPI.Request.Testall(self._requests[c])

    def collect(self, c):
        self.wait(c, "the hub's messages")

    def gather_tiles(self, own):
        mine = np.concatenate(own)
        tiles = self.world.comm.bcast(mine if self.world.rank == 0 else None)
        self.world.traffic.down += mine.nbytes * (self.world.n - 1)  # what rank 0 sent; others have none
        return tiles
