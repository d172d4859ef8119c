"""How x moves along the direction, alike on every rank."""

from mpisign.algorithms.updates.adaptive import Adadelta, Adagrad, Adam, FrozenAdam, VarianceAdapted, Yogi
from mpisign.algorithms.updates.dense import CalibratedDescent, NormalisedDescent, RawDescent, Sgd, VotedDescent
from mpisign.algorithms.updates.descent import (
    BetterPoint,
    CalibratingDescent,
    Descent,
    ParameterFree,
    Rprop,
    SteepestDescent,
)
from mpisign.algorithms.updates.matrices import (
    MatrixDescent,
    PolarDescent,
    PolarSignDescent,
    SignDescent,
    TrackedPolarDescent,
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
    "MatrixDescent",
    "NormalisedDescent",
    "ParameterFree",
    "PolarDescent",
    "PolarSignDescent",
    "RawDescent",
    "Rprop",
    "Sgd",
    "SignDescent",
    "SteepestDescent",
    "TrackedPolarDescent",
    "VarianceAdapted",
    "VotedDescent",
    "Yogi",
]
