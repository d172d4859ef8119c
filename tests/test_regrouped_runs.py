"""Runs that change their number of voters, here and under mpirun: the same bits whenever they change alike."""

import h5py
import numpy as np
import pytest

from mpisign import config
from mpisign.errors import UsageError
from mpisign.run.resume import ResumeOptions
from mpisign.run.train import resume, simulate
from mpisign.storage import checkpoint
from mpisign.storage.reader import Run
from tests.comparing import differing
from tests.cover import rest_is_slow
from tests.running import mpisign, train
from tests.test_commands import refused

METHODS = ("signum-mv", "dist-ef-signsgd", "ssvr-mv", "adam")
STEPS = ("run.steps=24", "run.record_every=2", "run.check_every=6", "run.eval_every=4", "run.trace=true")
ROWS = ("problem.name=tests.problems:Awkward", "problem.size=300", "problem.batch_size=2", "partition.kind=iid")
AWKWARD = (*ROWS, *STEPS)
SAVING = ("checkpoint.every_steps=8", "checkpoint.keep=9")


def method(name):
    """Settings of a method; bytes are compared, too: those of one exchange."""
    return f"algorithm.name={name}", f"exchange.name={'dense' if name == 'adam' else 'sharded'}"


def here(file, n, *settings, options=ResumeOptions()):  # noqa: B008
    simulate(config.load(None, (*AWKWARD, *SAVING, *settings, f"run.file={file}")), n, quiet=True, options=options)


def killed(file):
    """The run as if it had been killed at its end: it is not complete, and its checkpoints are there."""
    with h5py.File(file, "r+") as opened:
        for column in opened["events"].values():
            column.resize(len(column) - 1, axis=0)
    assert not Run(file).complete


def goes_on(file, n, step, *settings, **how):
    """The run in this process with n voters from the checkpoint of that step, to its end."""
    killed(file)
    resume(file, (f"run.voters={n}", *settings), checkpoint.path_at(file, step), ranks_changed=True, **how)


def twice(file, first, then, *settings):
    """A run of `first` voters, of `then` from step 8 on, and of `first` again from step 16 on."""
    here(file, first, *settings)
    goes_on(file, then, 8)
    goes_on(file, first, 16)
    return file


@pytest.mark.parametrize("name", rest_is_slow(METHODS, METHODS[1:3]))
def test_the_same_changes_give_the_same_bits(name, tmp_path):
    one, other = (twice(tmp_path / f"{k}.h5", 8, 6, *method(name)) for k in ("one", "other"))
    assert not differing(one, other)
    run = Run(one)
    assert run.complete
    assert run.stretches == [(0, 8), (8, 6), (16, 8)]
    assert run["steps"]["step"].tolist() == [*range(2, 25, 2)]
    told = [t for k, t in zip(run["events"]["kind"], run["events"]["text"], strict=True) if k == "ranks"]
    assert [t.partition(";")[0] for t in told] == ["from 8 to 6 voters", "from 6 to 8 voters"]
    assert run["events"]["step"][run["events"]["kind"] == "ranks"].tolist() == [8, 16]
    # it is neither the run that nobody disturbed nor another one
    here(whole := tmp_path / "whole.h5", 8, *method(name))
    x, undisturbed = run["trace"]["x"], Run(whole)["trace"]["x"]
    at = run["trace"]["step"] <= 8
    np.testing.assert_array_equal(x[at], undisturbed[at])
    assert not np.array_equal(x[~at], undisturbed[~at])


@pytest.mark.parametrize("name", rest_is_slow(METHODS, ["dist-ef-signsgd"]))
def test_mpirun_and_simulate_change_alike(name, tmp_path):
    simulated = twice(tmp_path / "simulated.h5", 3, 2, *method(name))
    file = tmp_path / "run.h5"
    ended = train(*AWKWARD, *SAVING, *method(name), f"run.file={file}", n=3, timeout=180)
    assert ended.code == 0, ended.err
    for n, step in ((2, 8), (3, 16)):
        killed(file)
        ended = mpisign("resume", file, "--ranks-changed", "--from", checkpoint.path_at(file, step), n=n, timeout=180)
        assert ended.code == 0, ended.err
    assert not differing(simulated, file)
    assert Run(file).voters == Run(simulated).voters == "3-2-3"


def test_counters_go_on_without_a_jump(tmp_path):
    file = twice(tmp_path / "r.h5", 8, 6, *method("signum-mv"), "probe.every=2", "run.record_every=1")
    steps, eight, six = Run(file)["steps"], tmp_path / "8.h5", tmp_path / "6.h5"
    here(eight, 8, *method("signum-mv"), "run.record_every=1")
    here(six, 6, *method("signum-mv"), "run.record_every=1")
    n = Run(file).voters_at(steps["step"])
    assert n.tolist() == [8] * 8 + [6] * 8 + [8] * 8
    of = {8: Run(eight)["steps"], 6: Run(six)["steps"]}
    for name, slack in (("bytes_up", 1.5), ("bytes_down", 1.5), ("method_bytes_up", 1e-6), ("epoch", 1e-12)):
        each = {k: float(columns[name][-1]) / 24 for k, columns in of.items()}
        wanted = np.cumsum([each[k] for k in n])
        np.testing.assert_allclose(steps[name], wanted, atol=slack, rtol=0, err_msg=name)
    assert steps["gradient_evaluations"].tolist() == np.cumsum(2 * n).tolist()
    assert (np.diff(steps["seconds"]) >= 0).all()
    probes = Run(file)["probes"]
    present = np.isfinite(probes["voter_success"]).sum(axis=1)
    assert present.tolist() == Run(file).voters_at(probes["step"]).tolist()
    shown = mpisign("show", file)
    assert "voters: 8, 6 from step 9 on, 8 from step 17 on" in shown.out
    assert "from 8 to 6 voters; leave: 6, 7; rows dealt anew; batches of" in shown.out
    assert " 8-6-8 " in mpisign("show", tmp_path).out


def test_a_later_checkpoint_may_have_left_no_rows(tmp_path):
    """What a segment takes the place of is gone: n at a step is that of the rows as they stand."""
    file = twice(tmp_path / "r.h5", 8, 6)
    goes_on(file, 7, 8)
    assert Run(file).stretches == [(0, 8), (8, 7)]
    assert Run(file)["segments"]["n"].tolist() == [8, 6, 8, 7]


def test_it_is_refused_unless_asked_for(tmp_path):
    file = tmp_path / "r.h5"
    here(file, 3)
    killed(file)
    before = file.read_bytes()
    refused(mpisign("resume", file, n=2), "run.voters = 3", "2 rank(s)", f"mpisign resume {file} --ranks-changed")
    with pytest.raises(UsageError, match=r"run.voters = 3 in .* 5 rank\(s\).*--ranks-changed"):
        resume(file, ("run.voters=5",))
    with pytest.raises(UsageError, match=r"run.voters = 3 in .* 5 rank\(s\).*--ranks-changed"):
        here(file, 5, options=ResumeOptions("auto"))
    # where the run went on with others, but was killed before it saved that, its checkpoint has the number before
    goes_on(file, 2, 16)
    killed(file)
    for lost in checkpoint.saved(file)[:1]:
        lost.unlink()
    with pytest.raises(UsageError, match=r"checkpoint of 3 voters, but this job has 2.*--ranks-changed"):
        resume(file, checkpoint=checkpoint.path_at(file, 8))
    goes_on(file, 2, 8)
    assert Run(file).stretches == [(0, 3), (8, 2)]
    assert before != file.read_bytes()


def job(tmp_path, *settings):
    """A job of its own length, epochs, for runs that are queued again."""
    file = tmp_path / "job.toml"
    lines = ["[run]", "epochs = 3", "eval_every = 5", "trace = true", "[problem]", 'name = "tests.problems:Awkward"']
    lines += ["size = 300", *settings, "[checkpoint]", "every_steps = 4", "keep = 9", "ranks_changed = true"]
    file.write_text("\n".join([*lines, "[schedule]", 'kind = "cosine"']))
    return file


def queued_again(tmp_path, n, *settings, file=None):
    named = (f"run.file={file or tmp_path / 'r.h5'}", *settings)
    simulate(config.load(tmp_path / "job.toml", named), n, quiet=True, options=ResumeOptions("auto"))
    return Run(tmp_path / "r.h5")


def test_a_job_that_is_queued_again_goes_on_with_the_ranks_it_gets(tmp_path):
    job(tmp_path, "global_batch_size = 12")
    whole = queued_again(tmp_path, 4)
    assert (whole.config["problem"]["batch_size"], whole.config["run"]["steps"]) == (3, 10)
    for n, step, batch in ((6, 8, 2), (1, 4, 12), (3, 8, 4)):
        killed(whole.path)
        for file in checkpoint.saved(whole.path):
            if file > checkpoint.path_at(whole.path, step):
                file.unlink()
        run = queued_again(tmp_path, n)
        # the batch of all voters, the length and the rules for sign(0) and ties are those that the run began with
        assert run.config["problem"]["batch_size"] == batch
        assert run.config["run"]["steps"] == run["steps"]["step"][-1] == 10
        assert (run.config["algorithm"]["zeros"], run.config["algorithm"]["ties"]) == ("coin", "coin")
        assert run.complete
        assert f"batches of {batch} rows per voter, 12 of all together" in " ".join(run["events"]["text"])
        assert run["eval"]["epoch"][-1] == pytest.approx(3)
    assert run.stretches == [(0, 4), (4, 1), (8, 3)]
    with pytest.raises(UsageError, match=r"global_batch_size = 12 can't be dealt evenly to 5"):
        queued_again(tmp_path, 5)
    killed(run.path)
    with pytest.raises(UsageError, match=r"another job: schedule\.lr"):
        queued_again(tmp_path, 2, "schedule.lr=0.5")
    with pytest.raises(UsageError, match=r"another job: run\.steps"):
        queued_again(tmp_path, 2, "run.epochs=7")


def test_the_batch_per_rank_is_kept_where_the_job_states_that(tmp_path):
    job(tmp_path, "batch_size = 2")
    run = queued_again(tmp_path, 4)
    assert run.config["run"]["steps"] == 15
    killed(run.path)
    run = queued_again(tmp_path, 2)
    assert (run.config["problem"]["batch_size"], run.config["run"]["steps"]) == (2, 15)
    at = checkpoint.Checkpoint(checkpoint.saved(run.path)[0]).step
    assert run["eval"]["epoch"][-1] == pytest.approx((at * 8 + (15 - at) * 4) / 40)
    # who goes on by hand may keep the batch of all voters instead
    killed(run.path)
    resume(run.path, ("run.voters=4", "problem.global_batch_size=4"))
    assert Run(run.path).config["problem"]["batch_size"] == 1


def test_batches_and_votes_that_are_listed_are_listed_anew(tmp_path):
    file, listed = tmp_path / "run.h5", ("problem.batch_sizes=[1,2,3]", "algorithm.weights=[3,1,1]")
    here(file, 3, "algorithm.name=signum-mv", "problem.batch_size=0", *listed)
    with pytest.raises(UsageError, match=r"has 3 value\(s\), but there are 2 voter\(s\)"):
        goes_on(file, 2, 8)
    resume(
        file, ("run.voters=2", "problem.batch_sizes=[4,2]", "algorithm.weights=[1,2]"),
        checkpoint.path_at(file, 8), ranks_changed=True,
    )  # fmt: skip
    run = Run(file)
    assert run.complete
    assert (run.config["problem"]["batch_sizes"], run.config["algorithm"]["weights"]) == ([4, 2], [1, 2])
    assert "weights=(1, 2)" in str(run.attributes["definition"])
    assert "batches of [4, 2] rows" in run["events"]["text"][run["events"]["kind"] == "ranks"][0]


def test_a_file_named_by_the_number_of_ranks_is_refused(tmp_path):
    job(tmp_path)
    with pytest.raises(UsageError, match=r"ranks_changed = true, but run.file = .*leave \{n\} out"):
        queued_again(tmp_path, 4, file=tmp_path / "r-{n}.h5")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("algorithm.name=sag", "exchange.name=dense"), "sag can't go on with 2 voters after 3: Sag keeps"),
        (("algorithm.name=diana", "exchange.name=allgather"), "diana can't go on .*MemoryMean keeps the mean"),
        ((*method("signum-mv"), "adversary.voters=1"), r"\[adversary\] has 1 of 3 voters lie"),
        (
            ("algorithm.name=signsgd-mv", "run.preset=theory", "theory.gap=1.0", "theory.smoothness_l1=4.0"),
            'run.preset = "theory" chose rate',
        ),
    ],
)
def test_what_cant_go_on_says_why(settings, words, tmp_path):
    file = tmp_path / "r.h5"
    here(file, 3, *settings)
    killed(file)
    before = file.read_bytes()
    with pytest.raises(UsageError, match=words):
        resume(file, ("run.voters=2",), ranks_changed=True)
    assert file.read_bytes() == before
    resume(file, ("run.voters=3",), ranks_changed=True)
    assert Run(file).complete


def test_data_are_compared_as_they_were_dealt(tmp_path):
    """The fingerprint of a run is one of the rows of its voters: those of other voters have another."""

    def rows(name, shift=0):
        (tmp_path / name).write_text("\n".join(f"{1 + k % 2} 1:{(-1) ** k} 2:0.{(k + shift) % 7}" for k in range(40)))

    rows("one")
    settings = ("problem.name=logistic", f"problem.path={tmp_path}/one", "run.steps=8", "checkpoint.every_steps=4")
    file = tmp_path / "r.h5"
    simulate(config.load(None, (*settings, "partition.kind=iid", f"run.file={file}")), 3, quiet=True)
    killed(file)
    rows("one", shift=1)
    with pytest.raises(UsageError, match="began with other data"):
        resume(file, ("run.voters=2",), ranks_changed=True)
    (tmp_path / "one").unlink()
    rows("two")
    resume(file, ("run.voters=2", f"problem.path={tmp_path}/two"), ranks_changed=True)
    run = Run(file)
    assert run.complete
    assert run.stretches == [(0, 3), (4, 2)]
    assert run.partition["rows"].tolist() == [20, 20]


def test_votes_by_rows_are_of_rows_as_they_are_dealt_now(tmp_path):
    file, dealt = tmp_path / "run.h5", ("partition.kind=dirichlet", "partition.alpha=0.3", "run.seed=1")
    digits = ("problem.name=digits", "problem.hidden=[8]", "problem.batch_size=4", "algorithm.name=signum-mv")
    settings = (*STEPS[:-1], *SAVING, *digits, *dealt, "algorithm.weights=rows", f"run.file={file}")
    simulate(config.load(None, settings), 5, quiet=True)
    before = str(Run(file).attributes["definition"])
    goes_on(file, 3, 8)
    after = str(Run(file).attributes["definition"])
    assert ("Weighted" in before, "Weighted" in after, before != after) == (True, True, True)
