"""What is asked of a communicator: the calls by which ranks talk, written down once.

mpi4py's Intracomm fills it as it is, and process_group.GroupComm by torch.distributed. Names, arguments and what they
do are mpi4py's: those with a capital send arrays (numpy's, or tensors that lie on a GPU), others small Python objects;
those that begin with an I return a request at once. An array may come as [array, type], [array, counts], or
[array, (counts, places), type].
"""

from collections.abc import Sequence
from typing import Any, Protocol


class Request(Protocol):
    """Something that is on its way."""

    def Test(self) -> bool:
        """Whether it has arrived."""

    def Wait(self) -> Any:
        """Waits until it has."""

    @classmethod
    def Testall(cls, requests: Sequence["Request"]) -> bool:
        """Whether all of them have."""

    @classmethod
    def Waitall(cls, requests: Sequence["Request"]) -> Any:
        """Waits until they have."""


class Communicator(Protocol):
    """The ranks of a run, and how they talk. Calls but those that name one other rank are collective."""

    def Get_rank(self) -> int: ...

    def Get_size(self) -> int: ...

    def Dup(self) -> "Communicator":
        """The same ranks, whose messages nothing ties to those of this communicator."""

    def Split(self, color: int, key: int) -> "Communicator":
        """The ranks that gave the same color, in the order of their keys, which must be that of their ranks."""

    def Abort(self, code: int) -> Any:
        """Ends all ranks at once."""

    # What exchanges do

    def Ialltoallv(self, sent: Any, received: Any) -> Request: ...

    def Iallgather(self, sent: Any, received: Any) -> Request: ...

    def Iallgatherv(self, sent: Any, received: Any) -> Request: ...

    def Iallreduce(self, sent: Any, received: Any, op: Any) -> Request: ...

    # What a World and a choice of an exchange do besides

    def Ibarrier(self) -> Request: ...

    def Barrier(self) -> Any: ...

    def Bcast(self, array: Any) -> Any: ...

    def Allgather(self, sent: Any, received: Any) -> Any: ...

    def Allgatherv(self, sent: Any, received: Any) -> Any: ...

    def Allreduce(self, sent: Any, received: Any) -> Any: ...

    def Alltoall(self, sent: Any, received: Any) -> Any: ...

    def allgather(self, value: Any) -> list[Any]: ...

    def bcast(self, value: Any) -> Any: ...

    def gather(self, value: Any) -> list[Any] | None: ...

    # What checkpoints do

    def Send(self, array: Any, dest: int) -> Any: ...

    def Recv(self, array: Any, source: int) -> Any: ...

    def send(self, value: Any, dest: int) -> Any: ...

    def recv(self, source: int) -> Any: ...

    def iprobe(self, source: int) -> bool:
        """Whether recv(source) need not be put off: a message is here, or the wait for it is one that sleeps."""
