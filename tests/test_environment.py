"""What surrounds a process and may be odd: output that is closed, full or of few letters, Python, Slurm's clock."""

import os
import stat
import subprocess
import time

import pytest

from mpisign.parallel import stopping
from mpisign.parallel.stopping import slurm_end, slurm_seconds
from tests.running import BIN, ROOT, mpisign, run

SHORT = ("--set", "problem.name=quadratic", "--set", "run.steps=3")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1-02:03:04", 93784), ("02:03:04", 7384), ("59:30", 3570), ("0:00", 0), ("90", 5400), ("2-12", 216000),
        ("1-00:30", 88200), (" 10:00 ", 600), ("UNLIMITED", None), ("INVALID", None), ("NOT_SET", None), ("N/A", None),
        ("", None), ("-5", None), ("1:2:3:4", None), ("ten", None), ("-1:00", None), ("²", None),
    ],
)  # fmt: skip
def test_times_as_slurm_writes_them(text, seconds):
    assert slurm_seconds(text) == seconds


@pytest.fixture
def slurm(monkeypatch, tmp_path):
    """A squeue that answers with a text, in a job of an array."""
    for name in ("SLURM_JOB_END_TIME", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_TIME_FORMAT", "relative")

    def answers(text):
        squeue = tmp_path / "squeue"
        squeue.write_text(f"#!/bin/sh\necho $SLURM_TIME_FORMAT $* >{tmp_path}/asked\ncat <<'E'\n{text}\nE\n")
        squeue.chmod(0o755)
        return tmp_path / "asked"

    return answers


@pytest.mark.parametrize(
    ("told", "minutes"),
    [
        ("10:00|2020-01-01T00:00:00", 10), ("1-00:00:00|N/A", 1440), ("INVALID|{end}", 30),
        ("UNLIMITED|NONE", None), ("NOT_SET|Unknown", None), ("INVALID|N/A", None), ("", None), ("|", None),
        ("UNLIMITED|2020-01-01T00:00:00", None), ("slurm_load_jobs error: Invalid job id specified", None),
    ],
)  # fmt: skip
def test_the_end_of_a_job_by_whatever_squeue_says(slurm, told, minutes):
    slurm(told.format(end=time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + 1800))))
    end = slurm_end()
    assert (end is None) == (minutes is None)
    assert minutes is None or abs(end - time.time() - 60 * minutes) < 60


def test_a_task_of_an_array_asks_for_itself(slurm, monkeypatch):
    asked = slurm("5:00|N/A")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert slurm_end() > time.time()
    assert "--jobs=12_3" in asked.read_text()
    assert asked.read_text().startswith("standard ")


@pytest.mark.parametrize("told", ["", " ", "soon", "0", "1", "4294967294", "99999999999", "-1"])
def test_an_end_that_says_nothing(slurm, monkeypatch, told):
    slurm("INVALID|N/A")
    monkeypatch.setenv("SLURM_JOB_END_TIME", told)
    assert slurm_end() is None
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 600))
    assert slurm_end() > time.time()


def test_an_unknown_end_does_not_stop_a_run(slurm):
    slurm("UNLIMITED|NONE")
    assert stopping.Requests(None, 120.0, 0.0, True).now() == stopping.Request.NONE


# Output


def shell(command, folder, **environment):
    return subprocess.run(
        ["sh", "-c", command], cwd=folder, capture_output=True, text=True, errors="replace", timeout=100,
        env=os.environ | {"PYTHONPATH": str(ROOT), "B": str(BIN), "OMP_NUM_THREADS": "1"} | environment,
    )  # fmt: skip


SIMULATE = "$B/mpisign simulate -n 2 --set problem.name=quadratic --set run.steps=3 --overwrite --set run.file="


def test_output_that_nobody_takes_costs_no_run(tmp_path):
    closed = shell(SIMULATE + "closed.h5 <&- >&- 2>&-; echo $? >code; : >after.txt", tmp_path)
    assert (tmp_path / "code").read_text() == "0\n", closed
    full = shell(SIMULATE + "full.h5 >/dev/full; echo $?", tmp_path)
    assert (full.stdout, full.stderr) == ("0\n", "")
    broken = shell("{ " + SIMULATE + "broken.h5; echo $? >&2; } | sleep 0", tmp_path)
    assert broken.stderr == "0\n"
    for name in ("closed", "full", "broken"):
        shown = shell(f"$B/mpisign show {name}.h5 | head -1; $B/mpisign show {name}.h5 | grep status", tmp_path)
        assert "status: complete" in shown.stdout
        assert shown.stderr == "", "cut short by head, which is no error to tell of"
    assert shell("$B/mpisign algorithms >/dev/full", tmp_path).stderr == (
        "mpisign: can't write the output: No space left on device\n"
    )


@pytest.mark.slow
def test_letters_that_a_terminal_has_not(tmp_path):
    few = {"PYTHONIOENCODING": "ascii"}
    ended = shell(SIMULATE + "größe.h5", tmp_path, **few)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "gr\\xf6\\xdfe.h5" in ended.stdout
    assert (tmp_path / "größe.h5").exists()
    assert shell("$B/mpisign show nö.h5", tmp_path, **few).stderr.startswith("mpisign: no file n")


@pytest.mark.slow
def test_python_that_drops_docstrings_still_helps():
    plain, bare = (
        (mpisign(*command) for command in (["algorithms", "signum-mv"], ["train", "--help"])),
        {"PYTHONOPTIMIZE": "2"},
    )
    for command, wanted in zip((["algorithms", "signum-mv"], ["train", "--help"]), plain, strict=True):
        assert mpisign(*command, environment=bare).out == wanted.out
    assert mpisign("algorithms", environment=bare).out == mpisign("algorithms").out


def test_a_bare_environment(tmp_path):
    """No home, no user, no terminal, no folder for temporary files."""
    ended = run(
        "env", "-i", f"PYTHONPATH={ROOT}", "TMPDIR=/nowhere", BIN / "mpisign", "simulate", "-n", "2", *SHORT, "--set",
        f"run.file={tmp_path}/r.h5",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    gone = shell(f"mkdir gone; cd gone; rmdir ../gone; {SIMULATE}r.h5", tmp_path)
    assert gone.returncode == 2
    assert "Traceback" not in gone.stderr
    assert stat.S_ISREG((tmp_path / "r.h5").stat().st_mode)
