"""Ranks that are lost: the others vote on, by the bits of a simulation of the same history."""

import re

import numpy as np
import pytest

from mpisign.storage import checkpoint
from mpisign.storage.reader import Run, load_parameters
from tests.dying import STOPPED, simulated
from tests.running import BIN, run, train
from tests.test_commands import refused

JOB = (
    "problem.name=tests.dying:Dying",
    *("run.steps=40", "run.record_every=1", "run.check_every=5", "run.eval_every=10", "run.watchdog=60"),
    *("exchange.name=sharded", "schedule.lr=0.01"),
)


pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module", autouse=True)
def _open_mpi():
    """Only Open MPI's ranks can outlive one another."""
    vendor = pytest.importorskip("mpi4py.MPI").get_vendor()[0]
    if vendor != "Open MPI":
        pytest.skip(f"{vendor} ends all ranks with the first; make test-openmpi")


def survive(file, *settings, n=4, code=0, lost_ranks="vote on"):
    """A job of ranks that outlive one another."""
    ended = start("train", *settings_of(file, *settings, lost_ranks=lost_ranks), n=n)
    assert ended.code == code, ended.err
    return ended


def start(command, *arguments, n=4):
    """A command of mpisign on ranks that can outlive one another."""
    return run(BIN / "mpirun", "--with-ft", "ulfm", "-n", n, BIN / "mpisign", command, *arguments, timeout=240)


def settings_of(file, *settings, lost_ranks="vote on"):
    every = (*JOB, f"run.lost_ranks={lost_ranks}", f"run.file={file}", *settings)
    return [part for setting in every for part in ("--set", setting)]


def check(file, settings, lost, n=4):
    """The run told of each loss at its step, has every row once, and ended with the simulation's bits."""
    assert Run(file).complete
    assert Run(file)["steps"]["step"].tolist() == list(range(1, 41))
    events = Run(file)["events"]
    told = events["text"][events["kind"] == "lost"].tolist()
    found = [re.match(r"voter\(s\) ([\d, ]+) lost in step (\d+); (\d+) vote on: ([\d, ]+)", text) for text in told]
    assert {int(m[2]): [*map(int, m[1].split(","))] for m in found} == lost
    assert Run(file)["segments"]["n"].tolist() == [n, *(int(m[3]) for m in found)]
    kept, wanted = load_parameters(file.with_suffix(".model")), simulated((*JOB, *settings), n, lost)
    assert all(np.array_equal(kept[name], wanted[name].numpy()) for name in wanted)
    return events["kind"].tolist()


HISTORIES = [
    ("signum-mv", "2:21", {21: [2]}),
    ("dist-ef-signsgd", "1:13", {13: [1]}),
    ("adam", "3:9", {9: [3]}),
    ("signum-mv", "2:11 1:22", {11: [2], 21: [1]}),  # the second one's gradient of step 11 was taken twice
    ("signum-mv", "3:7 1:7", {7: [1, 3]}),
    ("dist-ef-signsgd", "0:13", {13: [0]}),
    ("signum-mv", "0:6 1:17 2:28", {6: [0], 16: [1], 26: [2]}),
]


@pytest.mark.parametrize(("algorithm", "deaths", "lost"), HISTORIES)
def test_survivors_vote_on(algorithm, deaths, lost, tmp_path):
    how = (f"algorithm.name={algorithm}", "exchange.name=dense" if algorithm == "adam" else "exchange.name=sharded")
    survive(tmp_path / "r.h5", *how, f"problem.deaths={deaths}")
    kinds = check(tmp_path / "r.h5", how, lost)
    assert kinds == ["start", *["lost"] * len(lost), "complete"]


# ranks that are lost, by step; those that run several voters afterwards
ADOPTIONS = [
    ("signum-mv", "2:21", [(21, [(2, 3)])]),
    ("dist-ef-signsgd", "0:13", [(13, [(0, 1)])]),
    ("sto-signsgd", "1:9", [(9, [(1, 2)])]),
    ("signsgd-fv", "3:9", [(9, [(0, 3)])]),  # what a vote keeps is spread over the ranks
    ("terngrad", "1:9", [(9, [(1, 2)])]),
    ("adam", "3:9", [(9, [(0, 3)])]),
    ("topk", "2:9", [(9, [(2, 3)])]),  # messages are codes
    ("signum-mv", "2:11 3:22", [(11, [(2, 3)]), (16, [(0, 2, 3)])]),  # who has adopted is lost, too
    ("signum-mv", "0:6 1:17 2:28", [(6, [(0, 1)]), (11, [(0, 1, 2)]), (16, [(0, 1, 2, 3)])]),
]


@pytest.mark.parametrize(("algorithm", "deaths", "adopted"), ADOPTIONS)
def test_adopted_voters_make_a_run_that_lost_nobody(algorithm, deaths, adopted, tmp_path):
    how = (f"algorithm.name={algorithm}", "exchange.name=auto")
    survive(tmp_path / "r.h5", *how, f"problem.deaths={deaths}", lost_ranks="adopt")
    run = Run(tmp_path / "r.h5")
    assert run.complete
    assert run["steps"]["step"].tolist() == list(range(1, 41))
    told = run["events"]["text"][run["events"]["kind"] == "lost"].tolist()
    assert told == [
        f"rank(s) lost in step {step}; from now on "
        + ", and ".join(f"one rank runs voters {', '.join(map(str, own))}" for own in groups)
        for step, groups in adopted
    ]
    assert set(run["segments"]["n"].tolist()) == {4}
    kept, wanted = load_parameters(tmp_path / "r.model"), simulated((*JOB, *how), 4, {})
    assert all(np.array_equal(kept[name], wanted[name].numpy()) for name in wanted)


def test_adopted_voters_are_measured_and_saved_like_others(tmp_path):
    file, settings = tmp_path / "r.h5", ("checkpoint.every_steps=10", "checkpoint.keep=9")
    undisturbed, died = tmp_path / "whole.h5", "problem.deaths=2:15"
    survive(undisturbed, *settings, lost_ranks="adopt")
    survive(file, *settings, died, lost_ranks="adopt")
    for table in ("steps", "eval"):
        one, other = Run(undisturbed)[table], Run(file)[table]
        same = set(one) - {"seconds", "bytes_up", "bytes_down", "bytes_other", "gradient_evaluations"}
        assert same >= {"step"}
        for column in same:
            np.testing.assert_array_equal(one[column], other[column], err_msg=column)
    for one, other in zip(checkpoint.saved(undisturbed), checkpoint.saved(file), strict=True):
        with checkpoint.Checkpoint(one) as expected, checkpoint.Checkpoint(other) as found:
            assert found.voters == [0, 1, 2, 3]
            assert sorted(found.names()) == sorted(expected.names())
            for name in found.names():
                np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


@pytest.mark.parametrize("exchange", ["allgather", "allreduce"])
def test_by_other_exchanges_too(exchange, tmp_path):
    survive(tmp_path / "r.h5", f"exchange.name={exchange}", "problem.deaths=1:15")
    check(tmp_path / "r.h5", (), {15: [1]})


def test_a_straggler_is_not_lost(tmp_path):
    survive(tmp_path / "r.h5", "problem.stops=1:12")
    assert check(tmp_path / "r.h5", (), {}) == ["start", "complete"]
    assert Run(tmp_path / "r.h5")["steps"]["seconds"][-1] >= STOPPED


def test_a_checkpoint_names_the_lost_who_begin_anew_when_it_is_resumed(tmp_path):
    file = tmp_path / "r.h5"
    survive(file, "problem.deaths=2:11 1:32", "checkpoint.every_steps=10", "checkpoint.keep=9")
    check(file, (), {11: [2], 31: [1]})
    whole, after = checkpoint.saved(file)[2], checkpoint.saved(file)[1]
    with checkpoint.Checkpoint(whole) as opened:
        assert opened.voters == [0, 1, 2, 3]
    with checkpoint.Checkpoint(after) as opened:
        assert (opened.voters, opened.attributes["n"]) == ([0, 1, 3], 4)
        assert {name.rpartition("/")[2] for name in opened.names() if name.startswith("sign/")} <= {"0", "1", "3"}


def test_what_cant_survive_is_refused_before_anything_is_written(tmp_path):
    ended = train(*JOB, "run.lost_ranks=vote on", f"run.file={tmp_path}/r.h5", n=2)
    refused(ended, 'run.lost_ranks = "vote on"', "mpirun --with-ft ulfm", "mpisign resume")
    assert not [*tmp_path.iterdir()]


def test_bytes_told_are_means_over_the_ranks_there_were(tmp_path):
    survive(tmp_path / "r.h5", "problem.deaths=2:21")
    sent = np.diff(Run(tmp_path / "r.h5")["steps"]["method_bytes_up"])
    assert len({*sent[:19]}) == len({*sent[20:]}) == 1
    assert sent.min() > 0


def test_voters_that_were_lost_begin_anew_when_a_run_is_resumed(tmp_path):
    file, every = tmp_path / "r.h5", "checkpoint.every_steps=10"
    deaths = "problem.deaths=2:11 0:26 1:26 3:26"  # gradients are counted anew by who goes on from step 20
    start("train", *settings_of(file, every, deaths))  # mpirun's exit code is 0 even then
    assert not Run(file).complete
    with checkpoint.Checkpoint(checkpoint.saved(file)[0]) as opened:
        assert (opened.step, opened.voters) == (20, [0, 1, 3])
    assert start("resume", file).code == 0
    assert Run(file).complete
    assert Run(file)["steps"]["step"].tolist() == list(range(1, 41))
    assert Run(file)["segments"]["n"].tolist() == [4, 3, 4, 3]
    (told,) = Run(file)["events"]["text"][Run(file)["events"]["kind"] == "ranks"]
    assert told.startswith("from 3 to 4 voters; new: 2; ")
    kept, wanted = (
        load_parameters(file.with_suffix(".model")),
        simulated(JOB, 4, {11: [2], 31: [2]}, back=21),
    )
    assert all(np.array_equal(kept[name], wanted[name].numpy()) for name in wanted)


def test_a_vote_is_weighed_by_who_is_left(tmp_path):
    how = ("algorithm.name=signum-mv", "algorithm.weights=[3, 1, 2, 1]", "problem.deaths=0:15")
    survive(tmp_path / "r.h5", *how)
    check(tmp_path / "r.h5", how[:2], {15: [0]})


def test_a_method_that_keeps_something_of_all_voters_is_refused(tmp_path):
    ended = survive(tmp_path / "r.h5", "algorithm.name=diana", "exchange.name=auto", code=2)
    refused(ended, 'run.lost_ranks = "vote on"', "diana can't go on without a voter")


def stopped(file, *settings, deaths, at=20):
    """A run that lost voters, and was stopped after a checkpoint: the rest of it dies."""
    rest = " ".join(f"{rank}:{at + 6}" for rank in range(4) if f"{rank}:" not in deaths)
    start("train", *settings_of(file, *settings, "checkpoint.every_steps=10", f"problem.deaths={deaths} {rest}"))
    assert checkpoint.saved(file)[0].name == f"step-{at:09d}.h5"


@pytest.mark.parametrize(
    ("deaths", "told"),
    [
        ("3:11", "from 3 to 3 voters; rows dealt anew"),
        ("1:11", "from 3 to 3 voters; 3 goes on as 1; rows dealt anew"),
    ],
)
def test_those_that_are_left_go_on_as_so_many(deaths, told, tmp_path):
    file = tmp_path / "r.h5"
    stopped(file, deaths=deaths)
    assert start("resume", file, "--ranks-changed", n=3).code == 0
    assert Run(file).complete
    events = Run(file)["events"]
    assert events["text"][events["kind"] == "ranks"].tolist()[0].startswith(told)


def test_exchanges_stay_as_the_rule_chose_them(tmp_path):
    file = tmp_path / "r.h5"
    stopped(file, "exchange.name=auto", "algorithm.weights=rows", deaths="3:11")
    ended = start("resume", file, "--ranks-changed", n=3)
    assert "exchange: sharded (fewest bytes" in ended.out
    assert "sharded" in Run(file).attributes["exchange"]


def test_a_run_stops_where_too_few_are_left(tmp_path):
    file = tmp_path / "r.h5"
    ended = survive(file, "run.least_voters=3", "problem.deaths=0:6 1:17", code=75)
    assert "2 voter(s) are left, of run.least_voters = 3" in ended.err
    with checkpoint.Checkpoint(checkpoint.saved(file)[0]) as opened:
        assert opened.voters == [2, 3]


def test_a_loss_at_the_very_end_fails_no_run(tmp_path):
    file = tmp_path / "r.h5"
    ended = survive(file, "problem.at_end=0")
    assert Run(file).complete
    assert "Traceback" not in ended.err


def test_a_loss_in_set_up_is_told_in_a_line(tmp_path):
    ended = start("train", *settings_of(tmp_path / "r.h5", "problem.deaths=1:0"))
    assert ended.code == 1
    assert "another rank was lost" in ended.err
    assert "Traceback" not in ended.err
