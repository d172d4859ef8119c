"""Learning rate as a function of the step: factors in [0, 1] on the peak rate."""

import math
from collections.abc import Callable, Sequence

Factor = Callable[[int, int], float]  # (step, all steps) -> factor

KINDS: dict[str, Factor | None] = {
    "constant": lambda t, steps: 1.0,
    # that of most theorems
    "inverse-sqrt": lambda t, steps: 1 / math.sqrt(t + 1),
    # half a cosine from 1 down to 0 at the last step [Loshchilov & Hutter 2017 eqn 5, one cycle]
    "cosine": lambda t, steps: 0.5 * (1 + math.cos(math.pi * t / max(steps, 1))),
    "step": None,
}


class Schedule:
    """lr * factor(t), after `warmup` steps that rise linearly: lr * (t + 1) / warmup at step t < warmup.

    The factor counts steps from the end of the warm-up. "step" multiplies by `decay` at each of
    `milestones`, given as fractions of the run.
    """

    def __init__(
        self,
        kind: str,
        lr: float,
        steps: int,
        warmup: int = 0,
        milestones: Sequence[float] = (0.5, 0.75),
        decay: float = 0.1,
    ):
        self.lr, self.steps, self.warmup = lr, steps, warmup
        self._factor: Factor = KINDS[kind] or (lambda t, steps: decay ** sum(t >= m * steps for m in milestones))

    def __call__(self, t: int) -> float:
        if t < self.warmup:
            return self.lr * (t + 1) / self.warmup
        return self.lr * self._factor(t - self.warmup, self.steps - self.warmup)
