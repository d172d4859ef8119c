"""The library face: a torch optimiser whose step is a vote of all ranks, for training loops of one's own.

    opt = mpisign.optim.SignOptimizer(model, algorithm="signum-mv", lr=1e-3, weight_decay=0.1)
    ...
    loss.backward(); opt.step()

It drives the Stepper that `mpisign train` drives: the same seed, batches and number of threads give the same bits.
"""

from mpisign.optim.optimizer import SignOptimizer
from mpisign.optim.statistics import Statistics

__all__ = ["SignOptimizer", "Statistics"]
