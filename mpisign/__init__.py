"""mpisign: training with sign-based distributed optimisation over MPI.

mpisign.optim.SignOptimizer is the way into a training loop of one's own.
"""

import importlib
from typing import Any

__version__ = "0.1.0"
LAZY = {"SignOptimizer": "mpisign.optim", "Run": "mpisign.storage.reader"}


def __getattr__(name: str) -> Any:
    # imported when asked for: reading a run needs no torch
    if name == "optim":
        return importlib.import_module("mpisign.optim")
    if name in LAZY:
        return getattr(importlib.import_module(LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def rank() -> int:
    """This process's number among those that mpirun, srun or torchrun started, from 0; 0 where nothing did.

    Starts MPI where nothing has and torchrun did not start it, which all ranks do together. Raises UsageError as
    SignOptimizer does.
    """
    return _place()[0]


def size() -> int:
    """How many processes mpirun, srun or torchrun started together; 1 where nothing did. Otherwise as rank()."""
    return _place()[1]


def _place() -> tuple[int, int]:
    from mpisign.parallel import leaving, mpi

    leaving.guard()
    leaving.note_exits()
    found = mpi.place()
    if (ranks := mpi.started()) is not None:
        leaving.watch_over(ranks, 0.0, "", patient=True)
    return found


def hide_launcher() -> None:
    """Has other libraries take this process for a single one, once MPI or torch.distributed runs; rank(), size() stay.

    Accelerate, and all that is built on it, reads the variables of mpirun and torchrun in the environment and wants to
    wrap models in DDP. A SignOptimizer does what that would be for, so to them each rank is alone: this removes the
    variables of launchers from the environment of this process and of those that it starts. Of a node's GPUs it leaves
    each rank one. To be called before they are asked for anything.
    """
    from mpisign.parallel import launchers, mpi

    launchers.take_gpu()  # each would take the first one of the node
    _place()
    mpi.default_group()  # which torchrun's variables are needed for
    launchers.hide()


def start_process_group(backend: str = "gloo") -> None:
    """Starts torch.distributed among the ranks that mpirun or srun started, as torchrun's ranks do; all together.

    Address and port are root's, agreed on by MPI, and ranks are MPI's; RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE,
    MASTER_ADDR and MASTER_PORT are set. For models that fully_shard() cuts, and libraries that want a process group; a
    SignOptimizer's votes still travel by MPI. Under torchrun it is torch's init_process_group(backend), if nobody has
    called that. backend: as torch has it, such as "gloo" or "cpu:gloo,cuda:nccl". Raises UsageError, on all ranks, for
    a backend that this torch lacks, and where torch.distributed runs already beside MPI.
    """
    from mpisign.parallel import leaving, rendezvous

    leaving.guard()
    rendezvous.start_among_all(backend)
