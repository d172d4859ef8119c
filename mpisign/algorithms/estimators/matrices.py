"""Estimates of matrices by their polar factors, or by the cosine transforms of their chunks."""

from dataclasses import dataclass, field

from mpisign.algorithms.cosine import to_coefficients
from mpisign.algorithms.estimators.momentum import Momentum
from mpisign.algorithms.estimators.plain import Minibatch
from mpisign.algorithms.polar import Kind, to_polar
from mpisign.algorithms.slots import Estimator


@dataclass(frozen=True)
class Polar(Estimator):
    """v = U V^T for each matrix U S V^T of another estimate u; what is no matrix, or does not vote, is u's.

    kind: how the polar factor is found, see polar.STEPS.
    """

    of: Estimator = field(default_factory=Momentum)
    kind: Kind = "muon"

    by_matrix, vectors = True, ("v",)

    def init(self, layout):
        return super().init(layout) | self.of.init(layout)

    def estimate(self, oracle, x, state, step):
        v = state["v"].copy_(self.of.estimate(oracle, x, state, step))
        to_polar(v, step.layout, self.kind)
        return v


@dataclass(frozen=True)
class Cosine(Estimator):
    """v = the coefficients of the chunks of another estimate u, see cosine.to_coefficients; u where nobody votes."""

    of: Estimator = field(default_factory=Minibatch)
    chunk: int = 64

    by_matrix, vectors = True, ("v",)

    def init(self, layout):
        return super().init(layout) | self.of.init(layout)

    def estimate(self, oracle, x, state, step):
        v = state["v"].copy_(self.of.estimate(oracle, x, state, step))
        to_coefficients(v, step.layout, self.chunk)
        return v
