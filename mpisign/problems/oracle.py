"""What an estimator may ask of a problem, for one voter: gradients of this step's batch.

Batches are a function of (seed, voter, step), so a checkpoint holds no cursor and both points of a
two-point estimate see the same rows, noise and dropout.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from mpisign import bits
from mpisign.bits.rng import Streams
from mpisign.layout import Layout
from mpisign.problems.base import Problem, Rows
from mpisign.problems.data.checking import explain
from mpisign.problems.data.loader import DeviceLoader

PIECE = 1024  # rows of a full gradient taken at a time
OTHERS, WHOLE = 1 << 28, 1 << 29  # blocks from which batches beyond a step's own, and full gradients, are varied
OFFERS = frozenset({"several batches", "other points"})  # what an oracle adds to any problem


class Oracle:
    """One voter's access to a problem.

    rows: this voter's own rows, or None. batch_size: rows of a minibatch; 0 is all of them.
    accumulate: minibatches averaged into one gradient. clip: largest Euclidean norm of a gradient, 0 for none.
    sampling: "reshuffle" (each pass in a new order) or "replacement". resident, sharing: see loader.py.
    """

    of_ranks = False  # whether several ranks are the voter, by whose numbers it names their statistics

    def __init__(
        self,
        problem: Problem,
        layout: Layout,
        rows: Rows | None,
        voter: int,
        streams: Streams,
        *,
        batch_size: int = 32,
        accumulate: int = 1,
        clip: float = 0.0,
        sampling: str = "reshuffle",
        resident: bool | None = None,
        sharing: int = 1,
    ):
        self.problem, self.layout, self.voter, self.streams = problem, layout, voter, streams
        self.device = layout.device
        self.rows = DeviceLoader(rows, self.device, resident, sharing) if rows else None
        self.accumulate, self.clip, self.sampling = accumulate, clip, sampling
        self.batch_size = min(batch_size or math.inf, rows.count) if rows else 1
        self.loss = math.nan  # of the latest batch
        self.evaluations = 0  # rows (or draws) whose gradient was taken so far
        self.clipped = 0  # gradients that were shortened so far
        self._t = 0
        self.values = 0  # rows (or draws) whose function value was taken so far
        # what a model gathers besides its parameters, such as BatchNorm's running statistics: one set per voter
        self.statistics = {name: a.to(self.device, copy=True) for name, a in problem.statistics().items()}
        self._piece: Tensor | None = None
        self._exact: Tensor | None = None
        self._views: dict[tuple[int, int], tuple[dict, dict]] = {}
        self._orders: dict[int, np.ndarray] = {}

    @property
    def members(self) -> list["Oracle"]:
        """The oracles of the voter's ranks in this process: itself."""
        return [self]

    @property
    def shares(self) -> list[float]:
        """The weights of their gradients in the voter's."""
        return [1.0]

    def whole(self, x: Tensor) -> Tensor:
        """All of x, where this process's vectors may be shards of it: x itself."""
        return x

    def begin(self, t: int) -> None:
        """Turns to step t; gradients asked for from now on are of its batch."""
        self._t = t

    def gradient_in_place(self) -> bits.Scattered | None:
        """The gradient of this step's batch where it lies; None, as problems write it into a flat vector."""
        return None

    def gradient(self, x: Tensor, out: Tensor, again: bool = False, batches: int = 1) -> None:
        """The gradient of this step's batch at x (flat), written to out (flat).

        again: at a second point, so that the recorded loss stays that of the first, and statistics move once.
        batches: the mean over so many batches, this step's own first.
        """
        parameters, gradients = self._bound(x, out, moving=not again)
        self._seed()
        out.zero_()
        loss = 0.0
        try:
            for batch, count in self.batches(batches):
                loss += float(self.problem.gradient(parameters, batch, gradients))
                self.evaluations += count
        except RuntimeError as error:
            explain(error, self.rows)
            raise
        if (taken := self.accumulate * batches) > 1:
            out /= taken
        if self.clip and (norm := self.layout.norm(out)) > self.clip:
            out *= float(np.float32(self.clip / norm))
            self.clipped += 1
        if not again:
            self.loss = loss / taken

    def batch_rows(self) -> np.ndarray:
        """Which of this voter's rows are in this step's batch: numbers, int64; a row that was drawn twice, twice."""
        if self.batch_size == self.rows.count:
            return np.arange(self.rows.count)
        first = self._t * self.accumulate
        return np.concatenate([self._sample(number) for number in range(first, first + self.accumulate)])

    def derivatives(self, x: Tensor, rows: np.ndarray) -> Tensor:
        """Of a linear problem, the derivatives of these rows' losses at x by their forms, float32 (rows, outputs)."""
        derivatives, self.loss = self.problem.derivatives(self.layout.views(x), self.rows.take(rows))
        self.evaluations += len(rows)
        return derivatives

    def combine(self, rows: np.ndarray, weights: Tensor, out: Tensor) -> None:
        """The weighted sum of the gradients of these rows' forms, written to out; weights float32 (rows, outputs)."""
        self.problem.combine(self.rows.take(rows), weights, self.layout.views(out.zero_()))

    def penalise(self, x: Tensor, out: Tensor) -> None:
        """Adds the gradient of the problem's regulariser at x to out."""
        self.problem.penalise(self.layout.views(x), self.layout.views(out))

    def full_gradient(self, x: Tensor, out: Tensor) -> None:
        """The mean gradient over all of this voter's rows at x, written to out."""
        self._seed()
        self.loss = self._mean_over(self.rows, x, out, vary=True)
        self.evaluations += self.rows.count

    def exact_gradient(self, x: Tensor) -> Tensor:
        """full_gradient, or a problem's own exact one, for a record: not counted, and valid until the next one."""
        if self._exact is None:
            self._exact = self.layout.zeros()
        self._seed()
        if self.rows is None:
            self._exact.zero_()
            self.problem.exact_gradient(*self._bound(x, self._exact, moving=False))
        else:
            self._mean_over(self.rows, x, self._exact, vary=False)
        return self._exact

    def sampled_gradient(self, x: Tensor, out: Tensor, number: int) -> None:
        """The gradient of a minibatch that no step takes, the number-th of these; as exact_gradient."""
        parameters, gradients = self._bound(x, out, moving=False)
        self._seed("probe", number)
        out.zero_()
        for k in range(number * self.accumulate, (number + 1) * self.accumulate):
            if self.rows is None:
                batch = self.problem.draw(self.streams.draw("probe", k, self.voter))
            else:
                batch = self._varied(self._rows_of(k, "probe"), k, OTHERS)
            self.problem.gradient(parameters, batch, gradients)
        out /= self.accumulate

    def _mean_over(self, rows: DeviceLoader, x: Tensor, out: Tensor, vary: bool) -> float:
        """The mean gradient over rows, in pieces that fit into memory; returns the loss. vary: as in training."""
        out.zero_()
        piece = out
        if rows.count > PIECE:
            piece = self._piece = self._piece if self._piece is not None else torch.empty_like(out)
        parameters, gradients = self._bound(x, piece, moving=False)
        loss = 0.0
        for lo in range(0, rows.count, PIECE):
            part = rows.take(slice(lo, lo + PIECE))
            piece.zero_()
            share = part.count / rows.count
            if vary:
                part = self._varied(part, self._t, WHOLE + lo)
            loss += share * float(self.problem.gradient(parameters, part, gradients))
            if piece is not out:
                bits.blend(out, piece, 1.0, share)
        return loss

    def value(self, x: Tensor, again: bool = False) -> float:
        """The mean loss of this step's batch at x, with the draws of its gradient. again: as in gradient."""
        parameters = self._with_statistics(self.layout.views(x.detach()), moving=not again)
        self._seed()
        loss = 0.0
        for batch, count in self.batches():
            loss += self.problem.value(parameters, batch)
            self.values += count
        if not again:
            self.loss = loss / self.accumulate
        return loss / self.accumulate

    def objective(self, x: Tensor) -> float:
        """This voter's own function at x: the mean loss over all its rows, or the function itself."""
        sums = self.measure(x, self.rows)
        self.values += int(sums["rows"])
        return sums["loss"] / sums["rows"] + self.penalty(x)

    def constrain(self, x: Tensor) -> None:
        """Brings x back to where the problem allows it."""
        if self.problem.constrained:
            self.problem.constrain(self.layout.views(x))

    def _seed(self, stream: str = "torch", number: int | None = None) -> None:
        # torch.manual_seed also seeds every other device, at a millisecond per call
        seed = self.streams.draw(stream, self._t if number is None else number, self.voter).seed()
        torch.default_generator.manual_seed(seed)
        if self.device.type != "cpu":
            torch.cuda.default_generators[self.device.index].manual_seed(seed)

    def _with_statistics(self, parameters: dict, moving: bool) -> dict:
        """The parameters with the model's statistics: its own, which move, or copies."""
        if not self.statistics:
            return parameters
        return parameters | (self.statistics if moving else {k: v.clone() for k, v in self.statistics.items()})

    def clipped_gradient(self, x: Tensor, out: Tensor, row: Tensor, norm: float) -> None:
        """The mean over this step's batch of every row's gradient, each shortened to Euclidean norm `norm`.

        row: a vector to work in. Takes one gradient per row, which is slow and right for any problem.
        """
        parameters, gradients = self._bound(x, row, moving=True)
        self._seed()
        out.zero_()
        loss, taken = 0.0, 0
        for batch, count in self.batches():
            for k in range(count):
                row.zero_()
                loss += float(self.problem.gradient(parameters, batch.take(slice(k, k + 1)), gradients))
                length = self.layout.norm(row)
                out.add_(row, alpha=min(1.0, norm / length) if length else 1.0)
                self.clipped += length > norm
            taken += count
        self.evaluations += taken
        out /= taken
        self.loss = loss / taken

    @property
    def steps_a_pass(self) -> int:
        """Steps in which this voter's rows are seen once."""
        return -(-self.rows.count // (self.batch_size * self.accumulate))

    def measure(self, x: Tensor, rows: DeviceLoader | Rows | None, statistics: dict | None = None) -> dict[str, float]:
        """Sums of the problem over rows (or the function itself) at x, with these statistics or this voter's own."""
        gathered = self.statistics if statistics is None else statistics
        try:
            return self.problem.measure(self.layout.views(x) | gathered, rows)
        except RuntimeError as error:
            explain(error, rows)
            raise

    def penalty(self, x: Tensor) -> float:
        """The problem's regulariser at x."""
        return self.problem.penalty(self.layout.views(x))

    def _bound(self, x: Tensor, out: Tensor, moving: bool) -> tuple[dict, dict]:
        """Parameters at x, with statistics, and gradients in out. moving: as in _with_statistics."""
        # views are made once for each pair of vectors: autograd then writes straight into the flat gradient
        key = (x.data_ptr(), out.data_ptr())
        if key not in self._views:
            self._views[key] = (self.layout.views(x.detach()), self.layout.views(out))
        parameters, gradients = self._views[key]
        return self._with_statistics(parameters, moving), gradients

    def batches(self, batches: int = 1) -> Iterator[tuple[object, int]]:
        """The minibatches of this step, and of `batches` - 1 others, with the rows of each."""
        for k in range(self.accumulate * batches):
            own = k < self.accumulate
            number = self._t * self.accumulate + (k if own else k - self.accumulate)
            if self.rows is None:
                yield self.problem.draw(self.streams.draw("noise" if own else "start", number, self.voter)), 1
            else:
                batch = self._rows_of(number, "sample" if own else "start")
                yield self._varied(batch, number, 0 if own else OTHERS), self.batch_size

    def _rows_of(self, number: int, stream: str) -> Rows:
        """A minibatch: the number-th of the run ("sample"), or of another stream."""
        if self.batch_size == self.rows.count:
            return self.rows.take(slice(None))
        if stream != "sample":
            return self.rows.take(self._drawn(stream, number))
        return self.rows.take(self._sample(number), prefetch=self._sample(number + 1) if self.rows.fetches else None)

    def _varied(self, batch: Rows, number: int, first: int) -> Rows:
        """A batch as the problem varies it in training, if it does."""
        if not self.problem.augments:
            return batch
        return self.problem.augment(batch, self.streams.draw("augment", number, self.voter), first)

    def _drawn(self, stream: str, batch: int) -> np.ndarray:
        """Row numbers drawn with replacement."""
        blocks = self.streams.draw(stream, batch, self.voter).blocks(0, -(-self.batch_size // 4))
        return (blocks.reshape(-1)[: self.batch_size].astype(np.uint64) * self.rows.count >> 32).astype(np.int64)

    def _sample(self, batch: int) -> np.ndarray:
        """Row numbers of the batch-th minibatch of the run."""
        if self.sampling == "replacement":
            return self._drawn("sample", batch)
        # passes follow one another without a gap; a batch may take the end of one and the start of the next
        place = batch * self.batch_size
        wanted = []
        while (missing := self.batch_size - sum(map(len, wanted))) > 0:
            order, start = self._order(place // self.rows.count), place % self.rows.count
            wanted.append(order[start : start + missing])
            place += len(wanted[-1])
        return np.concatenate(wanted)

    def _order(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            keys = self.streams.draw("sample", epoch, self.voter).blocks(0, self.rows.count)
            self._orders = {e: o for e, o in self._orders.items() if e == epoch - 1}
            self._orders[epoch] = np.argsort(keys.astype(np.uint64)[:, 0] << 32 | keys[:, 1], kind="stable")
        return self._orders[epoch]
