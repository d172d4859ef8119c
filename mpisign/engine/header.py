"""What travels beside the messages of a step, and why a step or a run may end by it.

One row per voter, float64: the first coordinate that is not finite or -1; its value, or else a request; the loss; the
scales of its message, if it has any; and what its estimator tells the updates, if it does.
"""

import math

import numpy as np

from mpisign.errors import NumericalError
from mpisign.layout import Layout

FLAGS = 3  # numbers before the scales


def first_bad(by_channel: list[np.ndarray]) -> np.ndarray:
    """The first bad coordinate of each voter by those of several channels, in their order; -1 where there is none."""
    first = by_channel[0]
    for later in by_channel[1:]:
        first = np.where(first < 0, later, first)
    return first


def pack_header(bad: np.ndarray, estimates, request: int, losses, rows_beside: list[list[np.ndarray]]) -> np.ndarray:
    """The rows of the local voters. bad: of each, its first bad coordinate. rows_beside: what follows the flags."""
    rows = np.zeros((len(bad), FLAGS))
    rows[:, 0], rows[:, 1], rows[:, 2] = bad, request, losses
    for i in np.flatnonzero(bad >= 0):
        rows[i, 1] = float(estimates[i][int(bad[i])])
    return np.hstack([rows, *map(np.array, rows_beside)]) if rows_beside else rows


def refuse_nonfinite(header: np.ndarray, layout: Layout, t: int) -> None:
    """Raises NumericalError, the same on all ranks, if anything in the headers (n, k) of step t is not finite."""
    if (header[:, 0] < 0).all() and np.isfinite(header[:, 2:]).all():
        return
    for voter, (bad, value, loss, *scales) in enumerate(header):
        if bad >= 0:
            what = f"the estimate of parameter {layout.name_of(int(bad))} is {value}"
        elif not math.isfinite(loss):
            what = f"the loss is {loss}"
        elif not np.isfinite(scales).all():
            segment = int(np.flatnonzero(~np.isfinite(scales))[0])
            what = f"the scale of parameter {layout.segments[segment].name} is {scales[segment]}"
        else:
            continue
        raise NumericalError(
            f"rank {voter}: {what} at step {t}; all ranks stop, x is as it was before the step. "
            "Lower schedule.lr, set algorithm.clip, or look at this rank's rows",
            agreed=True,
        )


def refuse_drift(digests: list[bytes], t: int) -> None:
    """Raises NumericalError, the same on all ranks, if hashes of x after t steps differ, naming those that drifted."""
    groups = [[r for r, d in enumerate(digests) if d == one] for one in dict.fromkeys(digests)]
    if len(groups) == 1:
        return
    most = max(groups, key=len)
    if 2 * len(most) > len(digests):
        others = sorted(r for group in groups if group is not most for r in group)
        who = f"rank(s) {others} differ from those of the other ranks"
    else:
        who = f"ranks {' and '.join(map(str, groups))} differ, and none of them are a majority"
    raise NumericalError(
        f"after step {t} the parameters of {who}; "
        "a replica has drifted (bad memory, or code that changes x on one rank only)",
        agreed=True,
    )
