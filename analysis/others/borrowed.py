"""Code of others, imported from clones of their repositories and run in one process on the CPU.

What it imports beside torch is stood in for: horovod (all ranks are here, and the comparison adds up itself), cupy
(numpy has the functions that are called), torch._six, a torch.distributed whose ranks are threads, and of DeepSpeed a
communicator of one rank and the kernels that pack bits. Random draws of
theirs are replaced by ours where a comparison wants the same.
"""

import importlib.util
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor


def commit(clone: Path) -> str:
    """The first digits of the commit that is checked out."""
    return subprocess.check_output(["git", "-C", clone, "rev-parse", "--short=9", "HEAD"], text=True).strip()


def prepare(folders: Sequence[Path], voters: int) -> None:
    """Makes what lies in these folders importable. voters: what horovod tells as its size."""
    sys.path += [str(folder) for folder in folders]
    horovod = {"rank": lambda: 1, "size": lambda: voters, "allreduce_": None}  # rank 0 prints
    operations = {"Average": "average", "allreduce_async_": None, "allgather_async": None, "synchronize": None}
    torch_of_horovod = _module("horovod.torch", **horovod, mpi_ops=_module("horovod.torch.mpi_ops", **operations))
    _module("horovod", torch=torch_of_horovod)
    _module("torch._six", inf=float("inf"))
    _module(
        "cupy",
        **{name: getattr(np, name) for name in ("bitwise_and", "bitwise_or", "clip", "float32", "left_shift")},
        **{name: getattr(np, name) for name in ("multiply", "right_shift", "uint8", "where")},
        int32=_Int32,
        fromDlpack=lambda capsule: torch.from_dlpack(capsule).numpy().view(_Array),
        random=SimpleNamespace(randint=np.random.randint),
    )
    alone = {"all_to_all_single": lambda out, sent, group: out.copy_(sent)}
    alone |= {"all_gather": lambda outs, sent, group: outs[0].copy_(sent)}
    accelerator = SimpleNamespace(current_device_name=lambda: "cpu")
    _module("deepspeed", comm=_module("deepspeed.comm", **alone))
    _module("deepspeed.accelerator", get_accelerator=lambda: accelerator)
    _module("deepspeed.ops")
    _module("deepspeed.ops.op_builder", PackbitsBuilder=None)


def load(file: Path) -> ModuleType:
    """A file alone, without the package around it."""
    how = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(how)
    how.loader.exec_module(module)
    return module


class Packer:
    """Bits of floats, 1 where they are not negative, as DeepSpeed's kernel packs them."""

    @staticmethod
    def packbits(floats: Tensor, count: int, rank: int) -> Tensor:
        return torch.from_numpy(np.packbits(floats.numpy() >= 0))

    @staticmethod
    def unpackbits(packed: Tensor, count: int, rank: int) -> Tensor:
        return 2.0 * torch.from_numpy(np.unpackbits(packed.numpy())) - 1.0


def mean_magnitude(values: Tensor) -> Tensor:
    """|values|_1/sqrt(d), which divided by sqrt(d) is the mean of the magnitudes."""
    return values.abs().sum() / values.numel() ** 0.5


def _module(name: str, **members) -> ModuleType:
    module = sys.modules[name] = ModuleType(name)
    vars(module).update(members)
    return module


class _Int32(np.int32):
    """np.int32 that takes 32 bits as they are, as cupy's does."""

    def __new__(cls, value):
        return np.uint32(value).astype(np.int32)


class _Array(np.ndarray):
    """An array of numpy with the way out that cupy's arrays have."""

    def toDlpack(self):
        return torch.utils.dlpack.to_dlpack(torch.from_numpy(np.ascontiguousarray(self)))


@contextmanager
def drawing(uniforms: np.ndarray, order: np.ndarray) -> Iterator[None]:
    """What their code draws is uniforms (d,) from (0, 1), or, where it shuffles d coordinates, their order."""

    def uniform_(tensor: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
        return tensor.copy_(torch.from_numpy(low + (high - low) * uniforms))

    def randint(low: int, high: int, size, dtype) -> np.ndarray:
        # 2^23 - 1 numbers there where the mantissa has 2^23, which is theirs to answer for
        return np.floor(uniforms * 2**23).astype(np.int32)

    with (
        patch.object(torch.Tensor, "uniform_", uniform_),
        patch.object(torch, "randperm", lambda count, device=None: torch.from_numpy(order)),
        patch.object(sys.modules["cupy"], "random", SimpleNamespace(randint=randint)),
    ):
        yield


def in_threads(count: int, path_of: Callable[[int], Tensor]) -> list[Tensor]:
    """What path_of(0), ..., path_of(count - 1) return, run at the same time, with torch.distributed between them."""
    meeting, here, parts = threading.Barrier(count), threading.local(), [torch.empty(0)] * count

    def all_reduce(tensor: Tensor, async_op: bool = False):
        parts[here.rank] = tensor
        meeting.wait()
        total = sum(parts)
        meeting.wait()
        tensor.copy_(total)
        return SimpleNamespace(wait=lambda: None)

    def path(rank: int) -> Tensor:
        here.rank = rank
        return path_of(rank)

    with (
        patch.object(torch.distributed, "all_reduce", all_reduce),
        patch.object(torch.distributed, "get_world_size", lambda: count),
        ThreadPoolExecutor(count) as pool,
    ):
        return list(pool.map(path, range(count)))
