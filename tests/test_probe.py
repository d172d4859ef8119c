"""Probes against numpy: every figure of a row, from the gradients of single voters and the bits that were sent."""

import math

import numpy as np
import pytest

from mpisign import config
from mpisign.config import Probe as Settings
from mpisign.errors import Stopped, UsageError
from mpisign.problems.synthetic import Quadratic, Rosenbrock
from mpisign.problems.toys import Linear
from mpisign.run.adversary import Adversary
from mpisign.run.plan import resolve
from mpisign.run.probe import Probe
from mpisign.run.train import resume
from mpisign.storage.reader import Run
from mpisign.storage.schema import CRITICAL_SNR, SNR_EDGES
from tests.building import Setup, digest
from tests.problems import Awkward
from tests.test_adversary import signs, there
from tests.test_simulate import here as simulate_here

N = 5


class Kept(Probe):
    """A probe whose bits stay for the test."""

    def end(self):
        self.kept = (self.words.clone(), self.decision.clone(), [g.clone() for g in self.own], self.x_before.clone())
        return super().end()


def probed(problem, name="signum-mv", steps=3, liars=0, chunk=1 << 20, **settings):
    """The row of the last of some steps; its stepper and probe."""
    setup = Setup(problem, N)
    stepper = setup.stepper(setup.algorithm(name), chunk=chunk)
    if liars:
        stepper.exchange.adversary = Adversary(liars, "invert", 1.0, stepper)
    probe = Kept(stepper, Settings(every=1, **settings))
    for t in range(steps):
        if t == steps - 1:
            probe.begin()
        stepper.step(0.01)
    return probe.end(), stepper, probe


@pytest.mark.parametrize("name", ["signum-mv", "ssdm", "dist-ef-signsgd", "sgd"])
def test_a_row_is_what_its_columns_say(name):
    row, stepper, probe = probed(Awkward(), name)
    words, decision, own, _ = probe.kept
    real = there(stepper.layout)
    sent = np.array([signs(words[:, i].numpy()) for i in range(N)])[:, real]
    if name == "sgd":
        assert set(np.unique(sent)) <= {-1, 0, 1}
    gradients = np.array([g.numpy() for g in own], dtype=float)[:, real]
    g, decided, d = gradients.mean(axis=0), decision.numpy()[real], real.sum()
    l1, l2, counted = np.abs(g).sum(), np.linalg.norm(g), g != 0
    assert row["gradient_l1"] == pytest.approx(l1, rel=1e-5)
    assert row["gradient_l2"] == pytest.approx(l2, rel=1e-5)
    assert row["gradient_density"] == pytest.approx(l1**2 / (d * l2**2), rel=1e-5)
    assert row["gradient_zeros"] == d - counted.sum()
    right = ((sent * g) > 0)[:, counted].mean(axis=1)
    np.testing.assert_allclose(row["voter_success"], right, atol=2e-3)
    assert row["success"] == pytest.approx(np.mean(row["voter_success"]))
    assert row["success_vote"] == pytest.approx(((decided * g) > 0)[counted].mean(), abs=2e-3)
    assert row["rho_norm"] == pytest.approx((sent * g).sum(axis=1).mean(), rel=1e-4)
    assert row["rho_norm_vote"] == pytest.approx((decided * g).sum(), rel=1e-4)
    agreeing = ((sent * decided) > 0)[:, decided != 0].mean(axis=1)
    np.testing.assert_allclose(row["voter_agreement"], agreeing)
    away = np.sqrt((np.linalg.norm(gradients - g, axis=1) ** 2).mean()) / l2
    assert row["dissimilarity"] == pytest.approx(away, rel=1e-4)


def test_noise_is_the_deviation_of_fresh_minibatches():
    row, stepper, probe = probed(Awkward(), batches=6)
    *_, x = probe.kept
    variances = []
    for oracle in stepper.oracles:
        samples = []
        for b in range(6):
            out = stepper.layout.zeros()
            oracle.sampled_gradient(x, out, 2 * 6 + b)
            samples.append(out.numpy().astype(float))
        variances.append(np.var(samples, axis=0, ddof=1))
    real = there(stepper.layout)
    sigma = np.sqrt(np.mean(variances, axis=0))[real]
    assert sigma.any()
    assert row["noise_l1"] == pytest.approx(sigma.sum(), rel=1e-4)
    assert row["noise_density"] == pytest.approx(sigma.sum() ** 2 / (len(sigma) * (sigma**2).sum()), rel=1e-4)
    g = np.mean([o.numpy() for o in probe.kept[2]], axis=0)[real]
    kept = (g != 0) | (sigma != 0)
    with np.errstate(divide="ignore"):
        ratio = np.abs(g[kept]) / sigma[kept]
    assert row["critical"] == pytest.approx((ratio > CRITICAL_SNR).mean(), abs=2e-3)
    expected = np.histogram(ratio, [0, *SNR_EDGES, np.inf])[0]
    assert np.abs(row["snr"] - expected).sum() <= 2  # float32 quotients near an edge
    assert row["snr"].sum() == kept.sum()


def test_noise_of_a_known_size():
    row, *_ = probed(Quadratic(dimension=4000, noise=2.0), batches=64)
    assert row["noise_l1"] == pytest.approx(2.0 * 4000, rel=0.01)
    assert row["noise_density"] == pytest.approx(1.0, abs=0.02)


def test_full_batches_have_no_noise():
    setup = Setup(Awkward(), N, batch_size=0)
    stepper = setup.stepper(setup.algorithm("signum-mv"))
    probe = Probe(stepper, Settings(every=1))
    probe.begin()
    stepper.step(0.01)
    row = probe.end()
    assert row["noise_l1"] == 0
    assert math.isnan(row["noise_density"])


@pytest.mark.parametrize("name", ["signsgd-mv", "sgd"])
def test_smoothness_of_a_quadratic_is_its_curvature(name):
    row, *_ = probed(Quadratic(dimension=50, condition=100.0, noise=0.1), name)
    curvature = np.logspace(0, 2, 50)
    assert row["smoothness_l1"] == pytest.approx(curvature.sum(), rel=1e-3)
    assert row["smoothness_density"] == pytest.approx(curvature.sum() ** 2 / (50 * (curvature**2).sum()), rel=1e-3)


def test_where_nothing_moves_nothing_is_measured():
    row, *_ = probed(Quadratic(dimension=50), smoothness=False)
    assert math.isnan(row["smoothness_l1"])


@pytest.mark.parametrize(
    "problem", [Quadratic(dimension=9, condition=7.0), Rosenbrock(dimension=9), Linear(dimension=9)]
)
def test_exact_gradients_are_means_of_many_noisy_ones(problem):
    setup = Setup(problem, 1)
    oracle = setup.oracle(0)
    exact, out = oracle.exact_gradient(setup.x).numpy()[:9].copy(), setup.layout.zeros()
    samples = []
    for b in range(3000):
        oracle.sampled_gradient(setup.x, out, b)
        samples.append(out.numpy()[:9].copy())
    error = np.std(samples, axis=0) / np.sqrt(3000)
    assert (np.abs(np.mean(samples, axis=0) - exact) <= 5 * error + 1e-4).all()
    assert oracle.evaluations == 0


def test_liars_show():
    row, *_ = probed(Quadratic(dimension=2000, noise=0.5), "signsgd-mv", liars=2)
    assert (row["voter_success"][:2] < 0.4).all()
    assert (row["voter_success"][2:] > 0.6).all()
    assert (row["voter_agreement"][:2] < 0.5).all()
    assert row["success_vote"] > 0.6


def test_a_probe_moves_nothing():
    ends = []
    for probing in (False, True):
        setup = Setup(Awkward(), N)
        stepper = setup.stepper(setup.algorithm("signum-mv"))
        probe = Probe(stepper, Settings(every=1))
        for _ in range(4):
            if probing:
                probe.begin()
            stepper.step(0.01)
            if probing:
                probe.end()
        sent = stepper.world.traffic
        ends.append((digest(stepper), sent.up, sent.down, sum(o.evaluations for o in stepper.oracles)))
    assert ends[0] == ends[1]


def test_chunks_do_not_matter():
    rows = [probed(Quadratic(dimension=20_000), chunk=chunk)[0] for chunk in (512, 1 << 20)]
    for name, value in rows[0].items():
        np.testing.assert_array_equal(value, rows[1][name], err_msg=name)


def test_probes_stand_in_the_run_file_and_go_on(tmp_path):
    """The first step and every 20th; a run that was cut short and went on has the rows of one that was not."""
    settings = ["probe.every=20", "run.steps=60", "checkpoint.every_steps=30"]
    whole, cut = tmp_path / "whole.h5", tmp_path / "cut.h5"
    simulate_here(*settings, f"run.file={whole}", n=3)
    probes = Run(whole)["probes"]
    assert probes["step"].tolist() == [1, 20, 40, 60]
    assert probes["voter_success"].shape == (4, 3)
    assert probes["snr"].shape == (4, len(SNR_EDGES) + 1)
    assert (probes["success_vote"] > 0.5).all()
    with pytest.raises(Stopped):
        simulate_here(*settings, f"run.file={cut}", "run.max_minutes=1e-6", n=3)
    resume(cut, ("run.max_minutes=1000",))
    assert len(Run(cut)["segments"]["step"]) == 2
    for name, column in Run(cut)["probes"].items():
        np.testing.assert_array_equal(column, probes[name], err_msg=name)


def test_what_has_no_exact_gradient_is_refused():
    with pytest.raises(UsageError, match=r"probe\.every.*no rows"):
        resolve(config.load(None, ("problem.name=tests.problems:Rowless", "probe.every=5")), 2)
