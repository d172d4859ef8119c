"""What travels beside the messages of a step, and why a step or a run may end by it.

One row per voter, float64: the first coordinate that is not finite or -1; its value, or else a request; the loss; the
scales of its message, if it has any; and what its estimator tells the updates, if it does. An exchange takes the rows
along with its messages where it can; otherwise the world sends them.
"""

import math

import numpy as np

from mpisign.algorithms.method import Algorithm
from mpisign.errors import NumericalError
from mpisign.layout import Layout
from mpisign.parallel.world import World

FLAGS = 3  # numbers before the scales


def numbers_of(algorithm: Algorithm, layout: Layout) -> int:
    """How many numbers a voter's row has."""
    scales = sum(len(g.layout.segments) for g in layout.groups if algorithm.of(g).sign.up().scaled)
    return FLAGS + scales + algorithm.estimator.reports


def first_bad(by_channel: list[list[int]]) -> list[int]:
    """The first bad coordinate of each voter by those of several channels, in their order; -1 where there is none."""
    first, *others = by_channel
    for later in others:
        first = [bad if bad >= 0 else other for bad, other in zip(first, later, strict=True)]
    return first


def pack_header(bad: list[int], estimates, request: int, losses, rows_beside: list[list[np.ndarray]]) -> np.ndarray:
    """The rows of the local voters. bad: of each, its first bad coordinate. rows_beside: what follows the flags."""
    told = [request if first < 0 else float(estimates[i][first]) for i, first in enumerate(bad)]
    rows = np.array(list(zip(bad, told, losses, strict=True)), dtype=np.float64)
    return np.hstack([rows, *map(np.array, rows_beside)]) if rows_beside else rows


def refuse_nonfinite(header: np.ndarray, layout: Layout, t: int, world: World) -> None:
    """Raises NumericalError, the same on all ranks, if anything in the headers (n, k) of step t is not finite."""
    if np.isfinite(header).all():  # the value of a bad coordinate, too, is none
        return
    for voter, (bad, value, loss, *scales) in zip(world.voters, header, strict=True):
        if bad >= 0:
            what = f"the estimate of parameter {layout.name_of(int(bad))} is {value}"
        elif not math.isfinite(loss):
            what = f"the loss is {loss}"
        elif not np.isfinite(scales).all():
            segment = int(np.flatnonzero(~np.isfinite(scales))[0])
            what = f"the scale of parameter {layout.segments[segment].name} is {scales[segment]}"
        else:
            continue
        whose = "this rank's" if world.each == 1 else "this voter's"
        raise NumericalError(
            f"{world.name_of(voter)}: {what} at step {t}; all ranks stop, x is as it was before the step. "
            f"Lower schedule.lr, set algorithm.clip, or look at {whose} rows",
            agreed=True,
        )


def refuse_drift(digests: list[bytes], t: int, each: int = 1) -> None:
    """Raises NumericalError, the same on all ranks, if hashes of x after t steps differ, naming those that drifted.

    each: ranks of a voter, of which a hash is.
    """
    groups = [[r for r, d in enumerate(digests) if d == one] for one in dict.fromkeys(digests)]
    if len(groups) == 1:
        return
    most, what = max(groups, key=len), "rank" if each == 1 else "voter"
    if 2 * len(most) > len(digests):
        others = sorted(r for group in groups if group is not most for r in group)
        who = f"{what}(s) {others} differ from those of the other {what}s"
    else:
        who = f"{what}s {' and '.join(map(str, groups))} differ, and none of them are a majority"
    raise NumericalError(
        f"after step {t} the parameters of {who}; "
        "a replica has drifted (bad memory, or code that changes x on one rank only)",
        agreed=True,
    )
