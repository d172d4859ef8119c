"""Small functions on which a theorem or a counterexample can be seen: `targets`, `two-planes`, `linear`."""

from typing import Literal

import numpy as np
import torch

from mpisign import bits
from mpisign.errors import UsageError
from mpisign.problems.base import EXACT, FINITE_SUM, Problem, Rows, Tables


class Targets(Problem):
    """f_j(x) = (x - a_j)^2 / 2, one row for each target a_j; in one dimension, or alike in several.

    With kind = "sorted" and as many voters as targets, each voter owns one of them [Chen et al. 2020, fig. 1].
    """

    offers = FINITE_SUM
    elementwise = True

    def __init__(self, targets: list[float] = [1.0, 2.0, 10.0], start: float = 0.0, dimension: int = 1):  # noqa: B006
        if not targets or dimension < 1:
            raise UsageError(f"problem: at least one of targets {targets}, and dimension {dimension} >= 1 are needed")
        self.targets, self.start, self.coordinates = targets, start, dimension

    def read(self):
        a = np.repeat(np.array(self.targets, dtype=np.float32)[:, None], self.coordinates, axis=1)
        return Tables(train=Rows(a=a), classes=np.arange(len(a)))

    def initial(self, generator):
        return {"x": torch.full((self.coordinates,), self.start)}

    def gradient(self, parameters, batch, gradients):
        away = parameters["x"] - batch["a"]
        gradients["x"] += away.mean(dim=-2)
        return 0.5 * (away.double() ** 2).sum(dim=-1).mean(dim=-1)

    def value(self, parameters, batch):
        return float(0.5 * ((parameters["x"] - batch["a"]).double() ** 2).sum(dim=-1).mean())

    def measure(self, parameters, rows):
        away = (parameters["x"] - rows["a"]).double()
        return {"loss": float(0.5 * (away**2).sum()), "rows": rows.count}


class TwoPlanes(Problem):
    """f_i(x) = <a_i, x>^2 with a_1 = (1+e, -1+e), a_2 = (-1+e, 1+e), started at (1, 1).

    The sign of either gradient is +-(1, -1), so signs never leave x_1 + x_2 = 2, on which f is at least 1
    [Karimireddy et al. 2019; Safaryan & Richtarik 2021].
    """

    offers = FINITE_SUM
    elementwise = True

    def __init__(self, e: float = 0.5, start: list[float] = [1.0, 1.0]):  # noqa: B006
        if not 0 < e < 1 or len(start) != 2:
            raise UsageError(f"problem: e = {e} in (0, 1) and two numbers in start = {start} are needed")
        self.e, self.start = e, start

    def read(self):
        a = np.array([[1 + self.e, -1 + self.e], [-1 + self.e, 1 + self.e]], dtype=np.float32)
        return Tables(train=Rows(a=a), classes=np.arange(2))

    def initial(self, generator):
        return {"x": torch.tensor(self.start)}

    def gradient(self, parameters, batch, gradients):
        # elementwise, since a matrix product may order its sums as it likes
        a, x = batch["a"], parameters["x"]
        along = (a * x).sum(dim=-1)
        gradients["x"] += (2 * along[..., None] * a).mean(dim=-2)
        return (along.double() ** 2).mean(dim=-1)

    def value(self, parameters, batch):
        return float(((batch["a"] * parameters["x"]).sum(dim=-1).double() ** 2).mean())

    def measure(self, parameters, rows):
        along = (rows["a"] * parameters["x"]).double().sum(dim=1)
        return {"loss": float((along**2).sum()), "rows": rows.count}


class Linear(Problem):
    """f(x) = slope * sum of x: every step shows how often a sign, or a vote, is right.

    law "normal": the gradient is slope + N(0, noise^2). law "coin": it is up with probability rho, else down, so that
    slope = rho*up + (1 - rho)*down. box: x stays in [-box, box]; 0 for no bound.
    """

    offers = EXACT
    elementwise = True

    def __init__(
        self,
        dimension: int = 4096,
        law: Literal["normal", "coin"] = "normal",
        slope: float = 1.0,
        noise: float = 1.0,
        rho: float = 0.55,
        up: float = 1.0,
        down: float = -1.0,
        box: float = 0.0,
    ):
        if dimension < 1 or noise < 0 or not 0 <= rho <= 1 or box < 0:
            raise UsageError(
                f"problem: dimension {dimension} >= 1, noise {noise} >= 0, rho {rho} in [0, 1] and box {box} >= 0 "
                "are needed"
            )
        self.coordinates, self.law, self.noise, self.rho = dimension, law, noise, rho
        self.up, self.down, self.box, self.constrained = up, down, box, box > 0
        self.slope = slope if law == "normal" else rho * up + (1 - rho) * down

    def initial(self, generator):
        return {"x": torch.zeros(self.coordinates)}

    def draw(self, draw, voters=None):
        if self.law == "normal":
            return self.slope + self.noise * bits.normals(self.coordinates, draw, voters)
        chosen = bits.uniforms(self.coordinates, draw, voters) < 2 * self.rho - 1
        return torch.where(chosen, self.up, self.down)

    def gradient(self, parameters, batch, gradients):
        gradients["x"] += batch
        return self._value(parameters["x"])

    def exact_gradient(self, parameters, gradients):
        gradients["x"] += self.slope

    def value(self, parameters, batch):
        return float((batch.double() * parameters["x"].double()).sum())

    def constrain(self, parameters):
        parameters["x"].clamp_(-self.box, self.box)

    def _value(self, x):
        return float(self.slope * x.double().sum())

    def measure(self, parameters, rows):
        return {"loss": self._value(parameters["x"]), "rows": 1}
