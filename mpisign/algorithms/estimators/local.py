"""Estimates from steps that a voter takes on its own, each on a minibatch of its own.

What optimiser takes them is a part: `InnerOptimiser` turns a gradient into a direction, and the walk moves along it.
"""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from mpisign import bits
from mpisign.algorithms.estimators.plain import SEVERAL
from mpisign.algorithms.growth import Doubling
from mpisign.algorithms.slots import Estimator, State


class _Local(Estimator):
    """Walks from x, some minibatches far; the oracle's batches count on from one walk to the next."""

    averages, scratch = False, ("point",)
    needs = SEVERAL

    def walks(self, age: int) -> int:
        """Minibatches of the walk at a step of that age."""
        raise NotImplementedError

    def walk(self, oracle, x, state, step):
        """Yields the gradient at each point of the walk; the caller moves state["point"]."""
        point, g, losses = state["point"].copy_(x), state["g"], []
        first = self.minibatches_before(step.begun) + self.minibatches_before(step.age)
        for k in range(self.walks(step.age)):
            oracle.begin(first + k)
            oracle.gradient(point, g)
            losses.append(oracle.loss)
            yield point, g
        # what is recorded is the loss before the step, or the first that is not finite, by which all ranks stop
        oracle.loss = next((loss for loss in losses if not math.isfinite(loss)), losses[0])

    def evaluations(self, batch, rows, age):
        return self.walks(age) * batch


class InnerOptimiser:
    """How a step of a walk follows from a gradient: point -= rate * direction. Its arrays stay with the voter."""

    vectors: ClassVar[tuple[str, ...]] = ()  # names of its float32 arrays, zeros before the first walk
    scratch: ClassVar[tuple[str, ...]] = ()  # likewise, of those that hold nothing from step to step
    numbers: ClassVar[tuple[str, ...]] = ()  # names of its float64 arrays (1,), zeros before the first walk

    def direction(self, g: Tensor, point: Tensor, state: State) -> Tensor:
        """The direction, float32 (d,), at a point where the gradient is g; not finite where g is not. May overwrite g.

        Every operation rounds once, so that walks are the same bits on any machine.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class InnerSgd(InnerOptimiser):
    """Along the gradient."""

    def direction(self, g, point, state):
        return g


@dataclass(frozen=True)
class InnerAdam(InnerOptimiser):
    """Along m/(sqrt(variance) + epsilon) with Adam's averages and bias corrections, + weight_decay * point (AdamW)."""

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0

    vectors, numbers = ("m", "variance"), ("taken",)

    def direction(self, g, point, state):
        m, variance = state["m"], state["variance"]
        taken = int(state["taken"].add_(1))  # by this voter, who may have joined a run later
        bits.blend(m, g, self.beta1, 1 - self.beta1)
        bits.blend(variance, g * g, self.beta2, 1 - self.beta2)
        scale = bits.root(variance * (1 / (1 - self.beta2**taken))).add_(self.epsilon)
        direction = (m * (1 / (1 - self.beta1**taken))).div_(scale)
        if self.weight_decay:
            bits.blend(direction, point, 1.0, self.weight_decay)
        return direction


@dataclass(frozen=True)
class InnerLion(InnerOptimiser):
    """Along sign(beta1*m + (1 - beta1)*g), sign(0) = 0, then m = beta2*m + (1 - beta2)*g."""

    beta1: float = 0.9
    beta2: float = 0.99

    vectors, scratch = ("m",), ("mixed",)

    def direction(self, g, point, state):
        m, mixed = state["m"], state["mixed"].copy_(state["m"])
        bits.blend(mixed, g, self.beta1, 1 - self.beta1)
        bits.blend(m, g, self.beta2, 1 - self.beta2)
        # 0 where it is finite, else NaN: the sign of what is not a number would be 0, and nobody would be told
        unfit = torch.sub(mixed, mixed, out=g)
        return mixed.sign_().add_(unfit)


@dataclass(frozen=True)
class LocalSteps(_Local):
    """v = the sum of the directions on a walk of `steps` steps of an optimiser: (x - where it ends)/rate.

    rate: of a step; 0 for the run's learning rate, in each segment its own.
    """

    steps: int = 4
    rate: float = 0.01
    by: InnerOptimiser = field(default_factory=InnerSgd)

    @property
    def minibatches(self):
        return self.steps

    @property
    def vectors(self):
        return ("g", "v", *self.by.vectors)

    @property
    def scratch(self):
        return ("point", *self.by.scratch)

    @property
    def numbers(self):
        return self.by.numbers

    def walks(self, age):
        return self.steps

    def estimate(self, oracle, x, state, step):
        v, rates = state["v"].zero_(), [self.rate or step.lr_of(span.segment) for span in step.layout.all_spans]
        for point, g in self.walk(oracle, x, state, step):
            direction = self.by.direction(g, point, state)
            bits.blend(v, direction, 1.0, 1.0)
            for span, rate in zip(step.layout.all_spans, rates, strict=True):
                bits.blend(point[span.coordinates], direction[span.coordinates], 1.0, -rate)
        return v


@dataclass(frozen=True)
class SharedLion(LocalSteps):
    """LocalSteps by Lion, all of which begin with one m: the mean of what m was where the voters' walks ended."""

    by: InnerOptimiser = field(default_factory=InnerLion)

    alike = ("m",)

    def side_information(self):
        return "the mean of the momenta, 64(n-1)/n bits per coordinate up and down together"

    def shared_floats(self, layout):
        return layout.size

    def agree(self, estimates, states, step):
        mean = step.world.mean([state["m"] for state in states], step.layout.size).to(step.layout.device)
        for state in states:
            state["m"].copy_(mean)


@dataclass(frozen=True)
class LocalAdam(_Local):
    """v = the mean of m on a walk of steps m = beta*m + (1 - beta)*g, point -= lr*m/(sqrt(variance) + epsilon).

    lengths: of the walks, the first of which is at the step of age `after`; before it a step is one minibatch. m starts
    as what was decided at the step before. The variance does not change, and is divided by `correction`; a coordinate
    where it is 0 does not move.
    """

    lengths: Doubling = field(default_factory=Doubling)
    after: int = 0
    beta: float = 0.9
    epsilon: float = 1e-8
    correction: float = 1.0

    vectors, alike = ("g", "m", "variance", "v"), ("m", "variance")

    def walks(self, age):
        return self.lengths.length(max(age - self.after, 0))

    def minibatches_before(self, age):
        return min(age, self.after) + self.lengths.begin(max(age - self.after, 0))

    def estimate(self, oracle, x, state, step):
        m, v, layout = state["m"], state["v"].zero_(), step.layout
        scale = torch.sqrt(state["variance"] / self.correction).add_(self.epsilon)
        still, share = state["variance"] == 0, 1 / self.walks(step.age)
        for point, g in self.walk(oracle, x, state, step):
            bits.blend(m, g, self.beta, 1 - self.beta)
            bits.blend(v, m, 1.0, share)
            move = (m / scale).masked_fill_(still, 0.0)
            for span in layout.all_spans:
                bits.blend(point[span.coordinates], move[span.coordinates], 1.0, -step.lr_of(span.segment))
        return v

    def observe(self, direction, state, step):
        direction.write(state["m"], step.layout)
