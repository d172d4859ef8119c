"""How x moves along the direction, alike on every rank."""

from mpisign.algorithms.updates.adaptive import Adadelta, Adagrad, Adam, FrozenAdam, VarianceAdapted, Yogi
from mpisign.algorithms.updates.dense import CalibratedDescent, NormalisedDescent, RawDescent, Sgd
from mpisign.algorithms.updates.descent import (
    BetterPoint,
    CalibratingDescent,
    Descent,
    ParameterFree,
    Rprop,
    SteepestDescent,
)

__all__ = [
    "Adadelta",
    "Adagrad",
    "Adam",
    "BetterPoint",
    "CalibratedDescent",
    "CalibratingDescent",
    "Descent",
    "FrozenAdam",
    "NormalisedDescent",
    "ParameterFree",
    "RawDescent",
    "Rprop",
    "Sgd",
    "SteepestDescent",
    "VarianceAdapted",
    "Yogi",
]
