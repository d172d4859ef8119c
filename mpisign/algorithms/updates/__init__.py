"""How x moves along the direction, alike on every rank."""

from mpisign.algorithms.updates.adaptive import (
    Adadelta,
    Adagrad,
    Adam,
    FrozenAdam,
    FrozenLamb,
    Lamb,
    VarianceAdapted,
    Yogi,
)
from mpisign.algorithms.updates.dense import CalibratedDescent, NormalisedDescent, RawDescent, Sgd, VotedDescent
from mpisign.algorithms.updates.descent import (
    AcceleratedDescent,
    AttractedDescent,
    BetterPoint,
    CalibratingDescent,
    Descent,
    ImprovedRprop,
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
    "AcceleratedDescent",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AttractedDescent",
    "BetterPoint",
    "CalibratedDescent",
    "CalibratingDescent",
    "Descent",
    "FrozenAdam",
    "FrozenLamb",
    "ImprovedRprop",
    "Lamb",
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
