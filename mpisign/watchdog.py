"""Ends a job that waits for a rank that will never come: a thread looks how long this rank has been in a collective."""

import threading
import time
from collections.abc import Callable

STAGGER = 0.3  # seconds by which a rank lets the one below speak first


class Watch:
    """What this rank waits for, and since when: `with watch("Iallgather of headers"): ...`."""

    def __init__(self):
        self.step, self.what, self.since = 0, None, 0.0

    def __call__(self, what: str) -> "Watch":
        self._next = what
        return self

    def __enter__(self):
        self.since, self.what = time.monotonic(), self._next

    def __exit__(self, *_):
        self.what = None


class Watchdog(threading.Thread):
    """Calls `bark` with step and message once a wait has lasted longer than `limit` seconds."""

    def __init__(self, watch: Watch, limit: float, rank: int, bark: Callable[[int, str], None]):
        super().__init__(daemon=True)
        self._watch, self._limit, self._delay, self._bark = watch, limit, STAGGER * min(rank, 10), bark
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(min(1.0, self._limit / 5)):
            what, since = self._watch.what, self._watch.since
            waited = time.monotonic() - since
            if what and waited > self._limit + self._delay and self._watch.since == since:
                text = f"{what} has not ended after {waited:.0f} s; a rank is stuck, gone, or slower than run.watchdog"
                self._bark(self._watch.step, text)
                return

    def stop(self) -> None:
        self._over.set()
        if self.is_alive() and threading.current_thread() is not self:
            self.join()  # a thread that outlives the interpreter may take the process down with it
