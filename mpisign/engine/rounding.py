"""x in bfloat16, without a float32 vector that it is a copy of: moved in float32 by pieces, and rounded at random.

A step moves a coordinate by less than bfloat16 can tell, so that rounding to nearest would leave it where it is.
Rounded up or down with the probability that makes the exact value the mean, it moves as far as it should on average
[Zamirai et al. 2020, arXiv:2010.06192, on weight updates]. Every rank draws the same numbers, so that replicas stay
alike, bit for bit.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mpisign import bits
from mpisign.algorithms.messages import Direction
from mpisign.algorithms.method import Method
from mpisign.algorithms.slots import State, Step, Update
from mpisign.layout import WORD

BITS = "x_bfloat16"  # the name under which checkpoints have x, int16: nobody takes it for x in float32
# coordinates that are in float32 at once: they stay in a core's cache, or are worth the launch of a kernel
PIECE, PIECE_ON_GPU = 1 << 18, 1 << 22


def unfit(method: Method) -> str:
    """Why x can't be in bfloat16 alone where a method moves it; "" where it can."""
    for stage in method.stages:
        if stage.estimator.two_points:
            return f"{type(stage.estimator).__name__} compares gradients at x and at the point before it"
        if stage.estimator.reads_x:
            return f"{type(stage.estimator).__name__} computes with x"
        dense = () if stage.dense is None else (stage.dense.update,)
        for update in (stage.update, *dense):
            if type(update).finish is not Update.finish:
                return f"{type(update).__name__} moves all of x at once"
    return ""


class Window:
    """Coordinates [lo, lo + len(values)) of a vector, which is asked for them by their places in the whole."""

    def __init__(self, values: Tensor, lo: int):
        """values: float32 (coordinates,); what is asked for are views of them."""
        self._values, self._lo = values, lo

    def __getitem__(self, where: Any) -> Tensor:
        """x[lo:hi], or x[..., lo:hi]."""
        place = where[-1] if isinstance(where, tuple) else where
        return self._values[place.start - self._lo : place.stop - self._lo]


class StochasticRounding:
    """Moves x (d,), bfloat16."""

    def __init__(self, x: Tensor, longest: int):
        """longest: coordinates of the longest chunk."""
        piece = PIECE_ON_GPU if x.is_cuda else PIECE
        self._moving = torch.empty(min(piece, longest), dtype=torch.float32, device=x.device)

    @property
    def nbytes(self) -> int:
        return self._moving.nbytes

    def apply(self, update: Update, x: Tensor, direction: Direction, state: State, step: Step, at: int) -> None:
        """update.apply(x, direction, state, step), rounded. at: the coordinate of all of x at which this x starts."""
        draw = step.draw("rounding")
        for piece in _pieces(direction, len(self._moving)):
            lo, hi = piece.lo, piece.hi
            moving = self._moving[: hi - lo].copy_(x[lo:hi])
            update.apply(moving if hi - lo == len(x) else Window(moving, lo), piece, state, step)
            bits.round_stochastic(moving, at + lo, draw, bit_patterns(x[lo:hi]))


def _pieces(direction: Direction, longest: int) -> Iterator[Direction]:
    """A direction cut into ones of at most so many coordinates."""
    items = 1 if direction.levels is None else WORD  # coordinates of a column of planes
    for lo in range(direction.lo, direction.hi, longest):
        hi = min(lo + longest, direction.hi)
        where = slice((lo - direction.lo) // items, -(-(hi - direction.lo) // items))
        yield replace(direction, lo=lo, hi=hi, planes=direction.planes[:, where])


def bit_patterns(x: Tensor) -> Tensor:
    """x, or a view of its bits as int16 where it is bfloat16, which numpy and MPI do not have."""
    return x.view(torch.int16) if x.dtype == torch.bfloat16 else x
