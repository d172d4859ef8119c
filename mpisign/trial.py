"""A step without its gradient: made-up estimates are signed, sent, voted on and applied, by the Stepper of any run."""

from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from mpisign.algorithms.method import Algorithm
from mpisign.algorithms.slots import Estimator
from mpisign.bits.rng import Streams
from mpisign.engine.build import build
from mpisign.exchange import Choice
from mpisign.layout import Layout
from mpisign.parallel.world import World
from mpisign.problems import Problem
from mpisign.stepper import Stepper

RATE = 1e-3


@dataclass(frozen=True)
class Given(Estimator):
    """Whatever the oracle holds, at no cost; tells as many numbers as the estimator in whose place it is."""

    tells: int = 0

    def init(self, layout):
        return {"told": torch.zeros(self.tells, dtype=torch.float64)} if self.tells else {}

    def estimate(self, oracle, x, state, step):
        return oracle.estimate


class Maker:
    """In an oracle's place: holds one estimate."""

    loss, rows, accumulate, clip, statistics, problem = 0.0, None, 1, 0.0, {}, Problem()

    def __init__(self, estimate: Tensor):
        self.estimate = estimate

    def begin(self, t: int) -> None: ...

    def constrain(self, x: Tensor) -> None: ...

    def objective(self, x: Tensor) -> float:
        return 0.0


class Trial(Stepper):
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
        """A trial at d coordinates. options: chunk, progress, node_size, as exchange.build takes them."""
        layout = Layout({"x": (d,)}, device=device)
        slots = replace(algorithm, estimator=Given(algorithm.estimator.tells))
        oracles = [Maker(_estimate(layout.length, voter).to(layout.device)) for voter in world.local]
        return build(slots, (choice,), layout, world, Streams(0), oracles, layout.zeros(), kind=cls, **options)

    def once(self) -> None:
        """One step."""
        self.step(RATE)


def _estimate(length: int, voter: int) -> Tensor:
    return torch.empty(length).uniform_(-1, 1, generator=torch.Generator().manual_seed(voter))
