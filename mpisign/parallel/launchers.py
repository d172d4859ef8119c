"""The launcher, rank, size and GPU of this process, from its environment, before MPI starts."""

import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mpisign.errors import UsageError

OPEN_MPI = "Open MPI's mpirun"
PMI = "an mpirun that speaks PMI (MPICH, Intel MPI, MVAPICH) or srun"
NOT_OPEN_MPI = ("MPICH", "Intel MPI", "MVAPICH", "MVAPICH2", "Microsoft MPI", "Cray MPI", "Cray MPICH")
# rank and size in the environment of a process, the nearest launcher first: a shell that one of the later ones started
# keeps their variables. Some tell no size
LAUNCHERS = (
    ("jsrun", "JSM_NAMESPACE_RANK", "JSM_NAMESPACE_SIZE"),
    (OPEN_MPI, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    (PMI, "PMI_RANK", "PMI_SIZE"),
    ("MVAPICH's mpirun_rsh", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),
    ("MVAPICH's mpirun_rsh", "MVP_COMM_WORLD_RANK", "MVP_COMM_WORLD_SIZE"),
    ("flux", "FLUX_TASK_RANK", "FLUX_JOB_SIZE"),
    ("srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
    ("PALS' mpiexec", "PALS_RANKID", ""),
    ("aprun", "ALPS_APP_PE", ""),
    ("a launcher that speaks PMIx (prterun, srun --mpi=pmix)", "PMIX_RANK", ""),
)
# launchers that know nothing of MPI
STRANGERS = (
    ("horovodrun", "HOROVOD_RANK", "HOROVOD_SIZE"),
    ("torchrun (or accelerate, deepspeed and the like)", "RANK", "WORLD_SIZE"),
)
ELASTIC = "TORCHELASTIC_RUN_ID"  # set by torchrun, and by what calls it; RANK and WORLD_SIZE may be left over
# its number among the ranks of its node, by the same
LOCAL_RANKS = (
    "MPI_LOCALRANKID",
    "JSM_NAMESPACE_LOCAL_RANK",
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "MV2_COMM_WORLD_LOCAL_RANK",
    "MVP_COMM_WORLD_LOCAL_RANK",
    "PMI_LOCAL_RANK",
    "FLUX_TASK_LOCAL_ID",
    "SLURM_LOCALID",
    "PALS_LOCAL_RANKID",
    "LOCAL_RANK",  # torchrun's
)
# how many ranks its node has, by mpirun of MPICH and its kin, and of Open MPI
LOCAL_SIZES = ("MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE")
_hidden: "Launch | None" = None  # what the environment said before it was hidden
VISIBLE = "CUDA_VISIBLE_DEVICES"
DRIVER = Path("/proc/driver/nvidia/gpus")  # a folder for each GPU of the machine


@dataclass(frozen=True)
class Launch:
    """This process according to its environment, before MPI starts.

    size: rank + 1 where the launcher does not tell. variables: the names of those that tell.
    """

    rank: int = 0
    size: int = 1
    by: str = ""
    variables: tuple[str, ...] = ()

    @property
    def settings(self) -> str:
        """The variables and their values."""
        return ", ".join(f"{name}={os.environ.get(name, '')}" for name in self.variables)

    @property
    def stranger(self) -> bool:
        """Whether the launcher knows nothing of MPI."""
        return any(self.by == by for by, *_ in STRANGERS)

    @property
    def speaks(self) -> bool:
        """Whether this process prints agreed messages: rank 0 does, and every rank where there may be no rank 0."""
        return self.rank == 0 or self.stranger or len(self.variables) == 1


@dataclass(frozen=True)
class Library:
    """An MPI library: its vendor, version, and whether it was built with PMIx."""

    vendor: str
    numbers: tuple[int, ...]
    pmix: bool

    def __str__(self):
        return f"{self.vendor} {'.'.join(map(str, self.numbers))}"


def launch(vendor: str = "") -> Launch:
    """The rank and size that the launcher promised; rank 0 of 1 without a launcher.

    Variables that are empty, or no rank and size, count as not set. vendor: of the MPI library, once it is known: where
    launchers of several left their variables, as in a shell that one of them started, its own is the one that counts.
    """
    if _hidden is not None:
        return _hidden
    launches = list(_launches(LAUNCHERS))
    if vendor in NOT_OPEN_MPI and any(candidate.by == PMI for candidate in launches):
        launches = [candidate for candidate in launches if candidate.by != OPEN_MPI]
    return next(iter([*launches, *_launches(STRANGERS)]), Launch())


def hide() -> None:
    """Has other libraries, and processes started from now on, take this one for a single process; see launch()."""
    global _hidden
    _hidden = launch()
    of_launchers = (name for _, *names in (*LAUNCHERS, *STRANGERS) for name in names)
    for name in (*of_launchers, *LOCAL_RANKS, *LOCAL_SIZES):
        os.environ.pop(name, None)


def launched_by_torch() -> tuple[int, int] | None:
    """Rank and size of a process that torchrun started, or what starts processes by it, as accelerate; else None."""
    launched = next((found for found in _launches(STRANGERS) if "WORLD_SIZE" in found.variables), None)
    return (launched.rank, launched.size) if launched and os.environ.get(ELASTIC) else None


def number(name: str, default: int | None = None) -> int | None:
    """The value of an environment variable that holds an integer from 0 on; the default where it is anything else."""
    text = os.environ.get(name, "").strip()
    return int(text) if text.isascii() and text.isdigit() else default


def _launches(launchers: Iterable[tuple[str, str, str]]) -> Iterator[Launch]:
    for by, rank_name, size_name in launchers:
        rank = number(rank_name)
        size = number(size_name) if size_name else None if rank is None else rank + 1
        if rank is not None and size is not None and rank < size:
            yield Launch(rank, size, by, tuple(filter(None, (rank_name, size_name))))


def one_machine() -> bool:
    """Whether the environment says that all ranks run on this machine."""
    size = str(launch().size)
    alone = size == "1" or os.environ.get("SLURM_STEP_NUM_NODES") == "1"
    return alone or any(os.environ.get(name) == size for name in LOCAL_SIZES)


def take_gpu() -> None:
    """Restricts this process to its own GPU of the node, where it sees several and knows its local rank.

    To be called before MPI starts: an MPI that knows of GPUs opens whichever is current then.
    """
    local = next((value for name in LOCAL_RANKS if (value := number(name)) is not None), None)
    listed = os.environ.get(VISIBLE)
    if listed is not None:
        gpus = [name for name in listed.split(",") if name.strip()]
    else:
        gpus = [str(k) for k in range(len(list(DRIVER.iterdir())))] if DRIVER.is_dir() else []
    if local is not None and len(gpus) > 1:
        os.environ[VISIBLE] = gpus[local % len(gpus)]


def refuse_before(library: Library) -> None:
    """Raises UsageError where MPI would abort without a remedy or wait for ever. To be called before MPI starts."""
    promised = launch(library.vendor)
    if promised.by == OPEN_MPI and library.vendor in NOT_OPEN_MPI:
        raise UsageError(_foreign(promised, library))
    if promised.size > 1 and not promised.stranger:
        _refuse_strangers(promised.size)
    if number("PMIX_RANK") is None or library.vendor != "MPICH" or library.pmix:
        return
    if promised.size > 1 and promised.by != PMI:
        raise UsageError(
            f"{promised.by} started this step ({promised.settings}) by PMIx, which {library} was built without; use "
            f"srun --mpi=pmi2 (in a batch script of mpisign: SRUN_MPI=pmi2); {_left_over(promised)}"
        )
    # left over from the step of the shell in which this was started; MPICH aborts at the sight of both PMI and PMIx
    for name in [name for name in os.environ if name.startswith("PMIX_")]:
        del os.environ[name]


def refuse_alone(library: Library, size: int) -> None:
    """Raises UsageError where the environment names other processes, but MPI, which runs, has none.

    Each would train by itself, as rank 0 of 1. size: of MPI's world.
    """
    _refuse_strangers(size)
    promised = launch(library.vendor)
    if size == 1 < promised.size:
        raise UsageError(_foreign(promised, library))


def _refuse_strangers(size: int) -> None:
    """Raises UsageError where a launcher that knows nothing of MPI started another number of processes than `size`."""
    launched = next((launched for launched in _launches(STRANGERS) if launched.size not in (1, size)), None)
    if launched:
        count = f"there {'is' if size == 1 else 'are'} {size}"
        raise UsageError(
            f"{launched.by} started {launched.size} processes ({launched.settings}), but to MPI {count}: they would "
            f"not train together. Start them by MPI's launcher instead, as in {_mpirun() or 'mpirun'} -n "
            f"{launched.size} ..., or, in a training loop of your own, call torch.distributed.init_process_group() "
            f"first; {_left_over(launched)}"
        )


def _foreign(promised: Launch, library: Library) -> str:
    return (
        f"{promised.by} started {promised.size} process(es) ({promised.settings}), but this Python uses {library}: the "
        f"launcher belongs to another MPI. {fitting()}; {_left_over(promised)}"
    )


def fitting() -> str:
    """Advice: which launcher fits the MPI of this Python."""
    if mpirun := _mpirun():
        return f"Use the launcher of this installation: {mpirun}"
    return (
        "Use the mpirun (or srun --mpi=...) of the MPI that mpi4py finds, load that MPI's module, "
        "or install one beside mpisign: pip install 'mpisign[mpich]'"
    )


def _left_over(promised: Launch) -> str:
    return f"if {' and '.join(promised.variables)} are left over from something else, unset them"


def _mpirun() -> str:
    """The launcher of this installation, if it has one."""
    path = Path(sys.prefix) / "bin" / "mpirun"
    return str(path) if path.exists() else ""
