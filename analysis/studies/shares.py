"""A chunk's shares by MPI's own Ialltoallv, and by Isend and Irecv in batches: which is faster, in turns in one run?

mpirun -n 8 python -m mpi4py analysis/studies/shares.py      a Markdown table on standard output
"""

from functools import partial

import numpy as np
from mpi4py import MPI

from mpisign.bench.table import Table, machine
from mpisign.bench.timing import in_turns
from mpisign.parallel import mpi

SIZES = (1 << 10, 1 << 14, 1 << 18)  # bytes from each rank to each other
BATCH = 32  # messages that are posted together
COLUMNS = {"bytes": ",d", "Ialltoallv us": ".1f", "Isend, Irecv us": ".1f", "ratio": ".2f"}


def by_library(comm, out, into, size):
    """One call."""
    counts, places = [size] * comm.size, [size * k for k in range(comm.size)]
    comm.Ialltoallv([out, (counts, places), MPI.BYTE], [into, (counts, places), MPI.BYTE]).Wait()


def by_messages(comm, out, into, size):
    """To the next rank first, and from the one before, as many at once as MPI is to have on its way."""
    into[comm.rank * size :][:size] = out[comm.rank * size :][:size]
    for first in range(1, comm.size, BATCH):
        requests = []
        for k in range(first, min(first + BATCH, comm.size)):
            to, source = (comm.rank + k) % comm.size, (comm.rank - k) % comm.size
            requests.append(comm.Irecv([into[source * size :][:size], MPI.BYTE], source))
            requests.append(comm.Isend([out[to * size :][:size], MPI.BYTE], to))
        MPI.Request.Waitall(requests)


ranks = mpi.start(1)
comm, ways = ranks.comm, {"Ialltoallv": by_library, "Isend, Irecv": by_messages}
table = Table("shares", COLUMNS, {"n": ranks.size, "median of": 51, "mpi": ranks.library} | machine())
for size in SIZES:
    out = np.random.default_rng(ranks.rank).integers(0, 256, size * ranks.size, dtype=np.uint8)
    came = {name: np.empty_like(out) for name in ways}
    works = {name: partial(way, comm, out, came[name], size) for name, way in ways.items()}
    times = in_turns(works, 51, ranks, lambda text: None)
    assert np.array_equal(*came.values())
    one, other = (times[name].median * 1e6 for name in ways)
    table.add(**dict(zip(COLUMNS, (size, one, other, other / one), strict=True)))
if ranks.root:
    print(table.markdown())
