"""Where MPI starts: ranks, hosts, threads, the abort hook, agreement on errors, arrays handed out in a node.

Nothing here touches MPI before `start`, so `--help` and reading a run work on a login node.
"""

import ctypes
import os
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mpisign import ending
from mpisign.errors import MpisignError, UsageError
from mpisign.launchers import NOT_OPEN_MPI, OPEN_MPI, launch
from mpisign.schema import SIMULATED
from mpisign.words import printable

PAUSE = 2e-3  # seconds between looks, where a rank may wait for long
PIECE = 1 << 28  # bytes in one message at most, far below MPI's 2**31 elements


@dataclass
class Ranks:
    """This rank among all, and its node. comm and node are mpi4py communicators, None without MPI."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    hosts: str = "localhost: 1"
    library: str = "none"
    threads: int = 1
    comm: Any = None
    node: Any = None
    members: tuple[int, ...] = (0,)  # the ranks of this node

    @property
    def root(self) -> bool:
        return self.rank == 0

    def wait(self, comm=None) -> None:
        """A barrier that sleeps instead of spinning, for waits that last: others may need the core."""
        comm = comm or self.comm
        request = comm.Ibarrier() if comm else None
        while request and not request.Test():
            time.sleep(PAUSE)

    def agree(self, error: MpisignError | None) -> None:
        """Raises the error of the lowest rank that has one, on every rank."""
        self.wait()
        errors = self.comm.allgather(error and (type(error), str(error))) if self.comm else [error]
        for found in errors:
            if found is not None:
                kind, text = found if self.comm else (type(error), str(error))
                raise kind(text, agreed=True)

    def share(self, value):
        """Root's value, a small Python object, on every rank."""
        return self.comm.bcast(value) if self.comm else value

    def gather(self, value) -> list:
        """Every rank's value, small Python objects in rank order, on root; None elsewhere."""
        return self.comm.gather(value) if self.comm else [value]

    def told(self, source: int):
        """The next small message from a rank, awaited without spinning."""
        while not self.comm.iprobe(source=source):
            time.sleep(PAUSE)
        return self.comm.recv(source=source)

    def bcast(self, array: np.ndarray) -> None:
        """Overwrites an array with root's, in pieces."""
        if self.comm:
            raw = array.reshape(-1).view(np.uint8)
            for lo in range(0, raw.size, PIECE):
                self.comm.Bcast(raw[lo : lo + PIECE])


_started: Ranks | None = None


def start(threads: int = 0) -> Ranks:
    """Starts MPI and looks around. threads: torch threads a rank, 0 for the node's cores over its ranks.

    Raises UsageError if there is no MPI under a launcher, or if the launcher belongs to another MPI.
    """
    global _started
    promised = launch()
    cores = len(os.sched_getaffinity(0))
    if int(os.environ.get("MPI_LOCALNRANKS", promised.size)) > cores:
        # more ranks than cores: a rank that waits lets another one work
        os.environ.setdefault("MPIR_CVAR_POLLS_BEFORE_YIELD", "1")
        os.environ.setdefault("OMPI_MCA_mpi_yield_when_idle", "1")
    try:
        MPI = _library()
    except (ImportError, RuntimeError) as error:
        if promised.size > 1:
            raise UsageError(
                f"no MPI library to be found ({error}); load the MPI module of this cluster, "
                "or install one beside mpisign: pip install 'mpisign[mpich]'"
            ) from error
        _started = Ranks(threads=threads or cores)
        return _started
    vendor, numbers = MPI.get_vendor()
    library = f"{vendor} {'.'.join(map(str, numbers))}"
    foreign = (
        f"{promised.size} processes were started by {promised.by}, but this Python uses {library}: "
        f"the launcher belongs to another MPI. {_remedy()}"
    )
    # before MPI starts, since MPICH aborts without a remedy in a process that Open MPI's mpirun started
    if promised.by == OPEN_MPI and vendor in NOT_OPEN_MPI:
        raise UsageError(foreign)
    if "PMIX_RANK" in os.environ and vendor == "MPICH" and "pmix" not in MPI.Get_library_version().lower():
        raise UsageError(
            f"srun started this step by PMIx, which {library} was built without; use srun --mpi=pmi2 "
            "(in a batch script of mpisign: SRUN_MPI=pmi2)"
        )
    if not MPI.Is_initialized():
        with warnings.catch_warnings():
            # mpi4py's own guess about the launcher; the sizes tell for certain, and the remedy is known here
            warnings.simplefilter("ignore", RuntimeWarning)
            MPI.Init_thread(MPI.THREAD_MULTIPLE)
    world = MPI.COMM_WORLD
    if world.Get_size() == 1 < promised.size:
        raise UsageError(foreign)
    _started = _around(world, threads)
    return _started


def of(comm: object, threads: int = 0) -> Ranks:
    """The ranks of an mpi4py communicator whose MPI runs already; what is sent goes by a copy of it. Collective.

    Raises UsageError for what is no such communicator.
    """
    global _started
    from mpi4py import MPI

    if not isinstance(comm, MPI.Intracomm) or comm == MPI.COMM_NULL:
        raise UsageError(f"comm = {comm!r}: not an intracommunicator of mpi4py; pass one, or none for COMM_WORLD")
    found = _around(comm, threads)
    _started = _started or found
    return found


def _around(comm, threads: int) -> Ranks:
    """Looks around in a communicator."""
    from mpi4py import MPI

    node = comm.Split_type(MPI.COMM_TYPE_SHARED)
    hosts = Counter(comm.allgather(MPI.Get_processor_name()))
    vendor, numbers = MPI.get_vendor()
    return Ranks(
        rank=comm.Get_rank(),
        size=comm.Get_size(),
        local_rank=node.Get_rank(),
        hosts=", ".join(f"{host}: {count}" for host, count in hosts.items()),
        library=f"{vendor} {'.'.join(map(str, numbers))}",
        threads=threads or max(1, len(os.sched_getaffinity(0)) // node.Get_size()),
        comm=comm.Dup(),
        node=node,
        members=tuple(node.allgather(comm.Get_rank())),
    )


def alone(voters: int, threads: int = 0) -> Ranks:
    """One process without MPI, whatever is installed. threads: 0 for those that each of so many ranks would get."""
    return Ranks(threads=threads or max(1, len(os.sched_getaffinity(0)) // voters), library=SIMULATED)


def multithreaded() -> bool:
    """Whether any thread may call MPI; of no interest without MPI."""
    if _started is None or not _started.comm:
        return True
    from mpi4py import MPI

    return MPI.Query_thread() == MPI.THREAD_MULTIPLE


def gpu_aware() -> bool:
    """Whether the MPI library says that it takes GPU memory (MPIX_Query_cuda_support)."""
    maps = Path("/proc/self/maps").read_text().split() if os.path.exists("/proc/self/maps") else []
    for library in dict.fromkeys(path for path in maps if "/libmpi" in path):
        ask = getattr(ctypes.CDLL(library), "MPIX_Query_cuda_support", None)
        if ask is not None:
            return bool(ask())
    return False


def _library():
    """mpi4py's MPI module, not yet initialised."""
    import mpi4py

    mpi4py.rc.initialize, mpi4py.rc.finalize = False, True
    from mpi4py import MPI

    return MPI


def _remedy() -> str:
    beside = Path(sys.prefix) / "bin" / "mpirun"
    if beside.exists():
        return f"Use the launcher of this installation: {beside}"
    return (
        "Use the mpirun (or srun --mpi=...) of the MPI that mpi4py finds, load that MPI's module, "
        "or install one beside mpisign: pip install 'mpisign[mpich]'"
    )


def leave(error: BaseException) -> int:
    """The exit code for an error, after it was printed by whoever should.

    What all ranks know is printed once, by root. What only this rank knows ends the whole job, since the
    others would wait for it.
    """
    known = isinstance(error, MpisignError)
    alone = _started is not None and _started.size > 1 and not (known and error.agreed)
    who = f"rank {_started.rank}/{_started.size}: " if alone else ""
    if known or isinstance(error, KeyboardInterrupt):
        text = f"mpisign: {who}{printable(error or 'interrupted', lines=True)}\n"
    else:
        text = f"mpisign: {who}unexpected error\n{''.join(traceback.format_exception(error))}"
    code = error.exit_code if known else 130 if isinstance(error, KeyboardInterrupt) else 1
    if alone:
        abort(text, code)
    if launch().rank == 0:
        _say(text)
    return code


def guard() -> None:
    """From now on an error that nobody catches ends all ranks, as it does in the application: for scripts.

    What all ranks know is printed once, and they leave in order, with its exit code.
    """
    if getattr(sys.excepthook, "of_mpisign", False):
        return

    def hook(kind: type[BaseException], error: BaseException, trace: object) -> None:
        known = isinstance(error, MpisignError) and error.agreed
        if not known and (_started is None or _started.size == 1):
            before(kind, error, trace)
        else:
            finish_at_once(leave(error))

    before, hook.of_mpisign = sys.excepthook, True
    sys.excepthook = hook


def finish_at_once(code: int) -> None:
    """Ends this process in order towards MPI, and without what Python and its libraries do at the end."""
    sys.stdout.flush()
    sys.stderr.flush()
    if _started is not None and _started.comm:
        from mpi4py import MPI

        ending.end()
        MPI.Finalize()
    os._exit(code)


def abort(text: str, code: int = 1) -> None:
    """Ends all ranks at once, from any thread, saying why."""
    _say(text)
    _started.comm.Abort(code)
    os._exit(code)


def _say(text: str) -> None:
    sys.stdout.flush()
    sys.stderr.write(text)
    sys.stderr.flush()


def send_arrays(comm, arrays: Mapping[str, np.ndarray], to: int) -> None:
    """Sends named arrays to a rank of comm, in pieces."""
    comm.send({name: (a.shape, a.dtype.str) for name, a in arrays.items()}, dest=to)
    for array in arrays.values():
        raw = array.reshape(-1).view(np.uint8)
        for lo in range(0, raw.size, PIECE):
            comm.Send(raw[lo : lo + PIECE], dest=to)


def receive_arrays(comm, source: int) -> dict[str, np.ndarray]:
    """Named arrays that send_arrays sent."""
    shapes = comm.recv(source=source)
    arrays = {name: np.empty(shape, dtype) for name, (shape, dtype) in shapes.items()}
    for array in arrays.values():
        raw = array.reshape(-1).view(np.uint8)
        for lo in range(0, raw.size, PIECE):
            comm.Recv(raw[lo : lo + PIECE], source=source)
    return arrays
