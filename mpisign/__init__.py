"""mpisign: training with sign-based distributed optimisation over MPI.

mpisign.optim.SignOptimizer is the way into a training loop of one's own.
"""

import importlib
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # imported when asked for: reading a run needs no torch
    if name == "optim":
        return importlib.import_module("mpisign.optim")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
