"""What it costs a step that ranks may outlive one another: mpirun --with-ft ulfm -n 2 python -m mpi4py -m
tests.two_phases.

For each size, in turns within one process: steps as they are, steps with a copy of all that they change before, and
those with an agreement of all ranks after, too. Least squares on 8 rows, so that a gradient costs little.
"""

import os
import statistics
import sys
import time

from mpisign import config
from mpisign.engine.snapshot import Snapshot
from mpisign.parallel import lost, mpi
from mpisign.run.plan import resolve
from mpisign.run.setup import set_up

SIZES = (100_000, 8_400_000)
TURNS = 30


def main() -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    ranks = mpi.start(1)
    for size in map(int, sys.argv[1:] or SIZES):
        job = ("problem.name=tests.problems:Awkward", f"problem.size={size}", "problem.rows=8", "problem.batch_size=1")
        settings = (*job, "exchange.name=sharded", "run.steps=10000")
        setup = set_up(resolve(config.load(None, settings), ranks.size), ranks, ranks.size)
        stepper = setup.stepper
        snapshot = Snapshot(stepper)

        def plain(stepper=stepper):
            stepper.step(1e-3)

        def copied(stepper=stepper, snapshot=snapshot):
            snapshot.take(stepper)
            stepper.step(1e-3)

        def agreed(stepper=stepper, snapshot=snapshot):
            snapshot.take(stepper)
            stepper.step(1e-3)
            assert lost.all_here(ranks.comm, True)

        kinds = {"plain": plain, "with a copy": copied, "with a copy and an agreement": agreed}
        seconds = {name: [] for name in kinds}
        for turn in range(TURNS + 3):
            for name, step in kinds.items():
                ranks.comm.Barrier()
                begin = time.perf_counter()
                step()
                if turn >= 3:
                    seconds[name].append(time.perf_counter() - begin)
        if ranks.root:
            medians = {name: statistics.median(taken) for name, taken in seconds.items()}
            shown = ", ".join(f"{name} {1e3 * s:.2f} ms ({s / medians['plain']:.2f})" for name, s in medians.items())
            print(f"n = {ranks.size}, d = {stepper.layout.size:,}: {shown}", flush=True)


if __name__ == "__main__":
    main()
