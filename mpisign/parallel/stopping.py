"""Why a run should save or stop before its end: signals, time limits, a full disk.

Each rank looks for itself; the largest request of any rank travels in the header of a step, so all ranks act on the
same one at the same step's edge. A second USR1 or TERM changes nothing. A second INT (Ctrl-C) ends the job at once, as
does the first before there is anything to save.
"""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from enum import IntEnum

from mpisign.parallel.ending import say
from mpisign.parallel.launchers import launch

BEGIN = time.monotonic()
LONGEST = 10 * 365 * 86400.0  # seconds; whatever ends later has no limit, which old versions write as a large number
USR1, TERM, INT = signal.SIGUSR1, signal.SIGTERM, signal.SIGINT
ONE = 0.5  # seconds within which several INT are one: a terminal and whoever forwards it both send it


class Request(IntEnum):
    """What is asked for, with its reason; from USR1 on, to stop."""

    reason: str

    NONE = 0, "nothing"
    SAVE = 1, "time for a checkpoint"
    USR1 = 2, "signal USR1"
    TERM = 3, "signal TERM"
    MAX_TIME = 4, "run.max_minutes is over"
    SLURM = 5, "Slurm's time limit is near"
    INT = 6, "interrupted (signal INT)"
    STORAGE = 7, "the run file can't be written"

    def __new__(cls, number: int, reason: str):
        request = int.__new__(cls, number)
        request._value_, request.reason = number, reason
        return request

    @property
    def stops(self) -> bool:
        return self >= Request.USR1


_caught: list[Request] = []
_interrupts: "Interrupts | None" = None


class Interrupts(threading.Thread):
    """Hears of every INT at once, even while the main thread is inside MPI, where Python's handlers do not run."""

    def __init__(self, at_once: Callable[[], None], promise: str):
        """at_once: ends all ranks. promise: what the first INT is told to do."""
        super().__init__(daemon=True, name="mpisign-interrupts")
        self._end, self._promise = at_once, promise
        self._ears, self._mouth = os.pipe()
        self.saves, self._last = False, -ONE
        os.set_blocking(self._mouth, False)
        signal.set_wakeup_fd(self._mouth, warn_on_full_buffer=False)

    def run(self) -> None:
        while heard := os.read(self._ears, 64):
            if INT in heard:
                self._interrupt()

    def _interrupt(self) -> None:
        now = time.monotonic()
        again, self._last = now - self._last >= ONE, now
        if not again:
            return
        if Request.INT in _caught or not self.saves:
            self._end()
        _caught.append(Request.INT)
        if launch().rank == 0:
            say(f"mpisign: interrupted: {self._promise}; once more ends all ranks at once\n")


def _handle(number, frame) -> None:
    if number != INT:
        _caught.append(Request.USR1 if number == USR1 else Request.TERM)


def catch_signals(
    at_once: Callable[[], None],
    saves: bool = False,
    numbers: tuple[int, ...] = (USR1, TERM, INT),
    promise: str = "saves at the next step's edge and stops",
) -> None:
    """From now on signals are requests; called first thing, since a launcher may send one at any time.

    at_once: ends all ranks, from any thread. saves: whether there is something to save already; see can_save().
    promise: what the first INT does then, to be told.
    """
    global _interrupts
    if _interrupts is None:
        _interrupts = Interrupts(at_once, promise)
        _interrupts.start()
    _interrupts.saves = saves
    for number in numbers:
        signal.signal(number, _handle)


def can_save() -> None:
    """From now on what was asked for is looked at: an INT no longer ends all at once."""
    if _interrupts is not None:
        _interrupts.saves = True


def asked() -> Request:
    """What signals asked this process for so far."""
    return Request.INT if Request.INT in _caught else _caught[0] if _caught else Request.NONE


def ignore_signals() -> None:
    """From now on, on the way out, USR1, TERM and INT are ignored.

    With srun -K1 the first rank that exits with a code has the others sent TERM; a rank that dies of it on its way
    out would turn the code that all agreed on into another one.
    """
    for number in (USR1, TERM, INT):
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
            return asked()
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
    now, seconds = time.time(), None
    if (end := os.environ.get("SLURM_JOB_END_TIME", "").strip()).isdecimal():
        seconds = float(end)
    elif os.environ.get("SLURM_JOB_ID", "").strip():
        # versions before 23.02 do not tell a job; the controller does
        seconds = _told_by_squeue(now)
    return seconds if seconds and now < seconds < now + LONGEST else None


def _told_by_squeue(now: float) -> float | None:
    """The end of this job by the controller: now and the time that is left, or the end itself."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID", ""), os.environ.get("SLURM_ARRAY_TASK_ID", "")
    job = f"{array}_{task}" if array and task else os.environ["SLURM_JOB_ID"]  # else all tasks may answer
    ask = ["squeue", "--noheader", "--format=%L|%e", f"--jobs={job}"]
    standard = os.environ | {"SLURM_TIME_FORMAT": "standard"}
    try:
        answer = subprocess.run(ask, capture_output=True, text=True, errors="replace", timeout=10, env=standard).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    left, _, end = (answer.strip().splitlines() or [""])[-1].partition("|")
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
