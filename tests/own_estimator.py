"""Estimators with communication of their own, as another package would write them."""

from dataclasses import dataclass

from mpisign import bits
from mpisign.algorithms import Algorithm, algorithm
from mpisign.algorithms.estimators import Minibatch
from mpisign.algorithms.signs import Sign
from mpisign.algorithms.updates import Descent
from mpisign.algorithms.votes import Majority


@dataclass(frozen=True)
class Pulled(Minibatch):
    """v = (g + 2 * the mean of all voters' g) / 3."""

    def agree(self, estimates, states, step):
        mean = step.world.mean(list(estimates), step.layout.size)
        for v in estimates:
            bits.blend(v, mean, 1 / 3, 2 / 3)


@algorithm("pulled", paper="none", lr=1e-3, known="Nothing.")
def pulled():
    """Sign of a gradient that is pulled towards the mean of all."""
    return Algorithm(Pulled(), Sign(), Majority(), Descent())
