"""mpisign on simulated nodes: mpirun -n N python -m tests.on_nodes SIZE FOLDER ARGUMENTS.

Each SIZE ranks are a node to what asks for the ranks of one, and have a shared memory of their own, FOLDER/nodeK. In
FOLDER/taken stands how many steps rank 0 has taken.
"""

import os
import sys
from dataclasses import replace
from pathlib import Path

from mpisign.cli import main
from mpisign.engine.stepper import Stepper
from mpisign.parallel import memory, mpi


def simulate_nodes(size: int, folder: Path) -> None:
    around = mpi._around

    def on_nodes(comm, threads):
        ranks = around(comm, threads)
        k = ranks.rank // size
        shared = folder / f"node{k}"
        shared.mkdir(parents=True, exist_ok=True)
        memory.SHARED = str(shared)
        node = comm.Split(k)
        return replace(ranks, local_rank=node.Get_rank(), node=node, members=tuple(node.allgather(ranks.rank)))

    mpi._around = on_nodes


def count_steps(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    step, number = Stepper.step, os.open(file, os.O_WRONLY | os.O_CREAT)

    def counted(self, *how, **more):
        outcome = step(self, *how, **more)
        if self.world.rank == 0:
            os.pwrite(number, f"{self.t:9d}".encode(), 0)
        return outcome

    Stepper.step = counted


if __name__ == "__main__":
    simulate_nodes(int(sys.argv[1]), Path(sys.argv[2]))
    count_steps(Path(sys.argv[2]) / "taken")
    sys.argv[1:] = sys.argv[3:]
    main()
