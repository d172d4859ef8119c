"""Learning rate as a function of the step: factors in [0, 1] on the peak rate."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """lr * factor(t), after `warmup` steps that rise linearly: lr * (t + 1) / warmup at step t < warmup.

    The factor counts steps from the end of the warm-up. "step" multiplies by `decay` at each of
    `milestones`, given as fractions of the run.
    """

    kind: str
    lr: float
    steps: int
    warmup: int = 0
    milestones: Sequence[float] = (0.5, 0.75)
    decay: float = 0.1

    def __call__(self, t: int) -> float:
        if t < self.warmup:
            return self.lr * (t + 1) / self.warmup
        return self.lr * self._factor(t - self.warmup, self.steps - self.warmup)

    def _factor(self, t: int, steps: int) -> float:
        match self.kind:
            case "constant":
                return 1.0
            case "inverse-sqrt":  # that of most theorems
                return 1 / math.sqrt(t + 1)
            case "cosine":  # half a one, from 1 to 0 a step after the last [Loshchilov & Hutter 2017 eqn 5, one cycle]
                return 0.5 * (1 + math.cos(math.pi * t / max(steps, 1)))
            case "step":
                return self.decay ** sum(t >= m * steps for m in self.milestones)
        raise ValueError(self.kind)
