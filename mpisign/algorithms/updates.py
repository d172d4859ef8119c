"""How x moves along the direction, alike on every rank."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from mpisign import bits
from mpisign.algorithms.slots import Update
from mpisign.parallel.world import ordered_total


@dataclass(frozen=True)
class Descent(Update):
    """x = (1 - lr*weight_decay)*x - lr*direction, the weight decay decoupled [Bernstein et al. 2019 alg. 1].

    A direction in units of x already is not multiplied by lr. first: the first step at which x moves. factor: on what
    was decided.
    """

    weight_decay: float = 0.0
    first: int = 0
    factor: float = 1.0

    def apply(self, x, direction, state, step):
        if step.age < self.first:
            return
        lo, hi = direction.lo, direction.hi
        tables, decays = direction.tables(step.rates * self.factor), step.decays(self.weight_decay)
        bits.apply(x[lo:hi], direction.planes, step.layout.parts(lo, hi), lo, tables, decays)


@dataclass(frozen=True)
class BetterPoint(Descent):
    """Descent, undone where f is not less than before [Safaryan & Richtarik 2021 alg. 1, option 2].

    f is exact: all rows of all voters, once a step.
    """

    needs, vectors, numbers = frozenset({"function values"}), ("before",), ("value",)

    def begin(self, x, state, step, objective):
        state["before"].copy_(x)
        if step.age == 0:
            state["value"][0] = objective()

    def finish(self, x, state, step, objective):
        if (value := objective()) < state["value"][0]:
            state["value"][0] = value
        else:
            x.copy_(state["before"])

    def values(self, rows, age):
        return max(rows, 1) * (1 if age else 2)


@dataclass(frozen=True)
class Rprop(Update):
    """x -= size*s, s the direction's sign and `size` each coordinate's own [Riedmiller & Braun 1993].

    size starts as lr. It is multiplied by `increase` where s is as before and by `decrease` where it is opposite; there
    x stays, and s counts as 0 at the next step. It is kept within [least, most].
    """

    increase: float = 1.2
    decrease: float = 0.5
    least: float = 1e-6
    most: float = 50.0

    vectors = ("before", "size")

    def apply(self, x, direction, state, step):
        for span, s in direction.values(step.layout):
            part, before, size = (v[span.coordinates] for v in (x, state["before"], state["size"]))
            if step.age == 0:
                size.fill_(step.lr_of(span.segment))
            same = before * s
            size[same > 0] *= self.increase
            size[same < 0] *= self.decrease
            size.clamp_(self.least, self.most)
            s[same < 0] = 0.0
            part -= size * s
            before.copy_(s)


@dataclass(frozen=True)
class CalibratingDescent(Descent):
    """Descent that averages the ratio that CalibratedMomentum tells: r = average*r + (1 - average)*told.

    r starts as the first ratio, so that it needs no correction of a start at 0.
    """

    average: float = 0.99

    numbers = ("ratio",)

    def begin(self, x, state, step, objective):
        reported, ratio = float(ordered_total(step.reported)[0]) / len(step.reported), state["ratio"]
        ratio[0] = reported if step.age == 0 else self.average * ratio[0] + (1 - self.average) * reported


@dataclass(frozen=True)
class ParameterFree(Descent):
    """Descent at lr*gamma_t, gamma_t found from what Differences tells [Medyakov et al. 2025].

    gamma_t = sqrt(gap_t / L_t), at most `most`; L_t = smoothness + sum of |g_{i+1} - g_i|_1/|x_{i+1} - x_i|_inf, and
    gap_t the largest so far of `gap` and sum of |x_{i+1} - x_i|_inf * <g_{i+1}, direction_i>.
    """

    gap: float = 1e-3
    smoothness: float = 1.0
    most: float = 1e-3

    numbers = ("smoothness", "gained", "gap", "gamma", "moved")

    def begin(self, x, state, step, objective):
        smoothness, gained, gap, gamma = (state[k] for k in ("smoothness", "gained", "gap", "gamma"))
        if step.age == 0:
            smoothness[0], gap[0] = self.smoothness, self.gap
        elif moved := float(state["moved"][0]):
            difference, along = (total / len(step.reported) for total in ordered_total(step.reported))
            smoothness += difference / moved
            gained += moved * along
            gap.copy_(torch.maximum(gap, gained))
        gamma.copy_(torch.sqrt(gap / smoothness).clamp_(max=self.most))
        state["moved"].copy_(gamma * float(step.rates.max()))

    def apply(self, x, direction, state, step):
        super().apply(x, direction, state, replace(step, rates=step.rates * float(state["gamma"][0])))


@dataclass(frozen=True)
class RawDescent(Update):
    """Descent along raw floats: x = (1 - lr*weight_decay)*x - lr*v, with lr times `factor` for lr.

    in_x: v is in units of x, and is not multiplied by lr.
    """

    weight_decay: float = 0.0
    factor: float = 1.0
    in_x: bool = False

    def apply(self, x, direction, state, step):
        rates = step.rates * self.factor
        decays = (1 - rates * step.weight_decays(self.weight_decay)).astype(np.float32)
        for span in step.layout.spans(direction.lo, direction.hi):
            part, v = x[span.coordinates], direction.planes[0, span.items(direction.lo)]
            rate = 1.0 if self.in_x else float(rates[span.segment])
            bits.blend(part, v, float(decays[span.segment]), -rate)


@dataclass(frozen=True)
class CalibratedDescent(RawDescent):
    """RawDescent at lr times a ratio that CalibratingDescent found."""

    numbers = ("ratio",)

    def apply(self, x, direction, state, step):
        super().apply(x, direction, state, replace(step, rates=step.rates * float(state["ratio"][0])))


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
        for span, g in direction.floats(step.layout):
            part = x[span.coordinates]
            if weight_decay := float(weight_decays[span.segment]):
                g = g.add(part, alpha=weight_decay)
            if self.momentum:
                m = state["m"][span.coordinates].mul_(self.momentum).add_(g)
                g = g.add(m, alpha=self.momentum) if self.nesterov else m
            part.sub_(g, alpha=step.lr_of(span.segment))


@dataclass(frozen=True)
class Adam(Update):
    """Adam with bias correction [Kingma & Ba 2015 alg. 1], weight decay decoupled as in AdamW."""

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0

    vectors = ("m", "v")

    def apply(self, x, direction, state, step):
        correction1, correction2 = 1 - self.beta1 ** (step.age + 1), 1 - self.beta2 ** (step.age + 1)
        decays = step.decays(self.weight_decay)
        for span in step.layout.spans(direction.lo, direction.hi):
            part, g = x[span.coordinates], direction.planes[0, span.items(direction.lo)]
            m, v = state["m"][span.coordinates], state["v"][span.coordinates]
            m.lerp_(g, 1 - self.beta1)
            v.mul_(self.beta2).addcmul_(g, g, value=1 - self.beta2)
            part.mul_(float(decays[span.segment]))
            scale = torch.sqrt(v / correction2).add_(self.epsilon)
            part.addcdiv_(m, scale, value=-step.lr_of(span.segment) / correction1)


@dataclass(frozen=True)
class FrozenAdam(Update):
    """x -= lr * m / (sqrt(v) + epsilon): m is the direction, v a variance that no longer changes.

    correction: what v is divided by, 1 - beta2**steps for a v that Adam gathered in so many steps. A coordinate whose
    v is 0 never had a gradient and does not move. factor: on lr, for a direction that is the mean of so many steps.
    """

    epsilon: float = 1e-8
    weight_decay: float = 0.0
    correction: float = 1.0
    factor: float = 1.0

    vectors = ("v",)

    def apply(self, x, direction, state, step):
        decays = step.decays(self.weight_decay)
        for span, m in direction.values(step.layout):
            part, v = x[span.coordinates], state["v"][span.coordinates]
            m.div_(torch.sqrt(v / self.correction).add_(self.epsilon)).masked_fill_(v == 0, 0.0)
            part.mul_(float(decays[span.segment]))
            part.sub_(m, alpha=step.lr_of(span.segment) * self.factor)
