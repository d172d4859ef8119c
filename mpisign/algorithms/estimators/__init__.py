"""What a voter believes its gradient is: v, a flat float32 vector."""

from mpisign.algorithms.estimators.corrected import Correction, SnapshotStorm, Storm, Svrg
from mpisign.algorithms.estimators.local import LocalAdam, LocalSteps
from mpisign.algorithms.estimators.low_rank import LowRank
from mpisign.algorithms.estimators.matrices import Polar
from mpisign.algorithms.estimators.momentum import DecidedMomentum, Lion, Momentum, Nesterov
from mpisign.algorithms.estimators.plain import ClippedRows, Extrapolated, FullGradient, Minibatch
from mpisign.algorithms.estimators.reporting import CalibratedMomentum, Differences, DualNorm
from mpisign.algorithms.estimators.tables import Sag, Saga
from mpisign.algorithms.estimators.values import SharedDirection, ZerothOrder

__all__ = [
    "CalibratedMomentum",
    "ClippedRows",
    "Correction",
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
    "Polar",
    "Sag",
    "Saga",
    "SharedDirection",
    "SnapshotStorm",
    "Storm",
    "Svrg",
    "ZerothOrder",
]
