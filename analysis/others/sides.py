"""The two sides of a comparison, on the same gradients: an entry of the zoo, whole, and somebody else's coder."""

from collections.abc import Callable
from dataclasses import dataclass

import borrowed
import numpy as np
import torch
from torch import Tensor

from mpisign import exchange
from mpisign.algorithms import zoo
from mpisign.algorithms.registry import find
from mpisign.bits.reference.common import chance
from mpisign.bits.rng import Draw, Streams
from mpisign.engine.build import make_stepper
from mpisign.layout import Layout
from mpisign.parallel.world import Local
from mpisign.problems import Oracle, Problem

assert zoo
STREAMS = Streams(20261128)
VOTERS, STEPS, TILE = 4, 20, 4096
ROUNDING = 1e-6  # of the largest coordinate of x: what float32 sums in another order may come to in so many steps


class Given(Problem):
    """Gradients (steps, n, d) that do not depend on x."""

    def __init__(self, gradients: Tensor):
        self.gradients = gradients

    def draw(self, draw: Draw):
        return self.gradients[draw.step, draw.voter]

    def gradient(self, parameters, batch, gradients):
        parts = batch.split([g.numel() for g in gradients.values()])
        for part, gradient in zip(parts, gradients.values(), strict=True):
            gradient += part.view_as(gradient)
        return 0.0


def ours(name: str, gradients: Tensor, lr: float = 1.0, shapes=None, zeros="auto", ties="auto", **hyper) -> Tensor:
    """x (steps, d) after each step from 0 of an entry of the zoo, all voters in this process.

    shapes: of tensors of multiples of 64 coordinates; by default one of all d. zeros, ties, hyper: as in a job.
    """
    _, voters, size = gradients.shape
    layout, world = Layout(shapes or {"x": (size,)}), Local(voters)
    algorithm = find(name).build(**hyper).with_rules(zeros, ties, voters)
    oracles = [Oracle(Given(gradients), layout, None, v, STREAMS) for v in range(voters)]
    chosen = exchange.choose("auto", algorithm, voters)
    stepper = make_stepper(algorithm, chosen, layout, world, STREAMS, oracles, layout.zeros())
    path = []
    for _ in range(len(gradients)):
        stepper.step(lr)
        path.append(stepper.x.clone())
    return torch.stack(path)


def uniforms(step: int, voter: int, size: int) -> np.ndarray:
    """What our random rounding draws, float64 (size,) in (0, 1)."""
    return chance(STREAMS.draw("sign", step, voter), 0, size)


def order(step: int, size: int) -> np.ndarray:
    """Coordinates of one tile in the order in which our random-k takes them."""
    return np.argsort(STREAMS.draw("choice", step).blocks(0, size // 4).reshape(-1), kind="stable")


Coder = Callable[[Tensor], Tensor]  # what a receiver makes of a gradient


def theirs(
    make: Callable[[], Coder],
    gradients: Tensor,
    lr: float = 1.0,
    aggregate: Callable[[list[Tensor]], Tensor] | None = None,
    own_draws: bool = False,
) -> Tensor:
    """x (steps, d) after each step x -= lr*direction from 0, each voter with a coder of its own.

    aggregate: the direction, by what was decoded; by default the mean. own_draws: theirs, instead of ours.
    """
    steps, voters, size = gradients.shape
    coders, x, path = [make() for _ in range(voters)], torch.zeros(size), []
    for t in range(steps):
        decoded = []
        for v, code in enumerate(coders):
            if own_draws:
                decoded.append(code(gradients[t, v]))
            else:
                with borrowed.drawing(uniforms(t, v, size), order(t, size)):
                    decoded.append(code(gradients[t, v]))
        x = x - lr * (aggregate or mean)(decoded)
        path.append(x)
    return torch.stack(path)


def mean(decoded: list[Tensor]) -> Tensor:
    return sum(decoded) / len(decoded)


# Gradients


def normal(size: int, steps: int = STEPS, voters: int = VOTERS) -> Tensor:
    """Normal gradients (steps, voters, size), coordinates of which are of sizes from about 0.01 to 100."""
    generator = torch.Generator().manual_seed(1)
    sizes = 10 ** (torch.randn(size, generator=generator) / 2)
    return torch.randn(steps, voters, size, generator=generator) * sizes


def balanced(size: int, steps: int = STEPS) -> Tensor:
    """The same values for all voters, each in another order; a half of them are the negatives of the others."""
    half = normal(size // 2, steps, voters=1)
    values, generator = torch.cat([half, -half], dim=-1), torch.Generator().manual_seed(2)
    return torch.cat([values[..., torch.randperm(size, generator=generator)] for _ in range(VOTERS)], dim=1)


# What is found


@dataclass(frozen=True)
class Row:
    """A line of the table. found: a difference, at most `allowed`. note: where theirs had to be helped.

    told: what is printed for `found`, where it is not the difference of two paths.
    """

    method: str
    code: str
    inputs: str
    found: float
    note: str = ""
    allowed: float = ROUNDING
    told: str = ""

    @property
    def fine(self) -> bool:
        return self.found <= self.allowed  # which NaN is not

    def line(self) -> str:
        found = self.told or (f"{self.found:.1e}" if self.found else "0")
        beyond = "" if self.fine else " **too much**"
        cells = (f"`{self.method}`", self.code, self.inputs, found + beyond, self.note)
        return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def difference(one: Tensor, other: Tensor) -> float:
    """The largest difference of two paths, over the largest coordinate of the second."""
    return float((one - other).abs().max() / other.abs().max())


def statistics(one: Tensor, other: Tensor) -> tuple[float, float]:
    """Of paths of the same gradient at every step, drawn independently: the largest difference of mean steps over
    coordinates, in standard errors, and the ratio of the total variances."""
    (mean_of_one, variance_of_one), (mean_of_other, variance_of_other) = _moments(one), _moments(other)
    errors = ((variance_of_one + variance_of_other) / len(one)).sqrt().clamp(min=1e-12)
    deviation = ((mean_of_one - mean_of_other).abs() / errors).max()
    return float(deviation), float(variance_of_one.sum() / variance_of_other.sum())


def _moments(path: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance (d,) of the steps of a path, float64."""
    steps = torch.diff(path.double(), dim=0)
    return steps.mean(dim=0), steps.var(dim=0)
