"""Every exchange gives the same direction, bit for bit, as all voters counted in one process.

Over one form of each kind that an exchange can tell apart (tests/cover.py); `pytest --all` runs every form.
"""

import itertools
import time

import numpy as np
import pytest
import torch

from mpisign import exchange
from mpisign.algorithms.registry import find
from mpisign.bits.rng import Streams
from mpisign.engine.build import make_stepper
from mpisign.layout import Layout
from mpisign.parallel.world import Local, Mpi
from mpisign.problems import Oracle
from mpisign.problems.synthetic import Quadratic
from tests.building import Setup, digest
from tests.cover import VOTERS, WIRES, algorithm_of, form_id, rest_is_slow
from tests.problems import Awkward, Layered
from tests.table import FORMS_BY_ROW, TABLE

pytestmark = pytest.mark.mpi

WORDS = ("sharded", "allgather", "allreduce", "hierarchical", "butterfly")
NODES = {2: 1, 3: 2, 5: 2, 8: 3}  # ranks of a node, of which the last may have fewer
RULES = [*itertools.product(("coin", "plus", "abstain"), ("coin", "plus", "zero")), ("minus", "minus")]


def rates(t):
    return 0.01 / (1 + t) ** 0.5


def run(stepper, steps):
    """Digests of x after each step, with everything counted: votes and bytes."""
    found, counts = [], []
    for t in range(steps):
        stepper.step(TABLE[stepper.algorithm.name].scale * rates(t), counting=True)
        found.append(digest(stepper))
        c, sent = stepper.exchange.counts, stepper.world.traffic
        counts.append([c.agreement, c.ties, c.flips, sent.up, sent.down])
    return found, np.array(counts, dtype=float), stepper.world.cost


@pytest.fixture(scope="module")
def on_root(comm):
    """on_root(key, make): make() evaluated once for each key, on root alone while the others sleep."""
    found = {}

    def evaluate(key, make):
        if key not in found:
            found[key] = make() if comm.Get_rank() == 0 else None
            request = comm.Ibarrier()
            while not request.Test():
                time.sleep(5e-3)
            found[key] = comm.bcast(found[key])
        return found[key]

    return evaluate


@pytest.fixture
def compare(comm, everywhere, on_root):
    def compare(setup, algorithm, name, steps, chunk, node_size=0):
        key = (repr(algorithm), name, setup.layout.length, steps, chunk, node_size)
        how = {"chunk": chunk, "node_size": node_size}
        expected, expected_counts, cost = on_root(key, lambda: run(setup.stepper(algorithm, name, **how), steps))
        stepper = setup.stepper(algorithm, name, comm, **how)
        got, counts, own = run(stepper, steps)
        stepper.close()
        everywhere(got == expected, f"{algorithm.name} by {name}: direction")
        total = comm.allreduce(counts)
        everywhere(np.array_equal(total, expected_counts), f"{algorithm.name} by {name}: votes and bytes counted")
        everywhere(own == cost, f"{algorithm.name} by {name}: the method's cost")

    return compare


@pytest.mark.parametrize(("zeros", "ties"), RULES)
@pytest.mark.parametrize("name", WORDS)
def test_rules(comm, compare, name, zeros, ties):
    setup = Setup(Awkward(size=77), comm.Get_size())
    for algorithm in ("signsgd-mv", "dist-ef-signsgd"):
        chosen = setup.algorithm(algorithm, zeros, ties, **TABLE[algorithm].hyper)
        compare(setup, chosen, name, 4, 1 << 20)


@pytest.mark.parametrize("zeros", ["coin", "plus", "abstain"])
@pytest.mark.parametrize("name", WORDS)
def test_votes_without_ties(comm, compare, name, zeros):
    setup = Setup(Awkward(size=77), comm.Get_size())
    for algorithm in ("ssdm", "ssvr-mv"):
        compare(setup, setup.algorithm(algorithm, zeros, **TABLE[algorithm].hyper), name, 4, 1 << 20)


# with unlike sums in the groups of ranks that count together
HEAVY = (3, 1, 15, 2, 2, 9, 1, 4)
WEIGHED = [("signum-mv", "coin"), ("signum-mv", "abstain"), ("dlion-avg", "abstain"), ("ssvr-mv", "auto")]


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("chunk", rest_is_slow((512, 1 << 20), (512,)))
@pytest.mark.parametrize(("algorithm", "zeros"), WEIGHED)
@pytest.mark.parametrize("name", WORDS)
def test_voters_of_unequal_weight(comm, compare, name, algorithm, zeros, chunk):
    """Counts are of so many more votes: by fields, by counts of nodes and of levels, and by single words."""
    setup = Setup(Awkward(), comm.Get_size())
    chosen = setup.algorithm(algorithm, zeros, **TABLE[algorithm].hyper).with_weights(HEAVY[: setup.n])
    compare(setup, chosen, name, 4, chunk, NODES.get(setup.n, 0) if name == "hierarchical" else 0)


def allowed(algorithm, n=VOTERS):
    """The exchanges that give the same bits, but for those that fall back to another one of them."""
    fitting = {name for stage in algorithm.stages for name in exchange.candidates(stage)}
    wanted = [name for name in (*WORDS, "dense") if name in fitting]
    return [name for name in wanted if name in {c.name for c in exchange.choose(name, algorithm, n)}]


SHORT, LONG = 512, 1 << 20  # bytes of a plane of a chunk: three chunks, or all of x in one


def cases(forms):
    """(exchange, chunk, form): all of x in one chunk is another matter only where ranks count shares of it."""
    sharing = ("sharded", "hierarchical", "butterfly", "dense")
    carriers = [(name, form) for form in forms for name in allowed(algorithm_of(form))]
    return [
        (name, chunk, form) for name, form in carriers for chunk in (SHORT, LONG) if chunk == SHORT or name in sharing
    ]


def case_id(case):
    return f"{case[0]}-{case[1]}-{form_id(case[2])}"


@pytest.mark.parametrize(("carrier", "chunk", "form"), rest_is_slow(cases(FORMS_BY_ROW), cases(WIRES), case_id))
def test_every_exchange_takes_the_same_steps(comm, compare, carrier, chunk, form):
    setup = Setup(Awkward(), comm.Get_size())
    node_size = NODES.get(setup.n, 0) if carrier == "hierarchical" else 0
    compare(setup, algorithm_of(form, setup), carrier, 8, chunk, node_size)


class Wide(Awkward):
    """Three tensors of several tiles each."""

    def __init__(self):
        super().__init__()
        self.shapes = {"a": (9000,), "b": (14_000,), "c": (70, 100)}
        self.size = 30_000


@pytest.mark.parametrize("name", ["dist-ef-signsgd", "dvr-q"])
def test_sums_of_tiles_come_in_the_order_of_x(comm, compare, name):
    """Chunks of several tiles, of which a rank may have two: they arrive by rank, and belong to tensors by place."""
    setup = Setup(Wide(), comm.Get_size())
    compare(setup, setup.algorithm(name, **TABLE[name].hyper), "sharded", 4, 4 * 512)


@pytest.mark.parametrize("hyper", [{"rank": 4}, {"rank": 2, "warm_start": False}], ids=str)
def test_factors_of_several_matrices_are_the_same(comm, compare, hyper):
    """What voters agree on comes from products and sums of each rank's own, which must be those of one process."""
    setup = Setup(Layered(), comm.Get_size())
    compare(setup, setup.algorithm("powersgd", **hyper), "dense", 6, LONG)


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("algorithm", ["signsgd-mv", "dist-ef-signsgd", "signsgd-free"])
@pytest.mark.parametrize("name", WORDS)
def test_headers_go_with_messages_that_are_packed_before_any_is_counted(comm, everywhere, name, algorithm):
    setup, n = Setup(Wide(), comm.Get_size()), comm.Get_size()
    able = {LONG: ("allgather", "hierarchical"), SHORT: ("hierarchical",)}  # of many chunks allgather holds two
    for (chunk, carriers), node_size in itertools.product(able.items(), (0, n - 1)):
        rule = ("abstain", "zero") if chunk == SHORT else ("coin", "coin")
        chosen = setup.algorithm(algorithm, *rule, **TABLE[algorithm].hyper)
        stepper = setup.stepper(chosen, name, comm, chunk=chunk, node_size=node_size)
        by = stepper.exchange.name  # hierarchical leaves to sharded what does not add up
        carried = by in carriers and (by == "allgather" or not node_size)
        everywhere((stepper.stage.carrier is stepper.exchange) == carried, f"{name}, chunks of {chunk} bytes")
        for t in range(12):
            time.sleep(np.random.default_rng([t, comm.Get_rank()]).choice([0.0, 0.0, 1e-3]))  # some run ahead
            stepper.step(0.01, request=1000 * t + stepper.world.rank)
            everywhere((stepper._header[:, 1] == 1000 * t + np.arange(n)).all(), f"requests: {stepper._header}")
        stepper.close()


@pytest.mark.mpi(min_size=3)
def test_a_node_sends_its_counts_and_its_share(comm, everywhere):
    """(w(g) + 1)(N-1)/N bits a coordinate and node, for N nodes of g ranks each: what its first rank sends."""
    n, d, steps = comm.Get_size(), 1 << 20, 3
    g = 4 if n == 8 else 1 if n == 3 else n
    setup = Setup(Quadratic(dimension=d), n)
    stepper = setup.stepper(setup.algorithm("signum-mv"), "hierarchical", comm, node_size=g)
    for _ in range(steps):
        stepper.step(1e-3)
    sent = comm.allgather((stepper.world.traffic.up + stepper.world.traffic.down) * 8 / steps / d)
    stepper.close()
    nodes, headers = n // g, 0.01
    for rank, bits in enumerate(sent):
        wanted = (g.bit_length() + 1) * (nodes - 1) / nodes if rank % g == 0 else 0.0
        everywhere(wanted <= bits <= wanted + headers, f"rank {rank}: {bits} bits, not {wanted}")


def test_dense_mpi_is_the_same_mean_up_to_rounding(comm, everywhere):
    setup = Setup(Awkward(), comm.Get_size())
    steppers = [setup.stepper(setup.algorithm("sgd"), name, comm) for name in ("dense", "dense-mpi")]
    for t in range(5):
        for stepper in steppers:
            stepper.step(rates(t))
    everywhere(torch.allclose(steppers[0].x, steppers[1].x, rtol=1e-4, atol=1e-6), "dense-mpi near dense")


@pytest.mark.mpi(min_size=2)
def test_sharded_sends_two_bits_times_n_minus_one_over_n(comm, everywhere):
    n, steps = comm.Get_size(), 3
    problem, streams = Quadratic(dimension=1_000_003), Streams(1)
    layout = Layout({"x": (problem.coordinates,)})
    world, x = Mpi(comm), layout.zeros()
    algorithm = find("signum-mv").build().with_rules("auto", "auto", n)
    oracle = Oracle(problem, layout, None, world.rank, streams)
    chosen = exchange.choose("sharded", algorithm, n)
    stepper = make_stepper(algorithm, chosen, layout, world, streams, [oracle], x, chunk=1 << 20)
    for _ in range(steps):
        stepper.step(1e-3)
    sent = comm.allreduce(world.traffic.up + world.traffic.down) / n * 8 / steps / layout.size
    everywhere(abs(sent / (2 * (n - 1) / n) - 1) < 0.01, f"{sent} bits a coordinate")


def test_worlds_agree(comm, everywhere):
    n, rank = comm.Get_size(), comm.Get_rank()
    if n == 1:
        return
    vectors = [torch.from_numpy(np.random.default_rng(r).standard_normal(1003).astype(np.float32)) for r in range(n)]
    mpi, local = Mpi(comm), Local(n)
    for name in ("mean", "max"):
        got, expected = getattr(mpi, name)([vectors[rank]]), getattr(local, name)(vectors)
        everywhere(torch.equal(got, expected), f"world.{name}")
    everywhere(mpi.sums({"a": rank, "b": 1.0}) == {"a": n * (n - 1) / 2, "b": n}, "world.sums")
    everywhere(mpi.gather_bytes(bytes([rank, 7])) == [bytes([r, 7]) for r in range(n)], "world.gather_bytes")
