"""Estimates that tell the updates of all voters a few numbers, from which those find their rates."""

from dataclasses import dataclass

import torch

from mpisign import bits
from mpisign.algorithms.estimators.corrected import TWO_POINTS
from mpisign.algorithms.slots import Estimator

LEAST = 1e-30  # added to a square that is divided by


@dataclass(frozen=True)
class CalibratedMomentum(Estimator):
    """m = beta*m + (1 - beta)*g; tells |<sign(m), g>|/|g|^2: the rate, in units of lr, at which SGD goes as far."""

    beta: float = 0.9

    reports, vectors = 1, ("g", "m")

    def estimate(self, oracle, x, state, step):
        g, m = state["g"], state["m"]
        oracle.gradient(x, g)
        bits.blend(m, g, self.beta, 1 - self.beta)
        along = step.layout.total(torch.sign(m) * g)
        state["told"][0] = abs(along) / (step.layout.norm(g) ** 2 + LEAST)
        return m


@dataclass(frozen=True)
class DualNorm(Estimator):
    """v = g; tells |g|_1, the norm dual to the largest coordinate's: a step of 1 along sign(g) lowers f by so much."""

    reports, vectors = 1, ("g",)

    def estimate(self, oracle, x, state, step):
        g = state["g"]
        oracle.gradient(x, g)
        state["told"][0] = step.layout.total(g.abs())
        return g


@dataclass(frozen=True)
class Differences(Estimator):
    """v = g; tells |g_t - g_{t-1}|_1 and <g_t, what was decided at t-1>; zeros at the first step.

    same_batch: g_{t-1} is taken again, on the batch of g_t, so that no noise enters the difference.
    """

    same_batch: bool = True

    reports, averages = 2, False  # what was decided must be signs of all of x
    vectors, alike = ("g", "g_before", "decided"), ("decided",)

    @property
    def bound(self):
        return "" if self.same_batch else "the gradient before, by which all later steps are set; new voters have none"

    @property
    def needs(self):
        return TWO_POINTS if self.same_batch else frozenset()

    @property
    def two_points(self):
        return self.same_batch

    def estimate(self, oracle, x, state, step):
        g, before, layout = state["g"], state["g_before"], step.layout
        if not self.same_batch:
            before.copy_(g)
        oracle.gradient(x, g)
        if step.age == 0:
            return g
        if self.same_batch:
            oracle.gradient(step.x_before, before, again=True)
        sums = layout.block_sums(bits.tile_sums(g - before, layout.all_tiles))
        state["told"][0] = float(sums.sum())
        state["told"][1] = layout.total(state["decided"] * g)
        return g

    def observe(self, direction, state, step):
        direction.write(state["decided"], step.layout)

    def evaluations(self, batch, rows, age):
        return 2 * batch if self.same_batch and age else batch
