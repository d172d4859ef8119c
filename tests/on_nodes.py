"""mpisign on simulated nodes: mpirun -n N python -m tests.on_nodes SIZE FOLDER ARGUMENTS.

Each SIZE ranks are a node to what asks for the ranks of one, and have a shared memory of their own, FOLDER/nodeK.
"""

import sys
from dataclasses import replace
from pathlib import Path

from mpisign.cli import main
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


if __name__ == "__main__":
    simulate_nodes(int(sys.argv[1]), Path(sys.argv[2]))
    sys.argv[1:] = sys.argv[3:]
    main()
