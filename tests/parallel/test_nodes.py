"""Voters that are nodes: ranks that have a shard each have the bits and counters of a process that is all of them."""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from mpisign import config
from mpisign.engine import state
from mpisign.errors import NumericalError, UsageError
from mpisign.parallel import mpi
from mpisign.problems.node import members_of
from mpisign.run import nodes
from mpisign.run.evaluate import exact_gradients, measure, statistics
from mpisign.run.plan import resolve
from mpisign.run.setup import set_up
from mpisign.storage.checkpoint import Checkpoint
from tests.building import PROGRESS

pytestmark = pytest.mark.mpi

STEPS = 6
JOB = ("problem.hidden=[256]", "problem.batch_size=5", "run.steps=6", 'exchange.voter="node"', "run.threads=1")
COUNTS = ("up", "down", "other")


@pytest.fixture(autouse=True, scope="module")
def _several(comm):
    if comm.Get_size() == 1:
        pytest.skip("a voter of one rank is a rank")


def ranks_of_voters(comm):
    """Two where that is even, else all: one voter."""
    n = comm.Get_size()
    return 2 if n % 2 == 0 else n


def on_ranks(comm, *settings, of=0):
    """A job on these ranks: its plan, the ranks, and what set_up() makes of them."""
    each = of or ranks_of_voters(comm)
    made = config.load(None, (*JOB, f"exchange.node_size={each}", *settings))
    ranks, node = nodes.divide(mpi.of(comm, 1), made)
    plan = resolve(made, comm.Get_size() // each, each)
    return plan, ranks, set_up(plan, ranks, plan.config.run.voters, node)


def both(comm, *settings):
    """The same job here and simulated in one process."""
    plan, ranks, setup = on_ranks(comm, *settings)
    voters = plan.config.run.voters
    return ranks, setup, set_up(plan, mpi.alone(comm.Get_size(), 1), voters)


def whole(setup):
    return setup.stepper.oracles[0].whole(setup.stepper.x)


def sent(setup, comm=None):
    """Bytes over all ranks."""
    traffic = setup.stepper.world.traffic
    own = [getattr(traffic, name) for name in COUNTS]
    return own if comm is None else np.sum(comm.allgather(own), axis=0).tolist()


@pytest.mark.parametrize(
    ("algorithm", "exchange", "settings"),
    [
        ("signsgd-mv", "sharded", ()),
        ("signum-mv", "allreduce", ("algorithm.clip=0.3",)),
        ("signum-mv", "butterfly", ("run.objective=rows", "algorithm.accumulate=2")),
        ("dlion-mavo", "hierarchical", ()),
        ("ssdm", "sharded", ()),
        ("dist-ef-signsgd", "sharded", ("algorithm.clip=0.3", "run.objective=rows", "exchange.chunk=512")),
        ("terngrad", "allgather", ()),
        ("sto-signsgd", "sharded", ("algorithm.refresh=3",)),
        ("adam", "dense", ("run.objective=rows",)),
        ("onebit-adam", "sharded", ("algorithm.warmup_steps=3",)),
        ("signsgd-mv", "sharded", ("algorithm.weights=rows",)),
    ],
)
def test_nodes_have_the_bits_and_counters_of_a_simulation(comm, everywhere, algorithm, exchange, settings):
    names = () if comm.Get_size() == ranks_of_voters(comm) else (f"exchange.name={exchange}",)
    _, there, here = both(comm, f"algorithm.name={algorithm}", *names, *settings)
    assert here.stepper.world.n == there.stepper.world.n
    for t in range(STEPS):
        mine, theirs = (setup.stepper.step(0.01, counting=True) for setup in (there, here))
        everywhere(torch.equal(whole(there), here.stepper.x), f"step {t}")
        everywhere(mine.loss == theirs.loss, f"loss of step {t}")
        found, expected = mine.totals(there.everyone), theirs.totals(here.everyone)
        everywhere(str(found) == str(expected), "what a row tells")
        everywhere(vars(there.stepper.world.cost) == vars(here.stepper.world.cost), "the method's own bits")
    there.stepper.check_replicas()
    here.stepper.check_replicas()
    if algorithm != "dlion-mavo" or not names:  # whose nodes a simulation can't know
        assert sent(there, comm) == sent(here)
    taken = np.array([[o.evaluations, o.clipped] for o in there.stepper.oracles]).sum(axis=0)
    expected = np.array([[o.evaluations, o.clipped] for o in here.stepper.oracles]).sum(axis=0)
    assert np.sum(comm.allgather(taken), axis=0).tolist() == expected.tolist()
    there.stepper.close()


def test_figures_are_those_of_a_simulation(comm, everywhere):
    _, there, here = both(comm, "algorithm.name=signum-mv", "run.objective=rows")
    for setup in (there, here):
        setup.stepper.step(0.01)
    figures = []
    for setup in (there, here):
        x, gathered = whole(setup), statistics(setup.stepper, setup.everyone)
        test = [part.tensors() for part in setup.share.test]
        _, mean = exact_gradients(setup.stepper, setup.everyone, x)
        figures.append((measure(setup.stepper, setup.everyone, x, test, gathered), mean))
    everywhere(figures[0][0] == figures[1][0], "losses and accuracy")
    everywhere(torch.equal(figures[0][1], figures[1][1]), "the exact gradient")
    there.stepper.close()


@pytest.mark.parametrize("algorithm", ["dist-ef-signsgd", "adam", "onebit-adam"])
def test_checkpoints_are_of_voters(comm, everywhere, tmp_path, algorithm):
    """One that ranks wrote has the arrays of one of a simulation, and either goes on from the other's."""
    folder = comm.bcast(tmp_path)
    settings = (f"algorithm.name={algorithm}", *(("algorithm.warmup_steps=2",) if algorithm == "onebit-adam" else ()))
    ranks, there, here = both(comm, *settings)
    for _ in range(3):
        for setup in (there, here):
            setup.stepper.step(0.01, counting=True)
    state.save_state(folder / "there.h5", there.stepper, ranks, "[run]\n", PROGRESS, None)
    if ranks.root:
        state.save_state(folder / "here.h5", here.stepper, mpi.alone(1), "[run]\n", PROGRESS, None)
        with Checkpoint(folder / "there.h5") as one, Checkpoint(folder / "here.h5") as other:
            assert sorted(one.names()) == sorted(other.names())
            assert [name for name in one.names() if one[name].tobytes() != other[name].tobytes()] == []
    comm.Barrier()
    _, ranks, again = on_ranks(comm, *settings)
    opened = Checkpoint(folder / "here.h5") if ranks.root else None
    state.load_state(opened, again.stepper, ranks)
    state.load_state(Checkpoint(folder / "there.h5"), here.stepper, mpi.alone(1))
    for setup in (there, again, here):
        setup.stepper.step(0.01, counting=True)
    everywhere(torch.equal(whole(there), whole(again)), "ranks that went on")
    everywhere(torch.equal(whole(there), here.stepper.x), "a simulation that went on")
    there.stepper.close()
    again.stepper.close()


def test_a_gradient_that_is_not_finite_on_one_rank_stops_all(comm, everywhere):
    _, ranks, setup = on_ranks(comm, "algorithm.name=signum-mv")
    stepper, last = setup.stepper, ranks.rank == ranks.size - 1
    stepper.step(0.01)
    before, problem = whole(setup).clone(), members_of(stepper.oracles)[0].problem
    comm.Barrier()
    if last:
        take = problem.gradient

        def broken(parameters, batch, gradients):
            loss = take(parameters, batch, gradients)
            next(iter(gradients.values())).view(-1)[0] = torch.nan
            return loss

        problem.gradient = broken
    with pytest.raises(NumericalError) as raised:
        stepper.step(0.01)
    n, each = stepper.world.n, stepper.world.each
    everywhere(str(raised.value).startswith(f"voter {n - 1} (ranks {(n - 1) * each} to {ranks.size - 1}): "), raised)
    everywhere(torch.equal(whole(setup), before), "x has moved")
    stepper.close()


def test_ranks_are_numbered_node_by_node(comm, everywhere):
    """Where a launcher deals ranks to hosts in turn, those of a host are one voter all the same."""
    n = comm.Get_size()
    if n % 2:
        pytest.skip("two hosts of as many ranks each")
    ranks = mpi.of(comm, 1)
    members = tuple(range(ranks.rank % 2, n, 2))  # of two hosts
    split = comm.Split(ranks.rank % 2)
    ranks = replace(ranks, members=members, node=split, local_rank=split.Get_rank())
    made = config.load(None, JOB)
    placed, node = nodes.divide(ranks, made)
    if n == 2:
        assert node is None
        return
    everywhere(placed.members == tuple(range(ranks.rank % 2 * n // 2, (ranks.rank % 2 + 1) * n // 2)), "members")
    everywhere(placed.rank == placed.comm.Get_rank() == placed.members[split.Get_rank()], "its own number")
    everywhere((node.voter, node.inside.rank) == divmod(placed.rank, n // 2), "its place")
    everywhere((node.voters, node.each) == (2, n // 2), "voters")
    sums = node.across.allgather(placed.rank)
    everywhere(sums == [node.inside.rank, node.inside.rank + n // 2], "like shards")


def test_nodes_of_different_sizes_are_told(comm):
    n = comm.Get_size()
    if n < 3:
        pytest.skip("two hosts of different sizes")
    ranks = mpi.of(comm, 1)
    hosts = (tuple(range(n - 1)), (n - 1,))
    ranks = replace(ranks, members=hosts[ranks.rank == n - 1])
    with pytest.raises(UsageError, match=rf"{os.uname().nodename} \(1\) has {n - 1}, .* \(2\) has 1; start as many"):
        nodes.divide(ranks, config.load(None, JOB))
