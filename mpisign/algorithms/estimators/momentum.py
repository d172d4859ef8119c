"""Moving averages of gradients, through bits.blend, whose rounding is fixed: a trajectory is a matter of bits."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch

from mpisign import bits
from mpisign.algorithms.estimators.plain import Minibatch
from mpisign.algorithms.slots import Estimator
from mpisign.errors import choices

LEAST = 2.0**-149  # above 0 in float32


class _OfAnother(Estimator):
    """Keeps averages of another estimate, `of`, and asks for what that one asks for.

    last: the array that v is.
    """

    of: Estimator
    last: ClassVar[str] = "v"

    def __post_init__(self):
        if self.of.agrees:
            raise ValueError(f"voters agree on what {type(self.of).__name__} makes, not inside of a moving average")
        if twice := set(self.vectors) & {*self.of.vectors, *self.of.scratch}:
            raise ValueError(f"{type(self).__name__} and {type(self.of).__name__} both keep {choices(twice)}")

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
    def tables(self):
        return self.of.tables

    @property
    def scratch(self):
        return self.of.scratch

    @property
    def alike(self):
        return self.of.alike

    @property
    def bound(self):
        return self.of.bound

    @property
    def sampling(self):
        return self.of.sampling

    @property
    def reads_x(self):
        return self.of.reads_x

    @property
    def streams(self):
        return self.last if self.of.streams == "g" else ""

    def init(self, layout):
        return self.of.init(layout) | {name: layout.zeros() for name in self.vectors}

    def minibatches_before(self, age):
        return self.of.minibatches_before(age)

    def evaluations(self, batch, rows, age):
        return self.of.evaluations(batch, rows, age)


@dataclass(frozen=True)
class Momentum(_OfAnother):
    """m = beta*m + (1 - beta)*u, an exponential moving average of another estimate u.

    start: "zero" for m = 0 before the first step, "estimate" for m = u at the first step.
    """

    beta: float = 0.9
    start: str = "zero"
    of: Estimator = field(default_factory=Minibatch)

    vectors, last = ("m",), "m"

    def estimate(self, oracle, x, state, step):
        u, m = self.of.estimate(oracle, x, state, step), state["m"]
        if step.age == 0 and self.start == "estimate":
            return m.copy_(u)
        bits.blend(m, u, self.beta, 1 - self.beta)
        return m


@dataclass(frozen=True)
class NormalisedMomentum(_OfAnother):
    """v = m/b within [-1, 1], m and b moving averages of another estimate u and of |u| that forget alike; 0 where b is.

    Neither needs a correction of its start at 0, since both start so. Source: Peng et al. 2023 (Birder).
    """

    beta: float = 0.9
    of: Estimator = field(default_factory=Minibatch)

    vectors = ("b", "m", "v")

    def estimate(self, oracle, x, state, step):
        u, b, m, v = self.of.estimate(oracle, x, state, step), state["b"], state["m"], state["v"]
        bits.blend(m, u, self.beta, 1 - self.beta)
        bits.blend(b, torch.abs(u, out=v), self.beta, 1 - self.beta)
        # m is 0 where b is, and rounding may bring |m| above b
        torch.clamp(b, min=LEAST, out=v)
        return torch.div(m, v, out=v).clamp_(-1.0, 1.0)


@dataclass(frozen=True)
class Nesterov(Estimator):
    """m = momentum*m + g, v = momentum*m + g: the heavy ball, looked at one step ahead."""

    momentum: float = 0.9

    elementwise, streams, vectors = True, "v", ("g", "m", "v")

    def estimate(self, oracle, x, state, step):
        g, m, v = state["g"], state["m"], state["v"]
        oracle.gradient(x, g)
        bits.blend(m, g, self.momentum, 1.0)
        v.copy_(m)
        bits.blend(v, g, self.momentum, 1.0)
        return v


@dataclass(frozen=True)
class Lion(_OfAnother):
    """v = beta1*m + (1 - beta1)*u, then m = beta2*m + (1 - beta2)*u, of another estimate u."""

    beta1: float = 0.9
    beta2: float = 0.99
    of: Estimator = field(default_factory=Minibatch)

    vectors = ("m", "v")

    def estimate(self, oracle, x, state, step):
        u, m, v = self.of.estimate(oracle, x, state, step), state["m"], state["v"]
        v.copy_(m)
        bits.blend(v, u, self.beta1, 1 - self.beta1)
        bits.blend(m, u, self.beta2, 1 - self.beta2)
        return v


@dataclass(frozen=True)
class SyncedLion(Lion):
    """Lion whose m becomes the mean of all voters' m after every `every` steps, whole or in vectors alone.

    vectors_only: whether matrices, which are parameters of two or more dimensions, keep the m of each voter.
    """

    every: int = 100
    vectors_only: bool = False

    def side_information(self):
        what = "momenta of vectors" if self.vectors_only else "momenta"
        return f"the mean of {what} every {self.every} steps, 64(n-1)/n bits per coordinate up and down together"

    def _synced(self, layout):
        """The parameters whose m is averaged."""
        return [s for s in layout.segments if not (self.vectors_only and s.is_matrix)]

    def shared_floats(self, layout):
        return round(sum(s.size for s in self._synced(layout)) / self.every)

    def agree(self, estimates, states, step):
        parts = [slice(s.offset, s.end) for s in self._synced(step.layout)]
        if not parts or (step.age + 1) % self.every:
            return
        sent = [torch.cat([state["m"][part] for part in parts]) for state in states]
        mean = step.world.mean(sent).to(step.layout.device)
        averages = mean.split([part.stop - part.start for part in parts])
        for state in states:
            for part, average in zip(parts, averages, strict=True):
                state["m"][part] = average


@dataclass(frozen=True)
class DecidedMomentum(Estimator):
    """v = beta*m + (1 - beta)*g, where m is what was decided at the step before, the same for all voters."""

    beta: float = 0.9

    averages, vectors, alike = False, ("g", "m", "v"), ("m",)

    def estimate(self, oracle, x, state, step):
        g, v = state["g"], state["v"]
        oracle.gradient(x, g)
        v.copy_(state["m"])
        bits.blend(v, g, self.beta, 1 - self.beta)
        return v

    def observe(self, direction, state, step):
        direction.write(state["m"], step.layout)
