"""Seconds of a checkpoint in memory beside one on disk: mpirun -n 4 python -m mpi4py -m tests.memory_cost FOLDER [d].

In turns within one process, of the same state: parts in /dev/shm alone, as where all ranks are on one host; with copies
on another node, which is simulated: half of the ranks are one, with a folder of its own in /dev/shm; and a checkpoint
on the disk of FOLDER. Beside them a step, and the comparison of replicas that precedes either kind. Least squares on 8
rows, so that a gradient costs little.
"""

import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from mpisign import config
from mpisign.engine import state
from mpisign.parallel import memory, mpi
from mpisign.run.mirror import Mirror
from mpisign.run.plan import resolve
from mpisign.run.setup import set_up
from tests.building import PROGRESS

TURNS = 12
METHODS = ("signum-mv", "dist-ef-signsgd")


def mirrored(ranks, run, shared, nodes):
    """A Mirror on so many simulated nodes, of a run that has no file."""
    size, shared = -(-ranks.size // nodes), Path(shared)
    k = ranks.rank // size
    node = ranks.comm.Split(k)
    members = tuple(node.allgather(ranks.rank))
    mirror = Mirror(replace(ranks, local_rank=node.Get_rank(), node=node, members=members), run)
    mirror.folder = shared / f"nodes-{nodes}-{k}"
    mirror._facts = {"run": "1.0", "file": str(run)}
    return mirror


def main() -> None:
    folder, d = Path(sys.argv[1]), int(float(sys.argv[2])) if sys.argv[2:] else 8_400_000
    ranks = mpi.start(1)
    with tempfile.TemporaryDirectory(prefix="mpisign-cost-", dir=memory.SHARED) as own:
        shared = ranks.share(own)
        for method in METHODS:
            job = ("problem.name=tests.problems:Awkward", f"problem.size={d}", "problem.rows=8", "problem.batch_size=1")
            job = (*job, f"algorithm.name={method}", "exchange.name=sharded", "run.steps=10000")
            stepper = set_up(resolve(config.load(None, job), ranks.size), ranks, ranks.size).stepper
            mirrors = {nodes: mirrored(ranks, folder / "r.h5", shared, nodes) for nodes in (1, 2)}
            step = lambda stepper=stepper: stepper.step(1e-6)  # noqa: E731
            kinds = {
                "a step": step,
                "the comparison of replicas": stepper.check_replicas,
                "parts in memory": lambda m=mirrors[1], s=stepper: m.save(s, "", PROGRESS, None),
                "parts and copies in memory": lambda m=mirrors[2], s=stepper: m.save(s, "", PROGRESS, None),
                "on disk": lambda s=stepper: state.save_state(folder / "c.h5", s, ranks, "", PROGRESS, None),
            }
            seconds = {name: [] for name in kinds}
            for turn in range(TURNS + 2):
                for name, work in kinds.items():
                    ranks.comm.Barrier()
                    begin = time.perf_counter()
                    work()
                    ranks.comm.Barrier()
                    if turn >= 2:
                        seconds[name].append(time.perf_counter() - begin)
            for mirror in mirrors.values():
                mirror.remove()
            if ranks.root:
                medians = ", ".join(
                    f"{name} {1e3 * statistics.median(taken):.0f} ms" for name, taken in seconds.items()
                )
                print(f"{method}, n = {ranks.size}, d = {stepper.layout.size:,}: {medians}", flush=True)
        ranks.wait()


if __name__ == "__main__":
    main()
