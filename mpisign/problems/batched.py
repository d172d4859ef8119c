"""All voters of a process asked at once: for problems whose gradients are elementwise, and a thousand voters.

A BatchedOracle answers like an Oracle, with a row for each voter, which has the bits that the voter's own oracle gives.
"""

import numpy as np
import torch
from torch import Tensor

from mpisign.problems.base import Rows
from mpisign.problems.oracle import Oracle


def batch_oracles(oracles: list[Oracle]) -> "BatchedOracle | None":
    """One oracle for several voters, or None where they can't be asked at once.

    They can if the problem is elementwise, a gradient is of one draw, or of the only row that a voter owns, and their
    numbers count from 0.
    """
    first = oracles[0]
    simple = first.accumulate == 1 and not first.clip
    alike = all(o.rows is None or o.rows.count == 1 for o in oracles)
    if len(oracles) == 1 or not first.problem.elementwise or not simple or not alike:
        return None
    return BatchedOracle(oracles) if [o.voter for o in oracles] == [*range(len(oracles))] else None


class BatchedOracle:
    """The voters 0 to n - 1 of one problem."""

    def __init__(self, oracles: list[Oracle]):
        self.oracles, first = oracles, oracles[0]
        self.problem, self.layout, self.streams = first.problem, first.layout, first.streams
        self.loss = np.full(len(oracles), np.nan)  # of each voter's latest batch
        self._rows = None
        if first.rows is not None:
            names = first.rows.arrays
            stacked = {name: torch.stack([o.rows[name] for o in oracles]) for name in names}
            self._rows = Rows(**stacked)
        self._t = 0

    def begin(self, t: int) -> None:
        """Turns to step t."""
        self._t = t

    def gradient(self, x: Tensor, out: Tensor, again: bool = False) -> None:
        """Every voter's gradient of this step's batch at x (flat), written to the rows of out (n, flat)."""
        batch = self._rows
        if batch is None:
            batch = self.problem.draw(self.streams.draw("noise", self._t, 0), len(self.oracles))
        gradients = {s.name: out[:, s.offset : s.end].unflatten(1, s.shape) for s in self.layout.segments}
        out.zero_()
        loss = self.problem.gradient(self.layout.views(x.detach()), batch, gradients)
        # counted by one of them for all
        self.oracles[0].evaluations += len(self.oracles)
        if not again:
            self.loss = np.broadcast_to(np.asarray(loss, dtype=np.float64), (len(self.oracles),))
