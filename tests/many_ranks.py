"""More ranks than a laptop has cores: every exchange by n processes against the simulation of n voters, bit for bit.

    mpirun -n 64 python -m mpi4py -m tests.many_ranks     a row per algorithm and exchange, Markdown

Steps of `signum-mv`, `ssdm` and `dist-ef-signsgd` on a quadratic by every exchange that carries them. Bytes are those
counted where they are sent, beside those by formula; memory is a rank's buffers and its largest resident set, of the
rank that has most. Time says nothing where ranks share cores, and is not taken. Exit code 1 where a bit differs.
"""

import resource
import sys
import time

from mpisign import exchange
from mpisign.errors import MpisignError
from mpisign.problems.synthetic import Quadratic
from tests.building import Setup, digest

ALGORITHMS, D, STEPS, CHUNK = ("signum-mv", "ssdm", "dist-ef-signsgd"), 100_000, 2, 1 << 12
HEAD = "| n | algorithm | exchange | bits | bytes a rank sends | by formula | buffers KiB | resident MiB |"


def taken(stepper) -> list[str]:
    """Digests of x after each step."""
    digests = []
    for _ in range(STEPS):
        stepper.step(1e-3)
        digests.append(digest(stepper))
    return digests


def patient(comm, make):
    """What make() returns on root, while the others sleep instead of turning round in MPI."""
    found = make() if comm.Get_rank() == 0 else None
    request = comm.Ibarrier()
    while not request.Test():
        time.sleep(0.02)
    return comm.bcast(found)


def trial(comm, name: str, carrier: str) -> tuple[str, bool]:
    """A row of the table, and whether all is as it must be. Collective."""
    n, setup = comm.Get_size(), Setup(Quadratic(dimension=D), comm.Get_size())
    algorithm = setup.algorithm(name)

    def simulate():
        stepper = setup.stepper(algorithm, carrier, chunk=CHUNK)
        return taken(stepper), stepper.world.traffic.up + stepper.world.traffic.down

    wanted, foretold = patient(comm, simulate)
    try:
        stepper = setup.stepper(algorithm, carrier, comm, chunk=CHUNK)
    except MpisignError as error:
        return f"| {n} | {name} | {carrier} | {error} | | | | |", False
    same = comm.allgather(taken(stepper) == wanted)
    sent = comm.allreduce(stepper.world.traffic.up + stepper.world.traffic.down)
    buffers = max(comm.allgather(stepper.memory().total))
    resident = max(comm.allgather(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))
    stepper.close()
    figures = f"{sent / n:,.0f} | {foretold / n:,.0f} | {buffers / 1024:,.0f} | {resident / 1024:,.0f}"
    differing = [rank for rank, alike in enumerate(same) if not alike]
    return f"| {n} | {name} | {carrier} | {differing or 'equal'} | {figures} |", not differing


def main() -> int:
    from mpi4py import MPI

    comm, good = MPI.COMM_WORLD, True
    if comm.Get_rank() == 0:
        print(HEAD, "|---" * 8 + "|", sep="\n", flush=True)
    for name in ALGORITHMS:
        algorithm = Setup(Quadratic(dimension=64), comm.Get_size()).algorithm(name)
        for carrier in exchange.candidates(algorithm):
            row, fine = trial(comm, name, carrier)
            good = good and fine
            if comm.Get_rank() == 0:
                print(row, flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
