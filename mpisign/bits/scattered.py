"""A vector whose pieces lie apart, as gradients do that autograd made."""

from collections.abc import Sequence
from types import EllipsisType

import numpy as np
import torch
from torch import Tensor


class Scattered:
    """A float32 vector (d,) on the CPU, made of contiguous tensors that lie apart; what no tensor holds is 0.

    bits.pack_parts and bits.first_nonfinite take one where they take a vector, and read it where it lies.
    """

    def __init__(self, tensors: Sequence[Tensor], bounds: np.ndarray, length: int):
        """tensors: float32 of any shape, which must stay where they are. length: d.

        bounds: int64 (2, tensors), the first coordinate and the end of each, in order.
        """
        self.tensors, self.lo, self.hi = tensors, 0, length
        self.places = np.empty((3, len(tensors)), dtype=np.int64)
        self.places[:2] = bounds
        # where coordinate 0 would lie
        self.places[2] = [*map(Tensor.data_ptr, tensors)]
        self.places[2] -= 4 * bounds[0]

    def __len__(self) -> int:
        return self.hi - self.lo

    def dim(self) -> int:
        return 1

    def __getitem__(self, where: "int | slice | tuple[EllipsisType, slice]") -> "Tensor | Scattered":
        """A coordinate, as a tensor of one; or coordinates lo to hi - 1, of which nothing is copied: v[lo:hi]."""
        if isinstance(where, int):
            return self._coordinate(self.lo + range(len(self))[where])
        where = where[-1] if isinstance(where, tuple) else where
        lo, hi, _ = where.indices(len(self))
        part = object.__new__(Scattered)
        part.tensors, part.places, part.lo, part.hi = self.tensors, self.places, self.lo + lo, self.lo + max(lo, hi)
        return part

    def _coordinate(self, i: int) -> Tensor:
        for tensor, lo, hi in zip(self.tensors, *self.places[:2].tolist(), strict=True):
            if lo <= i < hi:
                return tensor.reshape(-1)[i - lo]
        return torch.zeros(())
