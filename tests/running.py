"""Runs commands in a process group of their own, which dies with its timeout."""

import os
import re
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests import preloaded

ROOT = Path(__file__).parent.parent
BIN = Path(sys.prefix) / "bin"
NUMBER = r"-?\d[\d.]*(?:e[-+]?\d+)?"


@dataclass
class Ended:
    code: int
    out: str
    err: str

    @property
    def values(self) -> dict[str, str]:
        """The `name: value` lines of the output, numbers without their unit."""
        lines = dict(line.split(": ", 1) for line in self.out.splitlines() if ": " in line)
        return {name: re.sub(rf"^({NUMBER}(?: or {NUMBER})*) .*$", r"\1", value) for name, value in lines.items()}


def run(*command, timeout=60, environment=None, cwd=ROOT) -> Ended:
    """Runs a command; fails the test, after killing the whole group, if it does not end in time.

    environment: what its variables are besides those of this process. Without, mpisign and scripts are copies of a
    process that has imported everything; see preloaded.
    """
    command = [str(c) for c in command]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | (environment or {})
    if environment is None and preloaded.fits(command):
        return _copy(command, timeout, env, cwd)
    process = subprocess.Popen(
        command, cwd=cwd, env=env, text=True, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        raise AssertionError(f"no end after {timeout} s: {command}\n{out}\n{err}") from None
    return Ended(process.returncode, out, err)


def _copy(command, timeout, env, cwd) -> Ended:
    with tempfile.NamedTemporaryFile("r") as out, tempfile.NamedTemporaryFile("r") as err:
        process = preloaded.start(command, cwd, env, out.name, err.name)
        process.join(timeout)
        if process.exitcode is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.join()
            raise AssertionError(f"no end after {timeout} s: {command}\n{out.read()}\n{err.read()}")
        return Ended(process.exitcode, out.read(), err.read())


def mpisign(*arguments, n=1, **how) -> Ended:
    """The command line, under mpirun if n > 1."""
    launcher = [BIN / "mpirun", "-n", n] if n > 1 else []
    return run(*launcher, BIN / "mpisign", *arguments, **how)


def train(*settings, n=1, job=None, **how) -> Ended:
    """`mpisign train` with --set for each setting."""
    flags = [part for s in settings for part in ("--set", s)]
    return mpisign("train", *([job] if job else []), *flags, n=n, **how)
