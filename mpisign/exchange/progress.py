"""Lets messages proceed while this rank packs, counts or moves x.

MPI moves a nonblocking collective on only inside its calls. "calls" asks between kernels, which last a fraction of a
millisecond; "thread" has a helper ask all the time, which takes a core's while but leaves no gap.
"""

from __future__ import annotations  # which name classes of an MPI that may not have started

import os
import threading
from typing import Any

from mpisign.errors import UsageError
from mpisign.exchange.late import MPI
from mpisign.parallel.ending import no_exit
from mpisign.parallel.process_group import GroupComm

PAUSE = 2e-4  # seconds between two calls of the helper
LONG_PAUSE = 1e-3  # the same while gradients are worked out, often by the same cores


def engine_of(comm: Any, kind: str, pause: float) -> ProgressEngine:
    """What lets the messages of a communicator proceed. Raises UsageError, on all ranks, for a kind that can't."""
    return OwnThreads(kind) if isinstance(comm, GroupComm) else ProgressEngine(comm, kind, pause)


class ProgressEngine:
    """What an exchange asks to let its messages proceed."""

    def __init__(self, comm: MPI.Intracomm, kind: str, pause: float = PAUSE):
        """kind: "calls" or "thread". pause: of the helper, in seconds.

        Raises UsageError, on all ranks alike, for a thread that MPI does not allow.
        """
        if kind == "thread" and MPI.Query_thread() < MPI.THREAD_MULTIPLE:
            raise UsageError(
                'exchange.progress = "thread" needs an MPI that any thread may call (MPI_THREAD_MULTIPLE), which '
                f'{MPI.get_vendor()[0]} is not here; use "calls"',
                agreed=True,
            )
        self._comm, self._helper = comm, Helper(comm, pause) if kind == "thread" else None

    def progress(self) -> None:
        """Messages are on their way: has anything come?"""
        if self._helper:
            self._helper.needed.set()
        else:
            self._comm.Iprobe(MPI.ANY_SOURCE, MPI.ANY_TAG)
            os.sched_yield()  # where ranks share a core, others get to send their first chunk, too

    def pause(self) -> None:
        """Nothing is on its way any more."""
        if self._helper:
            self._helper.needed.clear()

    def close(self) -> None:
        """Ends the helper: nothing will be on its way again."""
        if self._helper:
            self._helper.end()
            self._helper = None


class OwnThreads(ProgressEngine):
    """That of torch.distributed, whose threads move messages on by themselves."""

    def __init__(self, kind: str):
        if kind == "thread":
            raise UsageError(
                'progress = "thread" needs MPI; torch.distributed has threads of its own: leave it out', agreed=True
            )

    def progress(self) -> None:
        """Lets them have the core, where there is no other."""
        os.sched_yield()

    def pause(self) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


class Helper(threading.Thread):
    """Asks while it is needed. It looks for messages that nobody sends, which lets all others proceed."""

    def __init__(self, comm: MPI.Intracomm, pause: float):
        super().__init__(daemon=True, name="mpisign-progress")
        self._seconds, self._over = pause, False
        self.needed, self._comm, self._pause = threading.Event(), comm, threading.Event()
        self.start()

    def end(self) -> None:
        """Ends it, and waits for that."""
        self._over = True
        self.needed.set()
        self.join()

    def run(self) -> None:
        with no_exit():
            while self.needed.wait() and not self._over:
                self._comm.Iprobe(MPI.ANY_SOURCE, MPI.ANY_TAG)
                self._pause.wait(self._seconds)
