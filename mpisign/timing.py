"""Seconds a phase of the step takes on this rank."""

import time

PHASES = ("estimate", "sign", "exchange", "update", "evaluate", "record")


class Phase:
    """Adds up the seconds spent inside `with` blocks, which do not nest."""

    def __init__(self):
        self.seconds = 0.0

    def __enter__(self):
        self._begin = time.perf_counter()

    def __exit__(self, *_):
        self.seconds += time.perf_counter() - self._begin


class Timer:
    """The phases of a step: `with timer("exchange"): ...`."""

    def __init__(self):
        self.phases = {name: Phase() for name in PHASES}
        self.start = time.perf_counter()

    def __call__(self, phase: str) -> Phase:
        return self.phases[phase]

    def elapsed(self) -> float:
        """Seconds since this timer was made."""
        return time.perf_counter() - self.start

    def take(self) -> list[float]:
        """The seconds of every phase in the order of PHASES, which then start again from zero."""
        taken = [phase.seconds for phase in self.phases.values()]
        for phase in self.phases.values():
            phase.seconds = 0.0
        return taken
