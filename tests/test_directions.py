"""Votes on a part of x: on one direction per step, on a block of coordinates, and of those voters who are sure."""

import numpy as np
import pytest
import torch

from mpisign import bits, optim
from mpisign.config import make
from mpisign.errors import NumericalError, UsageError
from mpisign.problems.synthetic import Quadratic
from mpisign.problems.toys import Linear, Targets
from mpisign.run.plan import resolve
from tests.building import Setup
from tests.problems import Awkward, Regression

DIRECTIONS = [("feedsign", {}), ("compsgd-mv", {}), ("compsgd-mv", {"comparisons": 3, "smoothing": 0.05})]


@pytest.mark.parametrize(("name", "hyper"), DIRECTIONS)
def test_every_voter_tells_the_sign_of_its_own_difference_along_one_direction(name, hyper):
    setup = Setup(Regression(), 3, batch_size=4)
    algorithm = setup.algorithm(name, **hyper)
    stepper, slow = setup.stepper(algorithm), setup.reference(algorithm)
    for _ in range(20):
        slow.x, slow.lr = stepper.x.numpy().copy(), 0.1
        voters = slow.stages[0]["estimator"]
        expected = [voter.estimate() for voter in voters]
        stepper.step(0.1)
        slow.t += 1
        states = stepper.stage.estimator_states
        assert [tuple(state["told"].tolist()) for state in states] == [voter.told for voter in voters]
        assert all(torch.equal(state["z"], states[0]["z"]) for state in states)
        here = slow.coordinates
        np.testing.assert_allclose(states[0]["z"].numpy()[here], expected[0][here], rtol=1e-6)
        # x moved by the step along the direction, to the side of the majority
        moved, sign = (slow.x - stepper.x.numpy())[here], np.sign(sum(voter.told[0] for voter in voters))
        np.testing.assert_allclose(moved, 0.1 * sign * expected[0][here], atol=1e-6)


def test_a_step_on_the_sphere_has_the_length_of_the_rate():
    setup = Setup(Awkward(size=77), 3)
    stepper = setup.stepper(setup.algorithm("compsgd-mv"))
    before = stepper.x.clone()
    stepper.step(0.25)
    assert setup.layout.norm(stepper.x - before) == pytest.approx(0.25, rel=1e-5)


@pytest.mark.parametrize("name", ["feedsign", "compsgd-mv"])
def test_a_tie_of_signs_leaves_x(name):
    """Two voters with opposite targets, at the point in the middle."""
    setup = Setup(Targets(targets=[-1.0, 1.0], dimension=5), 2, kind="sorted")
    stepper = setup.stepper(setup.algorithm(name))
    stepper.x.zero_()
    for _ in range(5):
        stepper.step(0.1)
        assert sorted(float(state["told"][0]) for state in stepper.stage.estimator_states) == [-1.0, 1.0]
        assert not stepper.x.any()


class Cliff(Quadratic):
    """A quadratic that is infinite where the first coordinate is above its start."""

    def value(self, parameters, batch):
        beyond = float(parameters["x"][0]) > self.edge
        return float("inf") if beyond else super().value(parameters, batch)


def test_a_value_that_is_not_finite_stops_all_before_x_moves():
    setup = Setup(Cliff(dimension=5), 2)
    setup.problem.edge = float(setup.x[0])
    stepper = setup.stepper(setup.algorithm("feedsign"))
    with pytest.raises(NumericalError, match="the loss is inf"):
        stepper.step(0.1)
    assert torch.equal(stepper.x, setup.x)


def test_lies_about_one_sign_are_refused():
    tables = {"run": {"steps": 5}, "problem": {"name": "quadratic"}, "algorithm": {"name": "feedsign"}}
    with pytest.raises(UsageError, match="send no messages"):
        resolve(make(tables | {"adversary": {"voters": 1}}), 3)


@pytest.mark.parametrize("order", ["cyclic", "shuffled"])
@pytest.mark.parametrize("blocks", [1, 2, 8])
def test_each_block_has_its_turn_once(blocks, order):
    setup = Setup(Linear(dimension=4096 + 640, law="normal"), 3)
    stepper = setup.stepper(setup.algorithm("absignsgd-mv", blocks=blocks, order=order), chunk=512)
    whole, orders = np.arange(setup.layout.length // 64), []
    for _ in range(3):
        turns = []
        for _ in range(blocks):
            before = stepper.x.clone()
            stepper.step(0.125)
            moved = (stepper.x != before).numpy().reshape(-1, 64)
            first = int(moved.any(axis=1).argmax())
            assert moved.all(axis=1).tolist() == (whole % blocks == first).tolist()
            assert not moved[whole % blocks != first].any()
            turns.append(first)
        assert sorted(turns) == list(range(blocks))
        orders.append(turns)
    assert (orders[0] == list(range(blocks)) and orders[0] == orders[1]) or order == "shuffled"
    assert len({tuple(turns) for turns in orders}) > 1 or order == "cyclic" or blocks < 8


def test_a_block_sends_its_part_of_the_words():
    setup = Setup(Linear(dimension=64 * 64 * 6), 3)
    sent = {}
    for name, hyper in (("signsgd-mv", {}), ("absignsgd-mv", {"blocks": 16})):
        stepper = setup.stepper(setup.algorithm(name, **hyper), "sharded")
        stepper.step(0.1)
        traffic, headers = stepper.world.traffic, 3 * 2 * 3 * 8
        sent[name] = traffic.up - headers, traffic.down
    assert sent["signsgd-mv"] == tuple(16 * part for part in sent["absignsgd-mv"])


def test_what_a_block_decides_takes_no_floats():
    """Messages, tallies and the planes of what came: some words for each 64 coordinates, not a number for each."""
    setup = Setup(Linear(dimension=64 * 64 * 6), 3)
    stepper = setup.stepper(setup.algorithm("absignsgd-mv", blocks=4), "sharded")
    stepper.step(0.1)
    assert stepper.exchange.memory() < 3 * setup.layout.length


def test_blocks_are_a_power_of_two():
    with pytest.raises(UsageError, match="blocks = 3; give one of: 1, 2, 4, 8, 16, 32, 64"):
        Setup(Awkward(size=77), 3).algorithm("absignsgd-mv", blocks=3)


def test_a_threshold_of_nothing_is_the_vote_of_momentum():
    setup = Setup(Awkward(size=77), 3)
    unsure = setup.stepper(setup.algorithm("abstain-mv", threshold=0.0, beta=0.8))
    plain = setup.stepper(setup.algorithm("signum-mv", "abstain", beta=0.8))
    for _ in range(5):
        unsure.step(0.01)
        plain.step(0.01)
        assert torch.equal(unsure.x, plain.x)


def test_the_share_of_silent_voters_and_what_the_others_say():
    """Of 2,000 voters, each with gradient g = 1/2 and radius 1: g/B = (1 - silence)/2 is the mean of their signs."""
    n, silence = 2000, 0.25
    setup = Setup(Linear(dimension=64), n)
    stepper = setup.stepper(setup.algorithm("ternary-vote", radius=1.0, silence=silence))
    v, out = torch.full((setup.layout.length,), 0.5), bits.new_planes(2, setup.layout.length // 64)
    state = stepper.algorithm.sign.init(setup.layout)
    everyone, sums, present = stepper.at_hand(setup.layout), 0.0, 0.0
    for voter in range(n):
        step = type(everyone)(0, everyone.rates, everyone.streams, everyone.layout, everyone.world, voter)
        stepper.algorithm.sign.pack(v, None, 0, len(v), out, state, step)
        said = torch.zeros(len(v))
        bits.add_signed(said, out, 1.0)
        sums, present = sums + float(said.mean()), present + float(said.abs().mean())
    assert present / n == pytest.approx(1 - silence, abs=0.01)
    assert sums / n == pytest.approx((1 - silence) / 2, abs=0.01)


@pytest.mark.parametrize("name", ["abstain-mv", "ternary-vote", "absignsgd-mv"])
def test_they_train_a_loop_of_ones_own(name):
    torch.manual_seed(0)
    model, inputs = torch.nn.Linear(20, 1), torch.randn(200, 20)
    outputs = inputs @ torch.randn(20, 1)
    optimizer = optim.SignOptimizer(model, name, lr=0.03)
    losses = []
    for _ in range(300):
        optimizer.zero_grad()
        loss = (model(inputs) - outputs).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.05 * losses[0]
