"""The memory of tensors: which of them share it, and one storage per parameter over the memory of x."""

from collections.abc import Mapping

import torch
from torch import Tensor

ROWS, COLUMNS = (("crow_indices", "col_indices", "values"), ("ccol_indices", "row_indices", "values"))
COMPRESSED = {torch.sparse_csr: ROWS, torch.sparse_bsr: ROWS, torch.sparse_csc: COLUMNS, torch.sparse_bsc: COLUMNS}


def own_storage(view: Tensor) -> Tensor:
    """The memory of a view, on the CPU or a GPU, as a tensor whose storage is that memory and nothing else.

    Savers tell tied weights by their storage and write storages whole (safetensors, accelerate, torch.save), so a
    storage of all of x would make them drop or write too much. Nothing is copied, and the memory lives as long as the
    last tensor in it. A storage of this kind can't be resized.
    """
    return torch.from_dlpack(view)


def dispatches(tensor: Tensor) -> bool:
    """Whether a tensor is of a class that wraps others and dispatches by itself (DTensor, quantised weights)."""
    return type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__


def parts(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """A tensor by its name, or the tensors that hold its numbers if it is nested, compressed, or wraps others."""
    t, inside = tensor.detach() if not dispatches(tensor) else tensor, {}
    if dispatches(t):
        names = t.__tensor_flatten__()[0]  # type: ignore[attr-defined]  # what wraps tensors has it
        inside = {part: getattr(t, part) for part in names}
    elif t.is_nested:
        inside = {str(k): part for k, part in enumerate(t.unbind())}
    elif t.layout in COMPRESSED:
        inside = {part: getattr(t, part)() for part in COMPRESSED[t.layout]}
    else:
        return {name: tensor}
    return {own: t for part, held in inside.items() for own, t in parts(f"{name}.{part}", held).items()}


def is_dense(tensor: Tensor) -> bool:
    """Whether a tensor's elements lie one by one in memory, at its strides."""
    plain = not dispatches(tensor) and tensor.layout is torch.strided
    return plain and not (tensor.is_quantized or tensor.is_nested or tensor.is_meta)


def repeats(tensor: Tensor) -> bool:
    """Whether several elements of a dense tensor may be one place in memory, as after expand()."""
    reach = 0  # from the first element to the farthest one, along the dimensions so far
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride <= reach:
            return tensor.numel() > 0
        reach += stride * (size - 1)
    return False


def distinct(tensor: Tensor) -> Tensor:
    """A view of a dense tensor that holds each of its places in memory once, where elements repeat."""
    for dim, (stride, size) in enumerate(zip(tensor.stride(), tensor.shape, strict=True)):
        if stride == 0 and size > 1:
            tensor = tensor.narrow(dim, 0, 1)
    return tensor.as_strided((_reach(tensor),), (1,)) if repeats(tensor) else tensor


def copy_of(tensor: Tensor) -> Tensor:
    """A copy of a tensor for put_back()."""
    return distinct(tensor.data).clone() if is_dense(tensor) else tensor.data.clone()


def put_back(tensor: Tensor, copy: Tensor) -> None:
    """Restores a tensor from copy_of(tensor), in place if it is dense."""
    if is_dense(tensor):
        distinct(tensor.data).copy_(copy)
    else:
        tensor.data = copy


def _reach(tensor: Tensor) -> int:
    """Elements from the first one of a tensor to its last one in memory, both counted."""
    return 1 + sum(stride * (size - 1) for stride, size in zip(tensor.stride(), tensor.shape, strict=True))


def sharing(tensors: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> tuple[str, str] | None:
    """The names of a tensor and of a tensor behind it, or of the others, that share memory, if any do."""
    spans = []
    for ours, named in ((True, tensors), (False, others)):
        for name, t in named.items():
            if is_dense(t) and t.numel():
                lo = t.data_ptr()
                spans.append((str(t.device), lo, lo + _reach(t) * t.element_size(), ours, name, t))
    spans.sort(key=lambda span: span[:2])
    open_: list[tuple] = []  # spans that reach beyond the start of the next one
    for span in spans:
        open_ = [before for before in open_ if before[0] == span[0] and before[2] > span[1]]
        for before in open_:
            if (before[3] or span[3]) and _meet(before[-1], span[-1]):
                first, second = sorted((before, span), key=lambda s: not s[3])
                return first[4], second[4]
        open_.append(span)
    return None


def _meet(a: Tensor, b: Tensor) -> bool:
    """Whether two dense tensors whose spans in memory overlap have a place in common, rather than lie interleaved."""
    if a.element_size() != b.element_size():
        return True
    start = min(a.data_ptr(), b.data_ptr())
    offsets = [(t.data_ptr() - start) // t.element_size() for t in (a, b)]
    places = torch.zeros(max(at + _reach(t) for at, t in zip(offsets, (a, b), strict=True)), dtype=torch.bool)
    first, second = (places.as_strided(t.shape, t.stride(), at) for at, t in zip(offsets, (a, b), strict=True))
    distinct(first).fill_(True)
    return bool(second.any())
