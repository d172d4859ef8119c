"""Finds ranks that have left, are in other calls or do not answer, while a rank waits for them.

A thread on every rank answers, on a communicator of its own. The first ranks ask, once they have waited for a while
themselves. A wait that can never end ends the job at once, with both ranks named; a long wait is left to the watchdog,
whose message then says where the other ranks are.
"""

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mpisign.parallel.ending import no_exit
from mpisign.parallel.watchdog import WATCH, Clock

PAUSE = 2e-3  # seconds between looks at a barrier
PERIOD = 0.25  # seconds between two looks for questions
PATIENCE = 1.0  # seconds of waiting before the first question, and between two
ASKERS = 3  # the lowest ranks ask: one of them waits, whichever rank is missing
NAMED_AT_MOST = 8  # ranks that a message names


@dataclass(frozen=True)
class Place:
    """Where a rank is. Collective calls of the library are counted.

    done: calls that ended. inside: the one that it is in, or "". left: why it takes no further part, or "". step: of
    the algorithm. wait: what it waits for, or "". doing: what it does of its own, or "".
    """

    done: int = 0
    inside: str = ""
    left: str = ""
    step: int = 0
    wait: str = ""
    doing: str = ""

    def __str__(self) -> str:
        if self.left:
            return f"has left after step {self.step}: {self.left}"
        if self.inside or self.wait:
            return f"is in {self.inside or self.wait} at step {self.step}"
        doing = f" ({self.doing})" if self.doing else ""
        return f"is in code of its own{doing} after step {self.step}"


def conflict(mine: Place, theirs: Place) -> bool:
    """Whether one of two ranks waits for a call that the other will never make."""
    for one, other in ((mine, theirs), (theirs, mine)):
        if one.inside and one.wait and other.left and one.done >= other.done:
            return True
    both = mine.inside and mine.wait and theirs.inside and theirs.wait
    return bool(both and mine.done == theirs.done and mine.inside != theirs.inside)


class RollCall(threading.Thread):
    """Answers and asks on `comm`, mpi4py's or a process_group.RollComm, of which nobody else makes use."""

    def __init__(self, comm: Any, end: Callable[[str], None], limit: float):
        """Collective. end: ends the job, with a message. limit: seconds after which a rank that does not answer is
        taken for lost where others wait for it to leave, 0 for none."""
        super().__init__(daemon=True, name="mpisign-rollcall")
        self._comm, self._end, self._limit = comm, end, limit
        self._last = comm.Dup()  # so that who leaves is not taken for one who meets the others in a call
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        self._done, self._inside, self._left, self._over = 0, "", "", threading.Event()
        self._heard: dict[int, tuple[float, Place]] = {}  # when each rank answered last, and what
        self._asked, self._since, self._rounds = 0.0, time.monotonic(), 0
        self._accused: tuple[int, Place, Place] | None = None
        self._sent: list[Any] = []  # messages on their way

    # Called by the main thread

    def enter(self, call: str) -> None:
        """A call begins that all ranks make together."""
        self._inside = call

    def leave(self, together: bool) -> None:
        """It ended; together: on all ranks, if by an error that all know."""
        self._done += together
        self._inside = ""

    def meet(self) -> None:
        """Waits until all ranks are here: where one makes another call, no messages of theirs get mixed up. Collective.

        A rank alone here is found out by the others' answers.
        """
        with WATCH(f"the others in {self._inside}"):
            self._wait(self._comm)

    def say_goodbye(self, why: str) -> None:
        """Takes no further part, and waits until no rank does, so that MPI can end. Collective."""
        self._left, self._inside = why, ""
        self._wait(self._last)
        self._over.set()
        if self.is_alive():
            self.join()  # MPI is not to be called any more

    def dismiss(self) -> None:
        """Takes no further part, nor waits for anybody. The communicators are left to MPI: others may be gone."""
        self._over.set()
        for comm in (self._comm, self._last):
            comm.Revoke()
        if self.is_alive():
            self.join()

    @staticmethod
    def _wait(comm: Any) -> None:
        request = comm.Ibarrier()
        while not request.Test():
            time.sleep(PAUSE)

    @property
    def place(self) -> Place:
        """Where this rank is now."""
        wait = None if self._left else WATCH.wait
        return Place(self._done, self._inside, self._left, WATCH.step, wait[0] if wait else "", WATCH.doing)

    def spans(self, comm: Any) -> bool:
        """Whether another communicator has the same ranks, in the same order."""
        mine, theirs = (getattr(one, "members", None) for one in (self._comm, comm))
        if mine or theirs:  # of a process group
            return mine == theirs
        one, other = comm.Get_group(), self._comm.Get_group()
        try:
            return type(one).Compare(one, other) == 0  # MPI.IDENT
        finally:
            one.Free(), other.Free()

    # The thread

    def run(self) -> None:
        with no_exit(), contextlib.suppress(Exception):  # MPI has ended or fails: the watchdog needs neither
            self._attend()

    def _attend(self) -> None:
        clock = Clock(WATCH, PERIOD)
        while not self._over.wait(PERIOD):
            waits = clock.poll() and clock.seconds > PATIENCE
            self._listen()
            if self.rank < ASKERS and (waits or self._left):
                self._ask()
            else:
                self._rounds, self._accused = 0, None

    def _listen(self) -> None:
        while self._comm.iprobe():
            asks, rank, place = self._comm.recv()
            self._heard[rank] = time.monotonic(), place
            if asks:
                self._send(rank, asks=False)
        self._sent = [request for request in self._sent if not request.Test()]

    def _send(self, rank: int, asks: bool) -> None:
        self._sent.append(self._comm.isend((asks, self.rank, self.place), dest=rank))

    def _ask(self) -> None:
        now = time.monotonic()
        if now - self._asked < PATIENCE:
            return
        if self._rounds and now - self._asked < 3 * PATIENCE:
            self._judge()
        else:  # this process was stopped, and all may have changed, or this is the first round
            self._since = now
        self._asked, self._rounds = now, self._rounds + 1
        for rank in range(self.size):
            if rank != self.rank:
                self._send(rank, asks=True)

    def _judge(self) -> None:
        """Ends the job if the same two ranks are found to wait in vain, twice in a row."""
        mine, accused = self.place, self._accused
        fresh = {r: place for r, (when, place) in self._heard.items() if when >= self._asked}
        conflicting = next(((r, mine, place) for r, place in fresh.items() if conflict(mine, place)), None)
        if conflicting and conflicting == accused:
            self._end(self._verdict(*conflicting))
        self._accused = conflicting
        if mine.left and self._limit and time.monotonic() - self._since > self._limit and len(fresh) < self.size - 1:
            self._end(f"rank {self.rank}/{self.size} {mine}, and waits for all others to leave; {self.report()}")

    def _verdict(self, rank: int, mine: Place, theirs: Place) -> str:
        where = f"rank {self.rank}/{self.size} {mine}, but rank {rank} {theirs}"
        if mine.left or theirs.left:
            return f"{where}; every rank has to make the same calls, as often: give all ranks as many batches"
        return f"{where}; every rank has to make the same calls, in the same order, without `if rank == 0`"

    def report(self) -> str:
        """Where the other ranks are that do not wait, by their answers since this rank waits."""
        if not self._rounds:
            return ""
        others = [r for r in range(self.size) if r != self.rank]
        silent = [r for r in others if r not in self._heard or self._heard[r][0] < self._asked - PATIENCE]
        lines = [f"rank {r} does not answer (it is stopped, or its host is gone)" for r in silent]
        lines += [f"rank {r} {self._heard[r][1]}" for r in others if r not in silent and not self._heard[r][1].wait]
        more = [f"and {len(lines) - NAMED_AT_MOST} more"] if len(lines) > NAMED_AT_MOST else []
        return "; ".join(lines[:NAMED_AT_MOST] + more)
