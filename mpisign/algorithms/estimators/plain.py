"""Gradients as the oracle gives them."""

from dataclasses import dataclass

import torch

from mpisign import bits
from mpisign.algorithms.slots import Estimator

FINITE_SUM, OTHER_POINTS = frozenset({"finite sum"}), frozenset({"other points"})


@dataclass(frozen=True)
class Minibatch(Estimator):
    """v = g(x; batch). sampling: what its batches must be, "" for either kind."""

    sampling: str = ""

    elementwise, streams, vectors = True, "g", ("g",)

    @property
    def needs(self):
        return FINITE_SUM if self.sampling else frozenset()

    def estimate(self, oracle, x, state, step):
        oracle.gradient(x, state["g"])
        return state["g"]


@dataclass(frozen=True)
class FullGradient(Estimator):
    """v = the mean of g over all rows of this voter."""

    needs, vectors = FINITE_SUM, ("g",)

    def estimate(self, oracle, x, state, step):
        oracle.full_gradient(x, state["g"])
        return state["g"]

    def evaluations(self, batch, rows, age):
        return rows


@dataclass(frozen=True)
class ClippedRows(Estimator):
    """v = mean over the batch of g(x; row) * min(1, norm/|g(x; row)|): every row's gradient clipped by itself."""

    norm: float = 1.0

    needs, vectors = FINITE_SUM, ("g", "row")

    def estimate(self, oracle, x, state, step):
        oracle.clipped_gradient(x, state["g"], state["row"], self.norm)
        return state["g"]


@dataclass(frozen=True)
class Extrapolated(Estimator):
    """v = g(x_t + beta/(1 - beta)*(x_t - x_{t-1})), implicit gradient transport; g(x) at the first step.

    An average of it that forgets by beta is, for a quadratic f, an average of gradients at x_t itself. Source: Arnold
    et al. 2019, in the form of Cutkosky & Mehta 2020 alg. 1. The loss that a step records is that at the other point.
    """

    beta: float = 0.9

    needs, two_points, vectors = OTHER_POINTS, True, ("g", "point")

    def estimate(self, oracle, x, state, step):
        g, point = state["g"], state["point"]
        torch.sub(x, step.x_before, out=point)
        bits.blend(point, x, self.beta / (1 - self.beta), 1.0)
        oracle.gradient(point, g)
        return g
