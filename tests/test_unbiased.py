"""Signs that are unbiased, on the way up and down, and Lion in other forms."""

import numpy as np
import pytest
import torch

from mpisign.problems.synthetic import Quadratic
from mpisign.problems.toys import Targets
from tests.building import Setup
from tests.problems import Awkward


@pytest.mark.parametrize("down", ["mean", "sign"])
def test_a_bit_is_unbiased_for_normalised_momentum(down):
    """Over a thousand steps at one point, x moves by lr*m/b times their number, as far as chance allows."""
    setup = Setup(Quadratic(dimension=64, noise=0.5), 3)
    stepper = setup.stepper(setup.algorithm("birder", beta=0.9, down=down))
    walked, told = setup.layout.zeros(), setup.layout.zeros()
    for _ in range(1000):
        stepper.x.copy_(setup.x)
        stepper.step(2.0**-6)
        walked += (setup.x - stepper.x) * 2**6
        told += sum(state["v"] for state in stepper.stage.estimator_states) / 3
    away = (walked - told)[:64].abs()
    # a sum of 1000 draws of deviation 1 at most, less where three voters are averaged
    assert float(away.max()) < 4.5 * (1000 / (3 if down == "mean" else 1)) ** 0.5
    assert float(told[:64].abs().max()) > 500


def test_normalised_momentum_needs_no_warm_up_and_no_radius():
    setup = Setup(Awkward(size=77), 2)
    stepper = setup.stepper(setup.algorithm("birder"))
    first = stepper.step(0.01)
    assert first.clips == 0
    states = stepper.stage.estimator_states
    for state in states:
        assert set(state["v"].unique().tolist()) <= {-1.0, 0.0, 1.0}  # m/b = g/|g| at the first step
    for _ in range(20):
        assert stepper.step(0.01).clips == 0
    assert all(float(state["v"].abs().max()) <= 1 for state in states)


def test_normalised_momentum_goes_to_the_median_of_unlike_voters():
    """Targets 1, 2 and 10, a voter each: the mean is 13/3."""
    setup = Setup(Targets(dimension=1), 3, kind="sorted", batch_size=0)
    assert sorted(setup.rows[v]["a"].item() for v in range(3)) == [1, 2, 10]
    stepper = setup.stepper(setup.algorithm("birder"))
    for t in range(3000):
        stepper.step(0.3 / (t + 1) ** 0.5)
    assert float(stepper.x[0]) == pytest.approx(2, abs=0.05)


def test_storm_of_exact_gradients_is_the_gradient():
    """Nothing is left to correct: m = v = g at every step, whatever beta1 and beta2 are."""
    setup = Setup(Awkward(size=77), 3, batch_size=0)
    stepper = setup.stepper(setup.algorithm("dlion-unbiased"))
    g = setup.layout.zeros()
    for _ in range(6):
        x = stepper.x.clone()
        stepper.step(0.01)
        stepper.oracles[1].gradient(x, g)
        for name in ("m", "v"):
            torch.testing.assert_close(stepper.stage.estimator_states[1][name], g, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "hyper", "sibling"),
    [("mvsm", {"option": 1, "radius": 3.0}, "mv-signsgd-sim"), ("dlion-unbiased", {"storm": False}, "dlion-mavo")],
)
def test_forms_that_are_those_of_siblings_but_for_one_part(name, hyper, sibling):
    setup = Setup(Awkward(size=77), 3)
    one, other = setup.algorithm(name, **hyper), setup.algorithm(sibling)
    assert type(one.estimator) is type(other.estimator)
    assert one.update == other.update


def test_olion_mixes_the_gradient_with_the_average_after_the_step():
    setup = Setup(Awkward(size=77), 1)
    stepper = setup.stepper(setup.algorithm("olion", beta1=0.7, beta2=0.8))
    g, m = setup.layout.zeros(), setup.layout.zeros()
    for t in range(4):
        oracle, x = setup.oracle(0), stepper.x.clone()
        stepper.step(0.01)
        oracle.begin(t)
        oracle.gradient(x, g)
        m = 0.8 * m + 0.2 * g
        mixed = 0.7 * m + 0.3 * g
        # what is no matrix has no polar factor
        bias = next(s for s in setup.layout.segments if s.name == "d")
        v = stepper.stage.estimator_states[0]["v"][bias.offset : bias.end]
        np.testing.assert_allclose(v, mixed[bias.offset : bias.end], rtol=1e-4, atol=1e-6)
