"""What a job is made of before its first step: rows, layout, x, the rest of its plan, and the Stepper, in that order.

All of it is collective: an error of one rank is raised on all.
"""

import fnmatch
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mpisign import bits
from mpisign.algorithms.formats import RAW
from mpisign.algorithms.method import evaluations_at
from mpisign.bits.rng import Streams
from mpisign.engine.autotune import autotune
from mpisign.engine.build import make_stepper
from mpisign.engine.stepper import Stepper
from mpisign.engine.timing import Timer
from mpisign.errors import UsageError, choices
from mpisign.exchange.nodes import SharedVectors
from mpisign.layout import Layout, LayoutShard, SegmentOptions, shard_borders
from mpisign.parallel import memory
from mpisign.parallel.device import broadcast_tensor, synchronize
from mpisign.parallel.mpi import Ranks
from mpisign.parallel.watchdog import WATCH
from mpisign.parallel.world import Local, Mpi, OfShards, World
from mpisign.problems import Oracle, Rows, device_for
from mpisign.problems.data.distribute import LocalData, distribute_rows, fingerprint, fingerprint_as_dealt
from mpisign.problems.node import NodeOracle, scratch
from mpisign.run import budget
from mpisign.run.adversary import Adversary
from mpisign.run.nodes import NodeVoter
from mpisign.run.plan import Plan, with_theory, with_weights
from mpisign.run.resume import MOVABLE
from mpisign.run.speed import by_speed
from mpisign.run.threads import PER_COORDINATE, Operations, threads_for

LARGEST = 1 << 62  # more rows than any rank has
STEPS = 1000  # of the built-in job with a problem that has no rows to pass over


@dataclass(frozen=True)
class Setup:
    """plan: with all that only the data tell, run.steps too. rows_per_minibatch: of all voters, 0 without rows.

    everyone: all ranks, for what is a matter of theirs; the world of the Stepper's voters, where these are the ranks.
    why_threads: why torch has as many threads as it has.
    """

    plan: Plan
    share: LocalData
    stepper: Stepper
    rows_per_minibatch: int
    everyone: World
    why_threads: str


def use_threads(threads: int) -> None:
    """So many threads for torch and for the kernels."""
    torch.set_num_threads(threads)
    bits.use_threads(threads)


def set_up(plan: Plan, ranks: Ranks, voters: int, node: NodeVoter | None = None) -> Setup:
    """Everything that lives from the first step to the last. voters: one per rank or node, or any number without MPI.

    Raises UsageError on all ranks for data that can't be read, and for what does not fit the data or the memory.
    """
    streams = Streams(plan.config.run.seed)
    share = local_data(plan, ranks, voters * plan.config.ranks_per_voter, streams)
    start = _initial(plan, streams, ranks)
    device = device_for(plan.problem, "cpu" if node else plan.config.run.device, ranks)
    layout = Layout({name: tuple(p.shape) for name, p in start.items()}, segment_options(plan, start), device)
    plan.algorithm.check(layout)
    x = layout.flatten(start)
    broadcast_tensor(ranks, x)  # a generator may differ between hosts, its bits may not
    why_threads = _settle_threads(plan, share, layout, x, streams, ranks)
    if plan.config.problem.batch_sizes == "speed":
        sizes = by_speed(plan, share, layout, x, streams, ranks)
        plan = replace(plan, config=plan.config.updated(problem={"batch_sizes": sizes}))
    plan, rows_per_minibatch = _completed(plan, share, voters, layout.size)
    with ranks.agreed():
        parts = _parts(plan, share, layout, x, streams, ranks, node)
    plan, stepper = _assemble(plan, share, parts, ranks)
    if plan.config.adversary.voters:
        adversary = Adversary(**plan.config.adversary.model_dump(), stepper=stepper)
        for channel in (channel for stage in stepper.stages for channel in stage.channels):
            channel.exchange.adversary = adversary
    return Setup(plan, share, stepper, rows_per_minibatch, parts.everyone, why_threads)


def local_data(plan: Plan, ranks: Ranks, voters: int, streams: Streams) -> LocalData:
    """The rows of this process's ranks; x has to fit as well, and some problems know its size only with the data.

    voters: as many as ranks, though several of these may be one.
    """
    config, generator = plan.config, streams.draw("partition", 0).generator()
    _check_size(plan, ranks, voters)
    partition = partition_settings(plan)
    share = distribute_rows(plan.problem, ranks, voters, generator, **partition)
    if config.problem.arguments.keys() & set(MOVABLE):  # data that may lie elsewhere when the run goes on
        share.data = fingerprint(share, ranks)
        if plan.before:
            with ranks.agreed():
                if ranks.root:
                    generator = streams.draw("partition", 0).generator()
                    share.data_before = fingerprint_as_dealt(plan.problem, plan.before, generator, **partition)
    _check_size(plan, ranks, voters)
    return share


def partition_settings(plan: Plan) -> dict[str, object]:
    """How rows are dealt, as distribute_rows() takes it."""
    return plan.config.partition.model_dump() | {"gives_way": plan.config.gives_way("partition.kind")}


def _check_size(plan: Plan, ranks: Ranks, voters: int) -> None:
    """Refuses a problem whose x and gradients alone do not fit into memory, as far as it knows its size."""
    if d := plan.problem.coordinates:
        local = len(ranks.members) if ranks.size > 1 else voters
        what = f"problem {plan.config.problem.name!r} with {d:,} coordinates and {local} voter(s) on this machine"
        with ranks.agreed():
            memory.require_memory(4 * d * 2 * local, what, "make it smaller, or spread the ranks")


def _initial(plan: Plan, streams: Streams, ranks: Ranks) -> dict[str, Tensor]:
    """The starting point, which every rank makes; raises UsageError on all if one that did not read the data can't."""
    with ranks.agreed(), WATCH.at("making the starting point"):
        try:
            return plan.problem.initial(streams.draw("initial", 0).generator())
        except AttributeError as error:
            if ranks.local_rank == 0:
                raise
            raise UsageError(
                f"problem {plan.config.problem.name!r}: initial() fails on a rank that did not read the data "
                f"({error}); read() is called once a node: give what it finds out by describe(), and take it in "
                "adopt(), on every rank"
            ) from error


def segment_options(plan: Plan, names: Collection[str]) -> dict[str, SegmentOptions]:
    """Groups of the parameters that [dense] takes out of the vote; all ranks know the same names."""
    patterns = plan.config.dense.parameters
    if idle := [pattern for pattern in patterns if not fnmatch.filter(names, pattern)]:
        known = f"the parameters, which are: {choices(names)}"
        raise UsageError(f"dense.parameters: {idle[0]!r} matches none of {known}", agreed=True)
    if all(stage.sign.up() == RAW for stage in plan.algorithm.stages):
        return {}
    averaged = {name for pattern in patterns for name in fnmatch.filter(names, pattern)}
    return {name: SegmentOptions(vote=False) for name in averaged}


def _settle_threads(plan: Plan, share: LocalData, layout: Layout, x: Tensor, streams: Streams, ranks: Ranks) -> str:
    """Leaves torch the cores of a rank that a step keeps busy, unless the job says how many. Collective; returns why.

    Simulated voters have the threads of as many ranks on a machine like this one, and so their bits.
    """
    if plan.config.run.threads:
        return "as run.threads says"
    cores, operations = ranks.threads, 0
    # what is to be compiled can't be looked into: asked once without, torch would never compile it
    several = cores > 1 and layout.device.type == "cpu" and not plan.config.run.compile
    with ranks.agreed(), WATCH.at("counting the operations of a gradient"):
        if several:
            operations = _operations(plan, share, layout, x, streams, ranks) + PER_COORDINATE * layout.size
    most = max(ranks.allgather(operations, "operations"))
    if not several:
        return ""
    ranks.threads = threads_for(most, cores)
    use_threads(ranks.threads)
    return f"of {cores} cores; a step has {most / 1e6:.3g} million operations"


def _operations(plan: Plan, share: LocalData, layout: Layout, x: Tensor, streams: Streams, ranks: Ranks) -> int:
    """Of the largest minibatch of this process's voters: its gradient, or its value where a method takes no other."""
    config, count = plan.config, len(share.rows)
    if config.problem.batch_sizes == "speed":  # not measured yet
        config = config.updated(problem={"batch_sizes": [-(-config.problem.global_batch_size // count)] * count})
    sizes = budget.batch_sizes(config, count)
    local = [ranks.rank] if ranks.size > 1 else range(count)
    pairs = zip(local, share.train, strict=True)
    rank, rows = max(pairs, key=lambda pair: min(sizes[pair[0]] or LARGEST, share.rows[pair[0]]))
    oracle = oracle_of(replace(plan, config=config), rank, rows, count, layout, streams, ranks)
    use_threads(1)
    with Operations() as counted:
        if any(evaluations_at(plan.algorithm, [(1, 1)], age) for age in range(2)):
            oracle.gradient(x, layout.zeros())
        else:
            oracle.value(x)
    return counted.total // config.algorithm.accumulate


def _completed(plan: Plan, share: LocalData, voters: int, d: int) -> tuple[Plan, int]:
    """The plan with what was left to the data: how rows were dealt, steps, rates by theory. And rows per minibatch."""
    config = plan.config
    if config.gives_way("partition.kind") and share.rows.any():
        config = config.updated(partition={"kind": share.kind})
    if config.gives_way("run.epochs") and not share.rows.any():
        config = config.updated(run={"epochs": None, "steps": STEPS})
    steps, rows_per_minibatch = budget.length(config, plan.algorithm, share)
    plan = replace(plan, config=config)
    if config.run.preset == "theory":
        plan = with_theory(plan, steps, voters, d, budget.batches_per_pass(config, share))
    if config.algorithm.weights is not None:
        plan = with_weights(plan, budget.votes(config, share))
    return replace(plan, config=plan.config.updated(run={"steps": steps})), rows_per_minibatch


@dataclass(frozen=True)
class _Parts:
    """What the Stepper of this process is made of, besides the plan and the exchanges.

    layout, x, streams: of all of x, or of this rank's shard of it. comm: on which exchanges are measured, if any.
    """

    layout: Layout
    x: Tensor
    streams: Streams
    world: World
    everyone: World
    oracles: list[Oracle] | list[NodeOracle]
    comm: Any


def _of_ranks(members: list[Oracle], layout: Layout, x: Tensor, streams: Streams, ranks: Ranks, n: int) -> _Parts:
    """A voter per rank: this one's, or all n of a simulation."""
    world = Mpi(ranks.comm) if ranks.size > 1 else Local(n)
    return _Parts(layout, x, streams, world, world, list(members), ranks.comm)


def _of_simulated_nodes(
    members: list[Oracle], weights: np.ndarray, clip: float, layout: Layout, x: Tensor, streams: Streams
) -> _Parts:
    """Voters of several ranks, all of them in this process. weights: (voters, ranks of each)."""
    each = weights.shape[1]
    gradients, oracles = scratch(each, layout), []
    for voter, own in enumerate(weights):
        ranks = members[voter * each :][:each]
        oracles.append(NodeOracle(voter, ranks, own.tolist(), gradients, layout, clip=clip))
    world = Local(len(weights), shards=_lengths(layout, each))
    return _Parts(layout, x, streams, world, Local(weights.size), oracles, None)


def _of_node(
    node: NodeVoter, member: list[Oracle], weights: np.ndarray, clip: float, x: Tensor, streams: Streams, ranks: Ranks
) -> _Parts:
    """This rank's part of a voter that is a node: its shard of x, all of which the node's ranks share."""
    layout, world = LayoutShard(member[0].layout, node.inside), OfShards(node.across, ranks.comm, node.inside)
    memory = SharedVectors(ranks.comm, node.inside.comm, len(x))
    if node.inside.rank == 0:
        memory.x.copy_(x)
    memory.wait()
    settings = {"clip": clip, "x": memory.x, "first": node.inside.rank, "wait": memory.wait}
    oracle = NodeOracle(node.voter, member, weights[node.voter].tolist(), memory.gradients, layout, **settings)
    own = memory.x[layout.origin :][: layout.length]
    streams = Streams(streams.seed, layout.origin)
    return _Parts(layout, own, streams, world, Mpi(ranks.comm), [oracle], node.across)


def _parts(
    plan: Plan, share: LocalData, layout: Layout, x: Tensor, streams: Streams, ranks: Ranks, node: NodeVoter | None
) -> _Parts:
    """A voter per rank; or voters of several ranks, which are nodes or simulated."""
    members = _oracles(plan, share, layout, streams, ranks)
    if plan.config.ranks_per_voter == 1:
        return _of_ranks(members, layout, x, streams, ranks, len(share.rows))
    weights, clip = budget.shares(plan.config, share), plan.config.algorithm.clip
    if node is None:
        parts = _of_simulated_nodes(members, weights, clip, layout, x, streams)
    else:
        parts = _of_node(node, members, weights, clip, x, streams, ranks)
    parts.everyone.traffic = parts.world.traffic  # counted together
    return parts


def _lengths(layout: Layout, each: int) -> tuple[int, ...]:
    return tuple(hi - lo for lo, hi in shard_borders(layout.length, each))


def _assemble(plan: Plan, share: LocalData, parts: _Parts, ranks: Ranks) -> tuple[Plan, Stepper]:
    """The Stepper with its exchanges, and the plan with those that were chosen by measuring."""
    config, layout = plan.config, parts.layout
    settings = config.exchange.model_dump(exclude={"name", "voter", "gpu_aware"})
    if config.exchange.voter == "node":
        settings["node_size"] = 0  # of which the ranks of a voter are a node
    chosen = autotune(plan.choices, plan.algorithm.stages, parts.comm, layout.length, **settings)
    chosen = ranks.share(chosen) if parts.world is not parts.everyone else chosen  # those of like shards measured alone
    timer = Timer(lambda: synchronize(layout.device)) if layout.device.type != "cpu" else None
    weights = budget.weights(config, share)
    settings["gpu_aware"] = config.exchange.gpu_aware
    arguments = layout, parts.world, parts.streams, parts.oracles, parts.x
    stepper = make_stepper(plan.algorithm, chosen, *arguments, weights, timer, **settings)
    return replace(plan, choices=chosen), stepper


def _oracles(plan: Plan, share: LocalData, layout: Layout, streams: Streams, ranks: Ranks) -> list[Oracle]:
    """Those of this process's ranks."""
    local = [ranks.rank] if ranks.size > 1 else range(len(share.rows))
    pairs = zip(local, share.train, strict=True)
    return [oracle_of(plan, rank, rows, len(share.rows), layout, streams, ranks) for rank, rows in pairs]


def oracle_of(
    plan: Plan, rank: int, rows: Rows | None, count: int, layout: Layout, streams: Streams, ranks: Ranks
) -> Oracle:
    """What a job asks about one of so many ranks, which owns these rows."""
    algorithm, problem = plan.config.algorithm, plan.config.problem
    settings = {"sampling": problem.sampling, "accumulate": algorithm.accumulate}
    settings["clip"] = algorithm.clip if plan.config.ranks_per_voter == 1 else 0.0  # else of a voter's gradient
    settings["sharing"] = len(ranks.members)  # of a GPU's memory, at most
    size = budget.batch_sizes(plan.config, count)[rank]
    return Oracle(plan.problem, layout, rows, rank, streams, batch_size=size, **settings)
