"""PowerSGD: what its approximation promises, what it costs, and what it does where gradients or ranks are odd."""

import itertools

import numpy as np
import pytest
import torch

from mpisign.algorithms.estimators import LowRank
from mpisign.algorithms.estimators.low_rank import multiply, orthonormal, total
from mpisign.algorithms.slots import Step
from mpisign.bits.rng import Streams
from mpisign.config import make
from mpisign.engine.autotune import SIDE, DryStepper, squares
from mpisign.errors import NumericalError, UsageError
from mpisign.exchange import Choice
from mpisign.layout import Layout
from mpisign.optim import SignOptimizer
from mpisign.parallel.world import Local
from mpisign.run.plan import resolve
from mpisign.storage.reader import Run
from tests.building import Setup
from tests.problems import Layered, Regression
from tests.reference import estimators as slow
from tests.running import mpisign, train
from tests.test_bench import rows
from tests.test_commands import refused
from tests.test_simulate import here

ROWS, COLUMNS, RANK = 40, 30, 3


class Agreeing:
    """An estimator and its voters, without a run around them."""

    def __init__(self, estimator, shapes, voters=1):
        self.estimator, self.layout, self.world = estimator, Layout(shapes), Local(voters)
        self.states = [estimator.init(self.layout) for _ in range(voters)]
        self.t = 0

    def __call__(self, *matrices):
        """ghat, once every voter holds M = one of these."""
        estimates = [self.layout.flatten({"m": m}) for m in matrices]
        step = Step(self.t, np.ones(len(self.layout.segments)), Streams(7), self.layout, self.world)
        self.estimator.agree(estimates, self.states, step)
        self.t += 1
        assert all(torch.equal(v, estimates[0]) for v in estimates)
        return self.layout.views(estimates[0])["m"]


def with_spectrum(values, seed=0):
    """A matrix (ROWS, COLUMNS) with these singular values, and its right singular vectors."""
    rng = np.random.default_rng(seed)
    left, _ = np.linalg.qr(rng.standard_normal((ROWS, COLUMNS)))
    right, _ = np.linalg.qr(rng.standard_normal((COLUMNS, COLUMNS)))
    return torch.from_numpy((left * values @ right.T).astype(np.float32)), right


def tangent(q, right):
    """Of the largest angle between the columns of Q and the first right singular vectors."""
    along = right.T @ np.linalg.qr(q)[0]
    return np.linalg.norm(along[RANK:] @ np.linalg.inv(along[:RANK]), 2)


def test_a_warm_start_finds_the_best_approximation_as_fast_as_subspace_iteration():
    """A step multiplies by M^T M, so the angle shrinks by (s_4/s_3)^2: Golub & Van Loan, thm. 8.2.2."""
    values = 2.0 ** -np.arange(COLUMNS)
    m, right = with_spectrum(values)
    agree, angles, tail = Agreeing(LowRank(RANK), {"m": (ROWS, COLUMNS)}), [], np.linalg.norm(values[RANK:])
    for _ in range(12):
        error = float((m - agree(m)).norm())
        assert error >= tail * (1 - 1e-5)
        angles.append(tangent(agree.states[0]["factors"].view(COLUMNS, RANK).double().numpy(), right))
    for before, after in itertools.pairwise(angles[:7]):
        assert after <= before * (values[RANK] / values[RANK - 1]) ** 2 * 1.01
    assert error == pytest.approx(tail, rel=1e-4)


@pytest.mark.parametrize("warm_start", [True, False])
def test_the_error_is_less_than_what_there_was(warm_start):
    """|M - ghat|^2 <= (1 - delta)|M|^2: delta > 0 at every step, and that of the best rank once it is found."""
    m = torch.from_numpy(np.random.default_rng(1).standard_normal((ROWS, COLUMNS)).astype(np.float32))
    agree = Agreeing(LowRank(RANK, warm_start), {"m": (ROWS, COLUMNS)})
    deltas = [1 - float((m - agree(m)).norm() / m.norm()) ** 2 for _ in range(40)]
    assert min(deltas) > 0
    best = float((torch.linalg.svdvals(m)[:RANK] ** 2).sum() / m.norm() ** 2)
    assert best >= RANK / COLUMNS
    assert max(deltas) <= best + 1e-5
    assert (deltas[-1] >= RANK / COLUMNS and deltas[-1] > 0.95 * best) == warm_start


def test_voters_find_the_factors_of_their_mean():
    """The method is linear up to P: what several voters agree on is what one would find for the mean of all."""
    ms = [with_spectrum(2.0 ** -np.arange(COLUMNS), seed)[0] for seed in range(3)]
    several, one = (Agreeing(LowRank(RANK), {"m": (ROWS, COLUMNS)}, n) for n in (3, 1))
    for _ in range(3):
        agreed = several(*ms)
        torch.testing.assert_close(agreed, one(sum(ms) / 3), rtol=1e-4, atol=1e-5)
    # the residuals are each voter's own
    for m, state in zip(ms, several.states, strict=True):
        assert torch.equal(several.layout.views(state["residual"])["m"], m - agreed)


THIN = {
    "a product": lambda rows, columns: torch.outer(rows + 1, columns.sin()),
    "one row": lambda rows, columns: torch.outer((rows == 5).float(), columns.sin()),
    "one column": lambda rows, columns: torch.outer(rows.sin(), (columns == 5).float()),
    "tiny": lambda rows, columns: 1e-15 * torch.outer(rows + 1, columns.sin()),
}


@pytest.mark.parametrize("kind", THIN)
def test_a_gradient_of_less_rank_is_sent_whole(kind):
    """The second column is then nothing but rounding, and must not count a direction twice."""
    m = THIN[kind](torch.arange(ROWS).float(), torch.arange(COLUMNS).float())
    agree = Agreeing(LowRank(RANK), {"m": (ROWS, COLUMNS)})
    for _ in range(5):
        assert float((m - agree(m)).double().norm()) <= 1e-6 * float(m.double().norm())


def test_a_gradient_of_zero_does_not_stop_it_for_ever():
    m = with_spectrum(np.ones(COLUMNS))[0]
    agree = Agreeing(LowRank(RANK), {"m": (ROWS, COLUMNS)})
    assert not agree(torch.zeros(ROWS, COLUMNS)).any()
    assert not agree.states[0]["factors"].any()
    assert float(agree(m).norm()) > 0.1


def test_what_each_rank_works_out_has_the_bits_of_plain_loops():
    rng = np.random.default_rng(2)
    p, q = (torch.from_numpy(rng.standard_normal((k, RANK)).astype(np.float32)) for k in (13, 8))
    out = torch.empty(13, 8)
    multiply(p, q, out)
    np.testing.assert_array_equal(out.numpy(), slow.product(p.numpy(), q.numpy().T))
    ours = orthonormal(p)
    np.testing.assert_allclose(ours.numpy(), slow.gram_schmidt(p.numpy()), rtol=0, atol=1e-7)
    torch.testing.assert_close(ours.T @ ours, torch.eye(RANK), rtol=0, atol=1e-6)
    # an order that can be told: halves, then quarters, and what is left over last
    seven = torch.tensor([1e16, 1.0, -1e16, 1.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    assert total(seven).item() == ((1e16 + 1.0) + (-1e16 + 1.0)) + (1.0 + 1.0 + 1.0)


def test_tensors_are_matrices_of_their_first_dimension():
    setup = Setup(Layered(), 2)
    estimator = setup.algorithm("powersgd").estimator
    assert len(estimator.init(setup.layout)["factors"]) == 2 * (90 + 3 * 5 * 5)
    assert estimator.shared_floats(setup.layout) == 2 * (70 + 90 + 16 + 75) + 70 + 2 * 50
    stepper = setup.stepper(setup.algorithm("powersgd"))
    stepper.step(0.01)
    ranks = {}
    for name, v in setup.layout.views(stepper.stage.estimator_states[0]["g"]).items():
        ranks[name] = int(torch.linalg.matrix_rank(v.reshape(len(v), -1).double(), rtol=1e-6))
    assert ranks == {"layer": 2, "bias": 1, "convolution": 2, "small": 2}
    residual = setup.layout.views(stepper.stage.estimator_states[0]["residual"])
    assert {name: bool(e.any()) for name, e in residual.items()} == {
        "layer": True, "bias": False, "convolution": True, "small": False,
    }  # fmt: skip


def test_it_costs_two_means_of_factors_and_what_is_averaged():
    n, setup = 3, Setup(Layered(), 3)
    stepper = setup.stepper(setup.algorithm("powersgd"))
    stepper.step(0.01)
    first, second = 2 * (70 + 16) + 70 + 100, 2 * (90 + 75)
    assert stepper.world.cost.up == stepper.world.cost.down == 32 * (first + second) * (n - 1)
    assert stepper.world.traffic.down == 4 * (-(-first // n) + -(-second // n)) * n * (n - 1)
    # what a run foretells is that
    assert stepper.stage.bytes_a_step() == stepper.stage.bytes_to_agree == 8 * (first + second) * (n - 1)


def test_without_a_matrix_everything_is_averaged(tmp_path):
    settings = ("problem.name=quadratic", "run.steps=20", "algorithm.momentum=0.9")
    kept = {}
    for name in ("powersgd", "sgd"):
        here(*settings, f"algorithm.name={name}", f"run.file={tmp_path}/{name}.h5", n=4)
        kept[name] = Run(tmp_path / f"{name}.h5")["eval"]["train_loss"][-1]
    assert kept["powersgd"] == pytest.approx(kept["sgd"], rel=1e-4)


def test_a_voter_weighs_as_the_objective_says():
    """Weights of 2, 1 and 0 are the mean of gradients with these weights, up to the rank, and no more."""
    setup, weights = Setup(Regression(), 3, batch_size=4), np.array([2.0, 1.0, 0.0])
    stepper = setup.stepper(setup.algorithm("powersgd", rank=1, momentum=0.0))
    stepper.weights = weights
    gradients = []
    for voter in range(3):
        g = setup.layout.zeros()
        setup.oracle(voter).gradient(setup.x, g)
        gradients.append(setup.layout.views(g))
    stepper.step(1.0)
    moved = setup.layout.views(setup.x - stepper.x)
    means = {k: sum(w * g[k] for w, g in zip(weights, gradients, strict=True)) / 3 for k in moved}
    torch.testing.assert_close(moved["u"], means["u"], rtol=1e-5, atol=1e-6)
    # of a matrix, all that lies in the span of what was sent: the projection of the mean
    direction = moved["w"] / moved["w"].norm()
    assert float((direction * means["w"]).sum()) == pytest.approx(float(moved["w"].norm()), rel=1e-5)


def test_a_nan_is_told_of_whose_it_is_and_changes_nothing():
    setup = Setup(Layered(), 3)
    stepper = setup.stepper(setup.algorithm("powersgd"))
    stepper.step(0.01)
    before = {name: array.clone() for name, array in stepper.states().items() if "/g/" not in name}
    gradient = stepper.oracles[1].gradient

    def poisoned(x, out, **how):
        gradient(x, out, **how)
        setup.layout.views(out)["layer"][3, 4] = np.nan

    stepper.oracles[1].gradient = poisoned
    cost = stepper.world.cost.up
    with pytest.raises(NumericalError, match=r"rank 1: the estimate of parameter layer\[3, 4\] is nan"):
        stepper.step(0.01)
    assert all(torch.equal(stepper.states()[name], array) for name, array in before.items())
    assert stepper.world.cost.up - cost < cost
    stepper.oracles[1].gradient = gradient
    stepper.step(0.01)
    assert torch.isfinite(stepper.x).all()


def test_an_overflow_of_finite_estimates_is_told_too():
    setup = Setup(Layered(), 2)
    stepper = setup.stepper(setup.algorithm("powersgd"))
    for oracle in stepper.oracles:
        oracle.gradient = lambda x, out, **how: out.fill_(3e38)
    x = stepper.x.clone()
    with pytest.raises(NumericalError, match="layer"):
        stepper.step(0.01)
    assert torch.equal(stepper.x, x)


def test_a_rank_above_that_of_every_parameter_is_refused(tmp_path):
    wanted = "algorithm.rank = 11", "the highest is that of", "10 x 128", "take a rank below 10"
    settings = ("algorithm.name=powersgd", "run.steps=3", f"run.file={tmp_path}/r.h5", "problem.hidden=[10]")
    refused(train(*settings, "algorithm.rank=11", n=2), *wanted[:2], "10 x 64", wanted[-1])
    assert not (tmp_path / "r.h5").exists()
    with pytest.raises(UsageError, match=r"algorithm\.rank = 9: .* weight, 3 x 7: take a rank below 3"):
        SignOptimizer(torch.nn.Linear(7, 3), "powersgd", lr=0.1, rank=9)
    with pytest.raises(UsageError, match="rank"):
        resolve(make({"run": {"steps": 3}, "algorithm": {"name": "powersgd", "rank": 0}}), 2)


@pytest.mark.parametrize("d", [1, 2, 50, 20_000, SIDE**2, SIDE**2 + 1, 8_400_000])
def test_trials_have_so_many_coordinates_in_squares(d):
    layout = Layout(squares(d))
    assert layout.size == d
    matrices = [s for s in layout.segments if len(s.shape) == 2]
    assert all(s.shape[0] == s.shape[1] <= SIDE for s in matrices)
    assert d - sum(s.size for s in matrices) <= 2 * len(matrices) * d**0.5 + len(matrices)


def test_a_trial_keeps_the_means():
    n, d = 3, 10_000
    stage = Setup(Layered(), n).algorithm("powersgd", rank=4)
    trial = DryStepper.of(Choice("local", ""), stage, Local(n), d)
    for _ in range(2):
        trial.once()
    assert trial.world.cost.up == 2 * 32 * (n - 1) * 2 * 4 * 100
    # the estimate of a trial stays what it was, so that every step does the same work
    assert float(trial.oracles[0].estimate.abs().max()) > 0.99


def test_bench_measures_the_means():
    ended = mpisign("bench", "profile", "--algorithm", "powersgd", "--exchange", "local", "-d", "2e4", "--repeats", "1",
                    n=2, timeout=120)  # fmt: skip
    assert ended.code == 0, ended.err
    assert any("agree by means" in row for row in rows(ended.out))
