"""What comes before a job's first step, by phase, timed.

What is timed goes the way of `mpisign train` with the built-in job, and imports what that does when that does: nothing
here is imported before.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mpisign import config as configuration
from mpisign.parallel import mpi
from mpisign.run.collection import no_collection

PROCESS = Path("/proc/self/stat")


class Phases:
    """Seconds that have passed, and seconds of a processor that this process has used, by phase, in order."""

    def __init__(self):
        """The first phase began with this process, and ends now."""
        self.seconds = {"python, the command line": (age(), time.process_time())}

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """What is inside is of this phase."""
        passed, used = time.perf_counter(), time.process_time()
        yield
        self.seconds[name] = time.perf_counter() - passed, time.process_time() - used


def age() -> float:
    """Seconds since this process was created, in hundredths; those of its processor where the system does not tell."""
    if not PROCESS.exists():
        return time.process_time()
    ticks = int(PROCESS.read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def start(threads: int) -> tuple[Phases, mpi.Ranks]:
    """The phases of this process up to the end of the first step, and the ranks that took it. Collective."""
    phases = Phases()
    with no_collection():
        with phases.of("torch"):
            import torch  # noqa: F401
        with phases.of("numba, the kernels' modules"):
            from mpisign import bits  # noqa: F401
        with phases.of("the program's modules"):
            from mpisign.run import setup, train
            from mpisign.run.plan import resolve
            from mpisign.run.schedules import Schedule
    with phases.of("the job"):
        config = configuration.load(None, (f"run.threads={threads}",))
        plan = resolve(config, mpi.launch().size)
    with phases.of("MPI"):
        ranks = mpi.start(threads)
    with phases.of("kernels"):
        setup.use_threads(threads)
        train.load_kernels(ranks)
    with phases.of("rows, x, exchange"):
        stepper = setup.set_up(plan, ranks, ranks.size).stepper
    with phases.of("the first step"):
        stepper.step(Schedule(steps=1, **config.schedule.model_dump())(0))
        ranks.wait()
    return phases, ranks
