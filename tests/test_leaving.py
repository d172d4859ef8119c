"""Every way out of a rank ends all of them, saved where there is something to save."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from mpisign import config
from mpisign.engine.timing import Timer
from mpisign.errors import UsageError
from mpisign.parallel import stopping
from mpisign.parallel.rollcall import Place, conflict
from mpisign.parallel.watchdog import WATCH, Clock, Watch, Watchdog
from mpisign.run.train import simulate as simulate_here
from mpisign.storage import checkpoint
from mpisign.storage.reader import Run
from tests import ctrl_c, ways_out
from tests.comparing import differing
from tests.cover import rest_is_slow
from tests.ctrl_c import PROBLEM, SETTINGS, command, flags, in_terminal
from tests.running import BIN, ROOT, mpisign, run


def seen(pattern):
    """Ready once the output has it."""
    return lambda output, _: re.search(pattern, output) is not None


# Ctrl-C in a terminal


def test_ctrl_c_saves_says_how_to_go_on_and_the_run_does_bit_for_bit(tmp_path):
    file, whole = tmp_path / "r.h5", tmp_path / "whole.h5"
    settings = (*PROBLEM, "problem.seconds=0.02", *SETTINGS)
    pressed = in_terminal(command(2, "train", *flags((*settings, f"run.file={file}"))), seen(r"step +0/60"))
    assert pressed.code == 130, pressed.output
    text = " ".join(pressed.output.split())
    assert "interrupted: saves at the next step's edge" in text
    assert "interrupted (signal INT); the last checkpoint is" in text
    assert "go on with mpisign resume" in text
    assert Run(file).status.startswith("stopped after step")
    assert mpisign("resume", file, n=2).code == 0
    simulated = mpisign("simulate", "-n", 2, *flags((*settings, f"run.file={whole}")))
    assert simulated.code == 0, simulated.err
    assert not differing(whole, file)


def test_a_second_ctrl_c_ends_all_at_once(tmp_path):
    settings = (*PROBLEM, "problem.seconds=30", *SETTINGS, f"run.file={tmp_path}/r.h5")
    pressed = in_terminal(command(2, "train", *flags(settings)), seen(r"step +0/60"), keys=2)
    # Hydra may itself stumble over the second one, and then its code is any
    assert pressed.code != 0 or "demux engine error" in pressed.output, pressed.output
    assert pressed.seconds < 8, pressed.output
    assert not checkpoint.saved(tmp_path / "r.h5")


def test_an_interrupt_of_one_rank_while_it_starts_ends_all(tmp_path):
    """While data are read there is nothing to save: all end at once, and the name is free."""
    marker, file = tmp_path / "marker", tmp_path / "r.h5"
    settings = ("problem.name=tests.problems:Slow", "problem.reading=60", f"problem.marker={marker}")
    with started(command(2, "train", *flags((*settings, f"run.file={file}")))) as launched:
        os.kill(int(once_there(marker)), signal.SIGINT)
        output, _ = launched.communicate(timeout=20)
    assert launched.returncode == 130, output
    assert "Traceback" not in output
    assert not file.exists()


@contextlib.contextmanager
def started(arguments):
    """A command in a process group of its own, which does not outlive the test."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        list(map(str, arguments)), cwd=ROOT, env=environment, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def once_there(file, seconds=60):
    """What a file holds, once it is there."""
    for _ in range(10 * seconds):
        if file.exists():
            return file.read_text()
        time.sleep(0.1)
    raise AssertionError(f"no {file}")


SERIALIZED = "import mpi4py; mpi4py.rc.thread_level = 'serialized'; from mpi4py import MPI\n"  # no roll call
SCRIPT = """
import sys, torch
from mpisign.optim import SignOptimizer
model = torch.nn.Linear(8, 3)
optimizer = SignOptimizer(model, "signum-mv", lr=1e-2)
steps = 0
try:
    while True:
        optimizer.zero_grad()
        model(torch.randn(4, 8)).pow(2).mean().backward()
        optimizer.step()
        steps += 1
        if steps == 50 and optimizer.ranks.rank == 1:
            print("it goes on", flush=True)
except KeyboardInterrupt:
    optimizer.save(sys.argv[1], steps=steps)
    raise
"""


@pytest.mark.parametrize("before", ["", pytest.param(SERIALIZED, marks=pytest.mark.slow)])
def test_ctrl_c_in_a_script_is_raised_after_one_step_of_all_ranks(before, tmp_path):
    script, file = tmp_path / "loop.py", tmp_path / "last.ckpt"
    script.write_text(before + SCRIPT)
    arguments = [str(part) for part in (BIN / "mpirun", "-n", 2, BIN / "python", script, file)]
    pressed = in_terminal(arguments, seen("it goes on"))
    assert pressed.code == 130, pressed.output
    assert re.search(r"mpisign: interrupted \(signal INT\) after step \d+", pressed.output), pressed.output
    saved = checkpoint.Checkpoint(file)
    assert saved.progress["extra"]["steps"] == saved.step - 1  # raised by the last of them


@pytest.mark.slow
def test_an_interrupted_sweep_saves_the_points_that_run(tmp_path):
    job = tmp_path / "sweep.toml"
    job.write_text(
        f'[run]\nsteps = 3000\nvoters = 2\n[problem]\nname = "tests.problems:Slow"\nmarker = "{tmp_path}/marker"\n'
        f'[sweep]\nfolder = "{tmp_path}/points"\n"schedule.lr" = [0.01, 0.02, 0.03]\n'
    )
    with started(command(1, "simulate", job, "--jobs", 2)) as process:
        once_there(tmp_path / "marker")
        time.sleep(5)
        process.send_signal(signal.SIGINT)  # to this process alone; its workers have to be told
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "the same command goes on with them" in output
    assert "Traceback" not in output
    files = sorted((tmp_path / "points").glob("*.h5"))
    assert 1 <= len(files) <= 2
    assert all(Run(file).status.startswith("stopped after step") for file in files)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("moment", list(ctrl_c.MOMENTS))
def test_ctrl_c_at_random_moments(moment, n, tmp_path):
    whole = ctrl_c.undisturbed(n, tmp_path)
    for number in range(5):
        assert not ctrl_c.faults(found := ctrl_c.trial(n, moment, number, whole, tmp_path)), found


# One rank leaves


@pytest.mark.parametrize("way", rest_is_slow(["a batch less", "save alone", "exit after rank"], ["save alone"]))
def test_a_rank_that_leaves_a_script_is_named(way):
    left = ways_out.in_script(way)
    assert not ways_out.faults(ways_out.IN_A_SCRIPT[way], left), left


def test_a_rank_that_leaves_a_run_is_named(tmp_path):
    left = ways_out.in_train("exit in gradient", tmp_path)
    assert not ways_out.faults(ways_out.IN_TRAIN["exit in gradient"], left), left
    assert Run(tmp_path / "exit in gradient.h5").status.startswith("incomplete")


@pytest.mark.slow
@pytest.mark.parametrize("way", ways_out.IN_TRAIN)
def test_ways_out_of_a_run(way, tmp_path):
    left = ways_out.in_train(way, tmp_path)
    assert not ways_out.faults(ways_out.IN_TRAIN[way], left), left


@pytest.mark.slow
@pytest.mark.parametrize("way", ways_out.IN_A_SCRIPT)
def test_ways_out_of_a_script(way):
    left = ways_out.in_script(way)
    assert not ways_out.faults(ways_out.IN_A_SCRIPT[way], left), left


@pytest.mark.parametrize(
    ("one", "other", "vain"),
    [
        (Place(done=9, inside="step()", wait="headers"), Place(done=9, left="its program ended"), True),
        (
            Place(done=9, inside="step()", wait="headers"),
            Place(done=10, left="its program ended"),
            False,
        ),
        (Place(done=9, inside="step()", wait="headers"), Place(done=9, inside="save()", wait="a barrier"), True),
        (Place(done=9, inside="step()", wait="headers"), Place(done=9, inside="step()", wait="headers"), False),
        (
            Place(done=9, inside="step()", wait="headers"),
            Place(done=10, inside="save()", wait="a barrier"),
            False,
        ),
        (Place(done=9, inside="step()", wait="headers"), Place(done=9), False),
        (Place(done=9, inside="step()"), Place(done=9, left="its program ended"), False),
        (Place(done=9, left="its program ended"), Place(done=8, left="its program ended"), False),
    ],
)
def test_who_waits_in_vain(one, other, vain):
    assert conflict(one, other) == conflict(other, one) == vain


# What a rank does of its own, which others ask for


def test_a_rank_says_what_it_does_of_its_own():
    timer, told = Timer(), []
    with WATCH.at("reading the data"):
        told.append(WATCH.doing)
    with timer("record"):
        with timer("exchange"):
            told.append(WATCH.doing)
        told.append(WATCH.doing)
    assert [*told, WATCH.doing] == ["reading the data", "exchange", "record", ""]
    assert str(Place(step=7, doing="estimate")) == "is in code of its own (estimate) after step 7"


# The watchdog


def test_time_while_suspended_does_not_count(monkeypatch):
    now, watch = [100.0], Watch()
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    clock = Clock(watch, period=1.0)
    with watch("the outer"):
        for seconds in (1.0, 1.0, 3600.0, 1.0):  # stopped for an hour
            now[0] += seconds
            assert clock.poll() == "the outer"
        assert clock.seconds == 4.0  # nothing at first sight, and two periods at most for the hour
        with watch("the inner"):
            now[0] += 1.0
            assert (clock.poll(), clock.seconds) == ("the inner", 0.0)
        assert watch.wait == ("the outer", 100.0)
    assert clock.poll() is None


def test_the_watchdog_barks_at_a_wait_that_lasts():
    heard, watch = [], Watch()
    watchdog = Watchdog(
        watch, 0.3, rank=0, on_timeout=lambda step, text: heard.append((step, text)), key="run.watchdog"
    )
    watchdog.start()
    watch.step = 7
    with watch("the Iallgather of headers"):
        watchdog.join(timeout=10)
    ((step, text),) = heard
    assert step == 7
    assert re.fullmatch(r"the Iallgather of headers has not ended after \d+ s; .* run.watchdog", text)


# Ends that depend on nothing

BLOCKED = """
import os, sys, time
from mpisign.parallel import leaving
out, into = os.pipe()
os.set_blocking(into, False)
try:
    while True: os.write(into, b"x" * 4096)
except BlockingIOError:
    os.set_blocking(into, True)
if sys.argv[1] == "full": os.dup2(into, 2)
if sys.argv[1] == "closed": os.close(2)
leaving.end_all("nobody reads this", 7)
"""


@pytest.mark.parametrize("stderr", ["full", "closed"])
def test_an_end_needs_no_output(stderr):
    assert run(sys.executable, "-c", BLOCKED, stderr, timeout=30).code == 7


def test_an_end_comes_even_where_no_python_runs():
    code = "import ctypes\nfrom mpisign.parallel import ending\nending.end_within(1)\nctypes.PyDLL(None).sleep(60)"
    assert run(sys.executable, "-c", code, timeout=30).code == -signal.SIGALRM


def test_a_library_that_calls_exit_runs_no_destructors():
    code = "import ctypes\nfrom mpisign.parallel import ending\nlibc = ctypes.CDLL(None)\n"
    code += "late = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p)(lambda *_: print('too late', flush=True))\n"
    code += "libc.on_exit(late, None)\nending.skip_destructors()\nlibc.exit(9)"
    ended = run(sys.executable, "-c", code)
    assert (ended.code, ended.out) == (9, "")


LEAVING = """
import os, sys, time
from mpi4py import MPI
from mpisign.parallel import leaving, mpi
rank = mpi.start().rank
if rank:  # it is on its way out for another second
    take_leave = mpi.take_leave
    mpi.take_leave = lambda: (time.sleep(1), os.write(1, b"still here"), take_leave())
leaving.finish_at_once(75 if rank else 64)
"""


def test_a_rank_that_has_gone_in_order_leaves_the_others_alone():
    ended = run(BIN / "mpirun", "-n", 2, sys.executable, "-c", LEAVING, environment={})
    assert (ended.code, ended.out) == (64 | 75, "still here"), ended.err


def test_an_end_says_nothing_of_what_libraries_left_behind():
    pytest.importorskip("triton")
    code = "from mpisign.run.collection import no_collection\nwith no_collection(): import triton\n"
    ended = run(sys.executable, "-c", f"{code}from mpisign.parallel import leaving\nleaving.finish(3)", environment={})
    assert (ended.code, ended.out, ended.err) == (3, "", "")


HELD = """
import ctypes, os, sys, threading, time
from mpisign.parallel import ending
libc = ctypes.CDLL(None)
late = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p)(lambda *_: os.write(1, b"destructors "))
def called_by_mpi():
    with ending.no_exit():
        if sys.argv[1] == "other's": libc.exit(9)
        if sys.argv[1] == "own": ending.skip_destructors(), libc.exit(9)
libc.on_exit(late, None)
thread = threading.Thread(target=called_by_mpi, daemon=True)
thread.start()
thread.join(1)
print(threading.active_count(), flush=True)
os._exit(3)
"""


@pytest.mark.parametrize(("abort", "code", "out"), [("other's", 3, "2\n"), ("own", 9, ""), ("none", 3, "1\n")])
def test_another_ranks_abort_runs_no_destructors_under_the_main_thread(abort, code, out):
    """MPICH calls exit() in whichever thread hears of it; a rank's own abort ends it, and a thread may end."""
    ended = run(sys.executable, "-c", HELD, abort)
    assert (ended.code, ended.out) == (code, out)


def test_interrupts_end_at_once_before_there_is_something_to_save_and_the_second_time(monkeypatch):
    ended, now = [], [0.0]
    monkeypatch.setattr(stopping, "_caught", [])
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    heard = stopping.Interrupts(lambda: ended.append(now[0]), "saves")
    signal.set_wakeup_fd(-1)
    heard.saves = True
    for at in (10.0, 10.2, 20.0):  # the second is the first once more, from whoever forwards it
        now[0] = at
        heard._interrupt()
        assert stopping.asked() == stopping.Request.INT
    assert ended == [20.0]
    stopping._caught.clear()
    heard.saves, now[0] = False, 30.0
    heard._interrupt()
    assert ended == [20.0, 30.0]


# Names of runs


def test_a_run_that_failed_before_its_first_row_does_not_occupy_its_name(tmp_path):
    file, failing = tmp_path / "r.h5", ("problem.name=tests.problems:Faulty", "problem.fault=raise", "problem.on=0")
    how = ("run.steps=30", f"run.file={file}")
    simulate = lambda *more: simulate_here(config.load(None, (*failing, *how, *more)), 2, quiet=True)  # noqa: E731
    with pytest.raises(RuntimeError, match="on fire"):
        simulate("problem.at=1")
    assert Run(file).status.startswith("error at step 0")
    with pytest.raises(RuntimeError, match="on fire"):
        simulate("problem.at=40")
    assert Run(file)["steps"]["step"].tolist() == [10]
    with pytest.raises(UsageError, match=r"exists; set run\.overwrite"):
        simulate("problem.at=1")
