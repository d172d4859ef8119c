"""What a process knows before MPI starts: who launched it, its rank, how many there are, and which GPU is its own."""

import os
from dataclasses import dataclass
from pathlib import Path

# rank and size in the environment of a process: by mpirun of Open MPI, of MPICH and its kin, by srun
OPEN_MPI = "Open MPI's mpirun"
NOT_OPEN_MPI = ("MPICH", "Intel MPI", "MVAPICH", "MVAPICH2", "Microsoft MPI", "Cray MPI", "Cray MPICH")
LAUNCHERS = (
    (OPEN_MPI, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("an mpirun that speaks PMI (MPICH, Intel MPI, MVAPICH) or srun", "PMI_RANK", "PMI_SIZE"),
    ("srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
)
# its number among the ranks of its node, by the same
LOCAL_RANKS = ("MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID")
# how many ranks its node has, by mpirun of MPICH and its kin, and of Open MPI
LOCAL_SIZES = ("MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE")
VISIBLE = "CUDA_VISIBLE_DEVICES"
DRIVER = Path("/proc/driver/nvidia/gpus")  # a folder for each GPU of the machine


@dataclass(frozen=True)
class Launch:
    """What the environment says about this process before MPI starts."""

    rank: int = 0
    size: int = 1
    by: str = ""


def launch() -> Launch:
    """The rank and size that the launcher promised; rank 0 of 1 without a launcher."""
    for by, rank, size in LAUNCHERS:
        if rank in os.environ and size in os.environ:
            return Launch(int(os.environ[rank]), int(os.environ[size]), by)
    return Launch()


def one_machine() -> bool:
    """Whether all ranks surely run on this machine, as far as the environment tells."""
    size = str(launch().size)
    alone = size == "1" or os.environ.get("SLURM_STEP_NUM_NODES") == "1"
    return alone or any(os.environ.get(name) == size for name in LOCAL_SIZES)


def take_gpu() -> None:
    """Lets this process see one GPU of its node's, its own, where it sees several and knows its place.

    To be called before MPI starts: an MPI that knows of GPUs opens whichever is current then.
    """
    local = next((os.environ[name] for name in LOCAL_RANKS if name in os.environ), None)
    listed = os.environ.get(VISIBLE)
    if listed is not None:
        gpus = [name for name in listed.split(",") if name.strip()]
    else:
        gpus = [str(k) for k in range(len(list(DRIVER.iterdir())))] if DRIVER.is_dir() else []
    if local is not None and len(gpus) > 1:
        os.environ[VISIBLE] = gpus[int(local) % len(gpus)]
