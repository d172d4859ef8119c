"""`exchange.voter = "node"`: the mean of a node's gradients, what is refused, and a run from its header to its end."""

import numpy as np
import pytest
import torch

from mpisign import config
from mpisign.errors import UsageError
from mpisign.layout import TILE
from mpisign.problems.digits import Digits
from mpisign.problems.node import NodeOracle, members_of, scratch
from mpisign.run import nodes
from mpisign.run.plan import resolve
from mpisign.run.resume import differences
from mpisign.storage.reader import Run, load_parameters
from tests.building import Setup
from tests.running import mpisign, train
from tests.test_commands import refused

BY_NODE = ('exchange.voter="node"', "exchange.node_size=2")
WIDE = ("problem.hidden=[256]",)  # two tiles of x and more


def flags(*settings):
    return [part for s in settings for part in ("--set", s)]


@pytest.mark.parametrize("shares", [[1.0, 1.0, 1.0], [0.3, 2.1, 0.6]])
@pytest.mark.parametrize("clip", [0.0, 0.01])
def test_a_nodes_gradient_is_the_mean_of_its_ranks_in_their_order(shares, clip):
    setup = Setup(Digits(hidden=[16]), 6)
    members = [setup.oracle(rank) for rank in (3, 4, 5)]
    node = NodeOracle(1, members, shares, scratch(3, setup.layout), setup.layout, clip=clip)
    alone, out, own = [setup.oracle(rank) for rank in (3, 4, 5)], setup.layout.zeros(), setup.layout.zeros()
    for t in range(3):
        node.begin(t)
        node.gradient(setup.x, out)
        total, losses = np.zeros(setup.layout.length, np.float32), []
        for share, oracle in zip(shares, alone, strict=True):
            oracle.begin(t)
            oracle.gradient(setup.x, own)
            total = total + np.float32(share) * own.numpy()
            losses.append(share * oracle.loss)
        mean = total / np.float32(3)
        norm = setup.layout.norm(torch.from_numpy(mean))
        assert norm > 0.01
        if clip:
            mean = mean * np.float32(clip / norm)
        np.testing.assert_array_equal(out.numpy(), mean)
        assert node.loss == (losses[0] + losses[1] + losses[2]) / 3
    assert node.clipped == (3 if clip else 0)
    assert node.evaluations == sum(oracle.evaluations for oracle in alone)
    assert members_of([node]) == members


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("algorithm.name=topk",), ("topk is for voters of one rank", "codes")),
        (("algorithm.name=ssvr-mv",), ("ssvr-mv is for voters of one rank", "two points")),
        (("adversary.voters=1",), ("adversary.voters = 1", "set it to 0")),
        (("probe.every=5",), ("probe.every = 5",)),
        (("checkpoint.memory_every=5",), ("checkpoint.memory_every = 5",)),
        (("checkpoint.ranks_changed=true", "run.file=runs/x.h5"), ("checkpoint.ranks_changed = True",)),
        (("dense.parameters=['*bias']",), ("dense.parameters = ['*bias']", "set it to []")),
        (("run.device=cuda",), ("run.device = 'cuda'",)),
        (('run.lost_ranks="vote on"',), ("run.lost_ranks = 'vote on'", "set it to 'stop'")),
    ],
)
def test_what_does_not_go_with_nodes_is_refused_before_mpi(settings, words):
    with pytest.raises(UsageError) as raised:
        resolve(config.load(None, (*BY_NODE, *settings)), 2, 2)
    assert all(word in str(raised.value) for word in words), raised.value
    # where a node has one rank, voters are as ever
    assert resolve(config.load(None, (BY_NODE[0], *settings)), 2, 1).config.ranks_per_voter == 1


def test_voters_are_counted_before_mpi_starts(monkeypatch):
    job = config.load(None, BY_NODE)
    assert nodes.foreseen(job, 8) == (4, 2)
    assert nodes.foreseen(config.load(None), 8) == (8, 1)
    with pytest.raises(UsageError, match="node 0 has 2, node 1 has 2, node 2 has 1; start a multiple of"):
        nodes.foreseen(job, 5)
    by_host = config.load(None, BY_NODE[:1])
    monkeypatch.setenv("MPI_LOCALNRANKS", "4")
    assert nodes.foreseen(by_host, 8) == (2, 4)
    assert nodes.foreseen(by_host, 8, per_host=8) == (1, 8)
    assert nodes.simulated(job, 3) == (3, 2)
    with pytest.raises(UsageError, match=r"as in exchange\.node_size=4"):
        nodes.simulated(by_host, 3)


def test_a_job_keeps_how_many_ranks_its_voters_have():
    plan = resolve(config.load(None, (BY_NODE[0], "problem.global_batch_size=32")), 2, 4)
    assert plan.config.ranks_per_voter == plan.config.exchange.node_size == 4
    assert plan.config.problem.batch_size == 4
    with pytest.raises(UsageError, match="there are 2 voter\\(s\\) of 4 ranks"):
        resolve(config.load(None, (BY_NODE[0], "run.voters=8")), 2, 4)
    with pytest.raises(UsageError, match="there are 8 rank"):
        resolve(config.load(None, (BY_NODE[0], "problem.batch_sizes=[1,2]")), 2, 4)


def test_a_run_goes_on_with_the_same_voters_only():
    written = config.load(None, BY_NODE).written
    others = [{"node_size": 3}, {"voter": "rank"}]
    told = [differences(written, written | {"exchange": written["exchange"] | other}) for other in others]
    assert [len(some) for some in told] == [1, 1]
    # the size of a node is a matter of the exchange alone where a rank is a voter; an older mpisign knew no other
    by_rank = config.load(None).written
    older = by_rank | {"exchange": {k: v for k, v in by_rank["exchange"].items() if k != "voter"}}
    assert differences(older, by_rank | {"exchange": by_rank["exchange"] | {"node_size": 3}}) == []
    assert differences(older, written)[0] == "exchange.voter = 'rank' there and 'node' here"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of 2 x 2 ranks that was stopped and went on, and its simulation: output and run files."""
    folder = tmp_path_factory.mktemp("nodes")
    files = [folder / "ranks.h5", folder / "simulated.h5"]
    job = (*WIDE, "run.steps=9", "run.eval_every=3", "run.record_every=2", "run.check_every=4", "run.objective=rows")
    job = (*job, *BY_NODE, "algorithm.name=dist-ef-signsgd", "exchange.name=sharded")
    stopped = mpisign("train", "--max-time", "0.0001", *flags(*job, f"run.file={files[0]}"), n=4)
    resumed = mpisign("resume", files[0], "--max-time", "60", n=4)
    simulated = mpisign("simulate", "-n", 2, *flags(*job, f"run.file={files[1]}"))
    return files, (stopped, resumed, simulated)


def test_a_run_of_nodes_stops_and_goes_on(runs):
    (file, _), (stopped, resumed, _) = runs
    refused(stopped, "stopped after step 1", "go on with mpisign resume", "on 4 rank(s)", code=75)
    assert "voters: 2, of 2 ranks each" in stopped.out
    assert "rows per rank: " in stopped.out
    assert resumed.code == 0, resumed.err
    assert resumed.values | {"n": "2", "ranks_per_voter": "2"} == resumed.values
    assert "bytes per voter" in resumed.out
    run = Run(file)
    assert (run.attributes["n"], run.ranks_per_voter, len(run.partition["rows"])) == (2, 2, 4)
    assert run.config["exchange"] | {"voter": "node", "node_size": 2} == run.config["exchange"]
    assert sorted(set(run["phases"]["rank"].tolist())) == [0, 1, 2, 3]
    refused(mpisign("resume", file, "--set", "run.overwrite=false", n=3), "2 voters of 2 ranks", "start 4")


def test_its_simulation_tells_the_same(runs):
    files, (*_, simulated) = runs
    assert simulated.code == 0, simulated.err
    ranks, here = map(Run, files)
    for table in ("steps", "eval"):
        for column in set(ranks[table]) - {"seconds", "bytes_other"}:
            np.testing.assert_array_equal(ranks[table][column], here[table][column], err_msg=column)
    kept = [load_parameters(file.with_suffix(".model")) for file in files]
    assert all(np.array_equal(kept[0][name], kept[1][name]) for name in kept[0])


def test_costs_are_told_by_voter():
    told = [
        mpisign("train", "--dry-run", *flags(*WIDE, *BY_NODE, "exchange.name=sharded"), n=4),
        mpisign("simulate", "-n", 2, "--dry-run", *flags(*WIDE, *BY_NODE, "exchange.name=sharded")),
    ]
    assert [ended.code for ended in told] == [0, 0], told[0].err + told[1].err
    for name in ("d", "bits_per_coordinate", "bytes_per_step", "evaluations_per_step", "ranks_per_voter"):
        assert told[0].values[name] == told[1].values[name], name
    length = 19264  # with pads: x and two gradients, in memory that both ranks see
    assert int(told[0].values["shared_memory_per_voter"]) == 3 * 4 * length
    # each rank's own part of x is in there; momentum, gradient and messages of half of x are not
    assert int(told[0].values["memory_per_rank"]) < int(told[1].values["memory_per_process"]) / 2


def test_a_voter_has_a_tile_of_x_for_each_rank():
    few = ("problem.hidden=[]", 'exchange.voter="node"', "exchange.node_size=4", "run.steps=2")
    ended = mpisign("simulate", "-n", 2, "--dry-run", *flags(*few))
    refused(ended, f"1 tile(s) of {TILE}", "4 ranks of a voter")
    refused(train(*few, n=4), f"1 tile(s) of {TILE}", "4 ranks of a voter")
