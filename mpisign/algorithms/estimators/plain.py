"""Gradients as the oracle gives them."""

from dataclasses import dataclass

from mpisign.algorithms.slots import Estimator

FINITE_SUM = frozenset({"finite sum"})


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
