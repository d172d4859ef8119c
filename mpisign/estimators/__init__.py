"""What a voter believes its gradient is: v, a flat float32 vector."""

from mpisign.estimators.corrected import Correction, SnapshotStorm, Storm, Svrg
from mpisign.estimators.local import LocalAdam, LocalSteps
from mpisign.estimators.momentum import DecidedMomentum, Lion, Momentum, Nesterov
from mpisign.estimators.plain import ClippedRows, FullGradient, Minibatch
from mpisign.estimators.telling import CalibratedMomentum, Differences
from mpisign.estimators.values import ZerothOrder

__all__ = [
    "CalibratedMomentum",
    "ClippedRows",
    "Correction",
    "DecidedMomentum",
    "Differences",
    "FullGradient",
    "Lion",
    "LocalAdam",
    "LocalSteps",
    "Minibatch",
    "Momentum",
    "Nesterov",
    "SnapshotStorm",
    "Storm",
    "Svrg",
    "ZerothOrder",
]
