"""What a voter believes its gradient is: v, a flat float32 vector."""

from mpisign.algorithms.estimators.corrected import Correction, SnapshotStorm, Storm, Svrg
from mpisign.algorithms.estimators.local import ByAdam, ByLion, BySgd, LocalAdam, LocalSteps, Optimiser, SharedLion
from mpisign.algorithms.estimators.low_rank import LowRank
from mpisign.algorithms.estimators.matrices import Cosine, Polar
from mpisign.algorithms.estimators.momentum import DecidedMomentum, Lion, Momentum, Nesterov
from mpisign.algorithms.estimators.plain import ClippedRows, Extrapolated, FullGradient, Minibatch
from mpisign.algorithms.estimators.reporting import CalibratedMomentum, Differences, DualNorm
from mpisign.algorithms.estimators.tables import Sag, Saga
from mpisign.algorithms.estimators.values import ZerothOrder

__all__ = [
    "ByAdam",
    "ByLion",
    "BySgd",
    "CalibratedMomentum",
    "ClippedRows",
    "Correction",
    "Cosine",
    "DecidedMomentum",
    "Differences",
    "DualNorm",
    "Extrapolated",
    "FullGradient",
    "Lion",
    "LocalAdam",
    "LocalSteps",
    "LowRank",
    "Minibatch",
    "Momentum",
    "Nesterov",
    "Optimiser",
    "Polar",
    "Sag",
    "Saga",
    "SharedLion",
    "SnapshotStorm",
    "Storm",
    "Svrg",
    "ZerothOrder",
]
