"""Every sign method equals its slow reference, x compared by bytes, with all voters in one process.

parallel/test_exchange.py does the same at n = 1, 2, 3, 4, 5, 8 with the voters on ranks.
"""

import numpy as np
import pytest

from mpisign import checkpoint
from tests.building import CASES, WITNESSES, Setup, digest
from tests.problems import Awkward

STEPS = 200


def rates(t):
    return 0.01 / (1 + t) ** 0.5


@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize("name", WITNESSES)
def test_trajectory_equals_the_reference(name, n):
    setup = Setup(Awkward(size=77), n)
    zeros, ties = ("abstain", "zero") if n == 1 else ("coin", "coin")
    stepper, reference = setup.stepper(setup.algorithm(name)), setup.reference(name, zeros, ties)
    for t in range(STEPS):
        stepper.step(rates(t))
        reference.step(rates(t))
        assert digest(stepper) == setup.layout.digest(_tensor(reference.x)), f"differ after step {t + 1}"


@pytest.mark.parametrize("name", ["ssdm", "dist-ef-signsgd", "ssvr-mv"])
def test_sums_over_more_than_a_tile_equal_the_reference(name):
    setup = Setup(Awkward(), 3)
    stepper, reference = (
        setup.stepper(setup.algorithm(name), chunk=512),
        setup.reference(name, "coin", "coin"),
    )
    for t in range(3):
        stepper.step(rates(t))
        reference.step(rates(t))
    assert digest(stepper) == setup.layout.digest(_tensor(reference.x))


@pytest.mark.parametrize("zeros", ["coin", "plus", "abstain"])
@pytest.mark.parametrize("ties", ["coin", "plus", "zero"])
@pytest.mark.parametrize("name", ["signum-mv", "dist-ef-signsgd"])
def test_rules_for_zeros_and_ties_equal_the_reference(name, zeros, ties):
    setup = Setup(Awkward(size=77), 4)
    stepper, reference = (
        setup.stepper(setup.algorithm(name, zeros, ties, **CASES[name])),
        setup.reference(name, zeros, ties),
    )
    for t in range(20):
        stepper.step(rates(t))
        reference.step(rates(t))
    assert digest(stepper) == setup.layout.digest(_tensor(reference.x))


@pytest.mark.parametrize("name", CASES)
def test_saved_states_go_on_the_same(name, tmp_path):
    setup = Setup(Awkward(size=77), 4)
    stepper = setup.stepper(setup.algorithm(name))
    for t in range(5):
        stepper.step(rates(t))
    checkpoint.save(tmp_path / "state.h5", stepper.states(), t=stepper.t)
    restored = setup.stepper(setup.algorithm(name))
    states, attributes = checkpoint.load(tmp_path / "state.h5")
    restored.load(states, int(attributes["t"]))
    for t in range(5, 15):
        stepper.step(rates(t))
        restored.step(rates(t))
        assert digest(stepper) == digest(restored)


@pytest.mark.parametrize("name", CASES)
def test_chunks_do_not_matter(name):
    setup = Setup(Awkward(), 4)
    whole, pieces = (setup.stepper(setup.algorithm(name), chunk=c) for c in (1 << 20, 512))
    assert len(pieces.exchange.chunks) > 1
    for t in range(10):
        whole.step(rates(t))
        pieces.step(rates(t))
    assert digest(whole) == digest(pieces)


@pytest.mark.parametrize("name", WITNESSES)
def test_accumulation_and_clipping_work_with_every_algorithm(name):
    setup = Setup(Awkward(size=77), 3, accumulate=3, clip=0.5)
    stepper = setup.stepper(setup.algorithm(name))
    stepper.step(0.01)
    oracle = stepper.oracles[0]
    assert oracle.evaluations == 2 * 3
    assert oracle.clipped == 1
    g = setup.layout.zeros()
    oracle.gradient(stepper.x, g)
    assert setup.layout.norm(g) == pytest.approx(0.5, rel=1e-5)


def test_accumulated_gradient_is_the_mean_of_its_minibatches():
    x = Setup(Awkward(size=77), 1).x
    whole, parts = Setup(Awkward(size=77), 1, batch_size=6), Setup(Awkward(size=77), 1, accumulate=3)
    gradients = []
    for setup in (whole, parts):
        g = setup.layout.zeros()
        setup.oracle(0).gradient(x, g)
        gradients.append(g.numpy())
    np.testing.assert_allclose(*gradients, rtol=1e-4, atol=1e-5)


def _tensor(array):
    import torch

    return torch.from_numpy(array)
