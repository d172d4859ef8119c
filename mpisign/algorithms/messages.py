"""What travels: the messages of all voters, their tally, and the direction decided."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mpisign import bits
from mpisign.algorithms.formats import Format
from mpisign.layout import WORD, Layout, Span
from mpisign.parallel.world import ordered_sum

if TYPE_CHECKING:
    from mpisign.algorithms.slots import Step


@dataclass(frozen=True)
class Tally:
    """Counted votes as binary numbers in planes (w(votes), W); minus only where voters may abstain.

    votes: of all voters together, one each unless the vote weighs them.
    """

    plus: Tensor
    minus: Tensor | None
    votes: int


class Scratch:
    """Scratch arrays of an exchange on a device, kept from step to step so that none is allocated in a step."""

    def __init__(self, device: torch.device | str = "cpu"):
        self._held: dict[str, Tensor] = {}
        self._views: dict[tuple[str, tuple[int, ...]], Tensor] = {}
        self._device = device

    def __call__(self, name: str, *shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
        """An uninitialised array of that name, which is lent until it is asked for again."""
        view = self._views.get((name, shape))
        if view is None:
            size, held = math.prod(shape), self._held.get(name)
            if held is None or len(held) < size:
                held = self._held[name] = torch.empty(size, dtype=dtype, device=self._device)
                self._views = {key: view for key, view in self._views.items() if key[0] != name}
            view = self._views[name, shape] = held[:size].view(shape)
        return view

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self._held.values())


@dataclass
class Ballots:
    """The messages of all voters for coordinates [lo, hi), in voter order."""

    lo: int
    hi: int
    offset: int  # where lo lies among the coordinates that this rank counts
    voters: int
    planes: Tensor | None = None  # (planes or 1, n, items), as their format lays them out
    scales: np.ndarray | None = None  # (n, segments) float32
    counted: Tally | None = None
    weights: tuple[int, ...] = ()  # votes of each voter; () for one each
    form: Format | None = None  # of the messages; None for planes
    step: "Step | None" = None  # in which they were sent
    scratch: Scratch = field(default_factory=Scratch)
    plain: bool = False  # whether planes are one sign of each of few voters, who all have one vote
    counting: bool = True  # whether agreement() will be asked for
    statistics: tuple[int, int] | None = None  # agreement and ties, where a vote counted them as it decided

    @cached_property
    def tally(self) -> Tally:
        if self.counted is not None:
            return self.counted
        planes, cast = self._signs(), sum(self.weights) or self.voters
        signs, width = planes[0], bits.width(cast)
        plus = self.scratch("plus", width, signs.shape[1])
        if len(planes) == 1:
            self._count(signs, plus)
            return Tally(plus, None, cast)
        present, minus = planes[1], self.scratch("minus", width, signs.shape[1])
        votes = torch.bitwise_and(signs, present, out=self.scratch("votes", *signs.shape))
        self._count(votes, plus)
        self._count(votes.bitwise_xor_(present), minus)
        return Tally(plus, minus, cast)

    def _count(self, ballots: Tensor, planes: Tensor) -> None:
        if self.weights:
            bits.count_weighted(ballots, self.weights, planes)
        else:
            bits.count(ballots, planes)

    def _signs(self) -> Tensor:
        """The planes (1 or 2, n, words) of signs, and of who has one."""
        if self.form is None or not self.form.coded:
            return self.planes
        planes = self.scratch("signs", 2, self.voters, (self.hi - self.lo) // WORD)
        for voter in range(self.voters):
            self.form.to_planes(self.planes[:, voter], planes[:, voter], self.step)
        # pads may be among the largest where there is little else, or where a voter lies
        planes[1] &= self.step.layout.present(self.lo, self.hi).to(planes.device)
        return planes

    @cached_property
    def _decoded(self) -> Tensor:
        """The sum of all codes as floats, in voter order."""
        total = self.scratch("decoded", self.hi - self.lo, dtype=torch.float32).zero_()
        for voter in range(self.voters):
            self.form.add(self.planes[:, voter], total, self.lo, self.step)
        return total

    def mean(self, span: Span, out: Tensor | None = None) -> Tensor:
        """The mean of what all voters sent for a span (codes, scaled signs or raw floats), summed in voter order.

        out: float32 for the span's coordinates; by default a scratch array, lent until the next call.
        """
        if out is None:
            out = self.scratch("mean", span.hi - span.lo, dtype=torch.float32)
        if self.form is not None and self.form.coded:
            out.copy_(self._decoded[span.items(self.lo)])
        elif self.scales is None:
            ordered_sum(self.planes[0][:, span.items(self.lo)], out)
        else:
            out.zero_()
            for voter in range(self.voters):
                bits.add_signed(out, self.planes[:, voter, span.words(self.lo)], self.scales[voter, span.segment])
        return out.div_(self.voters)

    def agreement(self) -> tuple[int, int]:
        """Sum of |tally| over the coordinates, and the number of ties; pads count as unanimous."""
        if self.statistics is None:
            t = self.tally
            self.statistics = bits.agreement(t.plus, t.minus, t.votes)
        return self.statistics


@dataclass
class Direction:
    """What the vote decided for coordinates [lo, hi): the same bits on every rank.

    Code c of a coordinate means levels[c], times the segment's scale if there are scales. That is in units
    of x already if in_x, else still to be multiplied by the learning rate. Raw directions hold float32 instead.
    """

    lo: int
    hi: int
    planes: Tensor  # (planes, W) words, or (1, C) raw floats
    levels: np.ndarray | None  # float64 (2**planes,)
    scales: np.ndarray | None = None  # (segments,) float32
    in_x: bool = False

    def tables(self, rates: np.ndarray) -> np.ndarray:
        """The float32 (segments, 2**planes) by which a coordinate of each code moves, rounded once.

        rates: learning rates, float64 (segments,).
        """
        units = np.ones(len(rates)) if self.in_x else rates
        if self.scales is not None:
            units = units * self.scales
        return (units[:, None] * self.levels).astype(np.float32)

    def write(self, out: Tensor, layout: Layout) -> None:
        """Fills this chunk of out (flat) with what was decided there."""
        for span, table in self._decoded(layout):
            part = out[span.coordinates].zero_()
            bits.add_levels(part, self.planes[:, span.words(self.lo)], table)

    def floats(self, layout: Layout) -> Iterator[tuple[Span, Tensor]]:
        """Each span of the chunk with what was decided there, as float32: the raw floats themselves, or new values."""
        if self.levels is not None:
            yield from self.values(layout)
            return
        for span in layout.spans(self.lo, self.hi):
            yield span, self.planes[0, span.items(self.lo)]

    def values(self, layout: Layout) -> Iterator[tuple[Span, Tensor]]:
        """Each span of the chunk with what was decided there, as new float32 values."""
        for span, table in self._decoded(layout):
            values = torch.zeros(span.hi - span.lo, device=self.planes.device)
            bits.add_levels(values, self.planes[:, span.words(self.lo)], table)
            yield span, values

    def _decoded(self, layout: Layout) -> Iterator[tuple[Span, np.ndarray]]:
        tables = self.tables(np.ones(len(layout.segments)))
        return ((span, tables[span.segment]) for span in layout.spans(self.lo, self.hi))
