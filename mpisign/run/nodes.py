"""`exchange.voter = "node"`: the ranks of a node are one voter, whose gradient is the mean of theirs.

A node is a host, or exchange.node_size ranks of one. Ranks are numbered node by node, so those of voter v are v*g to
v*g + g - 1, and each of them has its shard of x and of all that its voter keeps; like shards vote.
"""

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mpisign.config import Config
from mpisign.errors import UsageError
from mpisign.parallel import launchers
from mpisign.parallel.inside import Inside

if TYPE_CHECKING:  # what a command looks at first does without torch
    from mpisign.algorithms.method import Method
    from mpisign.parallel.mpi import Ranks

KEY = 'exchange.voter = "node"'


@dataclass(frozen=True)
class NodeVoter:
    """A voter that is a node, as one of its ranks sees it.

    inside: the ranks of the voter. across: those with a shard like this one's, one of each voter, in order.
    """

    voter: int
    inside: Inside
    across: Any

    @property
    def each(self) -> int:
        """Ranks of every voter."""
        return self.inside.size

    @property
    def voters(self) -> int:
        return self.across.Get_size()


def foreseen(config: Config, ranks: int, per_host: int = 0) -> tuple[int, int]:
    """How many voters so many ranks will be, and the ranks of each, before MPI tells on which hosts they are.

    per_host: ranks of each, where that is known; else the launcher says it. Raises UsageError where exchange.node_size
    can't be.
    """
    if config.exchange.voter == "rank":
        return ranks, 1
    each = config.exchange.node_size or per_host or _per_host(ranks)
    if config.exchange.node_size and ranks % each:
        sizes = [each] * (ranks // each) + [ranks % each]
        raise _uneven({f"node {k}": size for k, size in enumerate(sizes)}, config.exchange.node_size)
    return max(ranks // each, 1), each


def simulated(config: Config, voters: int) -> tuple[int, int]:
    """How many voters a simulation has, and the ranks that each would be.

    Raises UsageError where nothing says so many ranks: there are no hosts.
    """
    if config.exchange.voter == "rank":
        return voters, 1
    if not config.exchange.node_size:
        raise UsageError(
            f"{KEY} in a simulation, which has no hosts: how many ranks is a voter? Set it, as in exchange.node_size=4"
        )
    return voters, config.exchange.node_size


def divide(ranks: "Ranks", config: Config) -> tuple["Ranks", NodeVoter | None]:
    """The ranks, numbered node by node, and this one's voter; or as they are, where each is a voter. Collective.

    Raises UsageError, on all ranks, where nodes have different numbers of them.
    """
    if config.exchange.voter == "rank" or ranks.size == 1:
        return ranks, None
    told = ranks.allgather((os.uname().nodename, ranks.members), "nodes")
    hosts = {members: host for host, members in told}
    size = config.exchange.node_size
    nodes = [(host, part) for members, host in hosts.items() for part in _cut(members, size or len(members))]
    if len({len(part) for _, part in nodes} | {size or len(nodes[0][1])}) > 1:
        raise _uneven(_named(nodes), size)
    order = [rank for _, part in nodes for rank in part]
    place, each = order.index(ranks.rank), len(nodes[0][1])
    if order != sorted(order):
        members = tuple(order.index(rank) for rank in ranks.members)
        ranks = replace(ranks, rank=place, comm=ranks.comm.Split(0, place), members=members)
    if each == 1:
        return ranks, None
    voter, shard = divmod(place, each)
    inside, across = ranks.comm.Split(voter, shard), ranks.comm.Split(shard, voter)
    return ranks, NodeVoter(voter, Inside(inside), across)


def check(config: Config, algorithm: "Method", name: str, each: int) -> None:
    """Raises UsageError for what of a job does not go with voters of several ranks."""
    if config.exchange.voter == "rank" or each == 1:
        return
    if why := algorithm.undivided:
        raise UsageError(f'{KEY}: {name} is for voters of one rank: {why}; take another, or set exchange.voter="rank"')
    for key, value, fits in (
        ("run.device", config.run.device == "cuda" and "cuda", "cpu"),
        ("run.lost_ranks", config.run.lost_ranks != "stop" and config.run.lost_ranks, "stop"),
        ("dense.parameters", config.dense.parameters, []),
        ("adversary.voters", config.adversary.voters, 0),
        ("probe.every", config.probe.every, 0),
        ("checkpoint.memory_every", config.checkpoint.memory_every, 0),
        ("checkpoint.ranks_changed", config.checkpoint.ranks_changed, False),
        ("exchange.gpu_aware", config.exchange.gpu_aware, False),
    ):
        if value:
            raise UsageError(f"{KEY} does not go with {key} = {value!r}; set it to {fits!r}")


def _per_host(ranks: int) -> int:
    """Ranks of this host by the launcher; all of them where it does not tell."""
    known = (launchers.number(name) for name in launchers.LOCAL_SIZES)
    nodes = launchers.number("SLURM_STEP_NUM_NODES") or 1
    return next(filter(None, known), None) or max(ranks // nodes, 1)


def _cut(members: tuple[int, ...], size: int) -> list[tuple[int, ...]]:
    return [members[k : k + size] for k in range(0, len(members), size)]


def _named(nodes: Iterable[tuple[str, tuple[int, ...]]]) -> dict[str, int]:
    """Ranks of each node by its host's name, with a number where a host is several."""
    several, seen, sizes = Counter(host for host, _ in nodes), Counter(), {}
    for host, part in nodes:
        seen[host] += 1
        sizes[f"{host} ({seen[host]})" if several[host] > 1 else host] = len(part)
    return sizes


def _uneven(sizes: dict[str, int], size: int) -> UsageError:
    text = ", ".join(f"{name} has {count}" for name, count in sizes.items())
    remedy = f"start a multiple of exchange.node_size = {size} on each host" if size else "start as many on each host"
    text = f"{KEY} needs as many ranks on every node, but {text}; {remedy}, or set exchange.node_size"
    return UsageError(text, agreed=True)
