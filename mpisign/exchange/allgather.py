"""`allgather`: everyone gets every message and counts all of it.

    1. send     Allgather of words: (n-1) * up bits per coordinate, one collective, which takes the headers along where
                all is packed before any is counted; of the lengths of messages that vary
    2. receive  everyone holds n messages, those that vary by a second Allgather of just so many words; every rank
                decides the whole chunk alike
    3. publish, 4. collect: nothing is left to do

For small d, where one latency is all that counts, and for n = 2, where it sends what `sharded` sends.
"""

import math
from dataclasses import replace

import numpy as np

from mpisign.algorithms.messages import Ballots
from mpisign.exchange.base import Exchange
from mpisign.exchange.registry import exchange
from mpisign.exchange.schedule import Spread, message_sizes
from mpisign.exchange.staging import buffer


@exchange("allgather")
class Allgather(Exchange):
    """Allgather of words; every rank counts everything."""

    on_groups = True

    @staticmethod
    def cost(s):
        """Every rank sends its message to all others."""
        return s.n * (s.n - 1) * s.message(s.up), 0

    @staticmethod
    def schedule(s):
        sizes = message_sizes(s.up, [[c] for c in s.coordinates], at_once=True)[:, 0]
        return [Spread("messages", s.n, bytes_of=lambda rank, to: sizes)]

    @classmethod
    def with_headers(cls, s, size):
        """In the last message, where all of them are on their way before one is counted."""
        if len(s.chunks) > cls.prefetch:
            return super().with_headers(s, size)
        (messages,) = cls.schedule(s)
        sizes = [*messages.bytes_of(0, 1)]
        sizes[-1] += size
        return [replace(messages, bytes_of=lambda rank, to: sizes)]

    def prepare(self):
        n, last = self.world.n, self.last_before_header if self.device.type == "cpu" else None
        shapes = [self.up.shape(coordinates=hi - lo) for lo, hi in self.chunks]
        # a row for each voter: its message, plane by plane, and in the last chunk its header
        items = [(math.prod(shape), self.header if c == last else 0) for c, shape in enumerate(shapes)]
        self._rows = self.ring([(n, words + more) for words, more in items], self.up.dtype)
        pairs = zip(self._rows, items, shapes, strict=True)
        self._in = [rows[:, :words].unflatten(1, shape).transpose(0, 1) for rows, (words, _), shape in pairs]
        self._own = [message[:, self.world.rank] for message in self._in]  # where it belongs among all messages
        self.carries, self._last = last is not None, last
        # all of a step is then one message, and there is nothing to do until it is here
        self.alone, self._due = self.carries and len(self.chunks) == 1, False
        if self.carries:
            self._headers = self._rows[last].numpy()[:, items[last][0] :].view(np.float64)
        self._lengths = np.zeros(n, dtype=np.int64)

    def bytes_a_step(self):
        if self.up.varies:
            return 0, 0  # counted once they are known
        return (self.world.n - 1) * sum(buffer.nbytes for buffer in self._in) // self.world.n, 0

    def outgoing(self, voter, c):
        return self._own[c]

    # 1. send
    def send(self, c):
        if self.up.varies:
            self._lengths[self.world.rank] = self.up.length(self.outgoing(0, c))
            self._requests[c].append(self.world.comm.Iallgather(self.library.IN_PLACE, self._lengths))
        elif c != self._last:
            self._post(c)

    def _post(self, c):
        if self.alone:
            self._due = True
            return
        self._requests[c].append(self.world.comm.Iallgather(self.library.IN_PLACE, buffer(self._rows[c])))

    def start_header(self, rows):
        self._headers[self.world.rank] = rows[0]
        self._post(self._last)
        self.world.traffic.up += (self.world.n - 1) * rows.nbytes

    def finish_header(self):
        self.wait(self._last, "Iallgather of messages and headers")
        return self._headers

    def wait(self, c, what):
        if not self._due:
            super().wait(c, what)
            return
        self._due = False
        with self.world.watch("the Allgather of messages and headers"):
            self.world.comm.Allgather(self.library.IN_PLACE, buffer(self._rows[c]))

    def progress(self):
        if any(self._requests):
            super().progress()

    # 2. receive
    def has_come(self, c):
        return self.library.Request.Testall(self._requests[c])

    def receive(self, c):
        self.wait(c, "Iallgather of messages")
        if self.up.varies:
            self._gather_entries(c)
        return Ballots(*self.shards[c], self.world.n, planes=self._in[c])

    def _gather_entries(self, c):
        """Messages whose lengths have come: so many words of each, into rooms of one size."""
        rooms = self._in[c][0]
        places = np.arange(self.world.n) * rooms.shape[1]
        whole = [buffer(rooms.view(-1)), (self._lengths, places), self.library.INT64_T]
        self._requests[c].append(self.world.comm.Iallgatherv(self.library.IN_PLACE, whole))
        self.wait(c, "Iallgatherv of entries")
        self.count_lengths(self._lengths.tolist())
