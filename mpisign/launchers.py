"""What a process knows from its environment before MPI starts: who launched it, its rank, how many there are."""

import os
from dataclasses import dataclass

# rank and size in the environment of a process: by mpirun of Open MPI, of MPICH and its kin, by srun
OPEN_MPI = "Open MPI's mpirun"
NOT_OPEN_MPI = ("MPICH", "Intel MPI", "MVAPICH", "MVAPICH2", "Microsoft MPI", "Cray MPI", "Cray MPICH")
LAUNCHERS = (
    (OPEN_MPI, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("an mpirun that speaks PMI (MPICH, Intel MPI, MVAPICH) or srun", "PMI_RANK", "PMI_SIZE"),
    ("srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
)


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
