"""Polar factors, whose bits no machine changes; the functions on which signs around them ascend."""

import numpy as np
import pytest
import torch

from mpisign.algorithms.polar import gain, polar, to_polar
from mpisign.algorithms.registry import find
from mpisign.layout import Layout, SegmentOptions
from mpisign.optim import SignOptimizer
from mpisign.problems.counterexamples import MatrixLinear, Reflections
from tests.building import Setup
from tests.reference import arithmetic

SHAPES = [(1, 1), (1, 7), (7, 1), (5, 5), (6, 40), (40, 6), (64, 33)]


def drawn(shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def norm(matrix):
    return float(np.linalg.norm(matrix.double().numpy()))


def exactly(matrix):
    """U V^T by a singular value decomposition, float64, without directions that are nothing but rounding."""
    u, s, v = np.linalg.svd(np.asarray(matrix, dtype=float), full_matrices=False)
    rank = int((s > 1e-9 * s[0]).sum())
    return u[:, :rank] @ v[:rank]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_converged_factor_is_that_of_a_decomposition(shape):
    m = drawn(shape)
    np.testing.assert_allclose(polar(m, norm(m), "converged"), exactly(m), atol=2e-5)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_five_steps_leave_singular_values_about_one(shape):
    m = drawn(shape)
    m /= np.linalg.svd(m.numpy(), compute_uv=False)[0]
    m = torch.from_numpy(exactly(m).astype(np.float32)) + 0.2 * m  # singular values from 1 to 1.2
    singular = np.linalg.svd(polar(m, norm(m)).double().numpy(), compute_uv=False)
    assert singular.min() > 0.67
    assert singular.max() < 1.21


@pytest.mark.parametrize("kind", ["muon", "converged"])
@pytest.mark.parametrize("shape", [(6, 40), (40, 6), (300, 200)], ids=str)
def test_the_order_of_sums_does_not_matter(shape, kind):
    """Columns and rows dealt anew are summed in another order, on other threads, by other blocks."""
    m = drawn(shape)
    whole = polar(m, norm(m), kind)
    rng = np.random.default_rng(1)
    rows, columns = (torch.from_numpy(rng.permutation(side)) for side in shape)
    assert torch.equal(polar(m[rows][:, columns].contiguous(), norm(m), kind), whole[rows][:, columns])
    assert torch.equal(polar(m.T.contiguous(), norm(m), kind), whole.T)


def test_no_sum_is_rounded_where_all_point_one_way():
    """A matrix of ones, and one with a row a thousand times the others, have the largest sums there can be."""
    for m in (torch.ones(24, 30), torch.ones(24, 30) + 1000.0 * torch.eye(24, 30)[:1]):
        for kind in ("muon", "converged"):
            slow = arithmetic.polar(m.numpy(), norm(m), kind)
            np.testing.assert_array_equal(polar(m, norm(m), kind).numpy(), slow)


def test_vectors_zeros_and_what_does_not_vote_stay():
    shapes = {"bias": (5,), "convolution": (4, 2, 3, 3), "dead": (3, 3), "head": (4, 6), "none": (0, 3)}
    layout = Layout(shapes, {"head": SegmentOptions(vote=False)})
    parts = {name: drawn(shape) for name, shape in shapes.items()} | {"dead": torch.zeros(3, 3)}
    v = layout.flatten(parts)
    to_polar(v, layout, "converged")
    after = layout.views(v)
    for name in ("bias", "dead", "head"):
        assert torch.equal(after[name], parts[name])
    np.testing.assert_allclose(after["convolution"].view(4, 18), exactly(parts["convolution"].view(4, 18)), atol=1e-5)


def test_a_step_has_the_same_gain_for_every_shape():
    """|step|_F / sqrt(rows) is lr: of a polar factor, and of signs."""
    for shape in ((8, 8), (4, 30), (30, 4)):
        segment = Layout({"m": shape}).segments[0]
        factor = exactly(drawn(shape))
        assert gain(segment, "polar") * np.linalg.norm(factor) / shape[0] ** 0.5 == pytest.approx(1)
        assert gain(segment, "sign") * np.linalg.norm(np.sign(factor)) / shape[0] ** 0.5 == pytest.approx(1)


def test_why_a_voter_of_several_ranks_can_not_have_them():
    for name, slot in (
        ("signmuon", "Polar"),
        ("muonsign", "PolarSignDescent"),
        ("ef21-muonsign", "TrackedPolarDescent"),
    ):
        assert find(name).build().undivided == f"{slot} works on whole matrices"


# What the theorems say, first by a decomposition and then by the entries of the zoo


def test_the_published_constants_are_those_of_decompositions():
    g = MatrixLinear("sign-of-polar").slope
    assert np.sum(g * np.sign(exactly(g))) == pytest.approx(-42468 / 103, abs=1e-9)
    g = MatrixLinear("polar-of-sign").slope
    factor = exactly(np.sign(g))
    assert factor[3, 1] == pytest.approx(-1 / 17**0.5, abs=1e-12)
    assert np.sum(g * factor) == pytest.approx(-13.888, abs=5e-4)
    assert np.sum(g * np.sign(factor)) == pytest.approx(-76, abs=1e-9)


LINEAR = {
    "signmuon": ("sign-of-polar", 42468 / 103),
    "muonusign": ("polar-of-sign", 13.88792),
    "muonsign": ("polar-of-sign", 76.0),
}


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("name", LINEAR)
def test_signs_around_a_polar_factor_ascend_a_linear_function(name, n):
    example, rise = LINEAR[name]
    setup = Setup(MatrixLinear(example), n)
    stepper = setup.stepper(setup.algorithm(name, polar="converged", scaled=False))
    for _ in range(16):
        stepper.step(2.0**-7)
    f = setup.problem.measure(setup.layout.views(stepper.x), None)["loss"]
    assert f / 16 * 2**7 == pytest.approx(rise, abs=2e-3)


@pytest.mark.parametrize("example", ["sign-of-polar", "polar-of-sign"])
@pytest.mark.parametrize("name", ["ef21-muonusign", "ef21-muonsign", "ef21-signmuon"])
def test_with_feedback_they_descend_it(name, example):
    setup = Setup(MatrixLinear(example), 3)
    stepper, values = setup.stepper(setup.algorithm(name, polar="converged", momentum=0.0)), []
    for _ in range(300):
        stepper.step(2.0**-7)
        values.append(setup.problem.measure(setup.layout.views(stepper.x), None)["loss"])
    nuclear = np.linalg.svd(setup.problem.slope, compute_uv=False).sum()
    assert (values[-1] - values[-101]) / 100 * 2**7 == pytest.approx(-nuclear, rel=1e-2)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_feedback_behind_the_polar_factor_ascends_reflections(momentum):
    setup = Setup(Reflections(momentum), 1)
    stepper, values = setup.stepper(setup.algorithm("ef21-signmuon", polar="converged", momentum=momentum)), []
    for _ in range(200):
        stepper.step(1.0)
        values.append(setup.problem.measure(setup.layout.views(stepper.x), None)["loss"])
    # x is float32, up to 150 here, and f is as steep as `size`
    assert (values[-1] - values[-101]) / 100 == pytest.approx(49 / 480, abs=5e-6 * setup.problem.size)


def test_the_slope_of_reflections_is_that_of_its_values():
    problem, rng, h = Reflections(0.5), np.random.default_rng(0), 1e-6
    near = [z + rng.uniform(-0.012, 0.012, (2, 2)) for z in problem.centres for _ in range(50)]
    for x in (*near, *(rng.uniform(-1, 3, (2, 2)) for _ in range(200))):
        slope = np.zeros((2, 2))
        for place in np.ndindex(2, 2):
            step = np.zeros((2, 2))
            step[place] = h
            slope[place] = (problem.value_at(x + step) - problem.value_at(x - step)) / (2 * h)
        # a difference across the foot of a flank is half the flank's slope off
        np.testing.assert_allclose(problem.slope_at(x), slope, atol=1e-3)


def test_a_parameter_without_a_gradient_stays_where_it_is():
    first, second = torch.nn.Linear(6, 5), torch.nn.Linear(6, 5)
    optimizer = SignOptimizer([*first.parameters(), *second.parameters()], "ef21-muonsign", lr=0.1)
    for used in ((first, second), (first, second), (first,)):
        before = second.weight.clone()
        optimizer.zero_grad()
        sum(layer(torch.ones(1, 6)).square().sum() for layer in used).backward()
        optimizer.step()
        assert torch.equal(second.weight, before) == (second not in used)
