"""Estimates that correct themselves with a second gradient of the same batch: STORM, SVRG and both together."""

from dataclasses import dataclass

import numpy as np

from mpisign import bits
from mpisign.algorithms.estimators.plain import FINITE_SUM, SEVERAL
from mpisign.algorithms.slots import Estimator

TWO_POINTS = frozenset({"two points"})


@dataclass(frozen=True)
class Storm(Estimator):
    """v = g(x_t) + (1 - beta)*(v - g(x_{t-1})), both gradients on the same batch.

    project: radius of the Euclidean ball onto which v is projected before it is kept, or 0 for none.
    start_batches: at the first step, v is the mean of so many gradients.
    """

    beta: float = 0.5
    project: float = 0.0
    start_batches: int = 1

    two_points = True
    vectors = ("g", "g_before", "v")

    @property
    def needs(self):
        return TWO_POINTS | SEVERAL if self.start_batches > 1 else TWO_POINTS

    @property
    def elementwise(self):
        return not self.project and self.start_batches == 1

    def estimate(self, oracle, x, state, step):
        g, g_before, v = state["g"], state["g_before"], state["v"]
        if step.age == 0:
            several = {"batches": self.start_batches} if self.start_batches > 1 else {}
            oracle.gradient(x, v, **several)
        else:
            oracle.gradient(x, g)
            oracle.gradient(step.x_before, g_before, again=True)
            # v = g + (1 - beta)*(v - g_before)
            v -= g_before
            bits.blend(v, g, 1 - self.beta, 1.0)
        if self.project and (norm := step.layout.norm(v)) > self.project:
            v *= float(np.float32(self.project / norm))
        return v

    def evaluations(self, batch, rows, age):
        return self.start_batches * batch if age == 0 else 2 * batch


@dataclass(frozen=True)
class LionStorm(Estimator):
    """v = g(x_t) + beta1*(m - g(x_{t-1})), then m = g(x_t) + beta2*(m - g(x_{t-1})); v = m = g at the first step.

    Lion whose average m is STORM's. Both gradients are of the same batch.
    """

    beta1: float = 0.9
    beta2: float = 0.99

    needs, two_points, elementwise = TWO_POINTS, True, True
    vectors = ("g", "g_before", "m", "v")

    def estimate(self, oracle, x, state, step):
        g, g_before, m, v = state["g"], state["g_before"], state["m"], state["v"]
        oracle.gradient(x, g)
        if step.age == 0:
            m.copy_(g)
            return v.copy_(g)
        oracle.gradient(step.x_before, g_before, again=True)
        m -= g_before
        v.copy_(m)
        bits.blend(v, g, self.beta1, 1.0)
        bits.blend(m, g, self.beta2, 1.0)
        return v

    def evaluations(self, batch, rows, age):
        return batch if age == 0 else 2 * batch


@dataclass(frozen=True)
class Correction(Estimator):
    """v = g(x_t) - (1 - beta)*g(x_{t-1}), both on the same batch, for a vote that keeps the rest; g at first."""

    beta: float = 0.0

    needs, two_points, elementwise, averages = TWO_POINTS, True, True, False
    vectors = ("g", "v")

    def estimate(self, oracle, x, state, step):
        g, v = state["g"], state["v"]
        oracle.gradient(x, g)
        if step.age == 0:
            return v.copy_(g)
        oracle.gradient(step.x_before, v, again=True)
        bits.blend(v, g, -(1 - self.beta), 1.0)
        return v

    def evaluations(self, batch, rows, age):
        return batch if age == 0 else 2 * batch


class _Snapshots(Estimator):
    """Keeps a point w and mu, the full local gradient there, both renewed every so many steps."""

    every: int
    needs = FINITE_SUM | TWO_POINTS
    bound = "the full gradient of a voter's own rows at a snapshot, and rows are dealt anew"

    def renew(self, oracle, x, state, step) -> bool:
        """Takes a snapshot if it is due."""
        due = step.age % (self.every or oracle.steps_a_pass) == 0
        if due:
            state["w"].copy_(x)
            oracle.full_gradient(x, state["mu"])
        return due

    def snapshot_rows(self, batch, rows, age) -> int:
        """Gradients of single rows that this costs at a step."""
        return rows if age % (self.every or -(-rows // batch)) == 0 else 0


@dataclass(frozen=True)
class Svrg(_Snapshots):
    """v = g(x) - g(w) + mu on one batch; w is x and mu the full local gradient at every snapshot.

    every: steps between snapshots; 0 for one pass over this voter's rows. sampling: as in Minibatch.
    """

    every: int = 0
    sampling: str = ""

    vectors = ("g_w", "mu", "w", "v")

    def estimate(self, oracle, x, state, step):
        g_w, mu, w, v = (state[k] for k in ("g_w", "mu", "w", "v"))
        self.renew(oracle, x, state, step)
        oracle.gradient(w, g_w, again=True)
        oracle.gradient(x, v)
        # v = (g - g_w) + mu
        v -= g_w
        v += mu
        return v

    def evaluations(self, batch, rows, age):
        return 2 * batch + self.snapshot_rows(batch, rows, age)


@dataclass(frozen=True)
class SnapshotStorm(_Snapshots):
    """v = g(x_t) + (1 - beta)*(v - g(x_{t-1})) - beta*(g(w) - mu), all on one batch; v = mu at the first step.

    STORM whose fresh part is SVRG's. every: as in Svrg.
    """

    beta: float = 0.01
    every: int = 0

    two_points = True
    vectors = ("g", "g_before", "g_w", "mu", "w", "v")

    def estimate(self, oracle, x, state, step):
        g, g_before, g_w, mu, v = (state[k] for k in ("g", "g_before", "g_w", "mu", "v"))
        self.renew(oracle, x, state, step)
        if step.age == 0:
            return v.copy_(mu)
        oracle.gradient(x, g)
        oracle.gradient(step.x_before, g_before, again=True)
        oracle.gradient(state["w"], g_w, again=True)
        # v = (g + (1 - beta)*(v - g_before)) - beta*(g_w - mu)
        v -= g_before
        bits.blend(v, g, 1 - self.beta, 1.0)
        g_w -= mu
        bits.blend(v, g_w, 1.0, -self.beta)
        return v

    def evaluations(self, batch, rows, age):
        return (3 * batch if age else 0) + self.snapshot_rows(batch, rows, age)
