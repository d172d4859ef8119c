"""A real Slurm over five simulated hosts, for as long as these tests run; without root or packages they are skipped."""

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from tests.running import BIN, ROOT

LAB = ROOT / "tests/lab/slurm.sh"
PACKAGES = ("slurmctld", "slurmd", "sbatch", "munged", "tc")


def missing() -> str:
    """Why the lab can't run here, or nothing."""
    if os.geteuid() or subprocess.run(["unshare", "-n", "true"], capture_output=True).returncode:
        return "simulated hosts need root and the right to make namespaces"
    absent = [program for program in PACKAGES if not shutil.which(program)]
    return f"not installed: {', '.join(absent)}; see tests/lab/slurm.sh" if absent else ""


class Slurm:
    """sbatch, squeue and friends, and the power switches of the hosts."""

    def __init__(self, state):
        self.environment = os.environ | {
            "LAB_STATE": str(state),
            "SLURM_CONF": f"{state}/slurm/slurm.conf",
            "MPISIGN": str(BIN / "mpisign"),
            "PYTHONPATH": str(ROOT),
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            # MPICH over TCP at the pace of the link
            "MPIR_CVAR_CH4_NETMOD": "ofi",
            "FI_PROVIDER": "tcp",
        }

    def run(self, *command, cwd=ROOT) -> str:
        # what a daemon inherits from here stays open: no pipes
        with open(self.environment["LAB_STATE"] + "/output", "w+") as output:
            subprocess.run([str(c) for c in command], env=self.environment, cwd=cwd, timeout=60, check=True,
                           stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)  # fmt: skip
            output.seek(0)
            return output.read()

    def lab(self, *command) -> str:
        return self.run(LAB, *command)

    def submit(self, script, *arguments, options=(), cwd=ROOT) -> str:
        """The number of the job."""
        told = self.run("sbatch", "--parsable", "--export=ALL", *options, script, *arguments, cwd=cwd)
        return told.strip().splitlines()[-1]

    def job(self, number) -> dict[str, str]:
        """What Slurm knows of a job, or of a task of an array as 7_2."""
        told = self.run("scontrol", "show", "job", "-o", number)
        return dict(word.split("=", 1) for word in told.split() if "=" in word)

    def wait(self, number, *states, seconds=90) -> dict[str, str]:
        """Waits until the job is in one of these states; COMPLETED, FAILED, ... by default."""
        states = states or ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
        return until(lambda: (job := self.job(number))["JobState"] in states and job, seconds, lambda: self.log(number))

    def log(self, number=None) -> str:
        """What a test that waited in vain is told: jobs and their steps, nodes, and what a job has printed."""
        told = [self.run("squeue", "-a"), self.run("squeue", "-a", "-s"), self.run("sinfo", "-N", "-l")]
        printed = Path(self.job(number).get("StdOut", "")) if number else None
        return "\n".join([*told, printed.read_text() if printed and printed.is_file() else ""])


def until(found, seconds, explain=str):
    """The first true value of found(), asked ten times a second."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := found():
            return value
        time.sleep(0.1)
    raise AssertionError(f"not within {seconds} s: {explain()}")


@pytest.fixture(scope="session")
def slurm():
    if reason := missing():
        pytest.skip(f"SKIPPED: {reason}")
    # munge's daemon runs as another user, who must reach its folder
    state = Path(tempfile.mkdtemp(prefix="mpisign-lab-"))
    state.chmod(0o755)
    slurm = Slurm(state)
    try:
        slurm.lab("up", 5, "200mbit")
        yield slurm
    finally:
        slurm.lab("down")
        shutil.rmtree(state, ignore_errors=True)
