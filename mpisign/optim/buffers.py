"""Buffers of a model: each rank's own (BatchNorm's running statistics), saved with its state, averaged to evaluate."""

import hashlib

import torch
from torch import Tensor, nn

from mpisign.errors import UsageError
from mpisign.optim.agreement import by_value
from mpisign.optim.storage import distinct, is_dense
from mpisign.parallel.mpi import Ranks
from mpisign.parallel.world import World, ordered_sum

AT_ONCE = 1 << 22  # float64 of all ranks that a rank holds while it adds them
WHOLE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes; numpy knows them all
KNOWN = {torch.bool, torch.float16, torch.float32, torch.float64, torch.complex64, torch.complex128} | {
    torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
}  # fmt: skip


def persistent(model: nn.Module | None) -> dict[str, Tensor]:
    """The buffers that a model's state_dict holds, by name, as they are at this moment."""
    buffers: dict[str, Tensor] = {}
    for prefix, module in model.named_modules() if model else ():
        for name, buffer in module._buffers.items():
            if buffer is not None and name not in module._non_persistent_buffers_set:
                buffers[f"{prefix}.{name}" if prefix else name] = buffer
    return buffers


def to_save(model: nn.Module | None) -> dict[str, Tensor]:
    """Persistent buffers as views that numpy takes: of dtypes that it lacks (bfloat16) the bits, as whole numbers.

    One number is a vector of one, as HDF5 has no arrays without a dimension.
    """
    places = {name: distinct(buffer.detach()) for name, buffer in persistent(model).items() if is_dense(buffer)}
    places = {name: b if b.ndim else b.view(1) for name, b in places.items()}
    return {name: b if b.dtype in KNOWN else b.view(WHOLE[b.element_size()]) for name, b in places.items()}


def refuse_unsavable(model: nn.Module | None) -> None:
    """Raises UsageError if to_save() leaves out a buffer."""
    if left := [name for name, buffer in persistent(model).items() if not is_dense(buffer)]:
        raise UsageError(f"buffer {left[0]!r} is not dense (sparse, quantised or on meta), so it can't be saved")


def described(model: nn.Module | None) -> list[list]:
    """Name, dtype and shape of every persistent buffer, for JSON."""
    return [[name, str(b.dtype), list(b.shape)] for name, b in persistent(model).items()]


def average(model: nn.Module, world: World, ranks: Ranks) -> None:
    """Overwrites buffers that differ between ranks: floats by their mean over ranks, others by root's. Collective.

    Means are sums in rank order, in float64. Raises UsageError on all ranks if ranks have different buffers.
    """
    own = {name: distinct(b.detach()) for name, b in model.named_buffers() if is_dense(b)}
    mine = {name: (str(b.dtype), tuple(b.shape), _digest(b)) for name, b in own.items()}
    everyone = ranks.allgather(mine, "buffers")
    kinds = [", ".join(f"{name} {dtype} {shape}" for name, (dtype, shape, _) in one.items()) for one in everyone]
    if len(set(kinds)) > 1:
        raise UsageError(f"buffers can't be averaged, as the model has {by_value(kinds)}", agreed=True)
    for name, buffer in own.items():
        if all(one[name] == mine[name] for one in everyone):
            continue
        if buffer.is_floating_point() or buffer.is_complex():
            _take_mean(torch.view_as_real(buffer) if buffer.is_complex() else buffer, world)
        else:
            host = buffer.cpu().contiguous()
            ranks.bcast(host.view(-1).view(torch.uint8).numpy())
            buffer.copy_(host)


def _take_mean(buffer: Tensor, world: World) -> None:
    """Averages a buffer in place, piece by piece."""
    wide = buffer.to("cpu", torch.float64).contiguous()
    for part in wide.view(-1).split(max(AT_ONCE // world.n, 1)):
        part.copy_(ordered_sum(world.everyone([part])) / world.n)
    buffer.copy_(wide)


def _digest(buffer: Tensor) -> bytes:
    raw = buffer.cpu().contiguous().view(-1).view(torch.uint8)
    return hashlib.blake2b(raw.numpy().data, digest_size=16).digest()
