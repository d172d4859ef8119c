"""From the pieces of parameters that FSDP leaves a rank to its shard of x, and back: one all-to-all inside a voter.

FSDP cuts each parameter along its first dimension into as many pieces as there are ranks, so the pieces of a rank lie
all over x. Its shard of x is one interval. Who sends what to whom follows from shapes alone, so it is worked out once,
and coordinates travel as float32 in the order of x, without anything beside them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mpisign.layout import Layout, LayoutShard, Segment
from mpisign.parallel.inside import Inside
from mpisign.parallel.watchdog import WATCH

Interval = tuple[int, int]


class Redistribution:
    """The plan of both ways, and the buffers, of all pieces and of the shard without pads, both float32."""

    def __init__(self, layout: LayoutShard, inside: Inside):
        self.layout, self.inside = layout, inside
        pieces = [pieces_of(layout.whole, rank, inside.size) for rank in range(inside.size)]
        mine = pieces[inside.rank]
        self._pieces = torch.zeros(sum(hi - lo for lo, hi in mine))
        self._shard = torch.zeros(sum(span.hi - span.lo for span in layout.all_spans))
        self.pieces = list(self._pieces.split([hi - lo for lo, hi in mine]))  # one a segment, as it lies here
        self._out = [sum(_lengths(mine, border)) for border in layout.borders]
        here = layout.borders[inside.rank]
        self._in = [sum(_lengths(theirs, here)) for theirs in pieces]
        parts = [_common(piece, here) for theirs in pieces for piece in theirs]
        self._parts = [(lo - here[0], hi - here[0]) for lo, hi in parts if lo < hi]
        self._buffers = list(self._shard.split([hi - lo for lo, hi in self._parts]))

    @property
    def nbytes(self) -> int:
        return self._pieces.nbytes + self._shard.nbytes

    def collect(self, tensors: Sequence[Tensor | None], out: Tensor) -> None:
        """Writes this rank's shard of x, or of a vector like it, from all ranks' pieces. Collective inside the voter.

        tensors: this rank's pieces, one for each segment; zeros where there is None. out: float32 (shard,); pads are
        left as they are.
        """
        for piece, tensor in zip(self.pieces, tensors, strict=True):
            piece.zero_() if tensor is None else piece.view(tensor.shape).copy_(tensor)
        self._exchange([self._pieces, self._out], [self._shard, self._in])
        torch._foreach_copy_(self._parts_of(out), self._buffers)

    def spread(self, vector: Tensor) -> None:
        """Writes `pieces` from all ranks' shards of a vector like x. Collective inside the voter."""
        torch._foreach_copy_(self._buffers, self._parts_of(vector))
        self._exchange([self._shard, self._in], [self._pieces, self._out])

    def _exchange(self, sent: list, received: list) -> None:
        with WATCH("an all-to-all among the ranks of a voter"):
            self.inside.comm.Ialltoallv(*([array.numpy(), counts] for array, counts in (sent, received))).Wait()

    def _parts_of(self, vector: Tensor) -> list[Tensor]:
        """The parts of a vector like x that come from, or go to, one piece of a rank."""
        return [vector[lo:hi] for lo, hi in self._parts]


def pieces_of(layout: Layout, rank: int, ranks: int) -> list[Interval]:
    """The coordinates of x of each segment that lie with one of so many ranks, as FSDP cuts its first dimension."""
    return [_piece(segment, rank, ranks) for segment in layout.segments]


def _piece(segment: Segment, rank: int, ranks: int) -> Interval:
    rows = segment.shape[0] if segment.shape else 1
    each, width = -(-rows // ranks), segment.size // max(rows, 1)
    lo, hi = (segment.offset + min(k * each, rows) * width for k in (rank, rank + 1))
    return lo, hi


def _common(one: Interval, other: Interval) -> Interval:
    lo = max(one[0], other[0])
    return lo, max(min(one[1], other[1]), lo)


def _lengths(pieces: list[Interval], border: Interval) -> list[int]:
    """How much of each piece lies within borders."""
    return [hi - lo for lo, hi in (_common(piece, border) for piece in pieces)]
