"""Gradients as the oracle gives them."""

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import softshrink

from mpisign import bits
from mpisign.algorithms.slots import Estimator

FINITE_SUM, OTHER_POINTS, SEVERAL = (frozenset({name}) for name in ("finite sum", "other points", "several batches"))


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
class GrowingBatch(Estimator):
    """v = the mean of g(x) over the next 1 + age // every minibatches: k + 1 of them at step k where every = 1.

    Source: Bernstein et al. 2018, thm. 3, whose minibatches are of one row.
    """

    every: int = 1

    needs, vectors, scratch = SEVERAL, ("g",), ("part",)

    def estimate(self, oracle, x, state, step):
        g, part, losses = state["g"].zero_(), state["part"], []
        # after another run, those begin that it had not seen even if its batches grew as these do
        first, count = self.minibatches_before(step.begun) + self.minibatches_before(step.age), self._count(step.age)
        for k in range(count):
            oracle.begin(first + k)
            oracle.gradient(x, part)
            losses.append(oracle.loss)
            bits.blend(g, part, 1.0, 1 / count)
        oracle.loss = sum(losses) / count
        return g

    def _count(self, age: int) -> int:
        return 1 + age // self.every

    def minibatches_before(self, age):
        whole, rest = divmod(age, self.every)
        return age + self.every * whole * (whole - 1) // 2 + rest * whole

    def evaluations(self, batch, rows, age):
        return self._count(age) * batch


@dataclass(frozen=True)
class ProximalMap(Estimator):
    """v = (x - prox(x - lr*g))/lr, the gradient mapping of f + r; r = l1*|x|_1 within the box |x| <= box.

    prox(w) = w cut towards 0 by lr*l1, then to the box; box = 0 for none. Where prox is neither 0 nor at the box, v is
    g + l1*sign(prox), and no sign is lost in a difference of two points that are close to each other. Where lr = 0, v
    is 0 elsewhere. Source: Xu & Kamilov 2018.
    """

    l1: float = 0.0
    box: float = 0.0

    vectors, reads_x = ("g", "v"), True

    def estimate(self, oracle, x, state, step):
        g, v = state["g"], state["v"]
        oracle.gradient(x, g)
        for span in step.layout.all_spans:
            here, lr = span.coordinates, step.lr_of(span.segment)
            w = x[here].clone()
            bits.blend(w, g[here], 1.0, -lr)
            prox = softshrink(w, float(np.float32(lr * self.l1)))
            if self.box:
                prox.clamp_(-self.box, self.box)
            free = (prox != 0) & (prox.abs() < (self.box or np.inf))
            signs = prox.sign()
            bits.blend(signs, g[here], self.l1, 1.0)
            held = (x[here] - prox).mul_(1 / lr if lr else 0.0)
            v[here] = torch.where(free, signs, held)
        return v


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

    needs, vectors, scratch = FINITE_SUM, ("g",), ("row",)

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

    needs, two_points, vectors, scratch = OTHER_POINTS, True, ("g",), ("point",)

    def estimate(self, oracle, x, state, step):
        g, point = state["g"], state["point"]
        torch.sub(x, step.x_before, out=point)
        bits.blend(point, x, self.beta / (1 - self.beta), 1.0)
        oracle.gradient(point, g)
        return g
