"""Cosine transforms of chunks, whose bits no machine changes; DeMo against a loop written after its authors' code."""

import numpy as np
import pytest
import torch
from scipy.fft import dctn, idctn

from mpisign.algorithms.cosine import basis, from_coefficients, sides, to_coefficients, transformed
from mpisign.algorithms.registry import find
from mpisign.layout import Layout, SegmentOptions
from tests.building import Setup
from tests.problems import Layered
from tests.reference import arithmetic

SHAPES = {"row": (1,), "bias": (90,), "prime": (67,), "layer": (70, 96), "convolution": (16, 3, 5, 5), "none": (0, 3)}


def drawn(shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def transforms(layout, v, chunk):
    """The coefficients, as scipy has them, of each parameter's chunks."""
    out = {}
    for s in layout.segments:
        if not s.size:
            continue
        height, width = sides(s, chunk)
        m = v[s.offset : s.end].numpy().astype(float).reshape(s.matrix if s.is_matrix else (1, s.size))
        parts = [
            dctn(m[i : i + height, j : j + width], norm="ortho").ravel()
            for i in range(0, m.shape[0], height)
            for j in range(0, m.shape[1], width)
        ]
        out[s.name] = np.concatenate(parts)
    return out


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_coefficients_are_those_of_scipy_and_lead_back(chunk):
    layout = Layout(SHAPES)
    parts = {name: drawn(shape, seed) for seed, (name, shape) in enumerate(SHAPES.items())}
    v = layout.flatten(parts)
    wanted = transforms(layout, v, chunk)
    to_coefficients(v, layout, chunk)
    for s in layout.segments:
        if s.size:
            np.testing.assert_allclose(v[s.offset : s.end], wanted[s.name], atol=4e-6)
    from_coefficients(v, layout, chunk)
    for name, view in layout.views(v).items():
        np.testing.assert_allclose(view, parts[name], atol=8e-6)


def test_sides_are_the_largest_divisors():
    layout = Layout({"a": (70, 96), "b": (67,), "c": (128, 4096), "d": (5,)})
    assert [sides(s, 64) for s in layout.segments] == [(35, 48), (1, 1), (64, 64), (1, 5)]


@pytest.mark.parametrize("side", [6, 48, 64])
def test_the_order_of_sums_does_not_matter(side):
    """Added from the other end, on other threads, it has the same bits: backwards, odd coefficients change sign."""
    m, cosines = drawn((3, 2, side, side)), basis(side)
    forwards = transformed(m, cosines, cosines)
    odd = torch.arange(side) % 2 * -2.0 + 1
    torch.set_num_threads(2)
    backwards = transformed(m.flip(-2, -1).contiguous(), cosines, cosines)
    torch.set_num_threads(1)
    assert torch.equal(backwards * odd * odd[:, None], forwards)


@pytest.mark.parametrize("scale", [2.0**-140, 1e-20, 1.0, 2.0**127])
def test_no_sum_is_rounded_where_all_point_one_way(scale):
    """A chunk of ones, and the signs of a basis, have the largest sums there can be; grids follow the largest value."""
    cosines, slow = basis(64), arithmetic.basis(64)
    for chunk in (np.ones((64, 64)), np.sign(np.outer(cosines[63], cosines[5]))):
        m = torch.from_numpy((chunk * scale).astype(np.float32))
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(
                transformed(m[None], cosines, cosines)[0].numpy(), arithmetic.transformed(m.numpy(), slow, slow)
            )


def test_zeros_stay_and_what_does_not_vote():
    layout = Layout({"dead": (8, 8), "head": (4, 6)}, {"head": SegmentOptions(vote=False)})
    v = layout.flatten({"dead": torch.zeros(8, 8), "head": drawn((4, 6))})
    before = v.clone()
    to_coefficients(v, layout, 64)
    assert torch.equal(v, before)
    from_coefficients(v, layout, 64)
    assert torch.equal(v, before)


def test_what_is_not_finite_stays_so():
    layout = Layout({"m": (8, 8)})
    for bad in (np.nan, np.inf):
        v = layout.flatten({"m": torch.ones(8, 8)})
        v[9] = bad
        to_coefficients(v, layout, 64)
        assert not v.isfinite().any()


def test_why_a_voter_of_several_ranks_can_not_have_them():
    assert find("demo").build().undivided == "Cosine works on whole matrices"


class Square(Layered):
    """Least squares on a matrix that is one chunk, and one tile."""

    def __init__(self):
        super().__init__()
        self.shapes, self.size = {"m": (64, 64)}, 4096


def test_a_step_is_that_of_the_authors_code():
    """e kept as it is, not as coefficients: in float64, with scipy's transforms and numpy's choice of the largest."""
    setup, n, k, decay, lr = Setup(Square(), 3), 3, 32, 0.9, 0.01
    stepper = setup.stepper(setup.algorithm("demo", topk=k, decay=decay, weight_decay=0.1))
    slow = setup.reference(setup.algorithm("sgd")).oracle
    x, e = setup.x.numpy().astype(float), np.zeros((n, 64, 64))
    for t in range(12):
        total = np.zeros((64, 64))
        for voter in range(n):
            g = slow.gradient(voter, t, x.astype(np.float32)).reshape(64, 64)
            e[voter] = decay * e[voter] + lr * g
            q = dctn(e[voter], norm="ortho")
            q[np.abs(q) < np.sort(np.abs(q), axis=None)[-k]] = 0
            e[voter] -= idctn(q, norm="ortho")
            total += q
        moves = np.sign(idctn(total, norm="ortho")).ravel()
        x = (1 - lr * 0.1) * x - lr * moves
        stepper.step(lr)
        # a sum next to 0 may have the other sign; from there on x is the stepper's
        got = stepper.x.numpy()
        assert np.mean(np.abs(got - x) < lr) > 0.999
        x = got.astype(float)
