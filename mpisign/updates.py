"""How x moves along the direction, alike on every rank."""

from dataclasses import dataclass

import numpy as np
import torch

from mpisign import bits
from mpisign.slots import Update


@dataclass(frozen=True)
class Descent(Update):
    """x = (1 - lr*weight_decay)*x - lr*direction, the weight decay decoupled [Bernstein et al. 2019 alg. 1].

    A direction in units of x already is not multiplied by lr. first: the first step at which x moves.
    """

    weight_decay: float = 0.0
    first: int = 0

    def apply(self, x, direction, state, step):
        if step.age < self.first:
            return
        lo, hi = direction.lo, direction.hi
        tables, decays = direction.tables(step.rates), step.decays(self.weight_decay)
        bits.apply(x[lo:hi], direction.planes, step.layout.parts(lo, hi), lo, tables, decays)


@dataclass(frozen=True)
class RawDescent(Update):
    """The same along raw floats: x = (1 - lr*weight_decay)*x - lr*v, with lr times `factor` for lr."""

    weight_decay: float = 0.0
    factor: float = 1.0

    def apply(self, x, direction, state, step):
        rates = step.rates * self.factor
        decays = (1 - rates * step.weight_decays(self.weight_decay)).astype(np.float32)
        for span in step.layout.spans(direction.lo, direction.hi):
            here, v = x[span.coordinates], direction.planes[0, span.items(direction.lo)]
            bits.blend(here, v, float(decays[span.segment]), -float(rates[span.segment]))


@dataclass(frozen=True)
class Sgd(Update):
    """m = momentum*m + g; x -= lr*m, weight decay added to g, as torch.optim.SGD does it."""

    momentum: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False

    def init(self, layout):
        return {"m": layout.zeros()} if self.momentum else {}

    def apply(self, x, direction, state, step):
        weight_decays = step.weight_decays(self.weight_decay)
        for span in step.layout.spans(direction.lo, direction.hi):
            here, g = x[span.coordinates], direction.planes[0, span.items(direction.lo)]
            if weight_decay := float(weight_decays[span.segment]):
                g = g.add(here, alpha=weight_decay)
            if self.momentum:
                m = state["m"][span.coordinates].mul_(self.momentum).add_(g)
                g = g.add(m, alpha=self.momentum) if self.nesterov else m
            here.sub_(g, alpha=step.lr_of(span.segment))


@dataclass(frozen=True)
class Adam(Update):
    """Adam with bias correction [Kingma & Ba 2015 alg. 1], weight decay decoupled as in AdamW."""

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0

    def init(self, layout):
        return {"m": layout.zeros(), "v": layout.zeros()}

    def apply(self, x, direction, state, step):
        correction1, correction2 = 1 - self.beta1 ** (step.age + 1), 1 - self.beta2 ** (step.age + 1)
        decays = step.decays(self.weight_decay)
        for span in step.layout.spans(direction.lo, direction.hi):
            here, g = x[span.coordinates], direction.planes[0, span.items(direction.lo)]
            m, v = state["m"][span.coordinates], state["v"][span.coordinates]
            m.lerp_(g, 1 - self.beta1)
            v.mul_(self.beta2).addcmul_(g, g, value=1 - self.beta2)
            here.mul_(float(decays[span.segment]))
            scale = torch.sqrt(v / correction2).add_(self.epsilon)
            here.addcdiv_(m, scale, value=-step.lr_of(span.segment) / correction1)


@dataclass(frozen=True)
class FrozenAdam(Update):
    """x -= lr * m / (sqrt(v) + epsilon): m is the direction, v a variance that no longer changes.

    correction: what v is divided by, 1 - beta2**steps for a v that Adam gathered in so many steps. A coordinate whose
    v is 0 never had a gradient and does not move.
    """

    epsilon: float = 1e-8
    weight_decay: float = 0.0
    correction: float = 1.0

    def init(self, layout):
        return {"v": layout.zeros()}

    def apply(self, x, direction, state, step):
        decays, tables = step.decays(self.weight_decay), direction.tables(np.ones_like(step.rates))
        for span in step.layout.spans(direction.lo, direction.hi):
            here, v = x[span.coordinates], state["v"][span.coordinates]
            m = torch.zeros_like(here)
            bits.add_levels(m, direction.planes[:, span.words(direction.lo)], tables[span.segment])
            m.div_(torch.sqrt(v / self.correction).add_(self.epsilon)).masked_fill_(v == 0, 0.0)
            here.mul_(float(decays[span.segment]))
            here.sub_(m, alpha=step.lr_of(span.segment))
