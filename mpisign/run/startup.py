"""What comes before a job's first step, by phase, timed in every run; `mpisign bench startup` tells it."""

import os
import time
from pathlib import Path

from mpisign.run.collection import no_collection

PROCESS = Path("/proc/self/stat")


class Phases:
    """Seconds that have passed, and seconds of a processor that this process has used, by phase, in order.

    The first phase begins with the process, and each other one where the one before it ended: nothing is left out.
    """

    def __init__(self):
        self.seconds: dict[str, tuple[float, float]] = {}
        self._since = time.perf_counter() - age(), 0.0

    def end(self, name: str) -> None:
        """The phase of this name ends here; if it has ended before, nothing happens."""
        if name not in self.seconds:
            passed, used = now = time.perf_counter(), time.process_time()
            self.seconds[name] = passed - self._since[0], used - self._since[1]
            self._since = now


def age() -> float:
    """Seconds since this process was created, in hundredths; those of its processor where the system does not tell."""
    if not PROCESS.exists():
        return time.process_time()
    ticks = int(PROCESS.read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


PHASES = Phases()


def load_program() -> None:
    """Imports what a job runs with, once it has been read: errors of a job come at once."""
    PHASES.end("the job")
    with no_collection():
        import torch  # noqa: F401

        PHASES.end("torch")
        from mpisign import bits  # noqa: F401

        PHASES.end("numba, the kernels' modules")
        from mpisign.run import train  # noqa: F401

        PHASES.end("the program's modules")
