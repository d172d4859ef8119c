"""Under mpirun: what exchanges give MPI in one step, told by rank 0 as JSON; see test_project.py.

python -m tests.sent_messages '[["sharded", "signsgd-mv", 40000, 512, 0], ...]'
"""

import json
import sys
from collections import Counter

from mpi4py import MPI

from mpisign.algorithms import zoo
from mpisign.algorithms.registry import find
from mpisign.engine.autotune import DryStepper
from mpisign.exchange import Choice
from mpisign.parallel.world import Mpi

assert zoo
SENT: Counter = Counter()  # (kind, to, bytes) -> messages of this rank


class Watched(MPI.Intracomm):
    """Notes what each collective sends to whom, by ranks of the world."""

    def _note(self, kind, sizes):
        members = MPI.Group.Translate_ranks(self.Get_group(), None, MPI.COMM_WORLD.Get_group())
        own = self.Get_rank()
        SENT.update((kind, int(members[k]), int(size)) for k, size in enumerate(sizes) if size and k != own)

    def Split(self, color=0, key=0):
        made = super().Split(color, key)
        return made if made == MPI.COMM_NULL else Watched(made)

    def Dup(self, info=None):
        return Watched(super().Dup(info))

    def Ialltoallv(self, sendbuf, recvbuf):
        (_, (counts, _), kind) = sendbuf
        self._note("messages", [count * kind.Get_size() for count in counts])
        return super().Ialltoallv(sendbuf, recvbuf)

    def Iallgatherv(self, sendbuf, recvbuf):
        (_, (counts, _), kind) = recvbuf
        self._note("verdicts", [counts[self.Get_rank()] * kind.Get_size()] * self.Get_size())
        return super().Iallgatherv(sendbuf, recvbuf)

    def Allgatherv(self, sendbuf, recvbuf):
        self._note("tile sums", [sendbuf.nbytes] * self.Get_size())
        return super().Allgatherv(sendbuf, recvbuf)

    def Allgather(self, sendbuf, recvbuf):
        self._note("messages", [recvbuf.nbytes // self.Get_size()] * self.Get_size())
        return super().Allgather(sendbuf, recvbuf)

    def Iallgather(self, sendbuf, recvbuf):
        kind = "messages" if sendbuf is MPI.IN_PLACE else "headers"
        size = recvbuf.nbytes // self.Get_size() if sendbuf is MPI.IN_PLACE else sendbuf.nbytes
        self._note(kind, [size] * self.Get_size())
        return super().Iallgather(sendbuf, recvbuf)


def one_step(name, algorithm, d, chunk, node_size):
    """What this rank sent in the second step, and the bytes that its world counted."""
    comm = Watched(MPI.COMM_WORLD)
    slots = find(algorithm).build().stages[-1].with_rules("auto", "auto", comm.Get_size())
    trial = DryStepper.of(Choice(name, ""), slots, Mpi(comm), d, chunk=chunk, node_size=node_size)
    trial.once()
    SENT.clear()
    before = trial.world.traffic.up + trial.world.traffic.down
    trial.once()
    counted = trial.world.traffic.up + trial.world.traffic.down - before
    trial.close()
    return [[*key, count] for key, count in sorted(SENT.items())], counted


if __name__ == "__main__":
    found = [MPI.COMM_WORLD.gather(one_step(*case)) for case in json.loads(sys.argv[1])]
    if MPI.COMM_WORLD.Get_rank() == 0:
        print(json.dumps(found))
