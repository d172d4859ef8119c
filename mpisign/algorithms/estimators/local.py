"""Estimates from steps that a voter takes on its own, each on a minibatch of its own."""

from dataclasses import dataclass

import torch

from mpisign import bits
from mpisign.algorithms.estimators.plain import SEVERAL
from mpisign.algorithms.slots import Estimator


class _Local(Estimator):
    """Walks from x, `steps` minibatches far; the oracle's batches count on from one walk to the next."""

    steps: int
    averages = False
    needs = SEVERAL

    @property
    def minibatches(self):
        return self.steps

    def walk(self, oracle, x, state, step):
        """Yields the gradient at each point of the walk; the caller moves state["point"]."""
        point, g, losses = state["point"].copy_(x), state["g"], []
        for k in range(self.steps):
            oracle.begin(step.t * self.steps + k)
            oracle.gradient(point, g)
            losses.append(oracle.loss)
            yield point, g
        oracle.loss = losses[0]  # what is recorded is the loss before the step

    def evaluations(self, batch, rows, age):
        return self.steps * batch


@dataclass(frozen=True)
class LocalSteps(_Local):
    """v = the sum of the gradients on a walk of `steps` SGD steps of rate `rate`: (x - where it ends)/rate."""

    steps: int = 4
    rate: float = 0.01

    vectors = ("g", "point", "v")

    def estimate(self, oracle, x, state, step):
        v = state["v"].zero_()
        for point, g in self.walk(oracle, x, state, step):
            v += g
            bits.blend(point, g, 1.0, -self.rate)
        return v


@dataclass(frozen=True)
class LocalAdam(_Local):
    """v = the mean of m on a walk of `steps` steps m = beta*m + (1 - beta)*g, point -= lr*m/(sqrt(variance) + epsilon).

    m starts as what was decided at the step before. The variance does not change, and is divided by `correction`; a
    coordinate where it is 0 does not move.
    """

    steps: int = 4
    beta: float = 0.9
    epsilon: float = 1e-8
    correction: float = 1.0

    vectors, alike = ("g", "point", "m", "variance", "v"), ("m", "variance")

    def estimate(self, oracle, x, state, step):
        m, v, layout = state["m"], state["v"].zero_(), step.layout
        scale = torch.sqrt(state["variance"] / self.correction).add_(self.epsilon)
        still = state["variance"] == 0
        for point, g in self.walk(oracle, x, state, step):
            bits.blend(m, g, self.beta, 1 - self.beta)
            bits.blend(v, m, 1.0, 1 / self.steps)
            move = (m / scale).masked_fill_(still, 0.0)
            for span in layout.all_spans:
                bits.blend(point[span.coordinates], move[span.coordinates], 1.0, -step.lr_of(span.segment))
        return v

    def observe(self, direction, state, step):
        direction.write(state["m"], step.layout)
