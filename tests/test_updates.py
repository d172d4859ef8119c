"""Baselines equal torch's optimisers; schedules have the shapes they are named for."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from mpisign.config import make
from mpisign.errors import UsageError
from mpisign.layout import Layout, SegmentOptions
from mpisign.problems.logistic import Logistic
from mpisign.problems.toys import TwoPlanes
from mpisign.run.plan import resolve
from mpisign.run.schedules import Schedule
from tests.building import Setup
from tests.cover import rest_is_slow
from tests.problems import Awkward


@pytest.mark.parametrize(
    ("name", "hyper", "torchs"),
    [
        ("sgd", {"momentum": 0.0}, lambda p: torch.optim.SGD(p, lr=0.01)),
        (
            "sgd",
            {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
            lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True, weight_decay=0.1),
        ),
        ("adam", {"weight_decay": 0.1}, lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1)),
    ],
)
def test_baselines_equal_torch(name, hyper, torchs):
    setup = Setup(Awkward(size=77), 1)
    stepper, oracle = setup.stepper(setup.algorithm(name, **hyper)), setup.oracle(0)
    x = setup.x.clone()
    optimiser = torchs([x])
    x.grad = torch.zeros_like(x)
    for t in range(30):
        oracle.begin(t)
        oracle.gradient(x, x.grad)
        optimiser.step()
        stepper.step(0.01)
    np.testing.assert_allclose(stepper.x, x, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "hyper", "torchs"),
    [
        ("adagrad", {}, lambda p: torch.optim.Adagrad(p, lr=0.01)),
        ("adadelta", {"rho": 0.9}, lambda p: torch.optim.Adadelta(p, lr=1.0)),
    ],
)
def test_adaptive_baselines_equal_torch_within_a_few_ulp(name, hyper, torchs):
    """On the gradients of one trajectory, 50 steps; torch.optim's epsilons stand in the same places."""
    setup = Setup(Awkward(size=77), 1)
    stepper = setup.stepper(setup.algorithm(name, **hyper))
    x = setup.x.clone()
    optimiser, largest = torchs([x]), x.abs()
    for _ in range(50):
        stepper.step(optimiser.param_groups[0]["lr"])
        x.grad = stepper.stage.estimator_states[0]["g"].clone()
        optimiser.step()
        largest = torch.maximum(largest, x.abs())
    ulp = np.spacing(largest.numpy())
    assert (np.abs(stepper.x.numpy() - x.numpy()) <= 8 * ulp).all()


def regression(tmp_path, count=60):
    """Rows of a logistic regression with noise, as a file and as arrays."""
    rng = np.random.default_rng(8)
    a = rng.standard_normal((count, 5)).round(3)
    y = np.where(a @ rng.standard_normal(5) + rng.standard_normal(count) > 0, 1, -1)
    lines = [f"{label} " + " ".join(f"{k + 1}:{v}" for k, v in enumerate(row)) for label, row in zip(y, a, strict=True)]
    (tmp_path / "rows.svm").write_text("\n".join(lines))
    return tmp_path / "rows.svm", a, y


@pytest.mark.parametrize(
    ("name", "n"), rest_is_slow([("sag", 1), ("sag", 3), ("saga", 1), ("saga", 3)], [("sag", 1), ("saga", 3)])
)
def test_tables_reach_the_optimum_of_scikit_learn(name, n, tmp_path):
    path, a, y = regression(tmp_path)
    theirs = LogisticRegression(solver="sag", C=1 / (0.1 * len(y)), fit_intercept=False, tol=1e-10, max_iter=100_000)
    setup = Setup(Logistic(path, l2=0.1), n, batch_size=4)
    stepper = setup.stepper(setup.algorithm(name))
    for _ in range(1500):
        stepper.step(0.1)
    x = setup.layout.views(stepper.x)["x"]
    np.testing.assert_allclose(x, theirs.fit(a, y).coef_[0], rtol=0, atol=1e-4)


def test_tables_are_for_linear_problems():
    job = make({"problem": {"name": "digits"}, "algorithm": {"name": "saga"}, "run": {"steps": 5}})
    with pytest.raises(UsageError, match=r"needs linear, which problem 'digits'.*problems that fit: logistic;"):
        resolve(job, 2)


def test_schedules():
    cosine = Schedule("cosine", 2.0, 110, warmup=10)
    assert [cosine(0), cosine(9), cosine(10)] == pytest.approx([0.2, 2.0, 2.0])
    assert cosine(60) == pytest.approx(1.0)
    assert cosine(109) < 1e-3
    assert Schedule("inverse-sqrt", 1.0, 100)(3) == pytest.approx(0.5)
    steps = Schedule("step", 1.0, 100, milestones=[0.5, 0.75], decay=0.1)
    assert [steps(t) for t in (0, 49, 50, 74, 75, 99)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    assert Schedule("constant", 0.3, 10)(9) == 0.3


def test_groups_have_their_own_rate_and_weight_decay():
    setup = Setup(Awkward(size=77), 3)
    shapes = {s.name: s.shape for s in setup.layout.segments}
    plain = setup.stepper(setup.algorithm("signsgd-mv", weight_decay=0.5))
    setup.layout = Layout(shapes, {"b": SegmentOptions(lr_scale=0.0), "d": SegmentOptions(weight_decay=0.0)})
    grouped = setup.stepper(setup.algorithm("signsgd-mv", weight_decay=0.5))
    start = setup.layout.views(setup.x.clone())
    for stepper in (plain, grouped):
        stepper.step(0.01)
    one, other = setup.layout.views(plain.x), setup.layout.views(grouped.x)
    assert torch.equal(other["b"], start["b"])
    assert torch.equal(one["a"], other["a"])
    moved = (other["d"] - start["d"]).abs()
    assert torch.allclose(moved, torch.full_like(moved, 0.01), rtol=1e-4)


def test_a_sign_step_moves_every_coordinate_by_lr():
    setup = Setup(Awkward(size=77), 5)
    stepper = setup.stepper(setup.algorithm("signum-mv", beta=0.9))
    before = stepper.x.clone()
    stepper.step(2.0**-6)
    for s in setup.layout.segments:
        moved = (stepper.x - before)[s.offset : s.end].abs()
        assert float(moved.min()) > 0.99 * 2**-6
        assert float(moved.max()) < 1.01 * 2**-6


def test_two_dimensional_counterexample_of_majority_vote():
    """f = <a1,x>^2 + <a2,x>^2, node i owning one term: the vote never leaves x1 + x2 = 2, the average of
    stochastic signs does [Karimireddy et al. 2019; Safaryan & Richtarik 2021]."""
    final = {}
    for name in ("signsgd-mv", "ssdm"):
        setup = Setup(TwoPlanes(), 2, batch_size=0)
        rules = {"ties": "zero", "zeros": "abstain"} if name == "signsgd-mv" else {}
        stepper = setup.stepper(setup.algorithm(name, **rules, weight_decay=0.0))
        for t in range(4000):
            stepper.step(0.1 / math.sqrt(t + 1))
        final[name] = stepper.x[:2].double().numpy()
    assert final["signsgd-mv"].sum() == pytest.approx(2, abs=1e-6)
    assert np.abs(final["ssdm"]).max() < 0.05
