"""Frozen parameters and buffers, which must be alike on all ranks: broadcast from root once.

They may be of any kind that a model holds: of any dtype and strides, with elements that share a place in memory
(expand), sparse, nested, quantised, or of a class that wraps other tensors. Tensors on "meta" hold nothing to send.
"""

import io
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from mpisign.errors import UsageError
from mpisign.optim.storage import dispatches, distinct, is_dense, parts
from mpisign.parallel.mpi import Ranks


def fault_of_kind(tensors: Mapping[str, Tensor]) -> UsageError | None:
    """The fault of the first tensor that can't be sent from root, or None."""
    for name, t in tensors.items():
        if is_lazy(t):
            return UsageError(
                f"{name!r} has no shape yet (a lazy module): pass a batch through the model, then make the optimiser"
            )
        if hasattr(t, "device_mesh"):
            return UsageError(
                f"{name!r} is a DTensor, spread over a device mesh, but every rank votes with a whole model of its "
                "own; where fully_shard() has cut it, pass its mesh as voters="
            )
        if dispatches(t) and not hasattr(t, "__tensor_flatten__"):
            return UsageError(f"{name!r} is a {type(t).__name__}, which can't be sent to other ranks; make it a Tensor")
        if t.layout is getattr(torch, "_mkldnn", None):
            return UsageError(f"{name!r} is laid out for one library only ({t.layout}); use to_dense()")
    return None


def descriptions(tensors: Mapping[str, Tensor]) -> list[str]:
    """Name, shape and type of each tensor, one line each; these must agree between ranks."""
    lines = []
    for name, tensor in tensors.items():
        if hasattr(tensor, "device_mesh"):  # pieces differ
            lines.append(f"{name!r} of shape {list(tensor.shape)} {tensor.dtype} in pieces")
            continue
        for part, t in parts(name, tensor).items():
            kind = "" if t.layout is torch.strided else f" {t.layout}"
            lines.append(f"{part!r} of shape {list(t.shape)} {t.dtype}{kind}{' on meta' if t.is_meta else ''}")
    return lines


def from_root(ranks: Ranks, tensors: Mapping[str, Tensor]) -> None:
    """Overwrites tensors with root's; shapes, dtypes and layouts are alike on all ranks. Collective."""
    if ranks.size == 1:
        return
    for name, tensor in tensors.items():
        for t in parts(name, tensor).values():
            if is_dense(t):
                _send_dense(ranks, t)
            elif not t.is_meta:
                _send_whole(ranks, t)


def _send_dense(ranks: Ranks, tensor: Tensor) -> None:
    """Sends a tensor's bytes. An equal tensor is not written to: it may lie in read-only memory."""
    place = distinct(tensor.data)
    mine = place.cpu().resolve_conj().resolve_neg().contiguous()
    raw = mine.reshape(-1).view(torch.uint8)
    sent = raw if ranks.root else raw.clone()
    ranks.bcast(sent.numpy())
    if not torch.equal(sent, raw):
        place.copy_(sent.view(mine.dtype).view(mine.shape))


def _send_whole(ranks: Ranks, tensor: Tensor) -> None:
    """Sends a tensor by torch.save, since root's may have another number of elements."""
    file = io.BytesIO()
    if ranks.root:
        torch.save(tensor.data, file)
    data = ranks.share(file.getvalue())
    if not ranks.root:
        tensor.data = torch.load(io.BytesIO(data), map_location=tensor.device, weights_only=True)
