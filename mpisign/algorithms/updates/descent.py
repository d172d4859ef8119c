"""Moves along what a vote decided, or along signs of it."""

from dataclasses import dataclass, replace

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
        bits.apply(step.layout.part(x, lo, hi), direction.planes, step.layout.parts(lo, hi), lo, tables, decays)


@dataclass(frozen=True)
class BetterPoint(Descent):
    """Descent, undone where f is not less than before [Safaryan & Richtarik 2021 alg. 1, option 2].

    f is exact: all rows of all voters, once a step.
    """

    needs, scratch, numbers = frozenset({"function values"}), ("before",), ("value",)
    bound = "f as the voters of then weigh it, to which later values are compared"

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
    x stays, or takes its last step back where it `backtracks`, and s counts as 0 at the next step. It is kept within
    [least, most].
    """

    increase: float = 1.2
    decrease: float = 0.5
    least: float = 1e-6
    most: float = 50.0
    backtracks: bool = False

    vectors = ("before", "size")

    def takes_back(self, state) -> bool:
        """Whether coordinates whose sign turned take their last step back."""
        return self.backtracks

    def apply(self, x, direction, state, step):
        for span, s in direction.values(step.layout):
            part, before, size = (v[span.coordinates] for v in (x, state["before"], state["size"]))
            if step.age == 0:
                size.fill_(step.lr_of(span.segment))
            same = before * s
            if self.takes_back(state):
                part += (size * before).masked_fill_(same >= 0, 0.0)
            size[same > 0] *= self.increase
            size[same < 0] *= self.decrease
            size.clamp_(self.least, self.most)
            s[same < 0] = 0.0
            part -= size * s
            before.copy_(s)


@dataclass(frozen=True)
class ImprovedRprop(Rprop):
    """Rprop that takes steps back only after f has risen [Igel & Huesken 2003, iRprop+].

    f is exact: all rows of all voters, once a step.
    """

    needs, numbers = frozenset({"function values"}), ("value", "risen")
    bound = BetterPoint.bound

    def begin(self, x, state, step, objective):
        value = objective()
        state["risen"][0] = step.age > 0 and value > state["value"][0]
        state["value"][0] = value

    def takes_back(self, state):
        return bool(state["risen"][0])

    def values(self, rows, age):
        return max(rows, 1)


@dataclass(frozen=True)
class AcceleratedDescent(Descent):
    """Descent of a point p from y = p + momentum*(p - p before); y = p where f(y) is above f(p).

    x is y, at which gradients are taken, and p is kept. f is exact: all rows of all voters, twice a step. Source:
    Leplat et al. 2025, accelerated signGD with restarts.
    """

    momentum: float = 0.9

    needs, vectors = frozenset({"function values"}), ("point",)

    def begin(self, x, state, step, objective):
        if step.age == 0:
            state["point"].copy_(x)

    def finish(self, x, state, step, objective):
        moved = x - state["point"]
        state["point"].copy_(x)
        value = objective()
        bits.blend(x, moved, 1.0, self.momentum)
        if objective() > value:
            x.copy_(state["point"])

    def values(self, rows, age):
        return 2 * max(rows, 1)


@dataclass(frozen=True)
class AttractedDescent(Update):
    """x -= lr*(s + gamma*sign(x - c)), s what was decided and c an average of x; then x -= lr*weight_decay*c.

    c = c + w*(x - c), w = (1 - beta)/(1 - beta^(t + 1)): a moving average of x, corrected for its start at 0, that is
    exactly x as long as x stays. Source: Liu, Liu & Gore 2025 (FOCUS), their code.
    """

    gamma: float = 0.1
    beta: float = 0.999
    weight_decay: float = 0.0

    vectors = ("center",)

    def apply(self, x, direction, state, step):
        share = (1 - self.beta) / (1 - self.beta ** (step.age + 1))
        weight_decays = step.weight_decays(self.weight_decay)
        for span, s in direction.values(step.layout):
            part, center, lr = x[span.coordinates], state["center"][span.coordinates], step.lr_of(span.segment)
            bits.blend(center, part - center, 1.0, share)
            bits.blend(s, torch.sign(part - center), 1.0, self.gamma)
            bits.blend(part, s, 1.0, -lr)
            bits.blend(part, center, 1.0, -lr * float(weight_decays[span.segment]))


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
class SteepestDescent(Descent):
    """Descent at lr times the voters' mean of |g|_1, which DualNorm tells: steepest in the max norm.

    Weight decay is decoupled, and by lr alone. Source: Carlson, Cevher & Carin 2015, the step for the l_inf norm.
    """

    numbers = ("norm",)

    def begin(self, x, state, step, objective):
        state["norm"][0] = float(ordered_total(step.reported)[0]) / len(step.reported)

    def apply(self, x, direction, state, step):
        Descent(self.weight_decay, self.first, float(state["norm"][0])).apply(x, direction, state, step)
