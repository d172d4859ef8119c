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
LONGEST = 10 * 365 * 86400.0  # seconds; whatever ends later has no limit, which old versions write as a large number
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
    """When Slurm ends this job, in seconds since 1970; None outside of Slurm, or where it does not say.

    An end that is past already is that of another job, whose variables are left over.
    """
    now, found = time.time(), None
    if (end := os.environ.get("SLURM_JOB_END_TIME", "").strip()).isdecimal():
        found = float(end)
    elif os.environ.get("SLURM_JOB_ID", "").strip():
        # versions before 23.02 do not tell a job; the controller does
        found = _told_by_squeue(now)
    return found if found and now < found < now + LONGEST else None


def _told_by_squeue(now: float) -> float | None:
    """The end of this job by the controller: now and the time that is left, or the end itself."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID", ""), os.environ.get("SLURM_ARRAY_TASK_ID", "")
    job = f"{array}_{task}" if array and task else os.environ["SLURM_JOB_ID"]  # else all tasks may answer
    ask = ["squeue", "--noheader", "--format=%L|%e", f"--jobs={job}"]
    standard = os.environ | {"SLURM_TIME_FORMAT": "standard"}
    try:
        told = subprocess.run(ask, capture_output=True, text=True, errors="replace", timeout=10, env=standard).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    left, _, end = (told.strip().splitlines() or [""])[-1].partition("|")
    if (seconds := slurm_seconds(left)) is not None:
        return now + seconds
    try:
        return time.mktime(time.strptime(end.strip(), "%Y-%m-%dT%H:%M:%S"))
    except (ValueError, OverflowError):
        return None


def slurm_seconds(text: str) -> float | None:
    """The seconds of a time as Slurm writes it: minutes, [hours:]minutes:seconds, days-hours[:minutes[:seconds]].

    None for its words UNLIMITED, INVALID, NOT_SET, N/A and whatever else is no such time.
    """
    days, dash, rest = text.strip().rpartition("-")
    parts = [days or "0", *rest.split(":")]
    if len(parts) > 4 or not all(part.isascii() and part.isdigit() for part in parts) or (dash and not days):
        return None
    units = (86400, 3600, 60, 1) if dash else {1: (0, 60), 2: (0, 60, 1), 3: (0, 3600, 60, 1)}[len(parts) - 1]
    return float(sum(int(part) * unit for part, unit in zip(parts, units, strict=False)))
