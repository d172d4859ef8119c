"""Estimates from a table of the latest derivative of every row: SAG and SAGA, for linear problems.

The loss of a row of a linear problem is a function of its linear form <a, x>, or of one per class. Its gradient is then
the derivative by the form, one number, times a: a table of all rows' latest gradients is one of numbers. Regularisers
are not in the table; their gradient is taken exactly at every step.
"""

from dataclasses import dataclass

import numpy as np
import torch

from mpisign.algorithms.estimators.plain import FINITE_SUM
from mpisign.algorithms.slots import Estimator

LINEAR = FINITE_SUM | {"linear"}


class _Table(Estimator):
    """Keeps `slopes`, the latest derivative of each row, and `total`, the sum of the gradients that they stand for."""

    needs, vectors = LINEAR, ("change", "v")
    bound = "a derivative for each of a voter's own rows, and rows are dealt anew"

    def init(self, layout):
        # float64, as rounding of ever so many changes adds up
        return super().init(layout) | {"total": layout.zeros().double()}

    def renew(self, oracle, x, state):
        """Renews the slopes of the batch; returns its rows, each once (numbers, int64), and fills in `change`.

        change: the sum over these rows of new gradient less old one, float32. The caller adds it to `total`.
        """
        rows, slopes, change = oracle.batch_rows(), state["slopes"], state["change"]
        derivatives = oracle.derivatives(x, rows)
        rows, first = np.unique(rows, return_index=True)
        where, new = torch.from_numpy(rows), derivatives[torch.from_numpy(first)]
        oracle.combine(rows, new - slopes[where], change)
        slopes[where] = new
        return where


@dataclass(frozen=True)
class Sag(_Table):
    """v = total/seen + gradient of the regulariser; seen counts rows seen so far, total has this batch's changes.

    Source: Schmidt, Le Roux & Bach 2013, alg. 1 and section 4.1.
    """

    tables = ("slopes", "seen")

    def estimate(self, oracle, x, state, step):
        rows, total, v = self.renew(oracle, x, state), state["total"], state["v"]
        state["seen"][rows] = 1.0
        total += state["change"]
        v.copy_(total / torch.count_nonzero(state["seen"][:, 0]))
        oracle.penalise(x, v)
        return v


@dataclass(frozen=True)
class Saga(_Table):
    """v = change/b + total/rows + gradient of the regulariser, total without this batch's changes, b rows in it.

    Unbiased. The table starts as zeros, not as the derivatives at the first x, which would take a pass over all rows.
    Source: Defazio, Bach & Lacoste-Julien 2014, eq. 1, for batches.
    """

    tables = ("slopes",)

    def estimate(self, oracle, x, state, step):
        rows, total, v = self.renew(oracle, x, state), state["total"], state["v"]
        v.copy_(total / len(state["slopes"]) + state["change"] / len(rows))
        total += state["change"]
        oracle.penalise(x, v)
        return v
