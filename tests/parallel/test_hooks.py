"""Voters that lie, and probes, on the wire: the bits and the rows of one process that holds all voters."""

import itertools

import numpy as np
import pytest

from mpisign.config import Probe as Settings
from mpisign.run.adversary import Adversary
from mpisign.run.probe import Probe
from tests.building import Setup, digest
from tests.parallel.test_exchange import NODES, allowed
from tests.problems import Awkward

pytestmark = pytest.mark.mpi(min_size=2)

KINDS = ("invert", "random", "constant", "colluding")
CASES = [(*pair, 1.0) for pair in itertools.product(("signum-mv", "dist-ef-signsgd", "sgd"), KINDS)]
CASES += [("dist-ef-signsgd", "scale", 5.0), ("sgd", "scale", 5.0)]
# codes: the floats that they stand for are what is changed and seen
CASES += [*itertools.product(("topk", "wangni"), ("invert", "colluding"), (5.0,)), ("randk", "random", 5.0)]
CASES += [("s3gd-mv", "constant", 1.0), ("s3gd-mv", "colluding", 1.0)]
CASES += [*itertools.product(("qsgd", "onebit-sgd"), ("random", "colluding"), (5.0,)), ("diana", "constant", 5.0)]
CASES += [("terngrad", "colluding", 1.0), ("ef21", "invert", 5.0), ("doublesqueeze", "scale", 5.0)]


def seen(stepper, kind, factor):
    """Digests after each of a few steps with liars, and the last one's row of /probes."""
    n = stepper.world.n
    liars = Adversary(max(n // 3, 1), kind, factor, stepper)
    for lane in stepper.stage.channels:
        lane.exchange.adversary = liars
    probe, found = Probe(stepper, Settings(every=1, batches=2)), []
    for t in range(4):
        if t == 3:
            probe.begin()
        stepper.step(0.01)
        found.append(digest(stepper))
    row = probe.end()
    return found, {name: np.asarray(value).tolist() for name, value in row.items()}


@pytest.mark.parametrize(("name", "kind", "factor"), CASES, ids=[f"{n}-{k}" for n, k, _ in CASES])
def test_lies_and_probes_do_not_depend_on_the_exchange(comm, everywhere, name, kind, factor):
    setup = Setup(Awkward(), comm.Get_size())
    algorithm = setup.algorithm(name, "abstain" if kind == "random" and name == "signum-mv" else "auto")
    expected = comm.bcast(seen(setup.stepper(algorithm), kind, factor) if comm.Get_rank() == 0 else None)
    for exchange_name in allowed(algorithm, setup.n):
        node_size = NODES.get(setup.n, 0) if exchange_name == "hierarchical" else 0
        # a helper thread moves messages while those who lie look at them
        progress = "thread" if exchange_name == "sharded" else "calls"
        # several chunks, and a single one, which goes at once where nobody looks
        for chunk in (512, 1 << 20) if exchange_name == "allgather" else (512,):
            stepper = setup.stepper(algorithm, exchange_name, comm, chunk, progress, node_size)
            got = seen(stepper, kind, factor)
            stepper.close()
            everywhere(got[0] == expected[0], f"{name} by {exchange_name}, {kind}: x")
            other = [k for k, v in expected[1].items() if not np.array_equal(got[1][k], v, equal_nan=True)]
            everywhere(not other, f"{name} by {exchange_name}, {kind}: the probe's {other}")
