"""The arrays in which messages travel: one per chunk, of which few are held and used again."""

import math

import torch
from torch import Tensor

from mpisign.algorithms.formats import Format
from mpisign.algorithms.messages import Scratch
from mpisign.exchange.decoding import Decoding
from mpisign.layout import Layout


class Arrays:
    """What an exchange holds in memory of this process, by its chunks, formats and device."""

    layout: Layout
    device: torch.device
    chunks: list[tuple[int, int]]
    shards: list[tuple[int, int, int]]
    in_flight: int
    down: Format
    state: dict[str, Tensor]
    scratch: Scratch
    before: Tensor | None
    _decode: Decoding

    def array(self, size: int, dtype: torch.dtype) -> Tensor:
        """A new array of zeros for messages or verdicts; where a GPU copies from and to it, it is pinned."""
        pinned = self.device.type == "cpu" and self.layout.device.type != "cpu"
        return torch.zeros(size, dtype=dtype, device=self.device, pin_memory=pinned)

    def verdict_of(self, coordinates: int) -> Tensor:
        """A new array for the verdict on so many coordinates."""
        shape = self.down.shape(coordinates=coordinates)
        return self.array(math.prod(shape), self.down.dtype).view(shape)

    def messages(self, form: Format, *between: int) -> list[Tensor]:
        """A buffer (planes, *between, items) per chunk."""
        return self.ring([form.shape(*between, coordinates=hi - lo) for lo, hi in self.chunks], form.dtype)

    def parts(self, form: Format, *between: int) -> list[Tensor]:
        """The same for this rank's part of each chunk."""
        return self.ring([form.shape(*between, coordinates=hi - lo) for lo, hi, _ in self.shards], form.dtype)

    def ring(self, shapes: list[tuple[int, ...]], dtype: torch.dtype) -> list[Tensor]:
        """An array per chunk: `in_flight` of them, which later chunks use again."""
        return self.cut_into([self.array(size, dtype) for size in self.held(shapes)], shapes)

    def held(self, shapes: list[tuple[int, ...]]) -> list[int]:
        """Items of the arrays that a ring of these shapes, one per chunk, needs."""
        # the last chunk of x is shorter than all others, and the first where they go in reverse
        return [max(map(math.prod, shapes[k :: self.in_flight])) for k in range(min(self.in_flight, len(shapes)))]

    def cut_into(self, held: list[Tensor], shapes: list[tuple[int, ...]]) -> list[Tensor]:
        """Views of these shapes into flat arrays, which take turns."""
        flat = [held[c % self.in_flight] for c in range(len(shapes))]
        return [array[: math.prod(shape)].view(shape) for array, shape in zip(flat, shapes, strict=True)]

    def arrays(self) -> list[Tensor]:
        """All that this exchange holds in lists, a chunk each."""
        lists = [some for some in vars(self).values() if isinstance(some, list)]
        return [t for some in lists for t in some if isinstance(t, Tensor)]

    def memory(self) -> int:
        """Bytes in this exchange's buffers and the vote's state, where messages and verdicts lie."""
        kept = [] if self.before is None else [self.before]
        tensors = (*self.state.values(), *self.arrays(), *self._decode.arrays, *kept)
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
        return self.scratch.nbytes + sum(storages.values())
