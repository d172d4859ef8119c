"""A mean of gradients by factors of low rank, which all voters find together: PowerSGD."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mpisign import bits
from mpisign.algorithms.slots import Estimator, State, Step
from mpisign.errors import UsageError
from mpisign.layout import Layout, Segment

EPSILON = 1e-10  # of a column: where no more is left of it beside the others, that is nothing but rounding


@dataclass(frozen=True)
class LowRank(Estimator):
    """v = P Q^T for each matrix, the same for all voters: the mean of their M = g + e, as far as the rank allows.

    P = orth(mean of M Q), then Q = mean of M^T P and e = M - P Q^T: a step of subspace iteration with error feedback
    [Vogels et al. 2019 alg. 1 and 2]. A tensor of two or more dimensions is a matrix (its first dimension, all others).
    What has fewer dimensions is averaged as it is, and so is a matrix whose factors would be no smaller.
    warm_start: Q goes on from step to step, instead of being drawn from N(0, 1) at every step, alike for all voters.
    A column of zeros, as there is after a gradient of 0, is drawn anew: it would stay 0 for ever.
    A voter's weight in the objective multiplies its g.
    """

    rank: int = 2
    warm_start: bool = True

    averages, by_matrix, streams, vectors = False, True, "g", ("g", "residual")
    alike, debts = ("factors",), ("residual",)

    def side_information(self):
        return (
            f"two means of factors, 64(n-1)/n * {self.rank}(p+q)/(pq) bits per coordinate of a p x q matrix up and "
            "down together, and 64(n-1)/n per coordinate that is averaged as it is"
        )

    def check(self, layout):
        matrices = [s for s in layout.segments if s.is_matrix]
        if matrices and self.rank > min((best := max(matrices, key=lambda s: min(s.matrix))).matrix):
            rows, columns = best.matrix
            raise UsageError(
                f"algorithm.rank = {self.rank}: no parameter has so high a rank, so nothing would be compressed; the "
                f"highest is that of {best.name}, {rows} x {columns}: take a rank below {min(rows, columns)}",
                agreed=True,
            )

    def init(self, layout):
        size = sum(Cut(layout, self.rank).columns) * self.rank
        warm = {"factors": torch.zeros(size, device=layout.device)} if self.warm_start and size else {}
        return super().init(layout) | warm

    def shared_floats(self, layout):
        cut = Cut(layout, self.rank)
        return (sum(cut.rows) + sum(cut.columns)) * self.rank + sum(s.size for s in cut.averaged)

    def estimate(self, oracle, x, state, step):
        v = state["g"]
        oracle.gradient(x, v)
        bits.blend(v, state["residual"], step.weight, 1.0)
        return v

    def agree(self, estimates, states, step):
        cut = Cut(step.layout, self.rank)
        qs = self._factors_before(cut, states[0], step)
        # what is averaged as it is rides along with the first factors
        sent = [[*map(torch.mm, cut.matrices(v), qs), *cut.rest(v)] for v in estimates]
        came = _mean(sent, step)
        if not came.isfinite().all() and _any_bad(estimates, step):
            return  # nothing has changed yet, and the header tells whose estimate it is
        ps, averages = cut.open(came)
        ps = [orthonormal(p) for p in ps]
        sent = [[m.T @ p for m, p in zip(cut.matrices(v), ps, strict=True)] for v in estimates]
        qs = cut.split(_mean(sent, step), cut.columns) if ps else []
        self._settle(cut, estimates, states, (ps, qs, averages))

    def _factors_before(self, cut: "Cut", state: State, step: Step) -> list[Tensor]:
        """Q of each matrix as it was left, its columns of zeros drawn anew: at first all of them."""
        count = sum(cut.columns) * self.rank
        qs = cut.split(state.get("factors", torch.zeros(count, device=step.layout.device)), cut.columns)
        idle = [(q == 0).all(dim=0) for q in qs]
        if any(map(torch.any, idle)):
            # drawn on the host, so that a GPU starts from the same bits
            drawn = bits.common_normals(count, step.draw("low rank")).to(step.layout.device)
            for q, columns, fresh in zip(qs, idle, cut.split(drawn, cut.columns), strict=True):
                q[:, columns] = fresh[:, columns]
        return qs

    def _settle(self, cut: "Cut", estimates: Sequence[Tensor], states: list[State], agreed: tuple) -> None:
        """Every v becomes what was agreed on; residuals and, for a warm start, Q are kept."""
        ps, qs, averages = agreed
        for v, state in zip(estimates, states, strict=True):
            for m, e in zip(cut.matrices(v), cut.matrices(state["residual"]), strict=True):
                e.copy_(m)
        decided = estimates[0]
        for m, p, q in zip(cut.matrices(decided), ps, qs, strict=True):
            multiply(p, q, m)
        for part, average in zip(cut.rest(decided), averages, strict=True):
            part.copy_(average)
        for v, state in zip(estimates, states, strict=True):
            v.copy_(decided)
            for m, e in zip(cut.matrices(v), cut.matrices(state["residual"]), strict=True):
                e -= m
            if "factors" in state:
                state["factors"].copy_(torch.cat([q.reshape(-1) for q in qs]))


class Cut:
    """The parameters of a layout that are sent as factors of a rank, in their order, and those averaged as they are."""

    def __init__(self, layout: Layout, rank: int):
        self.rank, self.factored, self.averaged = rank, [], []
        for s in layout.segments:
            (self.factored if self._pays(s) else self.averaged).append(s)
        self.rows, self.columns = ([s.matrix[side] for s in self.factored] for side in (0, 1))

    def _pays(self, s: Segment) -> bool:
        """Whether factors have fewer numbers than the parameter, and the rank is below its own."""
        return s.is_matrix and self.rank < min(s.matrix) and self.rank * sum(s.matrix) < s.size

    def matrices(self, v: Tensor) -> list[Tensor]:
        """Views of a flat vector, (rows, columns) each."""
        return [v[s.offset : s.end].view(s.matrix) for s in self.factored]

    def rest(self, v: Tensor) -> list[Tensor]:
        """Views of a flat vector that no factors are sent for."""
        return [v[s.offset : s.end] for s in self.averaged]

    def split(self, flat: Tensor, sides: list[int]) -> list[Tensor]:
        """Factors that lie one behind another, as views (side, rank)."""
        return [part.view(-1, self.rank) for part in flat.split([side * self.rank for side in sides])]

    def open(self, flat: Tensor) -> tuple[list[Tensor], tuple[Tensor, ...]]:
        """The factors P, and behind them what is averaged as it is."""
        end = sum(self.rows) * self.rank
        return self.split(flat[:end], self.rows), flat[end:].split([s.size for s in self.averaged])


def _mean(sent: list[list[Tensor]], step: Step) -> Tensor:
    """The mean over voters of what each of the local ones sends, flat, on the device of x."""
    return step.world.mean([torch.cat([part.reshape(-1) for part in parts]) for parts in sent]).to(step.layout.device)


def _any_bad(estimates: Sequence[Tensor], step: Step) -> bool:
    """Whether any voter's own estimate is not finite. Asked only where a mean is not, and not counted."""
    with step.world.uncounted():
        return bool(step.world.max([(~v.isfinite()).any().float().view(1) for v in estimates]))


# What every rank works out for itself from what came: the same bits on every machine, by sums in a fixed order, where
# a library's product may depend on the processor and the number of threads


def orthonormal(factor: Tensor) -> Tensor:
    """The columns of a factor (rows, rank) made orthonormal by Gram and Schmidt in float64, as float32.

    A column that depends on those before it, of whose length less than 1e-10 is left, becomes zeros. The authors' code
    has no such rule, but adds 1e-8 to every norm, by which columns that hardly differ would not become orthogonal.
    """
    columns = factor.double()
    lengths = total(columns * columns).sqrt()
    for k, length in enumerate(lengths):
        column, others = columns[:, k : k + 1], columns[:, k + 1 :]
        left = total(column * column).sqrt()
        column /= torch.where(left > EPSILON * length, left, torch.inf)
        others -= column * total(column * others)
    return columns.float()


def total(values: Tensor) -> Tensor:
    """The sum over the first dimension: one half is added to the other until one row is left."""
    while len(values) > 1:
        half = len(values) // 2
        folded = values[:half] + values[half : 2 * half]
        values = torch.cat([folded, values[2 * half :]])
    return values[0]


def multiply(p: Tensor, q: Tensor, out: Tensor) -> None:
    """out = P Q^T (rows, columns), column of P by column of Q in their order, every product and sum rounded once."""
    torch.outer(p[:, 0], q[:, 0], out=out)
    for k in range(1, p.shape[1]):
        out += torch.outer(p[:, k], q[:, k])
