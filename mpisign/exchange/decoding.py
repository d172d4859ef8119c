"""What verdicts that are codes say, for x to move by."""

from collections.abc import Callable

import torch
from torch import Tensor

from mpisign.algorithms.formats import Format
from mpisign.algorithms.slots import Step
from mpisign.layout import WORD, Layout


def looked_at(up: Format, down: Format) -> bool:
    """Whether what codes come to is looked at before any of it moves x: so that all ranks stop where it is not finite.

    Signs that come down can be nothing else.
    """
    of_codes = down.coded or (up.coded and not up.signs)
    return of_codes and (down.scaled or not down.signs)


class Decoding:
    """Arrays for what a code says of each chunk, none for what is no code: values, or signs and where there are any."""

    def __init__(
        self,
        form: Format,
        layout: Layout,
        chunks: list[tuple[int, int]],
        array: Callable[[int, torch.dtype], Tensor],
    ):
        self.form, self.layout, self.chunks = form, layout, chunks
        planes, dtype, per_item = (2, torch.int64, WORD) if form.signs else (1, torch.float32, 1)
        self.arrays = [
            array(planes * ((hi - lo) // per_item), dtype).view(planes, -1) for lo, hi in chunks if form.coded
        ]

    def __call__(self, c: int, message: Tensor, step: Step) -> Tensor:
        """What a message says of chunk c: float32 (1, coordinates), or planes (2, words) if it is of signs."""
        out, (lo, hi) = self.arrays[c], self.chunks[c]
        if self.form.signs:
            self.form.to_planes(message, out, step)
            # pads may have signs in a message, but do not move
            out[1] &= self.layout.present(lo, hi).to(out.device)
        else:
            self.form.add(message, out[0].zero_(), lo, step)
        return out
