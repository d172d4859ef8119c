"""What a voter believes its gradient is: v, a flat float32 vector.

Moving averages go through bits.blend, whose rounding is fixed, so that a trajectory is a matter of bits.
"""

from dataclasses import dataclass, field

import numpy as np

from mpisign import bits
from mpisign.slots import Estimator

FINITE_SUM, TWO_POINTS = frozenset({"finite sum"}), frozenset({"two points"})


@dataclass(frozen=True)
class Minibatch(Estimator):
    """v = g(x; batch)."""

    elementwise, by_parts = True, "g"

    def init(self, layout):
        return {"g": layout.zeros()}

    def estimate(self, oracle, x, state, step):
        oracle.gradient(x, state["g"])
        return state["g"]


@dataclass(frozen=True)
class FullGradient(Estimator):
    """v = the mean of g over all rows of this voter."""

    needs = FINITE_SUM

    def init(self, layout):
        return {"g": layout.zeros()}

    def estimate(self, oracle, x, state, step):
        oracle.full_gradient(x, state["g"])
        return state["g"]

    def evaluations(self, batch, rows, age):
        return rows


@dataclass(frozen=True)
class ClippedRows(Estimator):
    """v = mean over the batch of g(x; row) * min(1, norm/|g(x; row)|): every row's gradient clipped by itself."""

    norm: float = 1.0

    needs = FINITE_SUM

    def init(self, layout):
        return {"g": layout.zeros(), "row": layout.zeros()}

    def estimate(self, oracle, x, state, step):
        oracle.clipped_gradient(x, state["g"], state["row"], self.norm)
        return state["g"]


@dataclass(frozen=True)
class Momentum(Estimator):
    """m = beta*m + (1 - beta)*u, an exponential moving average of another estimate u.

    start: "zero" for m = 0 before the first step, "estimate" for m = u at the first step.
    """

    beta: float = 0.9
    start: str = "zero"
    of: Estimator = field(default_factory=Minibatch)

    @property
    def needs(self):
        return self.of.needs

    @property
    def two_points(self):
        return self.of.two_points

    @property
    def elementwise(self):
        return self.of.elementwise

    @property
    def by_parts(self):
        return "m" if self.of.by_parts == "g" else ""

    def init(self, layout):
        return self.of.init(layout) | {"m": layout.zeros()}

    def estimate(self, oracle, x, state, step):
        u, m = self.of.estimate(oracle, x, state, step), state["m"]
        if step.age == 0 and self.start == "estimate":
            return m.copy_(u)
        bits.blend(m, u, self.beta, 1 - self.beta)
        return m

    def evaluations(self, batch, rows, age):
        return self.of.evaluations(batch, rows, age)


@dataclass(frozen=True)
class Nesterov(Estimator):
    """m = momentum*m + g, v = momentum*m + g: the heavy ball, looked at one step ahead."""

    momentum: float = 0.9

    elementwise, by_parts = True, "v"

    def init(self, layout):
        return {name: layout.zeros() for name in ("g", "m", "v")}

    def estimate(self, oracle, x, state, step):
        g, m, v = state["g"], state["m"], state["v"]
        oracle.gradient(x, g)
        bits.blend(m, g, self.momentum, 1.0)
        v.copy_(m)
        bits.blend(v, g, self.momentum, 1.0)
        return v


@dataclass(frozen=True)
class Lion(Estimator):
    """v = beta1*m + (1 - beta1)*g, then m = beta2*m + (1 - beta2)*g."""

    beta1: float = 0.9
    beta2: float = 0.99

    elementwise, by_parts = True, "v"

    def init(self, layout):
        return {name: layout.zeros() for name in ("g", "m", "v")}

    def estimate(self, oracle, x, state, step):
        g, m, v = state["g"], state["m"], state["v"]
        oracle.gradient(x, g)
        v.copy_(m)
        bits.blend(v, g, self.beta1, 1 - self.beta1)
        bits.blend(m, g, self.beta2, 1 - self.beta2)
        return v


@dataclass(frozen=True)
class DecidedMomentum(Estimator):
    """v = beta*m + (1 - beta)*g, where m is what was decided at the step before, the same for all voters."""

    beta: float = 0.9

    averages = False

    def init(self, layout):
        return {name: layout.zeros() for name in ("g", "m", "v")}

    def estimate(self, oracle, x, state, step):
        g, v = state["g"], state["v"]
        oracle.gradient(x, g)
        v.copy_(state["m"])
        bits.blend(v, g, self.beta, 1 - self.beta)
        return v

    def observe(self, direction, state, step):
        tables = direction.tables(np.ones_like(step.rates))
        for span in step.layout.spans(direction.lo, direction.hi):
            m = state["m"][span.coordinates].zero_()
            bits.add_levels(m, direction.planes[:, span.words(direction.lo)], tables[span.segment])


@dataclass(frozen=True)
class Storm(Estimator):
    """v = g(x_t) + (1 - beta)*(v - g(x_{t-1})), both gradients on the same batch; v = g at the first step.

    project: radius of the Euclidean ball onto which v is projected before it is kept, or 0 for none.
    """

    beta: float = 0.5
    project: float = 0.0

    needs, two_points = TWO_POINTS, True

    @property
    def elementwise(self):
        return not self.project

    def init(self, layout):
        return {name: layout.zeros() for name in ("g", "g_before", "v")}

    def estimate(self, oracle, x, state, step):
        g, g_before, v = state["g"], state["g_before"], state["v"]
        oracle.gradient(x, g)
        if step.age == 0:
            v.copy_(g)
        else:
            oracle.gradient(step.x_before, g_before, again=True)
            # v = g + (1 - beta)*(v - g_before)
            v -= g_before
            bits.blend(v, g, 1 - self.beta, 1.0)
        if self.project and (norm := step.layout.norm(v)) > self.project:
            v *= float(np.float32(self.project / norm))
        return v

    def evaluations(self, batch, rows, age):
        return batch if age == 0 else 2 * batch


@dataclass(frozen=True)
class Correction(Estimator):
    """v = g(x_t) - (1 - beta)*g(x_{t-1}), both on the same batch, for a vote that keeps the rest; g at first."""

    beta: float = 0.0

    needs, two_points, elementwise, averages = TWO_POINTS, True, True, False

    def init(self, layout):
        return {name: layout.zeros() for name in ("g", "v")}

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


@dataclass(frozen=True)
class Svrg(Estimator):
    """v = g(x) - g(w) + mu on one batch; w is x and mu the full local gradient at every snapshot.

    every: steps between snapshots; 0 for one pass over this voter's rows.
    """

    every: int = 0

    needs = FINITE_SUM | TWO_POINTS

    def init(self, layout):
        return {name: layout.zeros() for name in ("g_w", "mu", "w", "v")}

    def estimate(self, oracle, x, state, step):
        g_w, mu, w, v = (state[k] for k in ("g_w", "mu", "w", "v"))
        if step.age % (self.every or oracle.steps_a_pass) == 0:
            w.copy_(x)
            oracle.full_gradient(w, mu)
        oracle.gradient(w, g_w, again=True)
        oracle.gradient(x, v)
        # v = (g - g_w) + mu
        v -= g_w
        v += mu
        return v

    def evaluations(self, batch, rows, age):
        every = self.every or -(-rows // batch)
        return 2 * batch + (rows if age % every == 0 else 0)
