"""Gradients from function values."""

from dataclasses import dataclass

import numpy as np
import torch

from mpisign import bits
from mpisign.algorithms.estimators.corrected import SEVERAL
from mpisign.algorithms.slots import Estimator

VALUES = frozenset({"function values"})


@dataclass(frozen=True)
class ZerothOrder(Estimator):
    """v = d/q * sum over q random unit vectors u of u times the slope of f along u, f being the loss of one batch.

    central: the slope is (f(x + mu*u) - f(x - mu*u))/(2*mu), else (f(x + mu*u) - f(x))/mu; mu is `smoothing`.
    signs: v is the sum of the signs of these products instead, a vote of the directions in each coordinate.
    """

    directions: int = 10
    smoothing: float = 0.01
    central: bool = False
    signs: bool = False

    needs, vectors, scratch = VALUES, ("v",), ("u", "point")

    def estimate(self, oracle, x, state, step):
        u, v = state["u"], state["v"].zero_()
        before = 0.0 if self.central else oracle.value(x)
        for k in range(self.directions):
            length = self._draw(u, step, k)
            after = self._value(oracle, x, state, self.smoothing / length, again=not self.central or k > 0)
            behind = self._value(oracle, x, state, -self.smoothing / length, again=True) if self.central else before
            slope = (after - behind) / (self.smoothing * (2 if self.central else 1))
            if self.signs:
                v += torch.sign(u) * float(np.sign(slope))
            else:
                bits.blend(v, u, 1.0, step.layout.size / self.directions * slope / length)
        return v

    def _draw(self, u, step, k) -> float:
        """Fills u with the k-th direction, not yet of unit length; returns its length."""
        u.zero_()
        draw = step.streams.draw("direction", step.t * self.directions + k, step.voter)
        for span in step.layout.all_spans:
            bits.add_normal(u[span.coordinates], 1.0, span.lo, draw)
        return step.layout.norm(u)

    @staticmethod
    def _value(oracle, x, state, along, again) -> float:
        bits.blend(state["point"].copy_(x), state["u"], 1.0, along)
        return oracle.value(state["point"], again=again)

    def evaluations(self, batch, rows, age):
        return 0

    def values(self, batch, rows, age):
        return batch * (2 * self.directions if self.central else self.directions + 1)


@dataclass(frozen=True)
class SharedDirection(Estimator):
    """v = z, one random direction for all voters; tells the sign of f(x + mu*z) - f(x - mu*z), f the loss of a batch.

    z is from N(0, 1) in each coordinate, drawn on the host from the run's seed; sphere: it is scaled to length 1. mu is
    `smoothing`, or, if that is 0, the learning rate, so that the step ends at one of the two points. comparisons: of so
    many batches; the sign of the sum of their signs is told, 0 where they are tied. The loss that a step records is the
    mean over both points.
    """

    sphere: bool = False
    smoothing: float = 0.001
    comparisons: int = 1

    averages, reports, scratch = False, 1, ("z", "point")

    @property
    def needs(self):
        return VALUES | SEVERAL if self.comparisons > 1 else VALUES

    @property
    def minibatches(self):
        return self.comparisons

    def side_information(self):
        return "one sign of each voter, in a word of 64 bits, to all others"

    def estimate(self, oracle, x, state, step):
        z, signs, losses = state["z"], 0.0, 0.0
        self._draw(z, step)
        for k in range(self.comparisons):
            oracle.begin(step.t * self.comparisons + k)
            ahead = self._value(oracle, x, state, step, 1.0)
            behind = self._value(oracle, x, state, step, -1.0)
            signs += float(np.sign(ahead - behind))
            losses += (ahead + behind) / 2
        state["told"][0] = float(np.sign(signs))
        # a value that is not finite makes this loss such a one, and all ranks stop by it
        oracle.loss = losses / self.comparisons
        return z

    def _draw(self, z, step) -> None:
        z.copy_(bits.common_normals(len(z), step.streams.draw("direction", step.t)))
        if self.sphere:
            z *= float(np.float32(1 / step.layout.norm(z)))

    def _value(self, oracle, x, state, step, side) -> float:
        point = state["point"].copy_(x)
        for span in step.layout.all_spans:
            radius = self.smoothing or step.lr_of(span.segment)
            bits.blend(point[span.coordinates], state["z"][span.coordinates], 1.0, side * radius)
        return oracle.value(point, again=side < 0)

    def evaluations(self, batch, rows, age):
        return 0

    def values(self, batch, rows, age):
        return 2 * self.comparisons * batch
