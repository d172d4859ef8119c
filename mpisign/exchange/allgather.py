"""`allgather`: everyone gets every message and counts all of it.

    1. send     Allgather of words: (n-1) * up bits per coordinate, one collective
    2. receive  everyone holds n messages; every rank decides the whole chunk alike
    3. publish, 4. collect: nothing is left to do

For small d, where one latency is all that counts, and for n = 2, where it sends what `sharded` sends.
"""

from mpisign.algorithms.messages import Ballots
from mpisign.exchange.base import Exchange, buffer
from mpisign.exchange.late import MPI
from mpisign.exchange.registry import exchange


@exchange("allgather")
class Allgather(Exchange):
    """Allgather of words; every rank counts everything."""

    @staticmethod
    def cost(s):
        """Every rank sends its message to all others."""
        return s.n * (s.n - 1) * s.message(s.up), 0

    def prepare(self):
        self._in = self.messages(self.up, self.world.n)

    def bytes_a_step(self):
        return (self.world.n - 1) * sum(buffer.nbytes for buffer in self._in) // self.world.n, 0

    def outgoing(self, voter, c):
        return self._in[c][:, self.world.rank]  # where it belongs among all messages

    # 1. send
    def send(self, c):
        for plane in self._in[c]:
            self._requests[c].append(self.world.comm.Iallgather(MPI.IN_PLACE, buffer(plane)))

    # 2. receive
    def has_come(self, c):
        return MPI.Request.Testall(self._requests[c])

    def receive(self, c):
        self.wait(c, "Iallgather of messages")
        return Ballots(*self.shards[c], self.world.n, planes=self._in[c])
