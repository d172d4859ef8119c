"""Chunks in flight: the same bits as one process, nothing moved by a NaN anywhere, bounded memory, one choice."""

import itertools

import numpy as np
import pytest
import torch

from mpisign.engine.autotune import DryStepper, autotune, measure_link, predict
from mpisign.errors import NumericalError
from mpisign.exchange import Choice, candidates, choose
from mpisign.parallel import world as worlds
from mpisign.parallel.world import Local, Mpi
from mpisign.problems.synthetic import Quadratic
from tests.building import Setup, digest

pytestmark = pytest.mark.mpi

D, CHUNK = 100_003, 512  # 25 chunks of 4096 coordinates: more than travel at once
STEPS = 3
WORDS = ("sharded", "allgather", "allreduce", "hierarchical", "butterfly")
FORMS = [
    ("signum-mv", {}),
    ("signum-mv", {"zeros": "abstain", "ties": "zero"}),
    ("ssdm", {}),
    ("dist-ef-signsgd", {}),  # scales, and what the shards share
    ("sto-signsgd", {"error_feedback": True}),  # a vote with arrays
    ("sgd", {}),
]


@pytest.fixture(scope="module")
def expected(comm):
    """Digests of x after each step of a simulation, made on root."""
    found = {}

    def simulate(setup, algorithm):
        key = repr(algorithm)
        if key not in found:
            root = comm.Get_rank() == 0
            found[key] = comm.bcast(steps_of(setup.stepper(algorithm, "auto", chunk=1 << 20)) if root else None)
        return found[key]

    return simulate


def steps_of(stepper):
    found = []
    for _ in range(STEPS):
        stepper.step(0.01, counting=True)
        found.append(digest(stepper))
    return found


@pytest.mark.parametrize("progress", ["calls", "thread"])
@pytest.mark.parametrize(("name", "hyper"), FORMS, ids=[f"{name}-{k}" for k, (name, _) in enumerate(FORMS)])
def test_pipelines_change_no_bit(comm, everywhere, expected, name, hyper, progress):
    setup = Setup(Quadratic(dimension=D), comm.Get_size())
    algorithm = setup.algorithm(name, **hyper)
    exchanges = ("dense",) if algorithm.sign.up().raw else WORDS
    for carrier in dict.fromkeys(choose(c, algorithm, setup.n)[0].name for c in exchanges):
        wanted = carrier if carrier != "local" else "auto"
        node_size = 2 if carrier == "hierarchical" else 0
        stepper = setup.stepper(algorithm, wanted, comm, CHUNK, progress, node_size)
        assert len(stepper.exchange.chunks) > 8
        everywhere(steps_of(stepper) == expected(setup, algorithm), f"{name} by {carrier}, {progress}")
        stepper.close()


@pytest.mark.parametrize("carrier", [*WORDS, "dense"])
@pytest.mark.mpi(min_size=2)
def test_words_that_cross_to_the_host_change_no_bit(comm, everywhere, expected, carrier):
    """As from a GPU: messages are packed elsewhere and copied to MPI's buffers, verdicts are copied back."""
    setup = Setup(Quadratic(dimension=D), comm.Get_size())
    forms = [("sgd", {})] if carrier == "dense" else [("signum-mv", {}), ("signum-mv", {"zeros": "abstain"})]
    for name, hyper in forms:
        algorithm = setup.algorithm(name, **hyper)
        stepper = setup.stepper(algorithm, carrier, comm, CHUNK, node_size=2, staged=True)
        everywhere(steps_of(stepper) == expected(setup, algorithm), f"{name} by {carrier}, staged")
        everywhere(stepper.exchange.staging.nbytes >= D // 8, "there was something to copy")
        stepper.close()


@pytest.mark.parametrize("carrier", WORDS)
@pytest.mark.parametrize("where", [0, D // 2, D - 1])
def test_a_nan_in_any_chunk_of_any_rank_moves_nothing(comm, everywhere, carrier, where):
    n, rank = comm.Get_size(), comm.Get_rank()
    if n == 1:
        carrier = "local"
    world = Mpi(comm) if n > 1 else Local(1)
    algorithm = Setup(Quadratic(dimension=D), n).algorithm("signsgd-mv")
    trial = DryStepper.of(Choice(carrier, ""), algorithm, world, D, chunk=CHUNK)
    trial.once()
    before, estimate = trial.x.clone(), trial.oracles[0].estimate
    good = float(estimate[where])
    if rank == n - 1:
        estimate[where] = np.nan
    told = ""
    try:
        trial.once()
    except NumericalError as error:
        told = str(error)
    everywhere(
        f"rank {n - 1}: the estimate of parameter x[{where}] is nan" in told, "who and what is told on every rank"
    )
    everywhere(torch.equal(trial.x, before), "x is as it was")
    # nothing is left on its way: the next step is like any other
    estimate[where] = good
    trial.once()
    digests = world.gather_bytes(trial.layout.digest(trial.x))
    everywhere(len(set(digests)) == 1, "replicas agree afterwards")
    everywhere(not torch.equal(trial.x, before), "and x moves again")


@pytest.mark.parametrize("carrier", WORDS)
@pytest.mark.mpi(min_size=2)
def test_memory_is_bounded(comm, everywhere, carrier):
    n = comm.Get_size()
    algorithm = Setup(Quadratic(dimension=64), n).algorithm("signsgd-mv", zeros="coin", ties="coin")
    for d, chunk in itertools.product((400_000, 1_000_000), (512, 4096, 0)):
        trial = DryStepper.of(Choice(carrier, ""), algorithm, Mpi(comm), d, chunk=chunk)
        trial.once()
        held = trial.exchange.memory()
        plane = (trial.exchange.chunks[0][1]) / 8
        # besides, a share's tally, w planes of a chunk's n-th part: of no weight from a few chunks on
        tally = n.bit_length() / n * plane
        # of a butterfly also the counts of half of x, two planes of them, there and on their way
        shares = {"sharded": 0.5, "hierarchical": 0.5, "butterfly": 0.75}
        bound = shares[carrier] * d + tally if carrier in shares else 0.25 * d + 2 * (n + 2) * plane
        slack = 2 * n * 4096 + 1024  # shares are of whole words, chunks of whole tiles
        everywhere(held <= bound + slack, f"{carrier} at d = {d}, chunks of {plane:.0f}: {held} bytes, not {bound}")


@pytest.mark.mpi(min_size=2)
def test_all_ranks_choose_alike(comm, everywhere):
    algorithm = Setup(Quadratic(dimension=64), comm.Get_size()).algorithm("signum-mv")
    chosen = choose("auto", algorithm, comm.Get_size())
    assert chosen[0].open
    found = autotune(chosen, (algorithm,), comm, 50_000)
    everywhere(len(set(comm.allgather(found))) == 1, "one choice")
    everywhere(found[0].name in WORDS and "predicted ms" in found[0].details, f"a reason: {found}")
    asked = choose("allgather", algorithm, comm.Get_size())
    everywhere(autotune(asked, (algorithm,), comm, 50_000) == asked, "what was asked for stays")


@pytest.mark.mpi(min_size=2)
def test_predictions_grow_with_bytes(comm, everywhere):
    algorithm = Setup(Quadratic(dimension=64), comm.Get_size()).algorithm("signsgd-mv")
    link = measure_link(comm)
    everywhere(link.latency > 0 and link.bandwidth > 1e5, f"{link}")
    for p in predict(algorithm, comm, 1 << 30, link):
        far, farther = p.at(1 << 30), p.at(1 << 31)
        everywhere(farther - far >= p.bytes / link.bandwidth * (1 << 30) * 0.999, f"{p.choice.name}: {far}, {farther}")
    everywhere(candidates(algorithm) == WORDS, "all can carry a plain majority")
    late = predict(algorithm, comm, 50_000, link, budget=-1.0)  # another load took all the time that there was
    everywhere(late and all(p.sizes == [4096] for p in late), f"each is tried once all the same: {late}")


def test_vectors_beyond_one_message(comm, everywhere, monkeypatch):
    """Means and maxima travel in pieces: here of 64 floats, elsewhere of 2**28."""
    monkeypatch.setattr(worlds, "PIECE", 64)
    n, rank = comm.Get_size(), comm.Get_rank()
    if n == 1:
        return
    vectors = [torch.from_numpy(np.random.default_rng(r).standard_normal(1003).astype(np.float32)) for r in range(n)]
    mpi, local = Mpi(comm), Local(n)
    for name in ("mean", "max"):
        got, wanted = getattr(mpi, name)([vectors[rank]]), getattr(local, name)(vectors)
        everywhere(torch.equal(got, wanted), f"world.{name}")
