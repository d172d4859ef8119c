"""Moves along raw floats, the mean of what the voters sent."""

from dataclasses import dataclass, replace

import numpy as np

from mpisign import bits
from mpisign.algorithms.slots import Update
from mpisign.parallel.world import ordered_total


@dataclass(frozen=True)
class RawDescent(Update):
    """Descent along raw floats: x = (1 - lr*weight_decay)*x - lr*v, with lr times `factor` for lr.

    in_x: v is in units of x, and is multiplied by factor alone.
    """

    weight_decay: float = 0.0
    factor: float = 1.0
    in_x: bool = False

    def apply(self, x, direction, state, step):
        rates = step.rates * self.factor
        decays = (1 - rates * step.weight_decays(self.weight_decay)).astype(np.float32)
        for span in step.layout.spans(direction.lo, direction.hi):
            part, v = x[span.coordinates], direction.planes[0, span.items(direction.lo)]
            rate = self.factor if self.in_x else float(rates[span.segment])
            bits.blend(part, v, float(decays[span.segment]), -rate)


@dataclass(frozen=True)
class CalibratedDescent(RawDescent):
    """RawDescent at lr times a ratio that CalibratingDescent found."""

    numbers = ("ratio",)

    def apply(self, x, direction, state, step):
        super().apply(x, direction, state, replace(step, rates=step.rates * float(state["ratio"][0])))


@dataclass(frozen=True)
class VotedDescent(Update):
    """x = (1 - lr*weight_decay)*x - lr*s*v, s the sign of the sum of what all voters tell; where it is tied, s = 0."""

    weight_decay: float = 0.0

    numbers = ("sign",)

    def begin(self, x, state, step, objective):
        state["sign"][0] = float(np.sign(ordered_total(step.reported)[0]))

    def apply(self, x, direction, state, step):
        decays, sign = step.decays(self.weight_decay), float(state["sign"][0])
        for span in step.layout.spans(direction.lo, direction.hi):
            part, v = x[span.coordinates], direction.planes[0, span.items(direction.lo)]
            bits.blend(part, v, float(decays[span.segment]), -sign * step.lr_of(span.segment))


@dataclass(frozen=True)
class LionDescent(Update):
    """x = (1 - rate*weight_decay)*x - rate*sign(u), u = beta1*m + (1 - beta1)*v, then m = beta2*m + (1 - beta2)*v.

    rate: lr*factor. sign(0) is 0.
    """

    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 0.0
    factor: float = 1.0

    vectors = ("m",)

    def apply(self, x, direction, state, step):
        rates = step.rates * self.factor
        decays = (1 - rates * step.weight_decays(self.weight_decay)).astype(np.float32)
        for span, v in direction.floats(step.layout):
            m, u = state["m"][span.coordinates], state["m"][span.coordinates].clone()
            bits.blend(u, v, self.beta1, 1 - self.beta1)
            bits.blend(m, v, self.beta2, 1 - self.beta2)
            decay, rate = float(decays[span.segment]), float(rates[span.segment])
            bits.blend(x[span.coordinates], u.sign_(), decay, -rate)


@dataclass(frozen=True)
class Sgd(Update):
    """m = momentum*m + g; x -= lr*m, weight decay added to g, as torch.optim.SGD does it; factor multiplies lr."""

    momentum: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False
    factor: float = 1.0

    def init(self, layout):
        return {"m": layout.zeros()} if self.momentum else {}

    def apply(self, x, direction, state, step):
        weight_decays = step.weight_decays(self.weight_decay)
        for span, g in direction.floats(step.layout):
            part = x[span.coordinates]
            if weight_decay := float(weight_decays[span.segment]):
                g = g.add(part, alpha=weight_decay)
            if self.momentum:
                m = state["m"][span.coordinates].mul_(self.momentum).add_(g)
                g = g.add(m, alpha=self.momentum) if self.nesterov else m
            part.sub_(g, alpha=step.lr_of(span.segment) * self.factor)


@dataclass(frozen=True)
class NormalisedDescent(Update):
    """x = (1 - lr*weight_decay)*x - lr*v/|v|, |v| the Euclidean norm over all coordinates of x; v = 0 moves nothing.

    x moves once all of v is known, after the last chunk. Source: Cutkosky & Mehta 2020 alg. 1.
    """

    weight_decay: float = 0.0

    scratch = ("v",)

    def apply(self, x, direction, state, step):
        for span in step.layout.spans(direction.lo, direction.hi):
            state["v"][span.coordinates] = direction.planes[0, span.items(direction.lo)]

    def finish(self, x, state, step, objective):
        v, decays = state["v"], step.decays(self.weight_decay)
        norm = step.layout.norm(v)
        unit = 1 / norm if norm else 0.0
        for span in step.layout.all_spans:
            rate = step.lr_of(span.segment) * unit
            bits.blend(x[span.coordinates], v[span.coordinates], float(decays[span.segment]), -rate)
