"""`quadratic` and `rosenbrock`: functions without data, with noise that is drawn from the run's stream."""

from functools import cached_property

import numpy as np
import torch

from mpisign import bits
from mpisign.errors import UsageError
from mpisign.problems.base import EXACT, Problem


class Quadratic(Problem):
    """f(x) = 1/2 sum h_i x_i^2, h from 1 to `condition`, started at N(0, I).

    Noise N(0, noise^2) is added to the gradient on the first `noisy` coordinates (0: on all of them); one noisy
    coordinate of a hundred is the toy of Bernstein et al. 2018, fig. A.1.
    """

    offers = EXACT
    elementwise = True

    def __init__(self, dimension: int = 100, condition: float = 1.0, noise: float = 1.0, noisy: int = 0):
        if dimension < 1 or condition < 1 or noise < 0 or not 0 <= noisy <= dimension:
            raise UsageError(
                f"problem: dimension {dimension} >= 1, condition {condition} >= 1, noise {noise} >= 0 and "
                f"0 <= noisy {noisy} <= dimension are needed"
            )
        self.coordinates, self.condition, self.noise, self.noisy = dimension, condition, noise, noisy or dimension

    @cached_property
    def _curvature(self):
        return torch.logspace(0, float(np.log10(self.condition)), self.coordinates)

    def initial(self, generator):
        return {"x": torch.from_numpy(generator.standard_normal(self.coordinates).astype(np.float32))}

    def draw(self, draw, voters=None):
        return bits.normals(self.noisy, draw, voters) * self.noise if self.noise else torch.zeros(self.noisy)

    def gradient(self, parameters, batch, gradients):
        x, g = parameters["x"], gradients["x"]
        g += self._curvature * x
        g[..., : self.noisy] += batch
        return self._value(x)

    def exact_gradient(self, parameters, gradients):
        gradients["x"] += self._curvature * parameters["x"]

    def value(self, parameters, batch):
        x = parameters["x"]
        return self._value(x) + float((batch.double() * x[: self.noisy].double()).sum())

    def _value(self, x):
        return float(0.5 * (self._curvature.double() * x.double() ** 2).sum())

    def measure(self, parameters, rows):
        return {"loss": self._value(parameters["x"]), "rows": 1}


class Rosenbrock(Problem):
    """f(x) = sum_i 100 (x_{i+1} - x_i^2)^2 + (1 - x_i)^2; an estimate takes one term i and adds N(0, noise^2).

    The estimate is (dimension - 1) * grad f_i + noise, unbiased for grad f [after Safaryan & Richtarik 2021,
    section on experiments; settings reconstructed]. Started at the customary (-1.2, 1, -1.2, 1, ...).
    """

    offers = EXACT

    def __init__(self, dimension: int = 10, noise: float = 0.1):
        if dimension < 2 or noise < 0:
            raise UsageError(f"problem: dimension {dimension} >= 2 and noise {noise} >= 0 are needed")
        self.coordinates, self.noise = dimension, noise

    def initial(self, generator):
        return {"x": torch.tensor([-1.2, 1.0] * self.coordinates)[: self.coordinates]}

    def draw(self, draw):
        generator = draw.generator()
        term = int(generator.integers(self.coordinates - 1))
        noise = torch.from_numpy(generator.standard_normal(self.coordinates).astype(np.float32))
        return term, noise * self.noise

    def gradient(self, parameters, batch, gradients):
        x, g, (i, noise) = parameters["x"], gradients["x"], batch
        valley, terms = x[i + 1] - x[i] ** 2, self.coordinates - 1
        g += noise
        g[i] += terms * (-400 * x[i] * valley - 2 * (1 - x[i]))
        g[i + 1] += terms * 200 * valley
        return float(terms * (100 * valley**2 + (1 - x[i]) ** 2))

    def exact_gradient(self, parameters, gradients):
        x, g = parameters["x"], gradients["x"]
        valley = x[1:] - x[:-1] ** 2
        g[:-1] += -400 * x[:-1] * valley - 2 * (1 - x[:-1])
        g[1:] += 200 * valley

    def value(self, parameters, batch):
        x, (i, noise) = parameters["x"].double(), batch
        term = 100 * (x[i + 1] - x[i] ** 2) ** 2 + (1 - x[i]) ** 2
        return float((self.coordinates - 1) * term + (noise.double() * x).sum())

    def measure(self, parameters, rows):
        x = parameters["x"].double()
        return {"loss": float((100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()), "rows": 1}
