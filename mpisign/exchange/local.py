"""`local`: all voters live in this process, one or many; nothing travels.

Bytes are counted as the exchange `imitates` would send them, so a simulation's run file tells what mpirun's would.
"""

import numpy as np
from torch import Tensor

from mpisign.algorithms.messages import Ballots
from mpisign.exchange.base import Exchange
from mpisign.exchange.costs import Sizes

Chunks = list[tuple[int, int]]


class Local(Exchange):
    """Counts what the voters of this process packed."""

    name = "local"
    raw = True

    def __init__(
        self, *arguments, imitates: type[Exchange] | None = None, shards: list[Chunks] | None = None, **options
    ):
        """shards: the chunks of each, where a voter would be several ranks that have a shard of x each."""
        self.imitates, self._shards = imitates, shards
        super().__init__(*arguments, **options)

    @property
    def prefetch(self):
        # nothing travels, so nothing is waited for; but what is packed before headers has been searched for NaN
        return len(self.chunks) if self.world.n == 1 and self.up.planes else 1

    def prepare(self):
        self._messages = self.messages(self.up, len(self.world.local))
        self._of_voters = [message.unbind(1) for message in self._messages]
        about = self.up, self.down, self.vote, self.world.n, self.node_size
        sizes = [Sizes(chunks, *about) for chunks in self._shards or [self.chunks]] if self.imitates else []
        costs = [self.imitates.cost(s) for s in sizes]
        self._bytes = sum(up for up, _ in costs), sum(down for _, down in costs)
        self._header_bytes = sum(self.imitates.header_cost(s, 8 * self.header) for s in sizes)
        # of all voters at once; else other processes have some
        self.carries = bool(self.header) and (self.imitates is not None or self.world.n == 1)
        self.alone = self.carries and self.world.n == len(self.chunks) == 1

    def bytes_a_step(self):
        return self._bytes

    def outgoing(self, voter, c):
        return self._of_voters[c][voter]

    def outgoing_rows(self, c: int) -> Tensor:
        """The buffer (planes, n, items) for the messages of all voters in chunk c."""
        return self._messages[c]

    def send(self, c):
        pass

    def start_header(self, rows):
        self._headers = rows
        self.world.traffic.up += self._header_bytes

    def finish_header(self):
        return self._headers

    def receive(self, c):
        if self.up.varies:
            self.count_lengths([self.up.length(message) for message in self._messages[c].unbind(1)])
        return Ballots(*self.shards[c], self.world.n, planes=self._messages[c])

    def gather_tiles(self, own):
        tiles = np.concatenate(own)
        if self.imitates and self.imitates.sharded:
            self.world.traffic.down += tiles.nbytes * (self.world.n - 1)
        return tiles
