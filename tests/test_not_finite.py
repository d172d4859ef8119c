"""A gradient that is not finite stops every method, on all ranks, before x moves."""

import math

import pytest
import torch

from mpisign.errors import NumericalError
from tests.building import Setup
from tests.problems import Awkward, Layered
from tests.table import TABLE

STEPS = 12  # in which every block of coordinates and every snapshot has its turn


class Poisoned:
    """A problem whose gradients, and function values, become NaN: the gradients in one coordinate, losses never."""

    poisoned = False

    def gradient(self, parameters, batch, out):
        loss = super().gradient(parameters, batch, out)
        self._poison(out)
        return loss

    def combine(self, batch, weights, gradients):
        super().combine(batch, weights, gradients)
        self._poison(gradients)

    def _poison(self, gradients):
        if self.poisoned:
            next(iter(gradients.values())).view(-1)[7] = math.nan

    def value(self, parameters, batch):
        return math.nan if self.poisoned else super().value(parameters, batch)


class PoisonedAwkward(Poisoned, Awkward):
    pass


class PoisonedLayered(Poisoned, Layered):
    pass


def follow(stepper, lr, points):
    """Steps, with the point that each of them reaches."""
    for _ in range(STEPS):
        stepper.step(lr)
        points.append(stepper.x.clone())


@pytest.mark.parametrize("name", TABLE)
def test_what_is_not_finite_stops_the_run(name):
    row, problem = TABLE[name], (PoisonedLayered if name == "powersgd" else PoisonedAwkward)()
    setup = Setup(problem, 3)
    stepper = setup.stepper(setup.algorithm(name, **row.hyper))
    for t in range(2):
        stepper.step(1e-3 * row.scale / (t + 1) ** 0.5)
    problem.poisoned = True
    points = [stepper.x.clone()]
    with pytest.raises(NumericalError):
        follow(stepper, 1e-3 * row.scale, points)
    assert torch.equal(stepper.x, points[-1])
    assert torch.isfinite(stepper.x).all()
