"""Gradients from function values."""

from dataclasses import dataclass

from mpisign import bits
from mpisign.algorithms.slots import Estimator


@dataclass(frozen=True)
class ZerothOrder(Estimator):
    """v = d/q * sum over q random unit vectors u of u times the slope of f along u, f being the loss of one batch.

    central: the slope is (f(x + mu*u) - f(x - mu*u))/(2*mu), else (f(x + mu*u) - f(x))/mu; mu is `smoothing`.
    """

    directions: int = 10
    smoothing: float = 0.01
    central: bool = False

    needs, vectors = frozenset({"function values"}), ("u", "point", "v")

    def estimate(self, oracle, x, state, step):
        u, v = state["u"], state["v"].zero_()
        before = 0.0 if self.central else oracle.value(x)
        for k in range(self.directions):
            length = self._draw(u, step, k)
            after = self._value(oracle, x, state, self.smoothing / length, again=not self.central or k > 0)
            behind = self._value(oracle, x, state, -self.smoothing / length, again=True) if self.central else before
            slope = (after - behind) / (self.smoothing * (2 if self.central else 1))
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
