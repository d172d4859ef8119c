"""Why a run should save or stop before its end: signals, time limits, a full disk.

Each rank looks for itself; the largest request of any rank travels in the header of a step, so all ranks act on the
same one at the same step's edge. A second signal changes nothing.
"""

import os
import signal
import subprocess
import time
from enum import IntEnum

BEGIN = time.monotonic()
USR1, TERM = signal.SIGUSR1, signal.SIGTERM


class Request(IntEnum):
    """What is asked for; from USR1 on, to stop."""

    NONE = 0
    SAVE = 1
    USR1 = 2
    TERM = 3
    MAX_TIME = 4
    SLURM = 5
    STORAGE = 6

    @property
    def stops(self) -> bool:
        return self >= Request.USR1

    @property
    def reason(self) -> str:
        return _REASONS[self]


_REASONS = {
    Request.NONE: "nothing",
    Request.SAVE: "time for a checkpoint",
    Request.USR1: "signal USR1",
    Request.TERM: "signal TERM",
    Request.MAX_TIME: "run.max_minutes is over",
    Request.SLURM: "Slurm's time limit is near",
    Request.STORAGE: "the run file can't be written",
}

_caught: list[Request] = []


def _handle(number, frame) -> None:
    _caught.append(Request.USR1 if number == USR1 else Request.TERM)


def catch_signals() -> None:
    """From now on USR1 and TERM are requests; called first thing, since a launcher may send one at any time."""
    for number in (USR1, TERM):
        signal.signal(number, _handle)


def ignore_signals() -> None:
    """From now on, on the way out, USR1 and TERM are ignored.

    With srun -K1 the first rank that exits with a code has the others sent TERM; a rank that dies of it on its way
    out would turn the code that all agreed on into another one.
    """
    for number in (USR1, TERM):
        signal.signal(number, signal.SIG_IGN)


class Requests:
    """What this rank asks for, looked at once a step.

    max_minutes: since this process began, or None. margin: seconds before the end of a Slurm job. every_minutes:
    between checkpoints, or 0. clock: whether this rank's clocks count; one rank's do.
    """

    def __init__(self, max_minutes: float | None, margin: float, every_minutes: float, clock: bool):
        self._period = 60 * every_minutes if clock and every_minutes else float("inf")
        self._saved = time.monotonic()
        self._limit = BEGIN + 60 * max_minutes if clock and max_minutes else float("inf")
        slurm = slurm_end() if clock else None
        self._end = slurm - margin if slurm else float("inf")

    def now(self) -> Request:
        """The weightiest request of this rank."""
        if _caught:
            return _caught[0]
        now = time.monotonic()
        if time.time() > self._end:
            return Request.SLURM
        if now > self._limit:
            return Request.MAX_TIME
        return Request.SAVE if now > self._saved + self._period else Request.NONE

    def saved(self) -> None:
        """A checkpoint was written just now."""
        self._saved = time.monotonic()


def slurm_end() -> float | None:
    """When Slurm ends this job, in seconds since 1970; None outside of Slurm, or where it does not say."""
    if (end := os.environ.get("SLURM_JOB_END_TIME", "")).isdigit():
        return float(end)
    # versions before 23.02 do not tell a job; the controller does
    if "SLURM_JOB_ID" not in os.environ:
        return None
    ask = ["squeue", "--noheader", "--format=%e", f"--jobs={os.environ['SLURM_JOB_ID']}"]
    try:
        told = subprocess.run(ask, capture_output=True, text=True, timeout=10).stdout.strip()
        return time.mktime(time.strptime(told.splitlines()[-1], "%Y-%m-%dT%H:%M:%S"))
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None
