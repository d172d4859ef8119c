"""The device of a rank: the CPU, or a GPU by its place among the node's ranks."""

import resource

import torch
from torch import Tensor

from mpisign.errors import UsageError
from mpisign.parallel.mpi import Ranks

KILOBYTE = 1024  # what the system counts resident memory in


def select_device(wanted: str, local_rank: int) -> torch.device:
    """The device for a rank of a node, before anything is allocated on it. Ranks take GPUs in turns and may share one.

    wanted: "auto" for a GPU if there is one, "cpu" or "cuda". Raises UsageError for a GPU that is not there.
    """
    has_gpu = wanted != "cpu" and torch.cuda.is_available()
    if wanted == "cuda" and not has_gpu:
        built = "was built without CUDA" if torch.version.cuda is None and torch.version.hip is None else "sees none"
        raise UsageError(
            f'run.device = "cuda", but there is no GPU for this rank: torch {torch.__version__} {built}; '
            'use run.device = "cpu", ask the scheduler for GPUs (--gpus-per-task), or install torch for your driver'
        )
    if not has_gpu:
        return torch.device("cpu")
    # where each rank sees a GPU of its own, that is number 0: see launchers.take_gpu
    device = torch.device("cuda", local_rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def name_of(device: torch.device) -> str:
    """A device's name for the header and the run file."""
    return "cpu" if device.type == "cpu" else f"{device} ({torch.cuda.get_device_name(device)})"


def synchronize(device: torch.device) -> None:
    """Waits until the device has finished its work."""
    if device.type != "cpu":
        torch.cuda.synchronize(device)


def peak(device: torch.device) -> int:
    """Peak memory in bytes: allocated by torch on a GPU, or resident on the host."""
    if device.type != "cpu":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KILOBYTE


def broadcast_tensor(ranks: Ranks, tensor: Tensor) -> None:
    """Overwrites a tensor with root's, on whatever devices they lie."""
    host = tensor.cpu()
    ranks.bcast(host.numpy())
    tensor.copy_(host)
