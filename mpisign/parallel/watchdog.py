"""Ends a job that waits for a rank that will never come: a thread times how long this rank is in a collective."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

START = 60.0  # seconds that a wait may last while a run starts, when one rank compiles and reads for others
STAGGER = 0.3  # seconds by which a rank lets the one below speak first


class Watch:
    """The waits of this rank and their beginnings: `with watch("the Iallgather of headers"): ...`; may be nested.

    doing: what this rank does of its own, which others ask for while they wait for it; "" where nobody says.
    """

    def __init__(self):
        self.step, self.least = 0, 0.0  # seconds that a wait may last at least, whatever the limit
        self.doing = ""
        self._entered: list[tuple[str, float]] = []

    def __call__(self, what: str) -> "Watch":
        self._next = what
        return self

    def __enter__(self):
        self._entered.append((self._next, time.monotonic()))

    def __exit__(self, *_):
        self._entered.pop()

    @contextmanager
    def at(self, what: str) -> Iterator[None]:
        """Says what this rank does of its own meanwhile: `with watch.at("reading the data"): ...`; may be nested."""
        before, self.doing = self.doing, what
        try:
            yield
        finally:
            self.doing = before

    @property
    def wait(self) -> tuple[str, float] | None:
        """The innermost wait of now, and when it began; None where nothing is waited for."""
        entered = self._entered[-1:]  # a copy: another thread may leave it meanwhile
        return entered[0] if entered else None


WATCH = Watch()  # of this process: it waits in one place at a time


class Clock:
    """How long the same wait has lasted while this process ran: time for which it was stopped does not count."""

    def __init__(self, watch: Watch, period: float):
        """period: seconds between two calls."""
        self._watch, self._most = watch, 2 * period
        self._wait: tuple[str, float] | None = None
        self._last, self.seconds = time.monotonic(), 0.0

    def poll(self) -> str | None:
        """The name of the current wait, or None; updates `seconds`."""
        wait, now = self._watch.wait, time.monotonic()
        # a process that was stopped, by a batch system for all ranks of a job, finds that much time has passed
        went_by, self._last = min(now - self._last, self._most), now
        same = wait is not None and wait is self._wait
        self.seconds = self.seconds + went_by if same else 0.0
        self._wait = wait
        return wait and wait[0]


class Watchdog(threading.Thread):
    """Calls `on_timeout` with step and message once a wait has lasted longer than `limit` seconds."""

    def __init__(self, watch: Watch, limit: float, rank: int, on_timeout: Callable[[int, str], None], key: str):
        """key: what the limit is called where the user sets it."""
        super().__init__(daemon=True, name="mpisign-watchdog")
        self._watch, self._limit, self._on_timeout, self._key = watch, limit + STAGGER * min(rank, 10), on_timeout, key
        self._period = min(1.0, limit / 5)

    def run(self) -> None:
        clock = Clock(self._watch, self._period)
        while True:
            time.sleep(self._period)
            what = clock.poll()
            if what and clock.seconds > max(self._limit, self._watch.least):
                text = f"{what} has not ended after {clock.seconds:.0f} s; a rank is stuck, gone, or slower than "
                self._on_timeout(self._watch.step, text + self._key)
                return
