"""Functions of a matrix that signs around a polar factor ascend: `matrix-linear`, and `reflections` for EF21.

Source: "SignMuon, MuonSign, and the Role of Error Feedback", theorems 1 to 4, as its code (intsystems/SignMuon) has the
constants. Both need exact polar factors (algorithm.polar = "converged"): five Newton-Schulz steps give other signs.
"""

from typing import Literal

import numpy as np
import torch

from mpisign.errors import UsageError
from mpisign.problems.base import EXACT, Problem

ORTHOGONAL = np.array([[101, 20, 2, -2], [-20, 97, 20, -20], [-2, 20, 2, 101], [-2, 20, -101, -2]]) / 103
LEFT, RIGHT = np.array([10, -3, 10, 10]), np.array([10, 3, -10, 10])  # times sqrt(309): ORTHOGONAL @ RIGHT is LEFT
SIGNS = np.array([[-1, -1, 1, 1, 1], [-1, -1, 1, -1, -1], [1, -1, 1, 1, -1], [1, 1, -1, -1, 1], [1, 1, 1, -1, 1]])


class _OfMatrix(Problem):
    """A function of one matrix, started at 0, without noise."""

    offers = EXACT
    shape: tuple[int, int]

    def initial(self, generator):
        return {"x": torch.zeros(self.shape)}

    def slope_at(self, x: np.ndarray) -> np.ndarray:
        """The gradient, float64."""
        raise NotImplementedError

    def value_at(self, x: np.ndarray) -> float:
        raise NotImplementedError

    def gradient(self, parameters, batch, gradients):
        self.exact_gradient(parameters, gradients)
        return self.value(parameters, batch)

    def exact_gradient(self, parameters, gradients):
        gradients["x"] += torch.from_numpy(self.slope_at(parameters["x"].double().numpy())).float()

    def value(self, parameters, batch):
        return float(self.value_at(parameters["x"].double().numpy()))

    def measure(self, parameters, rows):
        return {"loss": self.value(parameters, None), "rows": 1}


class MatrixLinear(_OfMatrix):
    """f(X) = <G, X>, so that f falls by lr*<G, D> in a step along D.

    example "sign-of-polar", 4 x 4: G = size*u v^T + O with O orthogonal and u = O v, so that O is the polar factor of
    G, and <G, sign(O)> = (532 - 43*size)/103 is below 0 [theorem 1, size 1000].
    example "polar-of-sign", 5 x 5: G is a matrix S of signs but for G_42 = size, where the polar factor of S has the
    other sign, -1/sqrt(17) [theorems 2 and 3, size 100].
    """

    def __init__(self, example: Literal["sign-of-polar", "polar-of-sign"] = "sign-of-polar", size: float = 0.0):
        """size: 0 for the paper's."""
        if size < 0:
            raise UsageError(f"problem.size = {size:g}: at least 0 is needed; 0 is the paper's")
        if example == "sign-of-polar":
            self.slope = (size or 1000.0) * np.outer(LEFT, RIGHT) / 309 + ORTHOGONAL
        else:
            self.slope = SIGNS.astype(float)
            self.slope[3, 1] = size or 100.0
        self.shape = self.slope.shape
        self.coordinates = self.slope.size

    def slope_at(self, x):
        return self.slope

    def value_at(self, x):
        return np.sum(self.slope * x)


RAMP = 1 / 200  # half the width of a change of sign
REACH = 1 / 50  # of a correction
SLOPE = 7 / 12


class Reflections(_OfMatrix):
    """f(X) = 7/12 h(X_22) + A (Phi_1(X_12) + Phi_2(X_21)) + three corrections, 2 x 2 [theorem 4].

    h(v) = -v up to v = 1, and falls no further beyond 2. Phi_1 and Phi_2 are periodic with slopes +-1. From 0, at lr =
    1 and for the momentum that the algorithm has, `ef21-signmuon` meets gradients whose polar factors are a rotation, a
    matrix of rank one, and then two reflections in turns: X_22 falls, and f rises by 49/480 a step. Rectangular pulses
    have linear flanks here and corrections the weight (1 - s^2)^2, where the theorem asks for smooth ones and the
    authors' code has sines: no point of the trajectory lies on either.
    """

    shape, coordinates = (2, 2), 4
    # of the entries (1, 2) and (2, 1), how long a period is, and where in it the slope becomes 1
    periods, starts = (21 / 20, 7 / 20), (61 / 400, 61 / 400)

    def __init__(self, momentum: float = 0.0):
        if not 0 <= momentum < 1:
            raise UsageError(f"problem.momentum = {momentum:g}: that of the algorithm, in [0, 1), is needed")
        rotation = np.array([[-4, 3], [-3, -4]]) / 5
        line = np.array([[3, -4], [0, 0]]) / 5
        reflection = np.array([[0, -1], [-1, -SLOPE]])
        self.size = (1 + momentum) / (1 - momentum)
        self.centres = [np.array([[s, -s], [s, s]]) for s in (0, 7 / 10, 7 / 20)]
        # momentum is these in the first three steps
        wanted, before = (rotation, line, reflection), (np.zeros((2, 2)), rotation, line)
        slopes = [(m - momentum * earlier) / (1 - momentum) for m, earlier in zip(wanted, before, strict=True)]
        self.corrections = [g - self._plain_slope(z) for g, z in zip(slopes, self.centres, strict=True)]

    def slope_at(self, x):
        slope = self._plain_slope(x)
        for z, c in zip(self.centres, self.corrections, strict=True):
            left = 1 - np.sum((x - z) ** 2) / REACH**2
            if left > 0:
                slope = slope + left**2 * c - 4 * left * np.sum(c * (x - z)) * (x - z) / REACH**2
        return slope

    def value_at(self, x):
        v = x[1, 1]
        # (v - 1)^2/2 makes a parabola of the fall between 1 and 2
        value = SLOPE * (-min(v, 2.0) + max(min(v, 2.0) - 1, 0.0) ** 2 / 2)
        value += self.size * sum(map(_hill, (x[0, 1], x[1, 0]), self.periods, self.starts))
        for z, c in zip(self.centres, self.corrections, strict=True):
            left = 1 - np.sum((x - z) ** 2) / REACH**2
            value += max(left, 0.0) ** 2 * np.sum(c * (x - z))
        return value

    def _plain_slope(self, x):
        """Without corrections."""
        pulses = map(_pulse, (x[0, 1], x[1, 0]), self.periods, self.starts)
        upper, lower = (self.size * pulse for pulse in pulses)
        return np.array([[0.0, upper], [lower, SLOPE * min(max(x[1, 1] - 2, -1.0), 0.0)]])


def _pulse(w: float, period: float, start: float) -> float:
    """1 in the half period after start, -1 in the other, with linear flanks."""
    r = (w - start) % period
    nearest = min(r % (period / 2), period / 2 - r % (period / 2))
    return min(nearest / RAMP, 1.0) * (1 if r < period / 2 else -1)


def _hill(w: float, period: float, start: float) -> float:
    """The integral of the pulse from start to w: up for half a period, and down again."""
    r = (w - start) % period
    r, top = min(r, period - r), period / 2
    return r - RAMP / 2 + max(RAMP - r, 0.0) ** 2 / (2 * RAMP) - max(RAMP - (top - r), 0.0) ** 2 / (2 * RAMP)
