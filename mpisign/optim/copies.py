"""Parameters of 16 bits: copies of their part of x, which stays float32 and is what moves.

A step moves x by less than 16 bits can tell, so the optimiser keeps the float32 master, as mixed precision does
[Micikevicius et al. 2018, arXiv:1710.03740, section 3.1], and a parameter is x rounded to its type, to nearest, ties to
even. What a training loop writes into a parameter goes into x, where it differs from that. Where x itself is bfloat16,
rounded at random (engine/rounding.py), there is no master and there are no copies.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mpisign.errors import UsageError
from mpisign.layout import Layout

TYPES = (torch.bfloat16, torch.float16)


class Copies:
    """The parameters that are copies, and their parts of x. Where there are none, nothing here does anything."""

    def __init__(self, parameters: Sequence[Tensor], layout: Layout, x: Tensor):
        """parameters: all of them, in the order of the layout's segments; those of x's type lie in x themselves."""
        self._layout, self._x, views = layout, x, list(layout.views(x).values())
        self._copies = {k: p for k, p in enumerate(parameters) if p.dtype != x.dtype}  # by segment
        self._masters = {k: views[k] for k in self._copies}
        self._versions = {k: p._version for k, p in self._copies.items()}

    def __bool__(self) -> bool:
        return bool(self._copies)

    @property
    def tell_less(self) -> bool:
        """Whether x can't be told from the parameters."""
        return bool(self._copies)

    def memory(self) -> dict[str, int]:
        """Bytes held beside x, by name."""
        return {"copies": sum(p.nbytes for p in self._copies.values())}

    def follow(self) -> None:
        """Makes all copies what x is."""
        for k, p in self._copies.items():
            p.data.copy_(self._masters[k])

    def follow_part(self, lo: int, hi: int) -> None:
        """Makes copies what x is in coordinates [lo, hi), which a step has just moved and a cache still holds."""
        for span in self._layout.spans(lo, hi):
            if (p := self._copies.get(span.segment)) is not None and p.is_contiguous():
                start = self._layout.segments[span.segment].offset
                p.data.view(-1)[span.lo - start : span.hi - start].copy_(self._x[span.lo : span.hi])

    def follow_rest(self) -> None:
        """Makes copies what x is that follow_part() leaves out: those whose elements lie in another order."""
        for k, p in self._copies.items():
            if not p.is_contiguous():
                p.data.copy_(self._masters[k])

    def take_over(self) -> None:
        """Takes into x what a loop has written into copies; where they are what x is, x keeps its lower bits."""
        for k, p in self._copies.items():
            if p._version != self._versions[k]:
                self._versions[k] = p._version
                master = self._masters[k]
                torch.where(p.data == master.to(p.dtype), master, p.data.float(), out=master)

    def fault(self) -> UsageError | None:
        """What is wrong if a copy is not what x is, which nobody has noticed."""
        for k, p in self._copies.items():
            if not torch.equal(p.data, self._masters[k].to(p.dtype)):
                return UsageError(
                    f"parameter {self._layout.segments[k].name!r} ({p.dtype}) was changed unnoticed, as by p.data, and "
                    "steps undo that, as x in float32 is what moves; assign in place (p.copy_(...) under no_grad)"
                )
        return None
