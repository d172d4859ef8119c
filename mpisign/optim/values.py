"""Values of Python that come and go with an optimiser: numbers of numpy and torch, and what a checkpoint keeps of them.

A checkpoint's text is JSON. What JSON has no word for (tuples, tensors, dicts whose keys are no strings) stands in it
as {"__mpisign__": KIND, ...}.
"""

import base64
import math
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from mpisign.errors import UsageError

KIND = "__mpisign__"
Number: TypeAlias = float | np.number[Any] | Tensor  # as people write one; see number()


def number(value: Any) -> Any:
    """A number of numpy, or a tensor of one element, as Python's own; anything else as it is."""
    if isinstance(value, np.generic) or (isinstance(value, (Tensor, np.ndarray)) and _is_single(value)):
        return value.item()
    return value


def at_least_zero(name: str, value: Any, what: str) -> float:
    """A finite number that is not negative; raises UsageError for anything else. what: "a learning rate"."""
    taken = value if type(value) is float else number(value)
    if isinstance(taken, bool) or not isinstance(taken, (int, float)) or not 0 <= taken < math.inf:
        raise UsageError(f"{name} = {value!r}: {what} is a finite number, 0 or above")
    return float(taken)


def flag(name: str, value: Any) -> bool:
    """A bool; raises UsageError for anything but True, False, 1 and 0."""
    taken = number(value)
    if not isinstance(taken, (bool, int)) or taken not in (0, 1):
        raise UsageError(f"{name} = {value!r}: True or False")
    return bool(taken)


def snapshot(value: Any, name: str) -> Any:
    """A copy that torch.load(weights_only=True) reads: numbers of numpy become Python's own, all else keeps its type.

    Raises UsageError, naming the value, for what is neither None, a number, a string or a tensor, nor a list, tuple or
    dict of these.
    """
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Tensor) and value.layout is torch.strided and not value.is_quantized:
        return value.detach().clone()
    if type(value) in (list, tuple):
        return type(value)(snapshot(v, f"{name}[{k}]") for k, v in enumerate(value))
    if isinstance(value, dict):
        return {_key(k, name): snapshot(v, f"{name}[{k!r}]") for k, v in value.items()}
    text = " ".join(repr(value).split())
    raise UsageError(
        f"{name} = {text:.200} is a {type(value).__name__}, which can't be saved; numbers, strings, None, dense "
        "tensors, and lists, tuples and dicts of these can"
    )


def encode(value: Any, name: str) -> Any:
    """A value for JSON that decode() turns back into the same; raises UsageError as snapshot() does."""
    return _encode(snapshot(value, name))


def decode(encoded: Any) -> Any:
    """The value that encode() was given. Raises KeyError, ValueError or TypeError for what it did not write."""
    if isinstance(encoded, list):
        return [decode(v) for v in encoded]
    if not isinstance(encoded, dict):
        return encoded
    kind = encoded.get(KIND)
    if kind is None:
        return {k: decode(v) for k, v in encoded.items()}
    if kind == "tuple":
        return tuple(decode(v) for v in encoded["items"])
    if kind == "dict":
        return {decode(k): decode(v) for k, v in encoded["items"]}
    if kind == "tensor":
        return _tensor(**{k: v for k, v in encoded.items() if k != KIND})
    raise ValueError(f"values of kind {kind!r} are not known")


def _encode(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        items = [_encode(v) for v in value]
        return items if isinstance(value, list) else {KIND: "tuple", "items": items}
    if isinstance(value, dict):
        if all(isinstance(k, str) and k != KIND for k in value):
            return {k: _encode(v) for k, v in value.items()}
        return {KIND: "dict", "items": [[_encode(k), _encode(v)] for k, v in value.items()]}
    if isinstance(value, Tensor):
        raw = value.cpu().resolve_conj().resolve_neg().contiguous().view(-1).view(torch.uint8).numpy()
        facts = {"dtype": str(value.dtype), "shape": list(value.shape), "device": value.device.type}
        return {KIND: "tensor", **facts, "bytes": base64.b64encode(raw.tobytes()).decode()}
    return value


def _tensor(dtype: str, shape: list[int], device: str, bytes: str) -> Tensor:
    kind = getattr(torch, dtype.removeprefix("torch."))
    if not isinstance(kind, torch.dtype):
        raise ValueError(f"{dtype!r} is no dtype")
    raw = torch.from_numpy(np.frombuffer(bytearray(base64.b64decode(bytes, validate=True)), np.uint8))
    # where there is no such device, the host's memory does
    return raw.view(kind).view(shape).to(device if device == "cuda" and torch.cuda.is_available() else "cpu")


def _key(key: Any, name: str) -> Any:
    if type(key) not in (bool, int, float, str):
        raise UsageError(f"{name} has the key {key!r:.200}, which can't be saved; numbers and strings can")
    return key


def _is_single(value: Tensor | np.ndarray) -> bool:
    return (value.numel() if isinstance(value, Tensor) else value.size) == 1
