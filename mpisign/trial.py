"""A step without its gradient: made-up estimates are signed, sent, voted on and applied, by the Stepper of any run."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mpisign import exchange
from mpisign.algorithm import Algorithm
from mpisign.exchange import Choice
from mpisign.layout import Layout
from mpisign.problems import Problem
from mpisign.rng import Streams
from mpisign.slots import Estimator
from mpisign.stepper import Stepper
from mpisign.world import World

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

    def __init__(
        self,
        choice: Choice,
        algorithm: Algorithm,
        world: World,
        d: int,
        chunk: int = 0,
        progress: str = "calls",
        node_size: int = 0,
        device: torch.device | str = "cpu",
    ):
        layout = Layout({"x": (d,)}, device=device)
        slots = replace(algorithm, estimator=Given(algorithm.estimator.tells))
        carriers = exchange.build((choice,), world, layout, slots, chunk, progress, node_size=node_size)
        oracles = [Maker(_estimate(layout.length, voter).to(layout.device)) for voter in world.local]
        super().__init__(slots, layout, carriers, world, Streams(0), oracles, layout.zeros())

    def once(self) -> None:
        """One step."""
        self.step(RATE)


def _estimate(length: int, voter: int) -> Tensor:
    return torch.empty(length).uniform_(-1, 1, generator=torch.Generator().manual_seed(voter))
