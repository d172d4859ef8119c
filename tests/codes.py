"""What messages of codes say, over many draws: for claims about means and variances."""

import numpy as np
import torch

from tests.building import Setup
from tests.problems import Awkward
from tests.test_adversary import there

DRAWS = 600


class Reader:
    """Encodes one v many times, each in a step of its own, and reads what was written.

    v: a function of the places in x that belong to a parameter.
    """

    def __init__(self, form, v):
        setup = Setup(Awkward(size=8192 - 256), 1)
        self.form, self.stepper = form, setup.stepper(setup.algorithm("sgd"))
        self.v, self.real = setup.layout.zeros(), there(setup.layout)
        self.v.numpy()[self.real] = v(np.flatnonzero(self.real))

    def __call__(self, t):
        self.stepper.t = t
        step, read = self.stepper.at_hand(self.stepper.layout), torch.zeros_like(self.v)
        message = self.form.empty(coordinates=len(self.v))
        self.form.encode(self.v, 0, step.draw("sign"), message, step)
        self.form.add(message, read, 0, step)
        return read.double().numpy()[self.real]

    @property
    def truth(self):
        return self.v.double().numpy()[self.real]

    def many(self):
        return np.array([self(t) for t in range(DRAWS)])

    def error(self):
        """E|C(v) - v|^2 / |v|^2, measured."""
        return ((self.many() - self.truth) ** 2).sum(axis=1).mean() / (self.truth**2).sum()


def heavy(places):
    """Values of a few large and many small coordinates."""
    return np.random.default_rng(3).standard_normal(len(places)) ** 3


def alike(places):
    return np.where(places % 2, 0.25, -0.25)


def deviations(draws, truth, least=500):
    """Of the mean of draws (DRAWS, d), in its standard errors: the mean of their squares over coordinates, 1 where
    there is no bias, and the largest. least: coordinates that must be among those that tell.
    """
    spread = draws.std(axis=0, ddof=1)
    # where hardly any draw differs from the usual one, a standard error says nothing
    rare = (draws != np.median(draws, axis=0)).sum(axis=0) < 30
    some = (spread > 1e-6 * spread.max()) & ~rare
    z = (draws.mean(axis=0) - truth)[some] / (spread[some] / np.sqrt(len(draws)))
    assert len(z) > least
    return (z**2).mean(), np.abs(z).max()


def pooled(form):
    """The deviations of the mean of a code of a heavy v."""
    reader = Reader(form, heavy)
    return deviations(reader.many(), reader.truth)
