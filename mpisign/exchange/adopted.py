"""`adopted`: where ranks have adopted voters of ranks that were lost; no job can choose it.

1. send     Allgatherv of messages, of as many voters as each rank runs: (n - own) * up bits per coordinate
2. receive  everyone puts n messages in the voters' order, and decides the whole chunk alike
3. publish, 4. collect: nothing is left to do
"""

import torch

from mpisign.algorithms.messages import Ballots
from mpisign.exchange.local import Local
from mpisign.parallel.world import Adopting


class Adopted(Local):
    """Everyone gets the messages of all voters, raw floats too, and counts everything."""

    name = "adopted"
    world: Adopting

    prefetch = 1  # of what a chunk takes, one is in memory

    def prepare(self):
        super().prepare()
        shapes = [self.up.shape(coordinates=hi - lo) for lo, hi in self.chunks]
        self._came = self.ring([(self.world.n, *shape) for shape in shapes], self.up.dtype)
        self._sent: list[torch.Tensor | None] = [None] * len(self.chunks)

    def bytes_a_step(self):
        if self.up.varies:
            return 0, 0  # counted once they are known
        return (self.world.size - 1) * sum(message.nbytes for message in self._messages), 0

    def send(self, c):
        # voter by voter: planes of one voter's message lie apart, where those of several are rows of one buffer
        sent = self._sent[c] = self._messages[c].transpose(0, 1).contiguous()
        each = sent[0].numel()
        counts = [count * each for count in self.world.counts]
        received = [self._came[c].numpy(), counts]
        self._requests[c].append(self.world.comm.Iallgatherv(sent.numpy(), received))

    def receive(self, c):
        self.wait(c, "Iallgatherv of the messages of several voters")
        self._sent[c] = None
        planes = self._came[c][self.world.order].transpose(0, 1).contiguous()
        if self.up.varies:
            self.count_lengths([self.up.length(message) for message in planes.unbind(1)])
        return Ballots(*self.shards[c], self.world.n, planes=planes)
