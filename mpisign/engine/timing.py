"""Seconds that each phase of a step takes on this rank."""

import time
from collections.abc import Callable

from mpisign.parallel.watchdog import WATCH
from mpisign.storage.schema import PHASES


class Phase:
    """Adds up the seconds spent inside `with` blocks, less those of phases that are entered in between.

    name: what other ranks are told that wait meanwhile. synchronize: waits for what a device still does, where that is
    not done when a call returns.
    """

    def __init__(self, name: str, entered: list["Phase"], synchronize: Callable[[], None] | None = None):
        self.name, self.seconds, self._entered, self._synchronize = name, 0.0, entered, synchronize

    def __enter__(self):
        if self._synchronize:
            self._synchronize()
        now = time.perf_counter()
        if self._entered:
            self._entered[-1].seconds += now - self._entered[-1]._begin
        self._entered.append(self)
        self._begin, WATCH.doing = now, self.name

    def __exit__(self, *_):
        if self._synchronize:
            self._synchronize()
        now = time.perf_counter()
        self.seconds += now - self._begin
        self._entered.pop()
        WATCH.doing = ""
        if self._entered:
            self._entered[-1]._begin, WATCH.doing = now, self._entered[-1].name


class Timer:
    """The phases of a step: `with timer("exchange"): ...`."""

    def __init__(self, synchronize: Callable[[], None] | None = None):
        entered: list[Phase] = []
        self.phases = {name: Phase(name, entered, synchronize) for name in PHASES}
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
