"""Local steps: what one of them is, what a walk comes to, and what whole numbers say of it."""

import numpy as np
import pytest
import torch

from mpisign.algorithms.compressors import LargestMeans, WholeNumbers
from mpisign.algorithms.estimators import InnerAdam, InnerLion, LocalSteps
from mpisign.bits.rng import NO_VOTER, Streams
from mpisign.errors import UsageError
from mpisign.optim import SignOptimizer
from tests.building import Setup, digest
from tests.problems import Awkward

ONE_STEP = [
    ({"inner": "sgd"}, "signsgd-mv", {}),
    ({"inner": "lion"}, "dlion-mavo", {}),
    ({"inner": "lion", "vote": "average"}, "dlion-avg", {}),
]


@pytest.mark.parametrize(("hyper", "name", "other"), ONE_STEP, ids=str)
def test_one_local_step_is_the_method_without(hyper, name, other):
    setup = Setup(Awkward(size=77), 3)
    local = setup.stepper(setup.algorithm("local-sign", local_steps=1, weight_decay=0.1, **hyper))
    plain = setup.stepper(setup.algorithm(name, weight_decay=0.1, **other))
    for t in range(12):
        local.step(0.01)
        plain.step(0.01)
        assert digest(local) == digest(plain), t


@pytest.mark.parametrize("n", [1, 3])
def test_with_one_step_of_sgd_global_momentum_is_lion_on_the_mean_gradient(n):
    """One voter's is the entry `lion` itself; of several, the mean gradient in numpy."""
    setup = Setup(Awkward(size=77), n)
    hyper = {"beta1": 0.9, "beta2": 0.99, "weight_decay": 0.1}
    stepper = setup.stepper(setup.algorithm("local-sign-momentum", local_steps=1, inner="sgd", **hyper))
    if n == 1:
        lion = setup.stepper(setup.algorithm("lion", **hyper))
        for _ in range(12):
            stepper.step(0.01)
            lion.step(0.01)
        assert digest(stepper) == digest(lion)
        return
    x, m, oracle = setup.x.numpy().astype(float), np.zeros(len(setup.x)), setup.reference(setup.algorithm("sgd")).oracle
    for t in range(12):
        g = sum(oracle.gradient(voter, t, x.astype(np.float32)) for voter in range(n)) / n
        x = (1 - 0.01 * 0.1) * x - 0.01 * np.sign(0.9 * m + 0.1 * g)
        m = 0.99 * m + 0.01 * g
        stepper.step(0.01)
        np.testing.assert_allclose(stepper.x, x, atol=1e-6)


@pytest.mark.parametrize("by", [InnerLion(), InnerAdam(), InnerAdam(weight_decay=0.3)], ids=str)
def test_v_is_how_far_the_walk_went(by):
    """Over the rate; Adam's steps are those of torch.optim.AdamW."""
    setup = Setup(Awkward(size=77), 1)
    estimator, oracle, layout = LocalSteps(5, 0.01, by), setup.oracle(0), setup.layout
    stepper = setup.stepper(setup.algorithm("sgd"))
    state = estimator.init(layout)
    v = estimator.estimate(oracle, setup.x, state, stepper.at_hand(layout))
    np.testing.assert_allclose(v * 0.01, setup.x - state["point"], atol=1e-6)
    if isinstance(by, InnerAdam):
        point = torch.nn.Parameter(setup.x.clone())
        adam = torch.optim.AdamW([point], lr=0.01, weight_decay=by.weight_decay)
        for k in range(5):
            oracle.begin(k)
            point.grad = layout.zeros()
            oracle.gradient(point.data, point.grad)
            adam.step()
        np.testing.assert_allclose(state["point"], point.data, atol=2e-6)


def test_fedlion_sends_whole_numbers_from_one_shared_momentum():
    setup = Setup(Awkward(size=77), 4)
    stepper = setup.stepper(setup.algorithm("fedlion", local_steps=5))
    for _ in range(6):
        before = stepper.x.clone()
        stepper.step(2.0**-7)
        states = stepper.stage.estimator_states
        sums = torch.stack([state["v"] for state in states])
        assert torch.equal(sums, sums.round())
        assert sums.abs().max() <= 5
        assert all(torch.equal(state["m"], states[0]["m"]) for state in states)
        np.testing.assert_allclose(stepper.x, before - 2.0**-7 * sums.mean(dim=0), atol=1e-6)
    assert sums.unique().numel() > 4


def test_sums_of_whole_numbers_are_exact_and_lose_nothing():
    form, draw = WholeNumbers(3), Streams(1).draw("sign", 0, NO_VOTER)
    v = torch.randint(-3, 4, (4096 + 64,), generator=torch.Generator().manual_seed(0)).float()
    message, total = form.empty(coordinates=len(v)), torch.zeros_like(v)
    form.encode(v, 0, draw, message, None)
    for _ in range(1000):
        form.add(message, total, 0, None)
    assert torch.equal(total, 1000 * v)
    assert form.cost(4096) == 3 * 4096
    assert [WholeNumbers(most).bits for most in (1, 2, 4, 7, 255)] == [2, 3, 4, 4, 9]


def test_sparseloco_that_sends_all_takes_the_mean_of_the_walks_ends():
    """At an outer rate of 1: federated averaging over AdamW's steps."""
    setup = Setup(Awkward(size=77), 3)
    hyper = {"local_steps": 4, "density": 1.0, "quantised": False, "weight_decay": 0.3}
    stepper = setup.stepper(setup.algorithm("sparseloco", **hyper))
    for _ in range(5):
        stepper.step(0.01)
        ends = torch.stack([state["point"] for state in stepper.stage.estimator_states])
        np.testing.assert_allclose(stepper.x, ends.mean(dim=0), atol=1e-6)


def test_what_sparseloco_does_not_send_stays_in_the_residual():
    setup = Setup(Awkward(), 2)
    stepper, lr = setup.stepper(setup.algorithm("sparseloco", local_steps=2, density=0.02, decay=0.5)), 2.0**-7
    kept = [state["residual"] for state in stepper.stage.channels[0].sign_states]
    for _ in range(4):
        before, x = torch.stack(kept), stepper.x.clone()
        stepper.step(lr)
        left = torch.stack(kept)
        due = torch.stack([0.5 * e + lr * s["v"] for e, s in zip(before, stepper.stage.estimator_states, strict=True)])
        np.testing.assert_allclose(stepper.x, x - (due - left).mean(dim=0), atol=1e-6)
        # all but few coordinates are left as they were due
        assert 0.95 < (due - left).abs().lt(1e-9).float().mean() < 1
    form = LargestMeans(0.02)
    assert form.cost(4096) == 82 * 14 + 64


def test_more_steps_than_a_number_holds_are_refused():
    with pytest.raises(UsageError, match=r"local_steps = 256.*take 1 to 255"):
        Setup(Awkward(size=77), 2).algorithm("fedlion", local_steps=256)


def test_a_loop_of_ones_own_has_no_walks():
    with pytest.raises(UsageError, match="several batches"):
        SignOptimizer(torch.nn.Linear(3, 2), "local-sign", lr=0.1)
