"""What a voter believes its gradient is: v, a flat float32 vector.

Moving averages go through bits.blend, whose rounding is fixed, so that a trajectory is a matter of bits.
"""

from dataclasses import dataclass

import numpy as np

from mpisign import bits
from mpisign.algorithm import Estimator


@dataclass(frozen=True)
class Minibatch(Estimator):
    """v = g(x; batch)."""

    def init(self, layout):
        return {"g": layout.zeros()}

    def estimate(self, oracle, x, state, step):
        oracle.gradient(x, state["g"])
        return state["g"]


@dataclass(frozen=True)
class Momentum(Estimator):
    """m = beta*m + (1 - beta)*g, an exponential moving average.

    start: "zero" for m = 0 before the first step, "gradient" for m = g at the first step.
    """

    beta: float = 0.9
    start: str = "zero"

    def init(self, layout):
        return {"g": layout.zeros(), "m": layout.zeros()}

    def estimate(self, oracle, x, state, step):
        g, m = state["g"], state["m"]
        oracle.gradient(x, g)
        if step.t == 0 and self.start == "gradient":
            return m.copy_(g)
        bits.blend(m, g, self.beta, 1 - self.beta)
        return m


@dataclass(frozen=True)
class Storm(Estimator):
    """v = g(x_t) + (1 - beta)*(v - g(x_{t-1})), both gradients on the same batch; v = g at the first step.

    project: radius of the Euclidean ball onto which v is projected before it is kept, or 0 for none.
    """

    beta: float = 0.5
    project: float = 0.0

    def init(self, layout):
        return {name: layout.zeros() for name in ("g", "g_before", "x_before", "v")}

    def estimate(self, oracle, x, state, step):
        g, g_before, x_before, v = (state[k] for k in ("g", "g_before", "x_before", "v"))
        oracle.gradient(x, g)
        if step.t == 0:
            v.copy_(g)
        else:
            oracle.gradient(x_before, g_before, again=True)
            # v = g + (1 - beta)*(v - g_before)
            v -= g_before
            bits.blend(v, g, 1 - self.beta, 1.0)
        x_before.copy_(x)
        if self.project and (norm := step.layout.norm(v)) > self.project:
            v *= float(np.float32(self.project / norm))
        return v

    def evaluations(self):
        return 2
