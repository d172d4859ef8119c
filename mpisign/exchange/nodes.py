"""Which ranks share a node's memory, who speaks for each node, and arrays that all ranks of a node see."""

from __future__ import annotations  # which name classes of an MPI that may not have started

from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from mpisign.errors import UsageError
from mpisign.exchange.late import MPI
from mpisign.parallel.ending import at_end
from mpisign.parallel.memory import MIB, MORE_SHARED, lacking_shared, populate
from mpisign.parallel.watchdog import WATCH

LINE = 8  # 64-bit words in a cache line, so that no two flags share one


@dataclass(frozen=True)
class Nodes:
    """The nodes of a communicator, in order of their first ranks, and this rank's place.

    node: this node's ranks. up and down: the first rank of each node, for messages that nothing ties to each other;
    None on other ranks.
    """

    members: tuple[tuple[int, ...], ...]
    index: int
    node: MPI.Intracomm
    up: MPI.Intracomm | None
    down: MPI.Intracomm | None


_known: dict[tuple[int, int], tuple[MPI.Intracomm, Nodes]] = {}


def nodes_of(comm: MPI.Intracomm, size: int = 0) -> Nodes:
    """The nodes of comm: as its ranks share memory, or, as a test of what nodes would do, `size` ranks each.

    Collective. Raises UsageError, on all ranks, where a node of that size would span two hosts.
    """
    key = (comm.py2f(), size)
    if key not in _known or _known[key][0] is not comm:
        _known[key] = comm, _look_around(comm, size)
    return _known[key][1]


def _look_around(comm: MPI.Intracomm, size: int) -> Nodes:
    rank, node = comm.Get_rank(), comm.Split_type(MPI.COMM_TYPE_SHARED)
    if size:
        wanted = comm.Split(rank // size)
        missing = wanted.Get_size() - wanted.allreduce(int(_within(wanted, node)))
        if comm.allreduce(missing):
            raise UsageError(
                f"exchange.node_size = {size}: ranks of such a node would lie on different hosts; leave it out, and "
                "nodes are the hosts",
                agreed=True,
            )
        node = wanted
    first = node.bcast(rank)
    firsts = sorted(set(comm.allgather(first)))
    up = comm.Split(0 if first == rank else MPI.UNDEFINED)
    alone = up == MPI.COMM_NULL
    gathered = comm.allgather((first, rank))
    members = tuple(tuple(r for f, r in gathered if f == one) for one in firsts)
    return Nodes(members, firsts.index(first), node, None if alone else up, None if alone else up.Dup())


def _within(wanted: MPI.Intracomm, node: MPI.Intracomm) -> bool:
    """Whether all ranks of one communicator are in another."""
    one, other = wanted.Get_group(), node.Get_group()
    return MPI.Group.Intersection(one, other).Get_size() == wanted.Get_size()


def _agree(world: MPI.Intracomm, lacking: str, who: str, instead: str) -> None:
    """Raises UsageError on all ranks for the first that lacks something."""
    if found := next(filter(None, world.allgather(lacking)), ""):
        raise UsageError(f"{who}: {found}; {instead}, which needs none, or {MORE_SHARED}", agreed=True)


class Shared:
    """Arrays of 64-bit words in memory that all ranks of a node see, and flags by which they tell each other."""

    def __init__(
        self,
        world: MPI.Intracomm,
        node: MPI.Intracomm,
        sizes: list[int],
        flags: int,
        who: str = "exchange hierarchical",
        instead: str = 'set exchange.name = "sharded"',
    ):
        """sizes: words of each array. who, instead: for an error. Collective over the world.

        Raises UsageError, on all ranks, where a node has not so much shared memory: MPI would grant it, and the system
        end whoever touches it.
        """
        ends = list(accumulate([flags * LINE, *(-(-size // LINE) * LINE for size in sizes)]))
        self.nbytes, first, self._node = 8 * ends[-1], node.Get_rank() == 0, node
        _agree(world, lacking_shared(self.nbytes) if first else "", who, instead)
        self._window = MPI.Win.Allocate_shared(self.nbytes if first else 0, 8, comm=node)
        memory, _ = self._window.Shared_query(0)
        words = np.frombuffer(memory, dtype=np.int64, count=ends[-1])
        # others may have taken meanwhile what was free
        populated = not first or populate(words.ctypes.data, self.nbytes)
        try:
            lacking = f"{self.nbytes / MIB:.1f} MiB of shared memory are not to be had any more"
            _agree(world, "" if populated else lacking, who, instead)
        except UsageError:
            del memory, words
            self._window.Free()
            raise
        self._window.Lock_all(MPI.MODE_NOCHECK)
        if first:
            words[:] = 0
        self.meet()
        self._flags = memoryview(words[: ends[0]].reshape(flags, LINE)[:, 0])
        self.whole = torch.from_numpy(words)
        self.arrays: list[Tensor] = [self.whole[at : at + size] for at, size in zip(ends[:-1], sizes, strict=True)]
        if not _open:
            at_end(_close_all)
        _open.append(self)

    def meet(self) -> None:
        """Waits until all ranks of the node are here; what they wrote before is then seen. Collective over the node."""
        self._window.Sync()
        self._node.Barrier()
        self._window.Sync()

    def raise_flag(self, flag: int, value: int) -> None:
        """Tells all that what was written before is there."""
        self._window.Sync()
        self._flags[flag] = value
        self._window.Sync()

    def raised(self, first: int, count: int, value: int) -> bool:
        """Whether all of `count` flags stand at a value or beyond; what was written before them is then seen."""
        if min(self._flags[first : first + count]) < value:
            return False
        self._window.Sync()
        return True

    def close(self) -> None:
        """Gives the memory back. Collective over the node."""
        _open.remove(self)
        self._window.Unlock_all()
        self.arrays.clear()
        del self._flags, self.whole
        self._window.Free()
        self.nbytes = 0


class SharedVectors:
    """x, and a gradient for each rank, of `length` float32 each, in memory that all ranks of a voter see."""

    def __init__(self, world: MPI.Intracomm, voter: MPI.Intracomm, length: int):
        """voter: its ranks. Collective over the world. Raises UsageError as Shared does."""
        each, words = voter.Get_size(), length // 2
        instead = 'set exchange.voter = "rank"'
        self._shared = Shared(world, voter, [words, each * words], 1, 'exchange.voter = "node"', instead)
        x, gradients = self._shared.arrays
        self.x, self.gradients = x.view(torch.float32), gradients.view(torch.float32).view(each, length)

    def wait(self) -> None:
        """As Shared.meet()."""
        with WATCH("a barrier of a voter's ranks"):
            self._shared.meet()


_open: list[Shared] = []


def _close_all() -> None:
    """MPI is not to end with open windows. All ranks opened them in one order."""
    while _open:
        _open[0].close()
