"""torch.distributed in MPI's place: a process group behind the calls of communicator.py.

    SignOptimizer(model, comm=process_group)

Numbers of the host travel by a gloo group of the same ranks, which is made here; words that lie on a GPU by an NCCL
group, where the given one has NCCL. torch's own threads move messages on, and they sleep while they wait. The calls do
what communicator.py says of MPI's; this module also stands where mpi4py's MPI does for them (IN_PLACE, INT64_T, ...).
"""

import os
import pickle
import re
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import accumulate
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from mpisign.errors import MpisignError, UsageError
from mpisign.parallel.watchdog import WATCH

IN_PLACE, INT64_T, FLOAT, SUM = "in place", "int64", "float32", "sum"
PATIENCE = timedelta(days=7)  # of torch, for one wait: how long one may last is the watchdog's to say
# by its newer name where torch has it, which warns about the older one then
gather_equal = getattr(dist, "all_gather_single", None) or getattr(dist, "all_gather_into_tensor", None)


class ConnectionLost(MpisignError):
    """torch.distributed failed, mostly as another rank has ended."""


class Request:
    """Messages on their way by torch, and what is to be done with them once they have come."""

    def __init__(self, work: Any, arrived: Callable[[], None] | None = None):
        self._work, self._arrived = work, arrived

    def Test(self) -> bool:
        """Whether they have come."""
        if self._work is not None and not self._work.is_completed():
            return False
        self.Wait()
        return True

    def Wait(self) -> None:
        """Waits for them, asleep. Raises ConnectionLost where they will never come."""
        work, self._work = self._work, None
        if work is None:
            return
        with _failing():
            work.wait()
        if self._arrived:
            self._arrived()

    @classmethod
    def Testall(cls, requests: Sequence["Request"]) -> bool:
        """Whether all have come."""
        return all([request.Test() for request in requests])

    @classmethod
    def Waitall(cls, requests: Sequence["Request"]) -> None:
        """Waits for all."""
        for request in requests:
            request.Wait()


@contextmanager
def _failing() -> Iterator[None]:
    """A context in which an error of torch becomes ConnectionLost, or UsageError where the groups were destroyed."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        if not dist.is_initialized():
            raise UsageError(
                "torch.distributed has ended, by which the ranks of a SignOptimizer talk: call "
                "destroy_process_group() after its last step() and save()"
            ) from error
        if isinstance(error, ValueError):
            raise
        # without the place in torch's source before it, and its guesses behind
        text = re.sub(r"^\[\S+\] ", "", str(error).strip()).partition(". ")[0]
        raise ConnectionLost(
            f"torch.distributed failed ({text}): a rank has ended or can't be reached; look for what it said itself"
        ) from error


class GroupComm:
    """The ranks of a process group of torch.distributed, in the order of their numbers in the world.

    That is the group's own order too, unless new_group() was told not to sort.
    """

    library = sys.modules[__name__]

    def __init__(self, group: Any):
        """group: a ProcessGroup that this process belongs to. Collective."""
        self.group, self.members = group, sorted(dist.get_process_group_ranks(group))
        self._rank, self._size = self.members.index(dist.get_rank()), len(self.members)
        self._host = _like(self.members, "gloo")
        on_gpu = "nccl" in str(dist.get_backend_config(group))
        self._gpu = _like(self.members, "nccl") if on_gpu else None

    def Get_rank(self):
        return self._rank

    def Get_size(self):
        return self._size

    def Dup(self):
        return GroupComm(self.group)

    def Split(self, color, key):
        everyone = self.allgather((color, key))
        members = [member for member, (other, _) in zip(self.members, everyone, strict=True) if other == color]
        keys = [k for other, k in everyone if other == color]
        assert keys == sorted(keys), "a group's ranks are in the order of their numbers"
        return GroupComm(_like(members, str(dist.get_backend_config(self.group))))

    def Abort(self, code):
        """Ends this process; the launcher ends the others, as they find out themselves."""
        os._exit(code)

    def is_connected(self) -> bool:
        """Whether it can still be used: a script may have destroyed all groups at its end."""
        return dist.is_initialized()

    def for_roll_call(self):
        """The same ranks, for a roll call. Collective."""
        return RollComm(self.group)

    def takes(self, device: torch.device) -> bool:
        """Whether words can be sent from where they lie."""
        return device.type == "cpu" or self._gpu is not None

    @property
    def backends(self) -> str:
        """How messages travel, for people."""
        return "gloo and NCCL" if self._gpu else "gloo"

    # What exchanges do

    def Ialltoallv(self, sent, received):
        out, counts, places = _spread(sent)
        into, sizes, rooms = _spread(received)
        assert (places, rooms) == (_cumulated(counts), _cumulated(sizes)), "what is cut has no gaps"
        return self._deal(into[: sum(sizes)], out[: sum(counts)], sizes, counts)

    def Iallgather(self, sent, received):
        whole = _flat(received)
        own = whole.view(self._size, -1)[self._rank] if sent is IN_PLACE else _flat(_array(sent))
        with _failing():
            return Request(gather_equal(whole, own, group=self._of(whole), async_op=True))

    def Iallgatherv(self, sent, received):
        whole, counts, places = _spread(received)
        own = whole[places[self._rank] :][: counts[self._rank]] if sent is IN_PLACE else _flat(_array(sent))
        # gloo gathers equal parts only: of others, each rank deals copies of its own
        copies, total = own.repeat(self._size), sum(counts)
        if places == _cumulated(counts):
            return self._deal(whole[:total], copies, counts, [len(own)] * self._size)
        came = torch.empty(total, dtype=whole.dtype, device=whole.device)

        def arrived():
            for part, count, at in zip(came.split(counts), counts, places, strict=True):
                whole[at : at + count] = part

        return self._deal(came, copies, counts, [len(own)] * self._size, arrived)

    def Iallreduce(self, sent, received, op):
        assert (sent, op) == (IN_PLACE, SUM), "no other is made use of"
        total = _flat(received)
        with _failing():
            return Request(dist.all_reduce(total, group=self._of(total), async_op=True))

    def _deal(self, into, out, sizes, counts, arrived=None):
        """The all-to-all of parts: counts of out go to each rank, sizes of into come."""
        with _failing():
            work = dist.all_to_all_single(into, out, list(sizes), list(counts), group=self._of(out), async_op=True)
        return Request(work, arrived)

    def _of(self, tensor: Tensor):
        return self._host if tensor.device.type == "cpu" else self._gpu

    # What a World and a choice of an exchange do besides

    def Ibarrier(self):
        with _failing():
            return Request(dist.barrier(group=self._host, async_op=True))

    def Barrier(self):
        self.Ibarrier().Wait()

    def Bcast(self, array):
        with _failing():
            dist.broadcast(_flat(array), self.members[0], group=self._host)

    def Allgather(self, sent, received):
        self.Iallgather(sent, received).Wait()

    def Allgatherv(self, sent, received):
        self.Iallgatherv(sent, received).Wait()

    def Allreduce(self, sent, received):
        total = _flat(received).copy_(_flat(sent))
        self.Iallreduce(IN_PLACE, total, SUM).Wait()

    def Alltoall(self, sent, received):
        with _failing():
            dist.all_to_all_single(_flat(received), _flat(sent), group=self._host)

    def allgather(self, value):
        found = [None] * self._size
        with _failing():
            dist.all_gather_object(found, value, group=self._host)
        return found

    def bcast(self, value):
        box = [value]
        with _failing():
            dist.broadcast_object_list(box, self.members[0], group=self._host)
        return box[0]

    def gather(self, value):
        found = [None] * self._size if self._rank == 0 else None
        with _failing():
            dist.gather_object(value, found, self.members[0], group=self._host)
        return found

    # What checkpoints do

    def Send(self, array, dest):
        with _failing():
            dist.send(_flat(array), self.members[dest], group=self._host)

    def Recv(self, array, source):
        with _failing():
            dist.recv(_flat(array), self.members[source], group=self._host)

    def send(self, value, dest):
        raw = np.frombuffer(pickle.dumps(value), dtype=np.uint8)
        self.Send(np.array([raw.size]), dest)
        self.Send(raw, dest)

    def recv(self, source):
        size = np.empty(1, dtype=np.int64)
        self.Recv(size, source)
        raw = np.empty(size[0], dtype=np.uint8)
        self.Recv(raw, source)
        return pickle.loads(raw.tobytes())

    def iprobe(self, source):
        return True


class RollComm(GroupComm):
    """The same ranks, for small messages from whichever rank, as a roll call sends them: by torch's key-value store.

    gloo can't tell whether a message has come without waiting for it.
    """

    def __init__(self, group: Any):
        super().__init__(group)
        name = self.bcast(uuid.uuid4().hex)
        self._store = dist.PrefixStore(f"mpisign/{name}", dist.distributed_c10d._get_default_store())
        self._heard = 0

    def Dup(self):
        return GroupComm(self.group)

    def isend(self, value, dest):
        """Sends a message, and returns a request that is done."""
        number = self._store.add(f"{dest}", 1)
        self._store.set(f"{dest}/{number}", pickle.dumps(value))
        return Request(None)

    def iprobe(self):
        """Whether a message is here."""
        return self._store.check([f"{self._rank}/{self._heard + 1}"])

    def recv(self):
        """The next message of any rank."""
        self._heard += 1
        key = f"{self._rank}/{self._heard}"
        value = pickle.loads(self._store.get(key))
        self._store.delete_key(key)
        return value


class HostComm:
    """The ranks of one host, of all of a communicator: what is asked of them beside the exchanges."""

    def __init__(self, comm: GroupComm, members: tuple[int, ...]):
        self._comm, self.members = comm, members

    def allgather(self, value):
        """Values of the ranks of this host. Collective over all ranks."""
        everyone = self._comm.allgather(value)
        return [everyone[rank] for rank in self.members]


def checked(group: Any) -> Any:
    """A process group that this process is in; raises UsageError for one that it is not in, or without gloo."""
    if not isinstance(group, dist.ProcessGroup):
        raise UsageError("comm: a process group that this process does not belong to; make the optimiser on its ranks")
    if not dist.is_gloo_available():
        raise UsageError("comm: torch.distributed without gloo, by which numbers of the host travel; use MPI")
    return group


def is_group(comm: object) -> bool:
    """Whether it is a process group of torch.distributed, or what torch gives to those outside of one."""
    if not dist.is_available():
        return False
    return isinstance(comm, dist.ProcessGroup) or (type(comm) is int and comm == dist.GroupMember.NON_GROUP_MEMBER)


def _like(members: list[int], backend: str):
    """A new group of the same ranks, which no other makes use of."""
    whole = len(members) == dist.get_world_size()
    # others of the world need not take part where the group is a part of it
    with WATCH(f"all ranks of the process group (SignOptimizer(), {backend})"):
        return dist.new_group(members, PATIENCE, backend, use_local_synchronization=not whole)


def _array(spec: Any) -> np.ndarray | Tensor:
    """The array of [array, type], or of an array alone."""
    return spec[0] if isinstance(spec, list) else spec


def _flat(array: np.ndarray | Tensor) -> Tensor:
    """A contiguous array's or tensor's elements, in their memory; a copy of those that can't be written to."""
    if isinstance(array, Tensor):
        return array.view(-1)
    return torch.from_numpy(array if array.flags.writeable else array.copy()).view(-1)


def _spread(spec: list) -> tuple[Tensor, list[int], list[int]]:
    """Elements, counts and places of [array, counts], [array, (counts, places)], [array, ..., type]."""
    array, how = spec[0], spec[1]
    counts, places = how if isinstance(how, tuple) else (how, None)
    counts = [int(count) for count in counts]
    return _flat(array), counts, _cumulated(counts) if places is None else [int(at) for at in places]


def _cumulated(counts: Sequence[int]) -> list[int]:
    """The places of parts that lie one behind the other."""
    return list(accumulate(counts, initial=0))[:-1]
