"""Between a device and MPI's buffers: only words (or a baseline's floats) cross, through pinned memory.

What a chunk's message is packed into lies on the device. It is copied into the host's buffer by a stream of its own, so
that the next chunk can be packed meanwhile; its verdict is copied to the device before x is moved by it.
"""

import weakref

import numpy as np
import torch
from torch import Tensor


class Staging:
    """The device's side of an exchange's messages. On a CPU it only copies, which is how tests run it."""

    def __init__(self, shapes: list[tuple[int, ...]], dtype: torch.dtype, verdicts: list[Tensor], device: torch.device):
        """shapes, dtype: of each chunk's message. verdicts: a buffer per chunk, on the host."""
        self.device = device
        self.messages = [torch.zeros(shape, dtype=dtype, device=device) for shape in shapes]
        largest = max(verdict.numel() for verdict in verdicts)
        # taken in turns: the device does one thing after the other, so a third verdict does not disturb the first
        self._verdicts = [torch.empty(largest, dtype=verdicts[0].dtype, device=device) for _ in range(2)]
        self._gpu = device.type != "cpu"
        self._stream = torch.cuda.Stream(device) if self._gpu else None
        self._copied: dict[int, torch.cuda.Event] = {}

    def to_host(self, c: int, buffer: Tensor) -> None:
        """Starts to copy the message of chunk c into the host's buffer."""
        if not self._gpu:
            buffer.copy_(self.messages[c])
            return
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._stream):
            buffer.copy_(self.messages[c], non_blocking=True)
            self._copied[c] = self._stream.record_event()

    def wait_for(self, c: int) -> None:
        """Waits until the message of chunk c is in the host's buffer."""
        if self._gpu:
            self._copied.pop(c).synchronize()

    def to_device(self, c: int, verdict: Tensor) -> Tensor:
        """The verdict of chunk c on the device, until that of chunk c + 2 is copied."""
        lowered = self._verdicts[c % 2][: verdict.numel()].view(verdict.shape)
        return lowered.copy_(verdict, non_blocking=True)

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        held = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in (*self.messages, *self._verdicts)}
        return sum(held.values())


def pin(owner: object, memory: Tensor) -> None:
    """Locks memory that torch did not allocate for as long as its owner lives, so that a GPU can copy by itself."""
    runtime, place = torch.cuda.cudart(), memory.data_ptr()
    # what can't be locked still works, only slower
    if not int(runtime.cudaHostRegister(place, memory.nbytes, 0)):
        weakref.finalize(owner, runtime.cudaHostUnregister, place)


def buffer(tensor: Tensor) -> np.ndarray | Tensor:
    """What mpi4py is given for a tensor: an array over its memory, or, on a GPU that MPI knows of, the tensor."""
    return tensor.numpy() if tensor.device.type == "cpu" else tensor
