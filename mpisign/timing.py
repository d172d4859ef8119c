"""Seconds a phase of the step takes on this rank."""

import time
from collections import defaultdict
from contextlib import contextmanager

PHASES = ("estimate", "sign", "exchange", "update", "evaluate", "record")


class Timer:
    """Adds up the seconds spent in named phases: `with timer("exchange"): ...`."""

    def __init__(self):
        self.seconds: dict[str, float] = defaultdict(float)
        self.start = time.perf_counter()

    @contextmanager
    def __call__(self, phase: str):
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] += time.perf_counter() - begin

    def elapsed(self) -> float:
        """Seconds since this timer was made."""
        return time.perf_counter() - self.start

    def take(self) -> list[float]:
        """The seconds of every phase in the order of PHASES, which then start again from zero."""
        taken = [self.seconds[phase] for phase in PHASES]
        self.seconds.clear()
        return taken
