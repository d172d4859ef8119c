"""Voters of several ranks: which ranks are one voter, and who votes with whom about a shard of x."""

from dataclasses import dataclass, replace
from typing import Any

import torch

from mpisign.errors import UsageError
from mpisign.optim.agreement import by_value
from mpisign.parallel.inside import Inside
from mpisign.parallel.mpi import Ranks
from mpisign.parallel.watchdog import WATCH

WHAT = "voters: a one-dimensional DeviceMesh, such as fully_shard was given, one of (replicate, shard), or mpi4py's"


@dataclass(frozen=True)
class Voters:
    """This rank among its voter's, and its voter among all.

    inside: the ranks of this voter, in the order of their shards. across: the ranks with a like shard, one of each
    voter; its rank and size are those of voters. numbers: of the ranks inside, by torch.distributed; -1 without it.
    """

    inside: Inside
    across: Ranks
    numbers: tuple[int, ...]


def divide(ranks: Ranks, voters: Any) -> Voters:
    """Divides all ranks into voters, in the order of their lowest ranks. Collective.

    voters: as SignOptimizer takes it. Raises UsageError, on all ranks, for what does not divide them evenly.
    """
    with ranks.agreed():
        fault = None if ranks.comm else UsageError("voters: this process is alone, and there is nobody to vote with")
        if fault or (fault := _fault_of(voters)):
            raise fault
    kinds = ranks.allgather("a mesh" if _is_mesh(voters) else "a communicator", "what voters are given by")
    if len(set(kinds)) > 1:
        raise UsageError(f"voters differ between ranks: {by_value(kinds)}; give all the same", agreed=True)
    numbers = ranks.allgather(_number(), "ranks of torch.distributed")
    own = tuple(_members(ranks, voters, numbers))
    everyone = ranks.allgather(own, "the ranks of voters")
    if text := _uneven(everyone):
        raise UsageError(text, agreed=True)
    number = sorted(set(everyone)).index(own)
    shard = own.index(ranks.rank)
    inside, across = ranks.comm.Split(number, ranks.rank), ranks.comm.Split(shard, ranks.rank)
    hosts = f"{ranks.hosts}, {len(own)} ranks per voter"
    like = replace(ranks, rank=number, size=across.Get_size(), comm=across, hosts=hosts)
    return Voters(Inside(inside), like, tuple(numbers[rank] for rank in own))


def _number() -> int:
    """The rank of this process by torch.distributed; -1 without it."""
    runs = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_rank() if runs else -1


def _is_mesh(voters: object) -> bool:
    if _number() < 0:
        return False
    from torch.distributed.device_mesh import DeviceMesh

    return isinstance(voters, DeviceMesh)


def _fault_of(voters: Any) -> UsageError | None:
    if _is_mesh(voters):
        if voters.ndim > 2:
            return UsageError(f"voters: a mesh of {voters.ndim} dimensions; one of (shard,) or of (replicate, shard)")
        members = _row(voters)
        if members != sorted(members):
            return UsageError(f"voters: the ranks of a voter are {members}; make a mesh in which they ascend")
        return None
    if all(hasattr(voters, name) for name in ("Get_rank", "allgather", "Get_size")):
        return None
    return UsageError(f"voters = {voters!r}: {WHAT} communicator of the ranks of this rank's voter")


def _row(mesh: Any) -> list[int]:
    """The ranks of torch's that are this rank's voter: along the last dimension of a mesh."""
    place = mesh.get_coordinate()
    if place is None:
        return []
    row = mesh.mesh if mesh.ndim == 1 else mesh.mesh[place[0]]
    return row.tolist()


def _members(ranks: Ranks, voters: Any, numbers: list[int]) -> list[int]:
    """The ranks of this rank's voter, as `ranks` numbers them; -1 for those that are not among these. Collective."""
    if not _is_mesh(voters):
        with WATCH("an allgather of the ranks of a voter"):
            return voters.allgather(ranks.rank)
    return [numbers.index(rank) if rank in numbers else -1 for rank in _row(voters)]


def _uneven(everyone: list[tuple[int, ...]]) -> str:
    """What is wrong with voters, of which each rank told the ranks; "" for nothing."""
    for rank, members in enumerate(everyone):
        if rank not in members or -1 in members or any(everyone[other] != members for other in members):
            return (
                f"voters: rank {rank} says that its voter is rank(s) {list(members)}; each rank that votes must be in "
                "one voter, of which all of its ranks say the same"
            )
        if list(members) != sorted(members):
            return f"voters: the ranks of a voter are {list(members)}; let them ascend"
    if len({len(members) for members in everyone}) > 1:
        sizes = by_value([f"{len(members)} rank(s) per voter" for members in everyone])
        return f"voters of different sizes: {sizes}; all must have as many ranks, since like shards vote"
    return ""
