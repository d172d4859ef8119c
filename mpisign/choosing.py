"""`exchange = "auto"`: every exchange is tried for a moment when a run starts, and the one predicted fastest is taken.

Each that could carry the messages takes a few steps at growing sizes, on all ranks at once. So what is measured is
what counts: latency, the link, the kernels, and whatever else these ranks do to each other on these cores. Time
between two sizes is taken as linear; beyond the largest, the last slope goes on.
"""

import time
from dataclasses import dataclass, field, replace
from statistics import median

import numpy as np

from mpisign.algorithm import Algorithm
from mpisign.exchange import Choice
from mpisign.trial import Trial
from mpisign.world import Mpi

BUDGET = 0.3  # seconds for everything
SMALLEST, GROWTH, LARGEST = 1 << 12, 4, 1 << 22  # coordinates
REPEATS = 3


@dataclass(frozen=True)
class Link:
    """What one round of messages from each rank to each other takes: seconds, and bytes a second that a rank sends."""

    latency: float
    bandwidth: float

    def __str__(self):
        return f"latency {self.latency * 1e6:.0f} us, {self.bandwidth * 8e-6:,.0f} Mbit/s a rank"


@dataclass
class Prediction:
    """Seconds of a step without its gradient, by the steps that were tried."""

    choice: Choice
    sizes: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def at(self, d: int) -> float:
        """Seconds at d coordinates."""
        if d <= self.sizes[-1] or len(self.sizes) == 1:
            return float(np.interp(d, self.sizes, self.seconds)) * (1 if len(self.sizes) > 1 else d / self.sizes[0])
        (low, high), (first, last) = self.sizes[-2:], self.seconds[-2:]
        return last + max(last - first, 0.0) / (high - low) * (d - high)


def candidates(stage: Algorithm) -> tuple[str, ...]:
    """The exchanges that can carry a stage's words and give the same bits."""
    sums = not (stage.vote.needs_ballots or stage.vote.shares)
    return ("sharded", "allgather", *(("allreduce",) if sums else ()))


def measured(chosen: tuple[Choice, ...], stages: tuple[Algorithm, ...], comm, d: int, **how) -> tuple[Choice, ...]:
    """The choices, those left open replaced by the exchange predicted fastest at d coordinates, with the reason.

    comm: all ranks take part, and get the same choices. how: chunk, progress.
    """
    if comm is None or not any(choice.open for choice in chosen):
        return chosen
    link, share = measure_link(comm), BUDGET * 0.8 / sum(choice.open for choice in chosen)
    found = []
    for choice, stage in zip(chosen, stages, strict=True):
        if choice.open:
            predictions = predict(stage, comm, d, share, **how)
            best = min(predictions, key=lambda p: p.at(d))
            told = ", ".join(f"{p.choice.name} {p.at(d) * 1e3:.3g}" for p in predictions)
            choice = replace(best.choice, reason=f"measured {link}; predicted ms a step: {told}")
        found.append(choice)
    return tuple(found)


def predict(
    stage: Algorithm, comm, d: int, budget: float = BUDGET, names: tuple[str, ...] = (), **how
) -> list[Prediction]:
    """A prediction for each exchange, alike on all ranks."""
    found, size = [Prediction(Choice(name, "")) for name in names or candidates(stage)], min(SMALLEST, d)
    deadline, going = time.perf_counter() + budget, True
    while going:
        trials = [Trial(p.choice, stage, Mpi(comm), size, **how) for p in found]
        for trial in trials:
            trial.once()
        # in turns, as no step of a run finds its buffers in the cache either
        rounds = [[timed(trial.once, comm) for trial in trials] for _ in range(REPEATS)]
        # root's clock decides for all whether there is time for a larger size
        ahead = GROWTH * (REPEATS + 1) * sum(rounds[-1])
        going = comm.bcast(time.perf_counter() + ahead < deadline and size < min(d, LARGEST))
        for p, *seconds in zip(found, *rounds, strict=True):
            p.sizes.append(size)
            p.seconds.append(median(seconds))
        size = min(size * GROWTH, d)
    return found


def measure_link(comm, budget: float = BUDGET * 0.2) -> Link:
    """Latency and bandwidth of an Alltoall, whose messages grow from 64 KiB until one takes a tenth of the budget."""
    others, size, deadline = max(comm.Get_size() - 1, 1), 64, time.perf_counter() + budget
    latency = took = None
    while True:
        out, into = (np.zeros(comm.Get_size() * size, dtype=np.uint8) for _ in range(2))
        comm.Alltoall(out, into)
        times = [timed(lambda out=out, into=into: comm.Alltoall(out, into), comm) for _ in range(REPEATS)]
        took = median(times)
        going = comm.bcast(time.perf_counter() < deadline and took < budget / 10)
        latency = took if latency is None else latency
        if not going or size >= 1 << 22:
            return Link(latency, others * size / max(took - latency, took / 10))
        size = max(size * 4, 1 << 16)


def timed(work, comm) -> float:
    """Seconds until the last rank is done, from when all begin."""
    comm.Barrier()
    begin = time.perf_counter()
    work()
    return max(comm.allgather(time.perf_counter() - begin))
