"""The arrays in which messages travel: one a chunk, of which few are held and used again."""

import math

import numpy as np
import torch
from torch import Tensor

from mpisign.layout import Layout
from mpisign.messages import Format, Room
from mpisign.slots import State


class Buffers:
    """What an exchange knows of its arrays."""

    layout: Layout
    down: Format
    chunks: list[tuple[int, int]]
    stretches: list[tuple[int, int, int]]
    device: torch.device  # of messages, verdicts and the vote's arrays
    aside: bool
    room: Room
    state: State
    anywhere = True  # whether it can work in the memory of a GPU
    ahead = 2  # messages on their way before the first is counted

    def array(self, size: int, dtype: torch.dtype) -> Tensor:
        """A new array of zeros for messages or verdicts; where a GPU copies from and to it, it is pinned."""
        pinned = self.device.type == "cpu" and self.layout.device.type != "cpu"
        return torch.zeros(size, dtype=dtype, device=self.device, pin_memory=pinned)

    def verdict_of(self, coordinates: int) -> Tensor:
        """A new array for the verdict on so many coordinates."""
        shape = self.down.shape(coordinates=coordinates)
        return self.array(math.prod(shape), self.down.dtype).view(shape)

    @property
    def depth(self) -> int:
        """Messages on their way before the first is counted: all of them where they are sent while gradients come."""
        return len(self.chunks) if self.aside else self.ahead

    @property
    def at_once(self) -> range:
        """The chunks that travel before any is waited for."""
        return range(min(self.depth, len(self.chunks)))

    def messages(self, form: Format, *between: int) -> list[Tensor]:
        """A buffer (planes, *between, items) a chunk."""
        return self.ring([form.shape(*between, coordinates=hi - lo) for lo, hi in self.chunks], form.dtype)

    def parts(self, form: Format, *between: int) -> list[Tensor]:
        """The same for this rank's part of each chunk."""
        return self.ring([form.shape(*between, coordinates=hi - lo) for lo, hi, _ in self.stretches], form.dtype)

    def ring(self, shapes: list[tuple[int, ...]], dtype: torch.dtype) -> list[Tensor]:
        """An array a chunk: `depth` of them, which later chunks use again."""
        return self.cut_into([self.array(size, dtype) for size in self.held(shapes)], shapes)

    def held(self, shapes: list[tuple[int, ...]]) -> list[int]:
        """Items of the arrays that a ring of these shapes, one a chunk, needs."""
        # the last chunk of x is shorter than all others, and the first where they go backwards
        return [max(map(math.prod, shapes[k :: self.depth])) for k in range(min(self.depth, len(shapes)))]

    def cut_into(self, held: list[Tensor], shapes: list[tuple[int, ...]]) -> list[Tensor]:
        """Views of these shapes into flat arrays, which take turns."""
        flat = [held[c % self.depth] for c in range(len(shapes))]
        return [array[: math.prod(shape)].view(shape) for array, shape in zip(flat, shapes, strict=True)]

    def arrays(self) -> list[Tensor]:
        """All that this exchange holds in lists, a chunk each."""
        lists = [some for some in vars(self).values() if isinstance(some, list)]
        return [t for some in lists for t in some if isinstance(t, Tensor)]

    def memory(self) -> int:
        """Bytes in this exchange's buffers and the vote's state, where messages and verdicts lie."""
        storages = {
            t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in (*self.state.values(), *self.arrays())
        }
        return self.room.nbytes + sum(storages.values())


def buffer(tensor: Tensor) -> np.ndarray | Tensor:
    """What mpi4py is given for a tensor: an array over its memory, or, on a GPU that MPI knows of, the tensor."""
    return tensor.numpy() if tensor.device.type == "cpu" else tensor
