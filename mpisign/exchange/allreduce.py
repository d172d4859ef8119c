"""`allreduce` and `dense-mpi`: one Allreduce of the MPI library, as a network may do it by itself.

`allreduce` gives every coordinate a field of w(n) = ceil(log2(n+1)) bits in 64-bit words, so that an
ordinary integer SUM counts votes and no carry crosses a field:

    1. send     bits -> fields, times the voter's weight if it has one (w is then that of the sum of all weights);
                Allreduce SUM of words: 2(n-1)/n * 64/floor(64/w) bits per coordinate
    2. receive  fields -> a tally in bit planes; every rank decides the whole chunk alike
    3. publish, 4. collect: nothing is left to do

`dense-mpi` sums floats. Its order of summation is the library's, so it makes no promise about bits.
The bytes of both are by formula (a ring's), the wire is as the library does it.
"""

import torch

from mpisign import bits
from mpisign.algorithms.messages import Ballots, Tally
from mpisign.exchange.base import Exchange
from mpisign.exchange.registry import exchange
from mpisign.exchange.schedule import ring
from mpisign.exchange.staging import buffer


class _Summed(Exchange):
    """Posts one Iallreduce per plane and counts its bytes by the formula of a ring, half up, half down."""

    needs = frozenset({"counts", "pieces"})

    def bytes_a_step(self):
        n = self.world.n
        half = sum(total.nbytes for total in self._sums) * (n - 1) // n
        return half, half

    def outgoing(self, voter, c):
        return self._out[c]

    def _post(self, c, total):
        self._requests[c].append(self.world.comm.Iallreduce(self.library.IN_PLACE, buffer(total), self.library.SUM))


def _fields(s):
    """Words that hold all fields of a rank."""
    return s.up.planes * sum(bits.fields_for(c, s.votes) for c in s.coordinates)


@exchange("allreduce")
class Allreduce(_Summed):
    """Sums of w(n)-bit fields."""

    on_groups = True

    @staticmethod
    def cost(s):
        return s.ring(8 * _fields(s))

    @staticmethod
    def schedule(s):
        return ring(_fields(s), s.n, 8)

    def prepare(self):
        shapes = [(self.up.planes, bits.fields_for(hi - lo, self.votes)) for lo, hi in self.chunks]
        self._out, self._sums = self.messages(self.up), self.ring(shapes, torch.int64)

    # 1. send
    def send(self, c):
        planes, own = self._out[c], self.vote.weights_of(self.world.local)
        sets = planes
        if len(planes) == 2:
            # with abstentions: count of +1 and count of -1, each among those present
            sets = self.scratch("sets", *planes.shape)
            torch.bitwise_and(planes[0], planes[1], out=sets[0])
            torch.bitwise_xor(sets[0], planes[1], out=sets[1])
        for plane, fields in zip(sets, self._sums[c], strict=True):
            bits.spread(plane, self.votes, fields)
            if own:
                fields.mul_(own[0])  # of a field that holds 0 or 1; that of all weights fits too
            self._post(c, fields)

    # 2. receive
    def receive(self, c):
        self.wait(c, "Iallreduce")
        words, counted = self._out[c].shape[1], []
        for name, total in zip(("plus", "minus"), self._sums[c], strict=False):
            planes = self.scratch(name, bits.width(self.votes), words)
            bits.gather(total, self.votes, planes)
            counted.append(planes)
        tally = Tally(counted[0], counted[1] if counted[1:] else None, self.votes)
        return Ballots(*self.shards[c], self.world.n, counted=tally)


@exchange("dense-mpi")
class DenseMpi(_Summed):
    """The library's float32 sum."""

    raw = True

    @staticmethod
    def cost(s):
        return s.ring(s.message(s.up))

    @staticmethod
    def schedule(s):
        return ring(sum(s.coordinates), s.n)

    def prepare(self):
        self._out = self._sums = self.messages(self.up)

    # 1. send
    def send(self, c):
        self._post(c, self._sums[c])

    # 2. receive
    def receive(self, c):
        self.wait(c, "Iallreduce")
        # one row that is the sum already: the mean divides it by the number of voters
        return Ballots(*self.shards[c], self.world.n, planes=self._sums[c].unsqueeze(1))
