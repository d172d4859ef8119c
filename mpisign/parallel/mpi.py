"""Where MPI starts, or is done without: ranks, hosts, threads, agreement on errors, arrays handed out in a node.

Nothing here touches MPI before `start`, so `--help` and reading a run work on a login node.
"""

import ctypes
import os
import select
import socket
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from mpisign.errors import MpisignError, UsageError
from mpisign.parallel import ending, memory
from mpisign.parallel.launchers import (
    OPEN_MPI,
    Library,
    fitting,
    launch,
    launched_by_torch,
    number,
    refuse_alone,
    refuse_before,
)
from mpisign.parallel.watchdog import WATCH

PAUSE = 2e-3  # seconds between looks, where a rank may wait for long
PIECE = 1 << 28  # bytes in one message at most, far below MPI's 2**31 elements
PATIENT = 1800.0  # seconds that MPI's start may take where nobody says how many
FINALIZE = 60  # seconds that the end of MPI may take
ANSWER = 5.0  # seconds that a launcher may take to let a process go
FAULT_TOLERANT = "OMPI_MCA_mpi_ft_enable"  # what Open MPI's `mpirun --with-ft ulfm` sets for its ranks
# a process of its own, as MPI's start leaves this one no thread: ends it unless told before that MPI has started
LIMIT = """
import os, select, sys
if not select.select([0], [], [], float(sys.argv[2]))[0]:
    os.write(2, sys.argv[3].encode())
    os.kill(int(sys.argv[1]), 9)
"""


@dataclass
class Ranks:
    """This rank among all, and its node.

    comm, node: communicators as communicator.py has them, mpi4py's or made of a process group; None in a process alone.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    hosts: str = "localhost: 1"
    library: str = "none"  # the MPI library; "" where it is not to be used
    threads: int = 1
    comm: Any = None
    node: Any = None
    members: tuple[int, ...] = (0,)  # the ranks of this node

    @property
    def root(self) -> bool:
        return self.rank == 0

    @property
    def by_mpi(self) -> bool:
        """Whether MPI connects them."""
        return self.comm is not None and not hasattr(self.comm, "library")

    def wait(self, comm=None) -> None:
        """A barrier that sleeps instead of spinning, for waits that last: others may need the core."""
        comm = comm or self.comm
        request = comm.Ibarrier() if comm else None
        with WATCH("a barrier of all ranks"):
            while request and not request.Test():
                time.sleep(PAUSE)

    def allgather(self, value, what: str = "what all ranks have") -> list:
        """Every rank's value, small Python objects in rank order. what: they are, for who waits in vain."""
        with WATCH(f"an allgather of {what}"):
            return self.comm.allgather(value) if self.comm else [value]

    def agree(self, error: MpisignError | None) -> None:
        """Raises the error of the lowest rank that has one, on every rank."""
        self.wait()
        for of_rank in self.allgather(error and (type(error), str(error)), "errors"):
            if of_rank is not None:
                kind, text = of_rank
                raise kind(text, agreed=True)

    @contextmanager
    def agreed(self) -> Iterator[None]:
        """The MpisignError that ends what is inside on any rank is raised on all, that of the lowest. Collective."""
        error = None
        try:
            yield
        except MpisignError as raised:
            error = raised
        self.agree(error)

    def share(self, value):
        """Root's value, a small Python object, on every rank."""
        with WATCH("a bcast of what root decided"):
            return self.comm.bcast(value) if self.comm else value

    def gather(self, value) -> list:
        """Every rank's value, small Python objects in rank order, on root; None elsewhere."""
        with WATCH("a gather of what all ranks have"):
            return self.comm.gather(value) if self.comm else [value]

    def receive(self, source: int):
        """The next small message from a rank, awaited without spinning."""
        with WATCH(f"a message of rank {source}"):
            while not self.comm.iprobe(source=source):
                time.sleep(PAUSE)
            return self.comm.recv(source=source)

    def bcast(self, array: np.ndarray) -> None:
        """Overwrites an array with root's, in pieces."""
        for piece in _pieces(array) if self.comm else ():
            with WATCH("a Bcast of parameters"):
                self.comm.Bcast(piece)


_started: Ranks | None = None
_lost = False


def start(threads: int = 0, limit: float = 0.0) -> Ranks:
    """Starts MPI and looks around. threads: torch threads per rank, 0 for the node's cores over its ranks.

    limit: seconds after which a start that some rank takes no part in is given up, 0 for none.

    Raises UsageError if there is no MPI under a launcher, or if the launcher belongs to another MPI or to none.
    """
    global _started
    promised = launch()
    cores = len(os.sched_getaffinity(0))
    if number("MPI_LOCALNRANKS", promised.size) > cores:
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
    refuse_before(_described(MPI))
    _demand_shared(MPI.get_vendor()[0], promised.rank)
    if not MPI.Is_initialized():
        with warnings.catch_warnings():
            # mpi4py's own guess about the launcher; the sizes tell for certain, and the remedy is known here
            warnings.simplefilter("ignore", RuntimeWarning)
            with _limited(limit if promised.size > 1 else 0.0, promised.rank, promised.size):
                MPI.Init_thread(MPI.THREAD_MULTIPLE)
    refuse_alone(_described(MPI), MPI.COMM_WORLD.Get_size())
    _started = _around(MPI.COMM_WORLD, threads)
    return _started


def go_on_among(comm, threads: int) -> Ranks:
    """The ranks of a communicator of those that are alive, after others were lost. Collective."""
    global _started
    do_without_finalize()
    comm.Set_errhandler(_library().ERRORS_RETURN)
    _started = _around(comm, threads)
    return _started


def outlive() -> bool:
    """Whether ranks may outlive one another: under Open MPI's mpirun --with-ft ulfm."""
    return launch().by == OPEN_MPI and os.environ.get(FAULT_TOLERANT) == "1"


def says_lost(error: BaseException) -> bool:
    """Whether an error says that a rank was lost, or that another one has found that out."""
    if not outlive() or not isinstance(error, (MPI := _library()).Exception):
        return False
    return error.Get_error_class() in (MPI.ERR_PROC_FAILED, MPI.ERR_PROC_FAILED_PENDING, MPI.ERR_REVOKED)


def do_without_finalize() -> None:
    """From now on MPI is not ended in order: a rank was lost."""
    global _lost
    _lost = True


def has_lost() -> bool:
    """Whether ranks were lost, for which MPI's end would wait."""
    return _lost


def join(limit: float) -> Ranks:
    """The ranks of a training loop of one's own: those that torch.distributed connects, or else MPI's.

    limit: as start() takes it. Raises UsageError as start() does.
    """
    group = default_group()
    return start(limit=limit) if group is None else of(group)


def default_group(backend: str | None = None) -> Any:
    """torch's default process group, which is joined where the loop has not yet; None where MPI connects the ranks.

    backend: by which it is joined; torch's own choice if it is None.
    """
    if not _of_torch():
        return None
    import torch.distributed as dist

    if not dist.is_initialized():
        dist.init_process_group(backend)
        ending.at_end(lambda: dist.destroy_process_group() if dist.is_initialized() else None)
    return dist.group.WORLD


def everyone() -> Ranks:
    """All ranks that MPI's launcher started; starts MPI where nothing has."""
    ranks = _started or start(limit=PATIENT)
    return _around(_library().COMM_WORLD, ranks.threads) if ranks.comm else ranks


def place() -> tuple[int, int]:
    """Rank and size among all that were launched; starts MPI where nothing has, unless torch.distributed is there."""
    if found := place_by_torch():
        return found
    world = _library().COMM_WORLD if (_started or start(limit=PATIENT)).comm else None
    return (world.Get_rank(), world.Get_size()) if world else (0, 1)


def place_by_torch() -> tuple[int, int] | None:
    """Rank and size among the processes that torch.distributed connects or will connect; None where MPI does."""
    if not _of_torch():
        return None
    dist = sys.modules.get("torch.distributed")
    return (dist.get_rank(), dist.get_world_size()) if dist and dist.is_initialized() else launched_by_torch()


def _of_torch() -> bool:
    """Whether torch.distributed connects this process to others, or torchrun means it to, and MPI connects it to none.

    A library that MPI's launcher started may have torch.distributed run too, as for DDP: that makes no difference.
    """
    dist = sys.modules.get("torch.distributed")
    torchrun = launched_by_torch() is not None
    if not torchrun and not (dist and dist.is_available() and dist.is_initialized()):
        return False
    if is_running():
        return _library().COMM_WORLD.Get_size() == 1
    return torchrun or launch().stranger or launch().size == 1


def _demand_shared(vendor: str, rank: int) -> None:
    """Tells of a /dev/shm in which MPICH may crash as it starts: it takes 1 MiB per rank there, and 7 more if it can.

    Raises UsageError where it will. Where there is room for some ranks' 7 MiB and not for all, it may or may not.
    """
    ranks = number("MPI_LOCALNRANKS", 1)
    if vendor != "MPICH" or ranks == 1 or number("MPI_LOCALRANKID"):
        return  # the first rank of a node looks for all, before any has taken its part
    if lacking := memory.lacking_shared(ranks * 1_100_000):
        text = f"MPICH can't start {ranks} ranks: {lacking}; {memory.MORE_SHARED}"
        if rank:
            ending.say(f"mpisign: {text}\n")  # elsewhere than on the first node, of which nobody tells
        raise UsageError(text)
    if not memory.lacking_shared(14 << 20) and (lacking := memory.lacking_shared(ranks * (8 << 20))):
        ending.say(f"mpisign: note: {lacking} by MPICH; should it crash as it starts, {memory.MORE_SHARED}\n")


@contextmanager
def _limited(seconds: float, rank: int, size: int) -> Iterator[None]:
    """Ends this process if what is inside takes longer."""
    if not seconds:
        yield
        return
    text = (
        f"mpisign: rank {rank}/{size}: MPI has not started after {seconds:g} s: some rank ended before it got there, "
        f"or the launcher belongs to another MPI. {fitting()}\n"
    )
    command = [sys.executable, "-I", "-S", "-c", LIMIT, str(os.getpid()), str(seconds), text]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as guardian:
        try:
            yield
        finally:
            guardian.kill()


def of(comm: object, threads: int = 0) -> Ranks:
    """The ranks of a communicator; what is sent goes by a copy of it. Collective.

    comm: mpi4py's, whose MPI runs already, or a process group of torch.distributed. Raises UsageError for what is
    neither.
    """
    global _started
    if "torch" in sys.modules and (group := _group_of(comm)) is not None:
        ranks = _around_group(group, threads)
    else:
        ranks = _around(_checked(comm), threads)
    _started = _started or ranks
    return ranks


def _checked(comm: object) -> Any:
    """An mpi4py intracommunicator; raises UsageError for what is none."""
    MPI = getattr(sys.modules.get("mpi4py"), "MPI", None)  # who has a communicator has imported it
    if MPI is None or not isinstance(comm, MPI.Intracomm) or comm == MPI.COMM_NULL:
        raise UsageError(
            f"comm = {comm!r}: neither an intracommunicator of mpi4py nor a process group of torch.distributed; pass "
            "one, or none for all that were launched"
        )
    refuse_alone(_described(MPI), MPI.COMM_WORLD.Get_size())
    return comm


def _group_of(comm: object) -> Any:
    """A copy of a process group of torch.distributed, or None for what is none. Collective over its ranks."""
    from mpisign.parallel import process_group

    return process_group.GroupComm(process_group.checked(comm)) if process_group.is_group(comm) else None


def _around(comm, threads: int) -> Ranks:
    """Looks around in a communicator."""
    MPI = _library()
    with WATCH("all ranks at MPI's start"):
        node = comm.Split_type(MPI.COMM_TYPE_SHARED)
        hosts = Counter(comm.allgather(MPI.Get_processor_name()))
        return Ranks(
            rank=comm.Get_rank(),
            size=comm.Get_size(),
            local_rank=node.Get_rank(),
            hosts=", ".join(f"{host}: {count}" for host, count in hosts.items()),
            library=str(_described(MPI)),
            threads=threads or max(1, len(os.sched_getaffinity(0)) // node.Get_size()),
            comm=comm.Dup(),
            node=node,
            members=tuple(node.allgather(comm.Get_rank())),
        )


def _around_group(comm: Any, threads: int) -> Ranks:
    """Looks around in a process group."""
    from mpisign.parallel.process_group import HostComm

    with WATCH("all ranks of the process group"):
        everyone, rank = comm.allgather(socket.gethostname()), comm.Get_rank()
    members = tuple(r for r, host in enumerate(everyone) if host == everyone[rank])
    return Ranks(
        rank=rank,
        size=comm.Get_size(),
        local_rank=members.index(rank),
        hosts=", ".join(f"{host}: {count}" for host, count in Counter(everyone).items()),
        library=f"torch.distributed by {comm.backends}",
        threads=threads or max(1, len(os.sched_getaffinity(0)) // len(members)),
        comm=comm,
        node=HostComm(comm, members),
        members=members,
    )


def alone(voters: int, threads: int = 0) -> Ranks:
    """One process without MPI, whatever is installed. threads: 0 for those that each of so many ranks would get."""
    return Ranks(threads=threads or max(1, len(os.sched_getaffinity(0)) // voters), library="")


def multithreaded() -> bool:
    """Whether any thread may call MPI; of no interest without MPI."""
    if _started is None or not _started.by_mpi:
        return True
    MPI = _library()
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


def _described(MPI) -> Library:
    return Library(*MPI.get_vendor(), pmix="pmix" in MPI.Get_library_version().lower())


def started() -> Ranks | None:
    """This process among all, once MPI was started or found missing."""
    return _started


def is_running() -> bool:
    """Whether MPI has been started, by whomever, and not ended."""
    MPI = getattr(sys.modules.get("mpi4py"), "MPI", None)
    return MPI is not None and MPI.Is_initialized() and not MPI.Is_finalized()


def finalize() -> bool:
    """Ends MPI, if it runs and no rank was lost, for which its end would wait; whether it did."""
    ending_now = is_running() and not _lost
    if ending_now:
        ending.end_within(FINALIZE)
        _library().Finalize()
        ending.end_within(0)
    return ending_now


def take_leave() -> None:
    """Tells MPICH's mpirun that this process has ended MPI and may go: before os._exit(), once MPI was finalized.

    MPICH says so in exit(), and not in MPI_Finalize. A process that goes without a word counts as lost: mpirun kills
    those that are still on their way out, and their 9 is then in the exit code.
    """
    line, by_version_2 = number("PMI_FD"), number("MPIR_CVAR_PMI_VERSION", 1) == 2
    if line is None or "HYDI_CONTROL_FD" not in os.environ or by_version_2 or _library().get_vendor()[0] != "MPICH":
        return
    with suppress(OSError):
        os.write(line, b"cmd=finalize\n")
        if select.select([line], [], [], ANSWER)[0]:
            os.read(line, 256)


def speaks() -> bool:
    """Whether this process tells what all know."""
    return _started.root if _started is not None else launch().speaks


def send_arrays(comm, arrays: Mapping[str, np.ndarray], to: int) -> None:
    """Sends named arrays to a rank of comm, in pieces."""
    with WATCH(f"sending arrays to rank {to}"):
        comm.send({name: (a.shape, a.dtype.str) for name, a in arrays.items()}, dest=to)
        for piece in chain.from_iterable(map(_pieces, arrays.values())):
            comm.Send(piece, dest=to)


def receive_arrays(comm, source: int) -> dict[str, np.ndarray]:
    """Named arrays that send_arrays sent."""
    with WATCH(f"arrays of rank {source}"):
        shapes = comm.recv(source=source)
        arrays = {name: np.empty(shape, dtype) for name, (shape, dtype) in shapes.items()}
        for piece in chain.from_iterable(map(_pieces, arrays.values())):
            comm.Recv(piece, source=source)
    return arrays


KEPT: list[Any] = []  # requests that a loss left on their way, and the arrays that MPI may still use for them


def pass_on(comm, raw: np.ndarray, to: int, sources: list[int]) -> list[np.ndarray]:
    """Sends bytes to a rank of comm, in pieces, while those of other ranks come in; returns these."""
    with WATCH(f"bytes to rank {to}, and of ranks {sources}"):
        sent = [comm.isend(raw.size, to), *(comm.Isend(piece, to) for piece in _pieces(raw))]
        received = []
        try:
            for source in sources:
                received.append(array := np.empty(comm.recv(source=source), np.uint8))
                for piece in _pieces(array):
                    comm.Recv(piece, source=source)
            for request in sent:
                request.wait()
        except BaseException:
            KEPT.append((sent, raw))
            raise
    return received


def _pieces(array: np.ndarray) -> Iterator[np.ndarray]:
    """An array's bytes in parts, as views."""
    raw = array.reshape(-1).view(np.uint8)
    return (raw[lo : lo + PIECE] for lo in range(0, raw.size, PIECE))
