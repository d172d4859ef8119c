"""Whether the ranks of a node have more threads than the node has cores, which costs more than anything else."""

import os

import torch

from mpisign.optim.warning import warn
from mpisign.parallel.mpi import Ranks
from mpisign.parallel.watchdog import WATCH

_warned = False


def warn_if_crowded(ranks: Ranks) -> None:
    """Warns on root, once per process, if torch's threads of some node's ranks are more than its cores. Collective."""
    global _warned
    if not ranks.comm:
        return
    mine = torch.get_num_threads(), sorted(os.sched_getaffinity(0))
    with WATCH("an allgather of threads"):
        on_node = ranks.node.allgather(mine)
    threads, cores = sum(count for count, _ in on_node), len({core for _, some in on_node for core in some})
    everyone = ranks.gather((threads, cores, len(on_node)))
    # one thread for each rank is the least that there can be
    crowded = [node for node in everyone or [] if node[0] > max(node[1], node[2])]
    if not crowded or _warned:
        return
    _warned = True
    threads, cores, count = max(crowded, key=lambda node: node[0] / node[1])
    each = max(cores // count, 1)
    warn(
        f"{count} ranks on a node have {threads} threads of torch together, but {cores} cores, so they wait for one "
        f"another; set OMP_NUM_THREADS={each} in the environment of mpirun, or call torch.set_num_threads({each})"
    )
