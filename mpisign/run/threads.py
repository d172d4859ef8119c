"""How many threads torch gets where the job does not say: a rank's cores, but no more than a gradient keeps busy.

Operations are counted and not timed: the same job has the same threads, and so the same bits, on a machine that others
use as well, and simulated as under MPI.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# Threads wait for one another in every operation of a gradient, of which there are dozens, and for long where the
# machine has other work. So many operations are about 25 ms of a core, beside which that is little.
PER_THREAD = 500_000_000
PER_ELEMENT = 8  # operations of a product in the time in which an element of a result is written
PER_COORDINATE = 32  # the same for a coordinate's way through kernels: sign, vote and update


def threads_for(operations: int, cores: int) -> int:
    """The threads of a rank with so many cores, for a step of so many operations."""
    return max(1, min(cores, operations // PER_THREAD))


class Operations(TorchDispatchMode):
    """Counts, in `total`, what torch does inside: multiplications and additions of products, and elements written."""

    def __init__(self):
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        count = PRODUCTS.get(func.overloadpacket.__name__)
        self.total += count(out, *args) if count else PER_ELEMENT * _elements(out)
        return out


def _elements(out: Any) -> int:
    """Of a tensor, or of several."""
    return sum(map(_elements, out)) if isinstance(out, (tuple, list)) else out.numel() if isinstance(out, Tensor) else 0


def _of_product(out: Tensor, a: Tensor, b: Tensor, *_) -> int:
    return 2 * out.numel() * a.shape[-1]


def _of_sum(out: Tensor, _: Tensor, a: Tensor, b: Tensor, *others) -> int:
    return _of_product(out, a, b)


def _of_convolution(out: Tensor, x: Tensor, weight: Tensor, *_) -> int:
    return 2 * out.numel() * weight[0].numel()


def _of_convolution_backward(_, gradient: Tensor, x: Tensor, weight: Tensor, *others) -> int:
    return 4 * gradient.numel() * weight[0].numel()


def _of_attention(_, query: Tensor, key: Tensor, *others) -> int:
    return 4 * query.numel() * key.shape[-2]


def _of_attention_backward(_, gradient: Tensor, query: Tensor, key: Tensor, *others) -> int:
    return 10 * query.numel() * key.shape[-2]


PRODUCTS: dict[str, Callable[..., int]] = {
    "mm": _of_product,
    "bmm": _of_product,
    "mv": _of_product,
    "addmm": _of_sum,
    "baddbmm": _of_sum,
    "addmv": _of_sum,
    "convolution": _of_convolution,
    "convolution_backward": _of_convolution_backward,
    "_scaled_dot_product_flash_attention_for_cpu": _of_attention,
    "_scaled_dot_product_flash_attention_for_cpu_backward": _of_attention_backward,
}
