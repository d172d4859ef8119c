"""Estimates of matrices by their polar factors."""

from dataclasses import dataclass, field

from mpisign.algorithms.estimators.momentum import Momentum
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
