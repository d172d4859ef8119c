"""Ranks that are copies of what has imported everything: to mpirun, and to who started it, they are like any others."""

import os
import signal
import subprocess
import time

from tests.preloaded import by_copies
from tests.running import BIN, run

PLACE = """
import atexit, sys
import mpisign
atexit.register(lambda: print(f"rank {mpisign.rank()} of {mpisign.size()} ends", flush=True))
print(sys.argv[1:], mpisign.rank(), file=sys.stderr)
sys.exit(7 if mpisign.rank() == 1 else 0)
"""
MPIRUN = (BIN / "mpirun", "-n", 2, BIN / "python")


def test_they_have_arguments_streams_an_orderly_end_and_codes():
    ended = run(*MPIRUN, "-c", PLACE, "a", "b c")
    assert ended.code == 7
    assert sorted(ended.out.splitlines()) == ["rank 0 of 2 ends", "rank 1 of 2 ends"]
    assert sorted(ended.err.splitlines()) == ["['a', 'b c'] 0", "['a', 'b c'] 1"]


def test_scripts_and_modules_know_who_they_are(tmp_path):
    (tmp_path / "beside.py").write_text("word = 'found'")
    (tmp_path / "script.py").write_text("import os, sys, beside; print(beside.word, __name__, os.getcwd(), *sys.argv)")
    script = run(*MPIRUN, tmp_path / "script.py", 3, cwd=tmp_path)
    assert script.out.splitlines() == [f"found __main__ {tmp_path} {tmp_path}/script.py 3"] * 2, script.err
    module = run(*MPIRUN, "-m", "tests.ways_out", "--help")
    assert module.out.count("usage: ") == 2, module.err


def test_an_error_is_told_and_a_signal_ends_all():
    failed = run(*MPIRUN, "-c", "1 / 0")
    assert failed.code == 1
    assert failed.err.count("ZeroDivisionError: division by zero") == 2
    assert run(*MPIRUN, "-c", "import mpisign, os; mpisign.rank(); os.kill(os.getpid(), 9)").code != 0


def test_they_do_not_outlive_their_launcher(tmp_path):
    code = (
        f"import os, time; open(f'{tmp_path}/' + os.environ['PMI_RANK'], 'w').write(str(os.getpid())); time.sleep(60)"
    )
    launcher = subprocess.Popen(by_copies([*map(str, MPIRUN), "-c", code]), start_new_session=True)
    files = [tmp_path / "0", tmp_path / "1"]
    wait_until(lambda: all(file.exists() and file.read_text() for file in files))
    os.killpg(launcher.pid, signal.SIGKILL)
    launcher.wait()
    wait_until(lambda: not any(os.path.exists(f"/proc/{file.read_text()}") for file in files))


def wait_until(there, seconds=20):
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_other_launches_stay_as_they_are():
    for command in (
        ["mpirun", "--with-ft", "ulfm", "-n", "2", "mpisign"],
        ["mpisign", "train"],
        ["mpirun", "-n", "2", "sh"],
    ):
        assert by_copies(command) == command
