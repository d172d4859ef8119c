"""What single entries of the zoo promise beyond what all do: see test_reference.py for that."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from mpisign import optim
from mpisign.algorithms.registry import find
from mpisign.algorithms.zoo.single import warmup_of
from mpisign.config import make
from mpisign.engine.autotune import DryStepper
from mpisign.errors import UsageError
from mpisign.exchange import Choice
from mpisign.parallel.world import Local
from mpisign.problems.synthetic import Quadratic, Rosenbrock
from mpisign.problems.toys import Linear, Targets
from mpisign.run.plan import resolve
from mpisign.run.train import simulate
from mpisign.storage.reader import Run
from tests.building import Setup
from tests.problems import Awkward, Regression
from tests.table import FORMS_BY_ROW
from tests.test_simulate import here


@pytest.mark.parametrize("n", [1, 3])
def test_option_2_never_goes_up(n):
    setup = Setup(Regression(), n, batch_size=4)
    stepper = setup.stepper(setup.algorithm("signsgd", option=2))
    values, stayed = [stepper.objective()], 0
    for _ in range(60):
        before = stepper.x.clone()
        stepper.step(0.05)
        values.append(stepper.objective())
        stayed += torch.equal(before, stepper.x)
    assert all(after <= before for before, after in pairwise(values))
    assert 0 < stayed < 60


def test_the_warm_up_of_the_theorem():
    assert warmup_of(0.9) == 54
    assert warmup_of(0.0) == 0
    for beta in (0.5, 0.9, 0.99):
        holds = lambda c, b=beta: c / 2 * b**c <= 1 / ((1 - b * b) * (c + 1)) and b ** (c + 1) <= 0.5  # noqa: E731
        assert holds(warmup_of(beta))
        assert not any(holds(c) for c in range(warmup_of(beta)))


def test_signum_decides_by_the_gradient_during_its_warm_up():
    setup = Setup(Awkward(size=77), 1)
    warm, plain = (setup.stepper(setup.algorithm(*entry[:1], **entry[1])) for entry in (
        ("signum", {"warmup": 5}), ("signsgd", {}),
    ))  # fmt: skip
    for t in range(7):
        warm.step(0.01)
        plain.step(0.01)
        assert torch.equal(warm.x, plain.x) == (t < 5)


def test_start_batches_are_other_batches_and_averaged():
    setup = Setup(Awkward(size=77), 1)
    one, many, g = setup.oracle(0), setup.oracle(0), setup.layout.zeros()
    one.gradient(setup.x, g)
    first = g.clone()
    many.gradient(setup.x, g, batches=400)
    full = setup.layout.zeros()
    many.full_gradient(setup.x, full)
    assert many.evaluations == 400 * 2 + 40
    assert setup.layout.norm(g - full) < 0.2 * setup.layout.norm(first - full)


@pytest.mark.parametrize("form", ["forward", "central"])
def test_finite_differences_point_along_the_gradient(form):
    setup = Setup(Quadratic(dimension=20, condition=3.0, noise=0.0), 1)
    stepper = setup.stepper(setup.algorithm("zo-signsgd", directions=2000, form=form, smoothing=1e-3))
    g = setup.layout.zeros()
    setup.oracle(0).gradient(setup.x, g)
    stepper.step(1e-6)
    v = stepper.stage.estimator_states[0]["v"]
    assert setup.layout.norm(v - g) < 0.15 * setup.layout.norm(g)
    assert stepper.oracles[0].evaluations == 0


def test_each_direction_has_a_vote_in_the_majority_form():
    setup = Setup(Quadratic(dimension=20, condition=3.0, noise=0.0), 1)
    stepper = setup.stepper(setup.algorithm("zo-signsgd", directions=401, majority=True))
    g = setup.layout.zeros()
    setup.oracle(0).gradient(setup.x, g)
    stepper.step(1e-6)
    v = stepper.stage.estimator_states[0]["v"][: setup.layout.size]
    assert set((v % 2).abs().tolist()) == {1.0}  # 401 signs each
    assert v.abs().max() <= 401
    largest = g[: setup.layout.size].abs().argsort()[-5:]
    assert torch.equal(torch.sign(v[largest]), torch.sign(g[largest]))


VALUED = [Quadratic(dimension=5), Rosenbrock(dimension=5), Linear(dimension=5), Targets(dimension=2)]


@pytest.mark.parametrize("problem", VALUED, ids=lambda p: type(p).__name__)
def test_values_of_a_batch_belong_to_its_gradients(problem):
    setup = Setup(problem, 1)
    oracle, g, e = setup.oracle(0), setup.layout.zeros(), 1e-3
    oracle.gradient(setup.x, g)
    for i in range(setup.layout.size):
        step = torch.zeros_like(setup.x)
        step[i] = e
        slope = (oracle.value(setup.x + step) - oracle.value(setup.x - step)) / (2 * e)
        assert slope == pytest.approx(float(g[i]), rel=2e-2, abs=2e-2)


@pytest.mark.parametrize("law", ["gaussian", "uniform"])
def test_noisy_signs_of_local_steps_move_by_what_they_came_to_on_average(law):
    """All voters see one gradient: the mean of a thousand noisy signs, times noise and constant, is close to it."""
    setup = Setup(Quadratic(dimension=64, noise=0.0), 1000)
    stepper = setup.stepper(setup.algorithm("z-signfedavg", local_steps=2, local_lr=0.1, noise=12.0, law=law))
    before = stepper.x.clone()
    stepper.step(1.0)
    walked = before - stepper.x
    # two steps of rate 0.1 on |x|^2/2: x * (1 - 0.9^2)
    away = (walked - 0.19 * before).abs()
    assert float(away.max()) < 5 * 0.1 * 12 * 1.26 / 1000**0.5
    assert float(walked @ before) > 0.8 * 0.19 * float(before @ before)


def test_local_batches_are_rows_of_one_pass_after_another():
    """Ten local steps of four rows are all 40 rows once."""
    setup = Setup(Awkward(size=77), 1, batch_size=4)
    stepper = setup.stepper(setup.algorithm("z-signfedavg", local_steps=10))
    oracle, seen = stepper.oracles[0], []
    drawn = oracle._sample
    oracle._sample = lambda number: seen.append(drawn(number)) or seen[-1]
    stepper.step(0.01)
    assert sorted(np.concatenate(seen)) == list(range(40))


def test_scaled_means_go_by_allgather(tmp_path):
    setup = Setup(Awkward(size=77), 3)
    assert setup.stepper(setup.algorithm("ef-signsgd")).exchange.imitates.name == "allgather"


@pytest.mark.parametrize(("name", "hyper"), FORMS_BY_ROW)
def test_every_entry_can_be_tried_without_its_gradient(name, hyper):
    """As `exchange = "auto"` and the benchmarks do."""
    for stage in find(name).build(**hyper).with_rules("auto", "auto", 1).stages:
        trial = DryStepper.of(Choice("local", ""), stage, Local(1), 1000)
        trial.once()
        trial.once()


def test_epochs_count_the_minibatches_of_each_stage(tmp_path):
    """150 rows a voter and 5 a batch: 20 warm-up steps of one minibatch, then rounds of four."""
    file, job = tmp_path / "a.h5", {"name": "zeroone-adam", "warmup_steps": 20}
    problem = {"name": "tests.problems:Awkward", "rows": 300, "size": 10, "batch_size": 5}
    simulate(make({"run": {"epochs": 2, "file": str(file)}, "problem": problem, "algorithm": job}), 2, quiet=True)
    run = Run(file)
    assert run["steps"]["step"][-1] == 20 + 10
    assert run["steps"]["epoch"][-1] == 2
    assert run["steps"]["gradient_evaluations"][-1] == 600


ROWLESS = "problem.name=tests.problems:Rowless"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["algorithm.name=signrr", "problem.sampling=replacement"], ["signrr", "reshuffle", "signsvrg"]),
        (["algorithm.name=signsvrg", "problem.sampling=reshuffle"], ["signsvrg", "replacement", "signrvr"]),
        (["algorithm.name=signrr", "problem.name=quadratic", "run.epochs=none"], []),
        (["algorithm.name=ssvr-fs", "problem.name=rosenbrock"], ["finite sum"]),
        (
            ["algorithm.name=signsgd", "problem.name=tests.problems:Rowless", "run.exact_gradient=true"],
            ["exact_gradient"],
        ),
        (["algorithm.name=signsgd-free", "dense.parameters=*"], ["can't average", "Differences"]),
        (["algorithm.name=signsgd", "algorithm.option=2", "dense.parameters=*"], ["BetterPoint", "all of x"]),
    ],
)
def test_what_does_not_fit_is_refused(settings, words):
    tables = {"run": {"steps": 5}}
    for setting in settings:
        key, _, value = setting.partition("=")
        table, _, name = key.partition(".")
        if value == "none":
            words = ["finite sum"]
            continue
        number = {"true": True, "2": 2, "*": ["*"]}
        tables.setdefault(table, {})[name] = number.get(value, value)
    with pytest.raises(UsageError) as told:
        resolve(make(tables), 1)
    assert all(word in str(told.value) for word in words), told.value


def test_a_method_without_gradients_has_no_budget_of_them(tmp_path):
    job = {"run": {"evaluations": 1000, "file": f"{tmp_path}/a.h5"}, "algorithm": {"name": "zo-signsgd"}}
    with pytest.raises(UsageError, match="takes no gradients"):
        simulate(make(job), 1, quiet=True)


@pytest.mark.parametrize(
    ("name", "hyper"),
    [("zo-signsgd", {}), ("signsgd", {"option": 2}), ("ssvr", {"start_batches": 2}), ("feedsign", {})],
)
def test_a_loop_of_ones_own_is_told_what_it_can_not_do(name, hyper):
    with pytest.raises(UsageError, match="which a training loop of one's own does not offer"):
        optim.SignOptimizer(torch.nn.Linear(3, 2), name, **hyper)


def test_the_exact_gradient_is_recorded_and_not_counted(tmp_path):
    runs = {}
    for exact in ("true", "false"):
        file = tmp_path / f"{exact}.h5"
        here("run.epochs=1", f"run.exact_gradient={exact}", "problem.dropout=0.0", f"run.file={file}", n=3)
        runs[exact] = Run(file)
    told, plain = runs["true"]["eval"], runs["false"]["eval"]
    assert np.isfinite(told["gradient_l1"]).all()
    assert np.isnan(plain["gradient_l2"]).all()
    assert (told["gradient_l1"] > told["gradient_l2"]).all()
    for column in ("train_loss", "bytes_up", "bytes_down", "gradient_evaluations", "function_evaluations"):
        np.testing.assert_array_equal(told[column], plain[column])


def test_the_exact_gradient_is_that_of_the_objective(tmp_path):
    """At the start of three voters with one target each, x = 0: the mean of -a_j."""
    file = tmp_path / "a.h5"
    here(
        "problem.name=targets", "problem.batch_size=0", "partition.kind=sorted", "schedule.kind=constant",
        "run.steps=3", "run.exact_gradient=true", f"run.file={file}", n=3,
    )  # fmt: skip
    assert Run(file)["eval"]["gradient_l2"][0] == pytest.approx(13 / 3, rel=1e-6)


def test_function_values_are_recorded(tmp_path):
    file = tmp_path / "a.h5"
    here(
        "problem.name=quadratic", "problem.dimension=20", "algorithm.name=zo-signsgd", "algorithm.directions=3",
        "schedule.kind=constant", "run.steps=10", f"run.file={file}", n=2,
    )  # fmt: skip
    steps = Run(file)["steps"]
    assert steps["function_evaluations"][-1] == 10 * 2 * 4
    assert steps["gradient_evaluations"][-1] == 0
