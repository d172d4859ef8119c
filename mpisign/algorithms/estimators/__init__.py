"""What a voter believes its gradient is: v, a flat float32 vector."""

from mpisign.algorithms.estimators.corrected import Correction, LionStorm, SnapshotStorm, Storm, Svrg
from mpisign.algorithms.estimators.local import (
    InnerAdam,
    InnerLion,
    InnerOptimiser,
    InnerSgd,
    LocalAdam,
    LocalSteps,
    SharedLion,
)
from mpisign.algorithms.estimators.low_rank import LowRank
from mpisign.algorithms.estimators.matrices import Cosine, Polar
from mpisign.algorithms.estimators.momentum import (
    DecidedMomentum,
    Lion,
    Momentum,
    Nesterov,
    NormalisedMomentum,
    SyncedLion,
)
from mpisign.algorithms.estimators.plain import (
    ClippedRows,
    Extrapolated,
    FullGradient,
    GrowingBatch,
    Minibatch,
    ProximalMap,
)
from mpisign.algorithms.estimators.reporting import CalibratedMomentum, Differences, DualNorm
from mpisign.algorithms.estimators.tables import Sag, Saga
from mpisign.algorithms.estimators.values import SharedDirection, ZerothOrder

__all__ = [
    "CalibratedMomentum",
    "ClippedRows",
    "Correction",
    "Cosine",
    "DecidedMomentum",
    "Differences",
    "DualNorm",
    "Extrapolated",
    "FullGradient",
    "GrowingBatch",
    "InnerAdam",
    "InnerLion",
    "InnerOptimiser",
    "InnerSgd",
    "Lion",
    "LionStorm",
    "LocalAdam",
    "LocalSteps",
    "LowRank",
    "Minibatch",
    "Momentum",
    "Nesterov",
    "NormalisedMomentum",
    "Polar",
    "ProximalMap",
    "Sag",
    "Saga",
    "SharedDirection",
    "SharedLion",
    "SnapshotStorm",
    "Storm",
    "Svrg",
    "SyncedLion",
    "ZerothOrder",
]
