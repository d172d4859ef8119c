"""`exchange = "auto"`: every exchange is tried for a moment when a run starts, and the one predicted fastest is taken.

Each that could carry the messages takes a few steps at growing sizes, on all ranks at once. So what is measured is
what counts: latency, the link, the kernels, and whatever else these ranks do to each other on these cores. Time
between two sizes is taken as linear; beyond the largest that there is time for, the last slope goes on, but never below
what the bytes take on the link, which is measured by an Alltoall. What a vote saves is bytes: where MPI's own Allreduce
of float32 and a step of SGD are predicted to be faster, the reason says so.
"""

import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from mpisign.algorithms.estimators import Minibatch
from mpisign.algorithms.method import Algorithm
from mpisign.algorithms.slots import Estimator
from mpisign.bits.rng import Streams
from mpisign.engine.build import make_stepper
from mpisign.engine.stepper import Stepper
from mpisign.errors import UsageError
from mpisign.exchange import Choice, useful
from mpisign.layout import Layout
from mpisign.parallel.communicator import Communicator
from mpisign.parallel.memory import lacking_shared
from mpisign.parallel.watchdog import WATCH
from mpisign.parallel.world import Mpi, World
from mpisign.problems import Problem

BUDGET = 0.3  # seconds for everything
SIZES = (1 << 12, 1 << 18, 1 << 20, 1 << 22)  # coordinates of the steps that are tried, as long as there is time
REPEATS = 3
AHEAD = 1.25  # what is foretold of sizes that were not tried is no closer than this
RATE = 1e-3  # of a step without its gradient
SIDE = 1000  # at most, of the square matrices that a step without its gradient is measured on where shapes matter


@dataclass(frozen=True)
class LinkModel:
    """What one round of messages from each rank to each other takes: seconds, and bytes per second of a rank."""

    latency: float
    bandwidth: float

    def __str__(self):
        return f"latency {self.latency * 1e6:.0f} us, {self.bandwidth * 8e-6:,.0f} Mbit/s per rank"

    @classmethod
    def parse(cls, text: str) -> Self:
        """What str() of one told. Raises ValueError for another text."""
        found = re.fullmatch(r"latency (\d+) us, ([\d,]+) Mbit/s (?:per|a) rank", text)
        if not found:
            raise ValueError(text)
        return cls(int(found[1]) * 1e-6, int(found[2].replace(",", "")) / 8e-6)


@dataclass
class Prediction:
    """Seconds of a step without its gradient, by the steps that were tried, and by the link beyond them."""

    choice: Choice
    link: LinkModel
    bytes: float = 0.0  # that a rank sends for a coordinate
    shared: float = 0.0  # bytes of memory shared by this rank's node, for a coordinate: no more with more of them
    sizes: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def at(self, d: int) -> float:
        """Seconds at d coordinates: linear between sizes; beyond, by the last slope, but no faster than the link."""
        if d <= self.sizes[-1]:
            return float(np.interp(d, self.sizes, self.seconds))
        slope = self.bytes / self.link.bandwidth
        if len(self.sizes) > 1:
            slope = max(slope, (self.seconds[-1] - self.seconds[-2]) / (self.sizes[-1] - self.sizes[-2]))
        return self.seconds[-1] + slope * (d - self.sizes[-1])


def autotune(chosen: tuple[Choice, ...], stages: tuple[Algorithm, ...], comm, d: int, **options) -> tuple[Choice, ...]:
    """The choices, those left open replaced by the exchange predicted fastest at d coordinates, with the reason.

    comm: all ranks take part, and get the same choices. options: chunk, progress, node_size.
    """
    if comm is None or not any(choice.open for choice in chosen):
        return chosen
    with WATCH("the choice of an exchange"):
        return _measured(chosen, stages, comm, d, **options)


def _measured(chosen, stages, comm, d: int, **options) -> tuple[Choice, ...]:
    several = sum(choice.open for choice in chosen)
    link, share = measure_link(comm), BUDGET * 0.5 / several
    floats, decided = predict_floats(comm, d, link), []
    for choice, stage in zip(chosen, stages, strict=True):
        if choice.open:
            predictions = predict(stage, comm, d, link, share, **options)
            fitting, lacking = _fitting(predictions, comm, several * d)
            best = fastest(fitting, d)
            times = ", ".join(f"{p.choice.name} {p.at(d) * 1e3:.3g}" for p in [*predictions, floats])
            details = f"measured {link}; predicted ms per step: {times}"
            reason = _why(best, fitting, d) + lacking + against_floats(best, floats, d)
            choice = replace(best.choice, reason=reason, details=details)
        decided.append(choice)
    return tuple(decided)


def _fitting(predictions: list[Prediction], comm, d: int) -> tuple[list[Prediction], str]:
    """Those whose shared memory every node has, for d coordinates, and what is lacking for the others."""
    lacking = [next(filter(None, comm.allgather(lacking_shared(int(p.shared * d)))), "") for p in predictions]
    fitting = [p for p, text in zip(predictions, lacking, strict=True) if not text]
    said = [f"; not {p.choice.name}: {text}" for p, text in zip(predictions, lacking, strict=True) if text]
    return fitting, "".join(said)


def fastest(predictions: list[Prediction], d: int) -> Prediction:
    """The fastest; beyond the sizes that were tried the one that sends least, unless another seems far ahead."""
    best, least = min(predictions, key=lambda p: p.at(d)), min(predictions, key=lambda p: p.bytes)
    tried = d <= least.sizes[-1]
    return best if tried or least.at(d) > AHEAD * best.at(d) else least


def _why(best: Prediction, predictions: list[Prediction], d: int) -> str:
    seconds = min(p.at(d) for p in predictions)
    what = "predicted fastest" if best.at(d) == seconds else "sends least"
    return f"{what} of {len(predictions)} tried here, {best.at(d) * 1e3:.3g} ms per step"


def against_floats(best: Prediction, floats: Prediction, d: int) -> str:
    """A remark where floats are predicted to be faster than the fastest exchange."""
    ours, theirs = best.at(d), floats.at(d)
    if ours <= theirs:
        return ""
    return f"; a float32 Allreduce and SGD step would take {theirs * 1e3:.3g} ms: fewer bytes save no time here"


class FloatStep:
    """What a vote is measured against: MPI's Allreduce of d float32, and a step of SGD."""

    def __init__(self, comm, d: int):
        self._comm, self._total, self._x = comm, torch.empty(d), torch.zeros(d)
        self._buffers = np.ones(d, dtype=np.float32), self._total.numpy()

    def once(self) -> None:
        """One step."""
        self._comm.Allreduce(*self._buffers)
        self._x.add_(self._total, alpha=-RATE / self._comm.Get_size())


def predict_floats(comm, d: int, link: LinkModel, budget: float = BUDGET * 0.1) -> Prediction:
    """The prediction for a FloatStep, alike on all ranks: it grows for as long as there is time."""
    n, begin = comm.Get_size(), time.perf_counter()
    floats = Prediction(Choice("float32 Allreduce and SGD step", ""), link, bytes=8 * (n - 1) / n)
    for size in [*(size for size in SIZES if size < d), d][: len(SIZES)]:
        ahead = (REPEATS + 1) * floats.at(size) if floats.sizes else 0.0
        # root's clock decides for all; the least size is always tried
        if not comm.bcast(not floats.sizes or time.perf_counter() - begin + ahead < budget * 1.3):
            break
        trial = FloatStep(comm, size)
        trial.once()
        floats.sizes.append(size)
        floats.seconds.append(median(timed(trial.once, comm) for _ in range(REPEATS)))
    return floats


def predict(
    stage: Algorithm,
    comm,
    d: int,
    link: LinkModel,
    budget: float = BUDGET * 0.5,
    names: tuple[str, ...] = (),
    **options,
) -> list[Prediction]:
    """A prediction for each exchange, alike on all ranks; by default for all that are of use here."""
    begin, size = time.perf_counter(), options.get("node_size", 0)
    names = names or useful(stage, comm, size)
    predictions = [Prediction(Choice(name, ""), link) for name in names]
    sizes = [size for size in SIZES if size < d]
    for size in [*sizes, d][: len(SIZES)]:
        # root's clock decides for all whether there is time for so many coordinates; the fewest are always tried
        ahead = (REPEATS + 1) * sum(p.at(size) for p in predictions if p.sizes)
        tried = any(p.sizes for p in predictions)
        if not comm.bcast(not tried or time.perf_counter() - begin + ahead < budget * 1.3):
            break
        trials = []
        for p in predictions.copy():
            try:
                trials.append(DryStepper.of(p.choice, stage, Mpi(comm), size, **options))
            except UsageError:  # on all ranks: a node has not even so much shared memory
                predictions.remove(p)
                if not predictions:  # what is wrong is no exchange's own
                    raise
        for trial in trials:
            trial.once()
        if not tried:  # until now kernels were loaded
            begin = time.perf_counter()
        # in turns, as no step of a run finds its buffers in the cache either
        rounds = [[timed(trial.once, comm) for trial in trials] for _ in range(REPEATS)]
        for p, trial, *seconds in zip(predictions, trials, *rounds, strict=True):
            p.bytes = max(comm.allgather(trial.stage.bytes_a_step())) / trial.layout.length
            p.shared = trial.exchange.shared / trial.layout.length
            p.sizes.append(size)
            p.seconds.append(median(seconds))
        for trial in trials:
            trial.close()
    return predictions


def measure_link(comm: Communicator, budget: float = BUDGET * 0.4) -> LinkModel:
    """Latency and bandwidth of an Alltoall, whose messages grow from 16 KiB for as long as there is time."""
    others, size, deadline = max(comm.Get_size() - 1, 1), 64, time.perf_counter() + budget
    latency = took = None
    while True:
        out, into = (np.zeros(comm.Get_size() * size, dtype=np.uint8) for _ in range(2))
        comm.Alltoall(out, into)
        times = [timed(lambda out=out, into=into: comm.Alltoall(out, into), comm) for _ in range(REPEATS)]
        took = median(times)
        # root's clock decides for all whether there is time for messages four times as long
        going = comm.bcast(time.perf_counter() + 4 * (REPEATS + 1) * took < deadline)
        latency = took if latency is None else latency
        if size > 64 and (not going or size >= 1 << 22):
            bandwidth = comm.bcast(others * size / max(took - latency, took / 10))
            return LinkModel(comm.bcast(latency), bandwidth)
        size = max(size * 4, 1 << 14)


def timed(work: Callable[[], object], comm: Communicator) -> float:
    """Seconds until the last rank is done, from when all begin."""
    comm.Barrier()
    begin = time.perf_counter()
    work()
    return max(comm.allgather(time.perf_counter() - begin))


# A step without its gradient


@dataclass(frozen=True)
class FixedEstimate(Estimator):
    """Whatever the oracle holds, at no cost; tells as many numbers as the estimator in whose place it is."""

    reports: int = 0

    def estimate(self, oracle, x, state, step):
        return oracle.estimate


@dataclass(frozen=True)
class AgreedEstimate(FixedEstimate):
    """A copy of what the oracle holds, about which the voters agree as `of` has them do."""

    of: Estimator = field(default_factory=Minibatch)

    def init(self, layout):
        return self.of.init(layout) | {"fixed": layout.zeros()}

    def shared_floats(self, layout):
        return self.of.shared_floats(layout)

    def estimate(self, oracle, x, state, step):
        return state["fixed"].copy_(oracle.estimate)

    def agree(self, estimates, states, step):
        self.of.agree(estimates, states, step)


def fixed(estimator: Estimator) -> FixedEstimate:
    """What takes an estimator's place where only the rest of a step is measured, its communication included."""
    reports = estimator.reports
    return AgreedEstimate(reports, estimator) if estimator.agrees else FixedEstimate(reports)


def squares(d: int) -> dict[str, tuple[int, ...]]:
    """Shapes of d coordinates: square matrices of up to a million each, and a vector of what is left over."""
    count = -(-d // SIDE**2)
    side = math.isqrt(d // count)
    shapes: dict[str, tuple[int, ...]] = {f"matrix{k}": (side, side) for k in range(count)}
    rest = d - count * side**2
    return shapes | ({"rest": (rest,)} if rest else {})


class FixedOracle:
    """In an oracle's place: holds one estimate."""

    loss, rows, accumulate, clip, statistics, problem = 0.0, None, 1, 0.0, {}, Problem()

    def __init__(self, estimate: Tensor):
        self.estimate = estimate

    def begin(self, t: int) -> None: ...

    def constrain(self, x: Tensor) -> None: ...

    def objective(self, x: Tensor) -> float:
        return 0.0


class DryStepper(Stepper):
    """Steps of an algorithm by one exchange, all but the estimate; each voter's estimate is uniform in (-1, 1)."""

    @classmethod
    def of(
        cls,
        choice: Choice,
        algorithm: Algorithm,
        world: World,
        d: int,
        device: torch.device | str = "cpu",
        **options: Any,
    ) -> Self:
        """A trial at d coordinates. options: chunk, progress, node_size, as exchange.make_exchanges takes them."""
        # what voters agree on may depend on the shapes of parameters; what they vote on does not
        layout = Layout(squares(d) if algorithm.estimator.agrees else {"x": (d,)}, device=device)
        slots = replace(algorithm, estimator=fixed(algorithm.estimator))
        generators = [torch.Generator().manual_seed(voter) for voter in world.local]
        estimates = [torch.empty(layout.length).uniform_(-1, 1, generator=generator) for generator in generators]
        oracles = [FixedOracle(estimate.to(layout.device)) for estimate in estimates]
        return make_stepper(slots, (choice,), layout, world, Streams(0), oracles, layout.zeros(), kind=cls, **options)

    def once(self) -> None:
        """One step."""
        self.step(RATE)
