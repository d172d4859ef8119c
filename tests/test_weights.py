"""Voters of unequal weight: a weight of w is w equal voters, whoever counts, and equals the slow reference."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mpisign import bits
from mpisign.algorithms.formats import Planes
from mpisign.algorithms.messages import Ballots
from mpisign.algorithms.votes import Average, Majority, PresentMajority, RandomisedMajority
from mpisign.algorithms.weights import MOST, Weighted, in_lowest_terms, weights_of
from mpisign.bits.rng import NO_VOTER, Streams
from mpisign.exchange import REGISTRY
from mpisign.exchange.costs import Sizes
from tests.building import Setup, digest
from tests.problems import Awkward
from tests.test_project import messages

# entries whose vote knows the tally alone, with every form of message: one plane, two, and codes
WEIGHABLE = [
    ("signsgd-mv", {}), ("signum-mv", {"beta": 0.9, "weight_decay": 0.1}), ("dlion-avg", {}), ("ssdm", {}),
    ("ssvr-mv", {"option": 2, "radius": 3.0}), ("strom", {"threshold": 0.05}), ("s3gd-mv", {"density": 0.02}),
]  # fmt: skip
WEIGHTS = {2: (3, 15), 3: (1, 15, 4), 4: (1, 2, 3, 3), 5: (5, 1, 1, 2, 15), 8: (3, 1, 15, 2, 2, 9, 1, 4)}


def weighted(setup, name, hyper, zeros="auto", ties="auto"):
    return setup.algorithm(name, zeros, ties, **hyper).with_weights(WEIGHTS[setup.n])


@pytest.mark.parametrize("n", [3, 4])
@pytest.mark.parametrize(("name", "hyper"), WEIGHABLE)
def test_steps_equal_the_reference(name, hyper, n):
    setup = Setup(Awkward(size=77), n)
    algorithm = weighted(setup, name, hyper)
    stepper, reference = setup.stepper(algorithm), setup.reference(algorithm)
    assert "Weighted" in repr(algorithm)
    for t in range(12):
        before = stepper.x.numpy().copy()
        reference.x = before
        for step in (stepper.step, reference.step):
            step(0.01 / (1 + t) ** 0.5)
        assert digest(stepper) == setup.layout.digest(torch.from_numpy(reference.x)), t


RULES = [("coin", "coin"), ("random", "plus"), ("plus", "minus"), ("abstain", "zero"), ("abstain", "coin")]


@pytest.mark.parametrize(("zeros", "ties"), RULES)
def test_rules_for_zeros_and_ties_equal_the_reference(zeros, ties):
    setup = Setup(Awkward(size=77), 4)
    algorithm = weighted(setup, "signum-mv", {}, zeros, ties)
    stepper, reference = setup.stepper(algorithm), setup.reference(algorithm)
    for _ in range(12):
        stepper.step(0.01)
        reference.step(0.01)
    assert digest(stepper) == setup.layout.digest(torch.from_numpy(reference.x))


ANY = [Majority("coin"), Majority("plus"), Majority("zero"), PresentMajority(), RandomisedMajority(), Average()]


class Moment:
    """What a vote asks of a step."""

    streams = Streams(7)

    def coin(self, stream, rule="coin"):
        return self.streams.coin(stream, 5, NO_VOTER)

    def draw(self, stream):
        return self.streams.draw(stream, 5, NO_VOTER)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, MOST), min_size=1, max_size=40), st.integers(1, 9), st.integers(1, 2), st.integers(0))
def test_a_weight_of_w_is_w_equal_voters(weights, words, planes, seed):
    rng, n = np.random.default_rng(seed), len(weights)
    messages = torch.from_numpy(rng.integers(-(2**63), 2**63, (planes, n, words), dtype=np.int64))
    messages[0] &= messages[-1]  # who is absent sends no sign
    copies = messages.repeat_interleave(torch.tensor(weights), dim=1)
    for vote in ANY:
        up = Planes(planes)
        weighing, found = Weighted(vote, tuple(weights)), []
        for by, box in (
            (weighing, Ballots(0, 64 * words, 0, n, planes=messages, weights=tuple(weights))),
            (vote, Ballots(0, 64 * words, 0, sum(weights), planes=copies)),
        ):
            out = bits.new_planes(by.down(up, sum(weights)).planes, words)
            by.verdict(box, None, {}, out, Moment())
            found.append((out.tolist(), box.agreement()))
        assert found[0] == found[1]
        assert np.array_equal(weighing.levels(up, sum(weights)), vote.levels(up, sum(weights)))


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=20))
def test_weights_are_as_near_as_they_can_be(sizes):
    found, unit = weights_of(sizes), max(sizes) / MOST
    assert max(found) == MOST
    for size, weight in zip(sizes, found, strict=True):
        assert 1 <= weight <= MOST
        assert abs(weight * unit - size) <= unit / 2 * (1 + 1e-12) or (weight == 1 and size < unit / 2)


def test_weights_by_rows():
    assert weights_of([300, 35, 300, 10]) == (15, 2, 15, 1)
    assert weights_of([30, 1, 3]) == (15, 1, 2)  # halves go up
    assert in_lowest_terms((15, 5, 10)) == (3, 1, 2)


def test_equal_weights_change_nothing():
    setup = Setup(Awkward(size=77), 4)
    algorithm = setup.algorithm("signum-mv")
    assert algorithm.with_weights((7, 7, 7, 7)) is algorithm
    assert algorithm.with_weights((6, 3, 3, 3)).vote == Weighted(Majority("coin"), (2, 1, 1, 1))
    assert not setup.algorithm("dist-ef-signsgd").weighable


@pytest.mark.parametrize("node_size", [0, 3])
@pytest.mark.parametrize("carrier", ["sharded", "allgather", "allreduce", "hierarchical", "butterfly"])
def test_what_a_schedule_sends_is_what_it_costs(carrier, node_size):
    """And that of counts on the way is more than without weights."""
    algorithm, bytes_of = Setup(Awkward(size=77), 8).algorithm("signum-mv"), []
    for vote in (algorithm.vote, algorithm.with_weights(WEIGHTS[8]).vote):
        sizes = Sizes([(0, 8192), (8192, 30_080)], Planes(1), Planes(1), vote, 8, node_size)
        phases, cost = REGISTRY[carrier].schedule(sizes), sum(REGISTRY[carrier].cost(sizes))
        sent = sum(size * k for rank in range(8) for (_, _, size), k in messages(phases, rank).items())
        assert sent == pytest.approx(cost, abs=16 * 8 if carrier == "allreduce" else 0)
        bytes_of.append(cost)
    wider = carrier in ("allreduce", "butterfly") or (carrier == "hierarchical" and node_size)
    assert (bytes_of[1] > bytes_of[0]) == bool(wider)
