"""What the last step of a SignOptimizer told."""

import math
from dataclasses import dataclass, field, replace

from mpisign.engine.stepper import Outcome, Stepper
from mpisign.storage.schema import PHASES


@dataclass(frozen=True)
class Statistics:
    """Of one step, the same on every rank but for `seconds`.

    step: steps taken, this one included. agreement: mean over voting coordinates of |tally|/n, in [0, 1]; nan without
    votes. ties, zeros, clips, flips: coordinates whose tally is 0; estimates that are exactly 0; estimates outside the
    radius of a stochastic sign; verdicts that differ from those of the step counted before. bytes_up, bytes_down: sent
    by a rank, mean over ranks, scales and headers included. loss: mean over ranks of what the closure returned; nan
    without a closure. seconds: of this rank, by phase (estimate, sign, exchange, update). skipped: whether a gradient
    scaler met an overflow on some rank, so that no rank moved.
    """

    step: int = 0
    loss: float = math.nan
    agreement: float = math.nan
    ties: int = 0
    zeros: int = 0
    clips: int = 0
    flips: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    skipped: bool = False


def statistics_of(
    stepper: Stepper, outcome: Outcome, sent: tuple[int, int], ranks: int, counting: bool, with_loss: bool
) -> Statistics:
    """Of the step that a Stepper just took. Collective if counting, which the step must have done, too.

    sent: bytes up and down by this rank, one of `ranks`. with_loss: whether the outcome's loss is one.
    """
    seconds = dict(zip(list(PHASES)[:4], stepper.timer.take(), strict=False))
    plain = Statistics(step=stepper.t, loss=outcome.loss if with_loss else math.nan, seconds=seconds)
    if not counting:
        return plain
    total = outcome.totals(stepper.world, bytes_up=sent[0], bytes_down=sent[1])
    bytes_sent = {name: round(total.pop(name) / ranks) for name in ("bytes_up", "bytes_down")}
    return replace(plain, **total | bytes_sent)
