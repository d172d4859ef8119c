"""How a message or a verdict travels: as bit planes, as raw floats, or as a code of its own (see compressors.py).

A format is a frozen dataclass of sizes, so formats compare. It tells an exchange where a message may be cut and whether
messages add up on their way; one that is a code also knows how floats become a message and are added up from several.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from mpisign import bits
from mpisign.layout import TILE, WORD, Layout

if TYPE_CHECKING:
    from mpisign.algorithms.slots import Step
    from mpisign.bits.rng import Draw


class Format:
    """The layout of a message on a multiple of 64 coordinates, a buffer (planes or 1, items)."""

    planes: int = 0  # bit planes of signs or counts; 0 for all that is not made of planes
    scaled: bool = False  # one float32 per segment beside the words, in the header
    counts: ClassVar[bool] = False  # whether messages can be added up as integers on their way
    raw: ClassVar[bool] = False  # float32, a value per coordinate
    coded: ClassVar[bool] = False  # whether encode() and add() are between it and floats
    signs: ClassVar[bool] = False  # whether it says a sign, or that there is none, for each coordinate
    varies: ClassVar[bool] = False  # whether the length of a message is known only once it is packed
    grain: ClassVar[int] = WORD  # coordinates at whose multiples a message may be cut
    dtype: ClassVar[torch.dtype] = torch.int64

    def items(self, coordinates: int) -> int:
        """Words, or floats, of a plane of a message; of the longest one, where they vary."""
        raise NotImplementedError

    def cost(self, coordinates: int) -> int:
        """Bits of a message by the definition of the method: without pads, and without scales in the header."""
        raise NotImplementedError

    @property
    def bits(self) -> float:
        """Bits per coordinate by the definition of the method, of whole tiles."""
        return self.cost(TILE) / TILE

    @property
    def item_bytes(self) -> int:
        return self.dtype.itemsize

    def shape(self, *between: int, coordinates: int) -> tuple[int, ...]:
        """(planes, *between, items); what is not made of planes counts as one."""
        return (self.planes or 1, *between, self.items(coordinates))

    def empty(self, *between: int, coordinates: int) -> Tensor:
        """A buffer of that shape."""
        return torch.zeros(self.shape(*between, coordinates=coordinates), dtype=self.dtype)

    # What a code knows; lo is the coordinate of x at which v, or total, begins, a multiple of `grain`

    def encode(self, v: Tensor, lo: int, draw: Draw, out: Tensor, step: Step) -> None:
        """Packs v (C,) into out (1, items). draw: of the random rounding, if there is any."""
        raise NotImplementedError

    def encode_decoded(self, v: Tensor, lo: int, draw: Draw, out: Tensor, step: Step) -> None:
        """encode() for a v that stands for a message already, and is not to be made unbiased once more."""
        self.encode(v, lo, draw, out, step)

    def add(self, message: Tensor, total: Tensor, lo: int, step: Step, weight: float = 1.0) -> None:
        """total += weight * what the message (1, items) says of each coordinate.

        What can't have been sent (a value that is not finite, an index beyond the message) leaves NaN in total.
        """
        raise NotImplementedError

    def clear(self, message: Tensor, y: Tensor) -> None:
        """y = 0 in the coordinates of which the message tells a value."""
        y.zero_()

    def to_planes(self, message: Tensor, planes: Tensor, step: Step) -> None:
        """The signs, and who has one, as planes (2, words), where `signs` says that there are such."""
        raise NotImplementedError

    def length(self, message: Tensor) -> int:
        """Items of this message (1, items), where they vary."""
        return message.shape[-1]


@dataclass(frozen=True)
class Planes(Format):
    """Bit planes: a sign per coordinate, with a second plane where there may be none; or a binary number."""

    planes: int
    scaled: bool = False

    counts = signs = True

    def items(self, coordinates):
        return coordinates // WORD

    def cost(self, coordinates):
        return self.planes * coordinates


@dataclass(frozen=True)
class RawFloats(Format):
    """A float32 per coordinate."""

    raw, dtype = True, torch.float32

    def items(self, coordinates):
        return coordinates

    def cost(self, coordinates):
        return 32 * coordinates

    def add(self, message, total, lo, step, weight=1.0):
        bits.blend(total, message[0], 1.0, weight)


@dataclass(frozen=True)
class Agreed(RawFloats):
    """What all voters hold already, since their estimator had them agree on it: nothing travels."""

    def cost(self, coordinates):
        return 0


RAW = RawFloats()


def of_method(layout: Layout, up: Format, down: Format, voters: int) -> tuple[int, int]:
    """Bits of a step's messages and verdicts over all ranks, (up, down), by the definition of the method.

    Every rank sends all but its share of d coordinates up, and its share of the verdict to all others, as `sharded`
    does; a scaled message has one float32 per tensor for every other rank, and a scaled verdict one per tensor in all.
    A code whose verdicts are none goes to all others instead, if that takes fewer bits. Headers, pads and the sums of
    which a verdict's scales are made are left out. Of messages whose length varies it is what they are on average.
    """
    others, scales = voters - 1, 32 * len(layout.segments)
    sent, decided = up.cost(layout.size), down.cost(layout.size)
    if up.varies or (up.coded and not down.coded and voters * sent < sent + decided):
        return others * voters * sent, 0
    a_rank_up = voters * scales if up.scaled else 0
    return others * (sent + a_rank_up), others * (decided + down.scaled * scales)
