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
ENOUGH = 0.015  # seconds of a step beyond which a larger one tells nothing new
SMALLEST, GROWTH, LARGEST = 1 << 12, 8, 1 << 21  # coordinates
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
    world, names = Mpi(comm), names or candidates(stage)
    return [_try(Choice(name, ""), stage, world, d, budget / len(names), how) for name in names]


def _try(choice: Choice, stage: Algorithm, world: Mpi, d: int, budget: float, how: dict) -> Prediction:
    found, size, deadline, going = Prediction(choice), min(SMALLEST, d), time.perf_counter() + budget, True
    while going:
        trial = Trial(choice, stage, world, size, **how)
        trial.once()
        times = [_timed(trial.once) for _ in range(REPEATS)]
        found.sizes.append(size)
        # root's clock decides for all when it is enough
        spent = time.perf_counter() > deadline or times[-1] > ENOUGH
        took, going = world.comm.bcast((median(times), not spent and size < min(d, LARGEST)))
        found.seconds.append(took)
        size = min(size * GROWTH, d)
    return found


def measure_link(comm, budget: float = BUDGET * 0.2) -> Link:
    """Latency and bandwidth of an Alltoall, of which messages grow until one takes a fifth of the budget."""
    others, size, deadline = max(comm.Get_size() - 1, 1), 64, time.perf_counter() + budget
    latency = took = None
    while True:
        out, into = (np.zeros(comm.Get_size() * size, dtype=np.uint8) for _ in range(2))
        comm.Alltoall(out, into)
        times = [_timed(lambda out=out, into=into: comm.Alltoall(out, into)) for _ in range(REPEATS)]
        took, going = comm.bcast((median(times), time.perf_counter() < deadline and max(times) < budget / 5))
        latency = took if latency is None else latency
        if not going or size >= 1 << 22:
            return Link(latency, others * size / max(took - latency, took / 10))
        size *= 8


def _timed(work) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin
