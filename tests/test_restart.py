"""Stopped, killed, starved: what a run leaves behind, and that it goes on bit for bit."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from itertools import product

import h5py
import numpy as np
import pytest

from mpisign import cli, config
from mpisign.errors import Stopped, StorageError, UsageError
from mpisign.parallel import stopping
from mpisign.run import sweep
from mpisign.run.resume import ResumeOptions
from mpisign.run.train import resume as resume_here
from mpisign.run.train import simulate
from mpisign.storage import checkpoint, writer
from mpisign.storage.reader import Run, load_parameters
from mpisign.storage.repair import repair
from tests.comparing import differing
from tests.cover import rest_is_slow
from tests.running import BIN, mpisign, run, train
from tests.test_commands import refused

# bytes are compared, too: those of one exchange, not of what each run would measure
STEPS = ("run.steps=40", "run.record_every=3", "run.check_every=10", "run.eval_every=7", "exchange.name=sharded")
FAULTY = ("problem.name=tests.problems:Faulty", *STEPS)
DIGITS = (*STEPS, "run.eval_every=13", "problem.hidden=[16]")


def here(*settings, n=3, options=ResumeOptions()):  # noqa: B008
    simulate(config.load(None, settings), n, quiet=True, options=options)


@pytest.fixture
def _quiet(monkeypatch, request):
    """Signals of this process become requests, and are forgotten afterwards."""
    monkeypatch.setattr(stopping, "_caught", [])
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)}
    stopping.catch_signals(lambda: None)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def stopped(file, *settings, at=50, n=3, fault="usr1"):
    """A run of `settings` that a signal stops at its at-th gradient, in this process."""
    marker = file.with_suffix(".marker")
    how = (f"problem.fault={fault}", f"problem.at={at}", "problem.on=0", f"problem.marker={marker}")
    with pytest.raises(Stopped):
        here(*FAULTY, *settings, *how, f"run.file={file}", n=n)
    stopping._caught.clear()


STOPPED = [("signum-mv", "last"), ("dist-ef-signsgd", "best"), ("ssvr-mv", "uniform")]


@pytest.mark.usefixtures("_quiet")
@pytest.mark.parametrize(
    ("algorithm", "keep"),
    rest_is_slow([*product(("signum-mv", "dist-ef-signsgd", "ssvr-mv"), ("last", "best", "uniform"))], STOPPED),
)
def test_a_stopped_run_goes_on_bit_for_bit(algorithm, keep, tmp_path):
    settings = (f"algorithm.name={algorithm}", f"run.keep={keep}", "run.trace=true")
    whole, file = tmp_path / "whole.h5", tmp_path / "r.h5"
    here(*FAULTY, *settings, "problem.on=99", "problem.at=50", f"run.file={whole}")
    stopped(file, *settings)
    assert Run(file).status.startswith("stopped after step")
    assert [p.parent.name for p in checkpoint.saved(file)] == ["r.checkpoints"]
    resume_here(file)
    assert not differing(whole, file)
    assert Run(file)["events"]["kind"].tolist() == ["start", "checkpoint", "stop", "resume", "complete"]
    assert len(Run(file)["segments"]["n"]) == 2


@pytest.mark.usefixtures("_quiet")
@pytest.mark.parametrize("method", ["qsgd dense.steps=4", "dgc algorithm.warmup_steps=8"])
def test_the_momentum_of_what_is_averaged_goes_on_too(method, tmp_path):
    name, more = method.split()
    settings = (f"algorithm.name={name}", more, 'dense.parameters=["b"]', "exchange.name=allgather")
    whole, file = tmp_path / "whole.h5", tmp_path / "r.h5"
    here(*FAULTY, *settings, "problem.on=99", "problem.at=50", f"run.file={whole}")
    stopped(file, *settings)
    saved = checkpoint.Checkpoint(checkpoint.saved(file)[0])
    assert np.count_nonzero(saved["averaged/m"])
    resume_here(file)
    assert not differing(whole, file)


def test_one_rank_is_asked_and_all_stop(tmp_path):
    file, whole = tmp_path / "r.h5", tmp_path / "whole.h5"
    how = ("problem.fault=both", "problem.at=9", f"problem.marker={tmp_path}/m", "algorithm.name=dist-ef-signsgd")
    ended = train(*FAULTY, *how, f"run.file={file}", n=3)
    refused(ended, "stopped after step", "signal USR1", "mpisign resume", code=75)
    assert Run(file)["events"]["kind"].tolist()[-2:] == ["checkpoint", "stop"]
    # on all ranks again, by another exchange; then the whole, by simulation
    assert mpisign("resume", file, "--set", "exchange.name=allgather", n=3).code == 0
    here(*FAULTY, *how, f"run.file={whole}")
    x, y = (load_parameters(f.with_suffix(".model")) for f in (file, whole))
    assert all(np.array_equal(x[k], y[k]) for k in x)


def test_resume_auto_begins_goes_on_and_is_content(tmp_path):
    file = tmp_path / "r.h5"
    settings = (*DIGITS, f"run.file={file}", "checkpoint.every_steps=15", "checkpoint.keep=1")
    flags = [part for s in settings for part in ("--set", s)]
    first = mpisign("train", "--resume", "auto", *flags, "--max-time", 1e-4)
    assert first.code == 75, first.err
    assert "run.max_minutes is over" in first.err
    second = mpisign("train", "--resume", "auto", *flags)
    assert second.code == 0, second.err
    assert "resumed from" in second.out
    third = mpisign("train", "--resume", "auto", *flags)
    assert (third.code, third.values["status"]) == (0, "complete")
    assert "nothing to go on with" in third.out
    assert [p.name for p in checkpoint.saved(file)] == ["step-000000030.h5"]
    refused(mpisign("train", "--resume", "auto", *flags, "--set", "schedule.lr=0.5"), "another job", "schedule.lr")


@pytest.mark.usefixtures("_quiet")
def test_what_cant_go_on_is_refused_with_the_checkpoint_before(tmp_path):
    file = tmp_path / "r.h5"
    stopped(file, "checkpoint.every_steps=10", at=75)
    newest, before = checkpoint.saved(file)
    whole, run_bytes = newest.read_bytes(), file.read_bytes()
    damaged = bytearray(whole)
    damaged[len(damaged) // 2] ^= 4
    for content, words in (
        (bytes(damaged), "damaged: its checksum"),
        (whole[:-100], "damaged: its checksum"),
        (b"", "not a checkpoint"),
        (whole.replace(b"mpisign-checkpoint 1 ", b"mpisign-checkpoint 9 ", 1), "format 9"),
    ):
        newest.write_bytes(content)
        with pytest.raises(UsageError, match=f"{words}.*--from .*{before.name}"):
            resume_here(file)
    assert file.read_bytes() == run_bytes
    # unattended, the one before it is taken, and the run file tells so
    how = ResumeOptions("auto")
    here(*FAULTY, "checkpoint.every_steps=10", "problem.fault=usr1", "problem.at=75", "problem.on=0",
         f"problem.marker={file.with_suffix('.marker')}", f"run.file={file}", options=how)  # fmt: skip
    events = Run(file)["events"]
    assert "format 9" in events["text"][events["kind"].tolist().index("resume")]
    assert Run(file).complete


@pytest.mark.usefixtures("_quiet")
def test_another_n_or_job_is_refused(tmp_path):
    file, other = tmp_path / "r.h5", tmp_path / "other.h5"
    stopped(file, "schedule.lr=0.02")
    refused(mpisign("resume", file, n=2), "run.voters = 3", "2 rank(s)")
    stopped(other, "schedule.lr=0.01", n=2)
    for arguments, words in (
        (("--from", checkpoint.saved(other)[0]), "another job .*schedule.lr"),
        (("--set", "schedule.lr=0.3"), "another job: schedule.lr"),
    ):
        with pytest.raises(UsageError, match=words):
            cli.cli(["resume", str(file), *map(str, arguments)], standalone_mode=False)
    with pytest.raises(UsageError, match="no file"):
        resume_here(tmp_path / "no.h5")
    shutil.rmtree(checkpoint.folder(file))
    with pytest.raises(UsageError, match=r"no checkpoint .*start it anew"):
        resume_here(file)


@pytest.mark.usefixtures("_quiet")
def test_only_the_file_that_is_named_is_written(tmp_path):
    """A run file says where it was once; a copy of it that goes on elsewhere leaves that place alone."""
    file, copy = tmp_path / "r.h5", tmp_path / "copy" / "{odd}.h5"
    stopped(file)
    shutil.copytree(checkpoint.folder(file), checkpoint.folder(copy))
    shutil.copy(file, copy)
    before = {p: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
    resume_here(copy)
    assert Run(copy).complete
    assert {p: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == before


@pytest.mark.usefixtures("_quiet")
def test_init_from_takes_x_and_the_step_only(tmp_path):
    file, new = tmp_path / "r.h5", tmp_path / "new.h5"
    stopped(file, "algorithm.name=ssvr-mv")
    (source,) = checkpoint.saved(file)
    how = ResumeOptions(init_from=source)
    settings = (*FAULTY, "problem.on=99", "algorithm.name=onebit-adam", "algorithm.warmup_steps=5", "run.trace=true")
    here(*settings, f"run.file={new}", n=4, options=how)
    begun, run_ = checkpoint.Checkpoint(source), Run(new)
    assert begun.step == run_["eval"]["step"][0] == run_["segments"]["step"][0]
    assert run_["steps"]["step"][-1] == 40
    assert str(source) in run_["events"]["text"][0]
    x = [begun["x"][o : o + s] for o, s in zip(run_.layout["offset"], run_.layout["size"], strict=True)]
    np.testing.assert_array_equal(run_["trace"]["x"][0], np.concatenate(x))
    with pytest.raises(UsageError, match="another model"):
        here(*DIGITS, f"run.file={tmp_path}/d.h5", options=how)
    with pytest.raises(UsageError, match=r"run\.steps = 5"):
        here(*settings, "run.steps=5", f"run.file={tmp_path}/d.h5", options=how)
    assert not (tmp_path / "d.h5").exists()


def test_checkpoints_do_not_change_a_run(tmp_path):
    one, other = tmp_path / "one.h5", tmp_path / "other.h5"
    here(*DIGITS, f"run.file={one}")
    here(*DIGITS, f"run.file={other}", "checkpoint.every_steps=4", "checkpoint.every_minutes=1e-9", "checkpoint.keep=3")
    assert not differing(one, other)
    assert len(checkpoint.saved(other)) == 3


def test_what_killed_writers_left_is_removed(tmp_path):
    file = tmp_path / "r.h5"
    left = [tmp_path / ".r.h5.77.tmp", checkpoint.folder(file) / ".step-000000004.h5.77.tmp", tmp_path / ".r.h5.lock"]
    other = tmp_path / ".other.h5.77.tmp"
    left[1].parent.mkdir()
    for path in (*left, other):
        path.write_text("half of it")
    here(*DIGITS, f"run.file={file}", "checkpoint.every_steps=20")
    assert not any(path.exists() for path in left)
    assert other.exists()


def test_a_killed_rank_leaves_a_run_that_goes_on(tmp_path):
    file, whole = tmp_path / "r.h5", tmp_path / "whole.h5"
    how = ("problem.fault=kill", "problem.at=20", f"problem.marker={tmp_path}/m", "checkpoint.every_steps=8")
    begin = time.monotonic()
    ended = train(*FAULTY, *how, f"run.file={file}", n=3, timeout=40)
    assert ended.code not in (0, 75)
    assert time.monotonic() - begin < 30
    assert Run(file).status.startswith("incomplete")
    again = mpisign("resume", file, n=3)
    assert again.code == 0, again.err
    here(*FAULTY, *how, f"run.file={whole}")
    assert not differing(whole, file)


def test_the_watchdog_names_step_and_collective(tmp_path):
    file = tmp_path / "r.h5"
    ended = train(*FAULTY, "problem.fault=stall", "run.watchdog=2", f"run.file={file}", n=3, timeout=90)
    assert ended.code not in (0, 75)  # the launcher may tell how the other ranks were ended
    assert re.search(r"rank 0/3: step 4: the I\w+ of \w+ .*has not ended", ended.err), ended.err
    assert "run.watchdog" in ended.err
    assert Run(file).status.startswith("error at step 4: the I")


def test_two_ranks_that_drift_apart_are_both_named(tmp_path):
    ended = train("problem.name=tests.problems:Drifting", "run.steps=50", "run.check_every=10",
                  f"run.file={tmp_path}/r.h5", n=2)  # fmt: skip
    refused(ended, "ranks [0] and [1] differ", "step 10", code=3)


@contextlib.contextmanager
def going_on(file, *settings, n=1):
    """A long run in a process of its own, with some evaluations behind it."""
    flags = [part for s in ("run.steps=10000000", f"run.file={file}", *settings) for part in ("--set", s)]
    launcher = [BIN / "mpirun", "-n", str(n)] if n > 1 else []
    command, quiet = (
        [*launcher, BIN / "mpisign", "train", *flags],
        {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL},
    )
    process = subprocess.Popen(command, **quiet, env=os.environ | {"OMP_NUM_THREADS": "1"})
    try:
        for _ in range(300):
            if file.exists() and len(Run(file)["eval"]["step"]) > 1:
                break
            time.sleep(0.1)
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_growing_run_is_read_followed_and_not_written_twice(tmp_path):
    file = tmp_path / "r.h5"
    with going_on(file, "run.eval_every=500", "checkpoint.every_minutes=0") as process:
        assert Run(file).status == "incomplete: it goes on"
        refused(train("run.steps=5", "run.overwrite=true", f"run.file={file}"), "being written by process", "run.file")
        refused(mpisign("repair", file), "being written by process")
        with subprocess.Popen([BIN / "mpisign", "show", "--follow", file], stdout=subprocess.PIPE, text=True) as follow:
            time.sleep(2.5)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=20) == 75
            told, _ = follow.communicate(timeout=20)
    assert told.count("train_loss") > 1
    assert "status: stopped after step" in told.splitlines()[-1]
    assert not list(tmp_path.glob(".*.lock"))


@pytest.mark.slow
def test_resume_auto_waits_for_the_last_breath_of_the_run_before(tmp_path):
    file = tmp_path / "r.h5"
    with going_on(file, "run.eval_every=500") as process:
        flags = [
            part for s in ("run.steps=10000000", "run.eval_every=500", f"run.file={file}") for part in ("--set", s)
        ]
        command = [BIN / "mpisign", "train", "--resume", "auto", *flags, "--max-time", "1e-4"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as again:
            time.sleep(5)
            assert again.poll() is None
            process.send_signal(signal.SIGUSR1)
            told, _ = again.communicate(timeout=30)
    assert again.returncode == 75
    assert "resumed from" in told


def test_a_rank_on_its_way_out_is_not_killed_by_the_first_that_left(tmp_path):
    """srun -K1 sends TERM to the others when the first rank exits with 75: their code must stay 75."""
    code = (
        "import signal, sys\nfrom mpisign import cli\nfrom mpisign.parallel import leaving\nleave = leaving.leave\n"
        "def late(error):\n    print(signal.getsignal(signal.SIGTERM).name)\n    return leave(error)\n"
        f"leaving.leave = late\nsys.argv = ['mpisign', 'train', '--set', 'run.file={tmp_path}/r.h5']\n"
        "sys.argv += ['--max-time', '1e-4']\n"
        "cli.main()"
    )
    ended = run(BIN / "python", "-c", code)
    assert (ended.code, ended.out.splitlines()[-1]) == (75, "SIG_IGN"), ended.err


def test_the_launcher_passes_usr1_on(tmp_path):
    file = tmp_path / "r.h5"
    with going_on(file, "run.eval_every=200", n=2) as launcher:
        launcher.send_signal(signal.SIGUSR1)
        assert launcher.wait(timeout=30) == 75
    assert "signal USR1" in Run(file).status


def test_a_killed_run_is_read_and_repaired(tmp_path):
    file = tmp_path / "r.h5"
    with going_on(file, "run.eval_every=500") as process:
        process.kill()
        process.wait()
        assert Run(file).status == "incomplete: it was killed, or goes on elsewhere"
        before = Run(file)
        with pytest.raises(OSError, match="open"), h5py.File(file, "r"):
            pass
        ended = mpisign("repair", file)
        assert ended.code == 0, ended.err
    with h5py.File(file, "r") as plain:
        assert len(plain["eval/step"]) == len(before["eval"]["step"])
    after = Run(file)
    for table in ("steps", "eval", "events", "segments"):
        for name in before[table]:
            np.testing.assert_array_equal(before[table][name], after[table][name])
    assert after.config == before.config


def test_a_run_file_that_was_cut_off_is_refused(tmp_path):
    file = tmp_path / "r.h5"
    here("problem.name=quadratic", "run.steps=3000", "run.record_every=1", f"run.file={file}", n=1)
    with h5py.File(file, "r", libver="latest", swmr=True) as plain:
        data = plain["steps/loss"]
        at = data.id.get_chunk_info(2).byte_offset
        assert data.chunks == (512,)
    content = file.read_bytes()
    file.write_bytes(content[: at - 10])
    refused(mpisign("show", file), str(file), "truncated")
    refused(mpisign("repair", file), str(file), "truncated")


def test_rows_that_are_lost_are_told_of(tmp_path, monkeypatch):
    """HDF5 keeps no checksum of rows; one whose chunk can't be read at all is played by a dataset that raises."""
    file, saved = tmp_path / "r.h5", tmp_path / "saved.h5"
    here("problem.name=quadratic", "run.steps=1500", "run.record_every=1", f"run.file={file}", n=1)
    whole, read = Run(file), h5py.Dataset.__getitem__

    def broken(data, rows, **how):
        if data.name == "/steps/loss" and isinstance(rows, slice) and rows.start and rows.start >= 1024:
            raise OSError("a bad block")
        return read(data, rows, **how)

    monkeypatch.setattr(h5py.Dataset, "__getitem__", broken)
    with pytest.raises(UsageError, match=r"rows from 1024 on.*--output"):
        repair(file)
    told = repair(file, saved)
    monkeypatch.undo()
    assert told[0] == "lost: /steps/loss: rows from 1024 on"
    np.testing.assert_array_equal(Run(saved)["steps"]["loss"], whole["steps"]["loss"][:1024])
    np.testing.assert_array_equal(Run(saved)["eval"]["train_loss"], whole["eval"]["train_loss"])


# A full disk


def limited(megabytes, *command):
    """A command whose files may not grow beyond some size: what a quota does, without root."""
    return run("bash", "-c", f"ulimit -f {int(megabytes * 1024)}; trap '' XFSZ; exec \"$@\"", "-", *command)


def test_a_run_file_that_cant_grow_stops_the_run(tmp_path):
    file = tmp_path / "r.h5"
    settings = ("run.steps=200000", "run.record_every=1", "checkpoint.every_steps=200", f"run.file={file}")
    flags = [part for s in ("problem.name=quadratic", *settings) for part in ("--set", s)]
    ended = limited(1.2, BIN / "mpisign", "simulate", "-n", 2, *flags)
    refused(ended, f"can't write the run file {file} any more", "the last checkpoint is", "mpisign resume", code=1)
    newest = checkpoint.saved(file)[0]
    assert Run(file)["eval"]["step"][0] == 0
    # with room again it goes on from there
    again = mpisign("resume", file, "--max-time", 1e-4)
    assert again.code == 75, again.err
    assert f"resumed from {newest}" in again.out


def test_a_checkpoint_that_cant_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    file = tmp_path / "r.h5"
    settings = ("problem.name=quadratic", "run.steps=20", "checkpoint.every_steps=5", f"run.file={file}")
    # a folder where the temporary file shall be: not even root can write there
    blocker, usual = tmp_path / "blocker", writer.aside_of
    blocker.mkdir()
    monkeypatch.setattr(writer, "aside_of", lambda path: blocker if "000010" in path.name else usual(path))
    with pytest.raises(StorageError, match=r"can't write the checkpoint .*the last checkpoint is .*step-000000005"):
        here(*settings)
    assert [checkpoint.Checkpoint(p).step for p in checkpoint.saved(file)] == [5]
    assert Run(file).status.startswith("error at step 10: can't write the checkpoint")


def test_checkpoints_of_an_older_run_are_not_mixed_with_new_ones(tmp_path):
    file = tmp_path / "r.h5"
    settings = ("problem.name=quadratic", "checkpoint.every_steps=5", f"run.file={file}")
    here(*settings, "run.steps=40")
    kept = checkpoint.saved(file)
    file.unlink()
    for options in (ResumeOptions(), ResumeOptions("auto"), ResumeOptions(init_from=kept[0])):
        with pytest.raises(UsageError, match="checkpoints of an older run"):
            here(*settings, "run.steps=20", options=options)
    assert checkpoint.saved(file) == kept
    assert not file.exists()
    here(*settings, "run.steps=20", "run.overwrite=true")
    assert [checkpoint.Checkpoint(p).step for p in checkpoint.saved(file)] == [15, 10]


@pytest.mark.usefixtures("_quiet")
def test_a_sweep_that_was_stopped_goes_on_with_its_point(tmp_path):
    job, marker = tmp_path / "sweep.toml", tmp_path / "marker"
    job.write_text(
        '[run]\nsteps = 40\nvoters = 2\n[problem]\nname = "tests.problems:Faulty"\nfault = "usr1"\nat = 30\non = 0\n'
        f'marker = "{marker}"\n[sweep]\nfolder = "{tmp_path}/points"\n"schedule.lr" = [0.01, 0.02]\n'
    )
    with pytest.raises(Stopped):
        sweep.run_points(lambda: sweep.read(job))
    stopping._caught.clear()
    assert [p.status for p in sweep.read(job)] == ["stopped", "missing"]
    sweep.run_points(lambda: sweep.read(job))
    assert [p.status for p in sweep.read(job)] == ["complete", "complete"]
    assert "resume" in Run(sweep.read(job)[0].file)["events"]["kind"]
