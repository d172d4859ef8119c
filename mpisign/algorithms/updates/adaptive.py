"""Moves along raw floats with a step of each coordinate's own, from the squares of its gradients.

g is the mean gradient; weight decay is decoupled. Every operation of Adagrad, Adadelta, Yogi, Lamb, ThinnedAdam,
FrozenLamb and VarianceAdapted rounds once, so that their steps are the same bits on any machine; those of Adam and
FrozenAdam are torch's.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from mpisign import bits
from mpisign.algorithms.growth import Doubling
from mpisign.algorithms.messages import Direction
from mpisign.algorithms.slots import Step, Update
from mpisign.layout import Layout, Span


def _gradients(direction: Direction, step: Step) -> Iterator[tuple[Span, Tensor]]:
    """Each span of a chunk with the mean gradient there, as a view."""
    for span in step.layout.spans(direction.lo, direction.hi):
        yield span, direction.planes[0, span.items(direction.lo)]


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
        for span, g in _gradients(direction, step):
            part, m, v = (a[span.coordinates] for a in (x, state["m"], state["v"]))
            m.lerp_(g, 1 - self.beta1)
            v.mul_(self.beta2).addcmul_(g, g, value=1 - self.beta2)
            part.mul_(float(decays[span.segment]))
            scale = torch.sqrt(v / correction2).add_(self.epsilon)
            part.addcdiv_(m, scale, value=-step.lr_of(span.segment) / correction1)


@dataclass(frozen=True)
class FrozenAdam(Update):
    """x -= lr * m / (sqrt(v) + epsilon): m is the direction, v a variance that no longer changes.

    correction: what v is divided by, 1 - beta2**steps for a v that Adam gathered in so many steps. A coordinate whose
    v is 0 never had a gradient and does not move.
    """

    epsilon: float = 1e-8
    weight_decay: float = 0.0
    correction: float = 1.0

    vectors = ("v",)

    def apply(self, x, direction, state, step):
        decays = step.decays(self.weight_decay)
        for span, m in direction.values(step.layout):
            part, v = x[span.coordinates], state["v"][span.coordinates]
            m.div_(torch.sqrt(v / self.correction).add_(self.epsilon)).masked_fill_(v == 0, 0.0)
            part.mul_(float(decays[span.segment]))
            part.sub_(m, alpha=step.lr_of(span.segment))


@dataclass(frozen=True)
class RoundAdam(FrozenAdam):
    """FrozenAdam as far as the steps of a round go, whose mean m the direction is; weight decay as often.

    lengths, after: of the rounds, as in estimators.LocalAdam.
    """

    lengths: Doubling = field(default_factory=Doubling)
    after: int = 0

    def apply(self, x, direction, state, step):
        steps = self.lengths.length(max(step.age - self.after, 0))
        super().apply(x, direction, state, replace(step, rates=step.rates * steps))


@dataclass(frozen=True)
class ThinnedAdam(Update):
    """Adam whose v takes a gradient in only where an interval begins; m does at every step.

    Both averages start as 0 and are corrected for it, v by how often it was changed (the authors' code corrects none).
    A coordinate whose v is 0 does not move. Source: Lu et al. 2022, as in the authors' code (DeepSpeed).
    """

    intervals: Doubling = field(default_factory=Doubling)
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0

    vectors = ("m", "v")

    def apply(self, x, direction, state, step):
        due, changes = self.intervals.due(step.age), self.intervals.count(step.age + 1)
        correction1, correction2 = 1 - self.beta1 ** (step.age + 1), 1 - self.beta2**changes
        decays = step.decays(self.weight_decay)
        for span, g in direction.floats(step.layout):
            m, v = state["m"][span.coordinates], state["v"][span.coordinates]
            bits.blend(m, g, self.beta1, 1 - self.beta1)
            if due:
                bits.blend(v, g * g, self.beta2, 1 - self.beta2)
            move = m / bits.root(v * (1 / correction2)).add_(self.epsilon)
            move.masked_fill_(v == 0, 0.0)
            rate = step.lr_of(span.segment) / correction1
            bits.blend(x[span.coordinates], move, float(decays[span.segment]), -rate)


@dataclass(frozen=True)
class Adagrad(Update):
    """s = s + g^2, x -= lr*g/(sqrt(s) + epsilon), s = 0 before the first step.

    Source: Duchi, Hazan & Singer 2011, fig. 1, diagonal form, whose delta is our epsilon.
    """

    epsilon: float = 1e-10
    weight_decay: float = 0.0

    vectors = ("s",)

    def apply(self, x, direction, state, step):
        decays = step.decays(self.weight_decay)
        for span, g in _gradients(direction, step):
            s = state["s"][span.coordinates].add_(g * g)
            move = g / bits.root(s).add_(self.epsilon)
            bits.blend(x[span.coordinates], move, float(decays[span.segment]), -step.lr_of(span.segment))


@dataclass(frozen=True)
class Adadelta(Update):
    """x -= lr*delta, delta = sqrt(u + epsilon)/sqrt(s + epsilon)*g, s and u averages of g^2 and of earlier delta^2.

    Both averages forget by rho and start as 0. Source: Zeiler 2012, alg. 1, in which lr = 1.
    """

    rho: float = 0.95
    epsilon: float = 1e-6
    weight_decay: float = 0.0

    vectors = ("s", "u")

    def apply(self, x, direction, state, step):
        decays = step.decays(self.weight_decay)
        for span, g in _gradients(direction, step):
            s, u = state["s"][span.coordinates], state["u"][span.coordinates]
            bits.blend(s, g * g, self.rho, 1 - self.rho)
            delta = bits.root(u + self.epsilon) / bits.root(s + self.epsilon) * g
            bits.blend(u, delta * delta, self.rho, 1 - self.rho)
            bits.blend(x[span.coordinates], delta, float(decays[span.segment]), -step.lr_of(span.segment))


@dataclass(frozen=True)
class Yogi(Update):
    """v = v - (1 - beta2)*sign(v - g^2)*g^2, x -= lr*m/(sqrt(v) + epsilon), with Adam's m and bias corrections.

    v starts as `initial`, m as 0. Source: Zaheer et al. 2018, alg. 2, which corrects no bias.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-3
    initial: float = 1e-6
    weight_decay: float = 0.0

    vectors = ("m", "v")

    def apply(self, x, direction, state, step):
        correction1, correction2 = 1 - self.beta1 ** (step.age + 1), 1 - self.beta2 ** (step.age + 1)
        decays = step.decays(self.weight_decay)
        for span, g in _gradients(direction, step):
            m, v = state["m"][span.coordinates], state["v"][span.coordinates]
            if step.age == 0:
                v.fill_(self.initial)
            square = g * g
            bits.blend(m, g, self.beta1, 1 - self.beta1)
            bits.blend(v, torch.sign(v - square) * square, 1.0, self.beta2 - 1)
            move = m / bits.root(v * (1 / correction2)).add_(self.epsilon)
            rate = step.lr_of(span.segment) / correction1
            bits.blend(x[span.coordinates], move, float(decays[span.segment]), -rate)


@dataclass(frozen=True)
class VarianceAdapted(Update):
    """x -= lr*gamma*m, gamma = m^2/(m^2 + rho*s), s the variance of g that averages m of g and v of g^2 tell.

    Both averages forget by beta and are corrected for their start at 0: s = (v - m^2)/(1 - rho), where
    rho = (1 - beta)*(1 + beta^(t+1))/((1 + beta)*(1 - beta^(t+1))) is m's share of the variance of g. At the first step
    rho = 1 and v = m^2: s is taken as 0 there (the authors' code takes rho = 0.999, which comes to the same but for
    rounding). gamma is 0 where m is. Source: Balles & Hennig 2018, alg. 1 (M-SVAG).
    """

    beta: float = 0.9
    weight_decay: float = 0.0

    vectors = ("m", "v")

    def apply(self, x, direction, state, step):
        power = self.beta ** (step.age + 1)
        rho = (1 - self.beta) * (1 + power) / ((1 + self.beta) * (1 - power))
        share, unbiased = rho / (1 - rho) if rho < 1 else 0.0, 1 / (1 - power)
        decays = step.decays(self.weight_decay)
        for span, g in _gradients(direction, step):
            m, v = state["m"][span.coordinates], state["v"][span.coordinates]
            bits.blend(m, g, self.beta, 1 - self.beta)
            bits.blend(v, g * g, self.beta, 1 - self.beta)
            mean = m * unbiased
            square = mean * mean
            # rounding may bring v below m^2
            total = (v * unbiased - square).clamp_(min=0.0).mul_(share).add_(square)
            move = torch.where(total > 0, square / total * mean, 0.0)
            bits.blend(x[span.coordinates], move, float(decays[span.segment]), -step.lr_of(span.segment))


def _norms(v: Tensor, layout: Layout) -> np.ndarray:
    """The Euclidean norm of every segment, float64 (segments,)."""
    return np.sqrt(layout.block_sums(bits.tile_sums(v, layout.all_tiles, squares=True)))


@dataclass(frozen=True)
class Lamb(Update):
    """x -= lr*r*u for each parameter, u = m/(sqrt(v) + epsilon) + weight_decay*x, r = |x|/|u| within [least, most].

    m and v are Adam's averages, without a correction of their start at 0; r is 1 where |x| or |u| is 0. `ratios`
    averages the r of every parameter, those that are 1 left out, and forgets by `average`; it starts as 0. Source: You
    et al. 2020, as in the code of 1-bit LAMB (DeepSpeed).
    """

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    average: float = 0.9
    least: float = 0.01
    most: float = 10.0

    vectors = ("m", "v", "u")

    def init(self, layout):
        return super().init(layout) | {"ratios": torch.zeros(len(layout.segments), dtype=torch.float64)}

    def apply(self, x, direction, state, step):
        weight_decays = step.weight_decays(self.weight_decay)
        for span, g in _gradients(direction, step):
            part, m, v, u = (a[span.coordinates] for a in (x, state["m"], state["v"], state["u"]))
            bits.blend(m, g, self.beta1, 1 - self.beta1)
            bits.blend(v, g * g, self.beta2, 1 - self.beta2)
            torch.div(m, bits.root(v).add_(self.epsilon), out=u)
            bits.blend(u, part, 1.0, float(weight_decays[span.segment]))

    def finish(self, x, state, step, objective):
        u, layout = state["u"], step.layout
        of_x, of_u = _norms(x, layout), _norms(u, layout)
        known = (of_x > 0) & (of_u > 0)
        r = np.where(known, np.clip(of_x / np.where(known, of_u, 1.0), self.least, self.most), 1.0)
        ratios = state["ratios"].numpy()
        ratios[r != 1] = self.average * ratios[r != 1] + (1 - self.average) * r[r != 1]
        for span in layout.all_spans:
            rate = step.lr_of(span.segment) * r[span.segment]
            bits.blend(x[span.coordinates], u[span.coordinates], 1.0, -rate)


@dataclass(frozen=True)
class FrozenLamb(Update):
    """x -= lr*c*f*u for each parameter, u = m/(sqrt(v) + epsilon) + weight_decay*x, m what was decided.

    v and c no longer change: they are those that Lamb left as `v` and `ratios`. f = the largest of
    (sqrt(v) + epsilon)/(sqrt(w) + epsilon), w the average of g^2 that goes on from v, g = (m - beta1*m before)/(1 -
    beta1). f is mixed with 1 as far as u is weight decay, kept within [least, most], and changes by no more than
    `change` of itself; it starts as 1. A coordinate whose v is 0 never had a gradient and its m does not count.
    Source: Li et al. 2022 (1-bit LAMB), as in the authors' code (DeepSpeed).
    """

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    least: float = 0.5
    most: float = 4.0
    change: float = 0.1

    vectors = ("m", "v", "w", "u", "quotients")

    def init(self, layout):
        each = {name: torch.zeros(len(layout.segments), dtype=torch.float64) for name in ("ratios", "factors")}
        return super().init(layout) | each

    def apply(self, x, direction, state, step):
        for span, new in direction.values(step.layout):
            m, v, w, u, quotients = (state[name][span.coordinates] for name in self.vectors)
            # g = (new - beta1*m)/(1 - beta1)
            bits.blend(m, new, -self.beta1, 1.0)
            g = m.mul_(1 / (1 - self.beta1))
            bits.blend(w, g * g, self.beta2, 1 - self.beta2)
            m.copy_(new)
            scale = bits.root(v).add_(self.epsilon)
            torch.div(scale, bits.root(w).add_(self.epsilon), out=quotients)
            torch.div(m, scale, out=u).masked_fill_(v == 0, 0.0)

    def finish(self, x, state, step, objective):
        u, layout = state["u"], step.layout
        factors, alone = self._factors(state, layout), _norms(u, layout)
        weight_decays = step.weight_decays(self.weight_decay)
        for span in layout.all_spans:
            bits.blend(u[span.coordinates], x[span.coordinates], 1.0, float(weight_decays[span.segment]))
        together = _norms(u, layout)
        share = np.minimum(1.0, alone / np.where(together > 0, together, 1.0))
        factors = self._bounded(np.where(weight_decays > 0, factors * share + (1 - share), factors), state)
        rates = step.rates * state["ratios"].numpy() * factors
        for span in layout.all_spans:
            bits.blend(x[span.coordinates], u[span.coordinates], 1.0, -float(rates[span.segment]))

    def _factors(self, state, layout):
        """The largest quotient of every segment, float64 (segments,)."""
        return layout.largest_magnitudes(bits.tile_maxima(state["quotients"], layout.all_tiles)).astype(np.float64)

    def _bounded(self, factors, state):
        """Factors within their bounds and close to the last ones, which they become."""
        last = state["factors"].numpy()
        before = np.where(last == 0, 1.0, last)
        bounded = np.clip(factors, self.least, self.most)
        last[:] = np.clip(bounded, before * (1 - self.change), before * (1 + self.change))
        return last
