"""What single entries of the zoo promise beyond what all do: see test_reference.py for that."""

from dataclasses import replace
from itertools import islice, pairwise

import numpy as np
import pytest
import torch

from mpisign import optim
from mpisign.algorithms.estimators import Minibatch
from mpisign.algorithms.growth import Doubling
from mpisign.algorithms.method import evaluations_at
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
from tests.reference.arithmetic import doubling
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


def test_growing_batches_are_the_next_minibatches_of_the_passes():
    """Batches of 4 of 40 rows: steps of 1, 1, 2, 2, 3 and 1 more minibatches are one pass, seen once each."""
    setup = Setup(Awkward(size=77), 1, batch_size=4)
    stepper = setup.stepper(setup.algorithm("signsgd", grow_every=2))
    oracle, seen = stepper.oracles[0], []
    drawn = oracle._sample
    oracle._sample = lambda number: seen.append(drawn(number)) or seen[-1]
    counts = []
    for _ in range(6):
        stepper.step(0.0)
        counts.append(len(seen))
    assert counts == [1, 2, 4, 6, 9, 12]
    assert counts == [stepper.algorithm.minibatches(t) for t in range(1, 7)]
    assert sorted(np.concatenate(seen[:10])) == list(range(40))
    g, mean = setup.layout.zeros(), setup.layout.zeros()
    for number in (9, 10, 11):
        oracle.begin(number)
        oracle.gradient(setup.x, g)
        mean += g / 3
    torch.testing.assert_close(stepper.stage.estimator_states[0]["g"], mean, rtol=1e-5, atol=1e-6)


def test_growing_batches_after_a_run_whose_batches_grew_are_new():
    """x from a run of 6 steps, and from one of 5 steps after that."""
    setup, seen = Setup(Awkward(size=77), 1, batch_size=4), []
    for begun, steps in ((0, 6), (6, 5), (11, 4)):
        stepper = setup.stepper(setup.algorithm("signsgd", grow_every=2))
        stepper.resume_at(begun, begun)
        oracle = stepper.oracles[0]
        oracle.begin = lambda number, begin=oracle.begin: seen.append(number) or begin(number)
        for t in range(steps):
            taken = len(seen)
            stepper.step(0.0)
            # the engine names a step's own number first
            del seen[taken]
            assert len(seen) == taken + 1 + t // 2
    assert len(set(seen)) == len(seen) == 12 + 9 + 6


def test_growing_batches_count_through_a_warm_up():
    """Signum's two stages: n_k = 1 + k // 3 minibatches at every step k, whichever stage takes it."""
    algorithm = find("signum").build(warmup=4, grow_every=3)
    assert [algorithm.minibatches(t) for t in range(9)] == [sum(1 + k // 3 for k in range(t)) for t in range(9)]


def turning(backtrack, size=1.5):
    """x after each of three steps on x^2/2 from x = 1, the first one over the minimum."""
    setup = Setup(Quadratic(dimension=3, condition=1.0, noise=0.0), 1)
    setup.x = torch.where(setup.x != 0, 1.0, 0.0)
    algorithm = setup.algorithm("rprop", backtrack=backtrack)
    # a problem without rows has no full gradient; its own is exact
    stepper = setup.stepper(replace(algorithm, estimator=Minibatch()))
    points = []
    for _ in range(3):
        stepper.step(size)
        points.append(float(stepper.x[0]))
    return points


def test_rprop_takes_steps_back_where_it_should():
    """At -0.5, f is below what it was at 1, and at -3 above it."""
    assert turning("never") == turning("risen") == [-0.5, -0.5, 0.25]
    assert turning("always") == [-0.5, 1.0, 0.25]
    assert turning("risen", 4.0) == turning("always", 4.0) == [-3.0, 1.0, -1.0]


def test_transport_is_the_average_of_normalised_sgd():
    """sign-igt sends the signs of what nigt averages, as long as both are at the same points."""
    setup = Setup(Awkward(size=77), 1)
    signs, floats = (setup.stepper(setup.algorithm(name, beta=0.8)) for name in ("sign-igt", "nigt"))
    for _ in range(5):
        floats.x.copy_(signs.x)
        floats.x_before.copy_(signs.x_before)
        signs.step(0.01)
        floats.step(0.01)
        states = (stepper.stage.estimator_states[0]["m"] for stepper in (signs, floats))
        assert torch.equal(*states)


def test_a_prox_leads_to_its_box_and_to_zeros():
    """f = |x - c|^2/2 and r = 0.5*|x|_1 within |x| <= 1: each coordinate ends at c cut towards 0, then to the box."""
    setup = Setup(Quadratic(dimension=64, condition=1.0, noise=0.0), 1)
    setup.x = setup.x * 3
    stepper = setup.stepper(setup.algorithm("signprox", l1=0.5, box=1.0))
    for t in range(800):
        stepper.step(0.5 / (t + 1) ** 0.5)
    assert float(stepper.x.abs().max()) < 0.05
    point = setup.x.clone()
    stepper.x.copy_(point)
    stepper.step(1e-4)
    v, here = stepper.stage.estimator_states[0]["v"][:64], point[:64]
    outside = here.abs() > 1.01 * (1 + 0.5e-4)
    assert outside.any()
    assert torch.equal(v[outside].sign(), here[outside].sign())
    assert float(v[outside].abs().min()) > 50  # (|x| - 1)/lr, not the gradient


def test_look_ahead_never_raises_f_above_that_of_the_point_itself():
    setup = Setup(Regression(), 3, batch_size=4)
    stepper = setup.stepper(setup.algorithm("accelerated-signgd", momentum=0.9))
    restarts = 0
    for _ in range(60):
        stepper.step(0.03)
        ahead, point = stepper.x.clone(), stepper.stage.channels[0].update_state["point"]
        value = stepper.objective()
        stepper.x.copy_(point)
        assert value <= stepper.objective()
        stepper.x.copy_(ahead)
        restarts += torch.equal(ahead, point)
    assert 0 < restarts < 60


def test_attraction_is_towards_the_average_of_x_and_nothing_else():
    setup = Setup(Awkward(size=77), 3)
    plain, pulled = (setup.stepper(a) for a in (setup.algorithm("signum-mv"), setup.algorithm("focus", beta2=0.5)))
    points = []
    for t in range(4):
        points.append(pulled.x.clone())
        plain.x.copy_(pulled.x)
        plain.step(0.01)
        pulled.step(0.01)
        weights = torch.tensor([0.5 ** (t - k) for k in range(t + 1)])
        center = sum(w * x for w, x in zip(weights / weights.sum(), points, strict=True))
        away = points[-1] - center
        pull = torch.where(away.abs() > 1e-6, away.sign(), torch.nan)
        found = (plain.x - pulled.x) / (0.01 * 0.1)
        for s in setup.layout.segments:
            here = slice(s.offset, s.end)
            known = ~pull[here].isnan()
            torch.testing.assert_close(found[here][known], pull[here][known], rtol=0, atol=1e-2)


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


@pytest.mark.parametrize(("each", "most"), [(1, 1), (1, 100), (3, 8), (4, 6), (16, 16)])
def test_intervals_double(each, most):
    """Against a loop that counts."""
    intervals, lengths = Doubling(each, most), list(islice(doubling(Doubling(each, most)), 60))
    begins = [sum(lengths[:k]) for k in range(60)]
    assert [intervals.length(k) for k in range(60)] == lengths
    assert [intervals.begin(k) for k in range(60)] == begins
    for age in range(begins[-1]) if begins[-1] < 1000 else range(200):
        assert intervals.count(age) == sum(begin < age for begin in begins)
        assert intervals.due(age) == (age in begins)


def test_zeroone_adam_sends_floats_ever_more_rarely_and_its_rounds_grow():
    algorithm = find("zeroone-adam").build(warmup_steps=12, thin_every=2, local_steps=4, grow_every=1)
    assert [algorithm.stage(t) for t in range(15)] == [0, 0, 0, 1, 0, 1, 0, 1, 1, 1, 0, 1, 2, 2, 2]
    assert [algorithm.minibatches(t) for t in (0, 5, 12, 13, 14, 15, 16)] == [0, 5, 12, 13, 15, 19, 23]
    assert [evaluations_at(algorithm, [(5, 100)], t) for t in (0, 3, 12, 13, 14, 15)] == [5, 5, 5, 10, 20, 20]


def test_in_every_step_zeroone_adam_is_adam_until_its_variance_stays():
    setup = Setup(Awkward(size=77), 3)
    thinned = setup.stepper(setup.algorithm("zeroone-adam", warmup_steps=8, thin_every=8, weight_decay=0.1))
    adam = setup.stepper(setup.algorithm("adam", weight_decay=0.1))
    for t in range(8):
        thinned.step(0.01)
        adam.step(0.01)
        torch.testing.assert_close(thinned.x, adam.x, rtol=1e-5, atol=1e-6, msg=str(t))
    variance = adam.stage.common()["update/v"]
    torch.testing.assert_close(thinned.stage.common()["update/v"], variance, rtol=1e-5, atol=1e-9)
    thinned.step(0.01)
    torch.testing.assert_close(thinned.stage.common()["update/v"], variance, rtol=1e-5, atol=1e-9)


def test_epochs_count_the_minibatches_of_each_stage(tmp_path):
    """150 rows a voter and 5 a batch: 20 warm-up steps of one minibatch, 4 rounds of one, 4 of two, then of four."""
    file, job = tmp_path / "a.h5", {"name": "zeroone-adam", "warmup_steps": 20, "grow_every": 4}
    problem = {"name": "tests.problems:Awkward", "rows": 300, "size": 10, "batch_size": 5}
    simulate(make({"run": {"epochs": 2, "file": str(file)}, "problem": problem, "algorithm": job}), 2, quiet=True)
    run = Run(file)
    assert run["steps"]["step"][-1] == 20 + 4 + 4 + 7
    assert run["steps"]["epoch"][-1] == 2
    assert run["steps"]["gradient_evaluations"][-1] == 600


@pytest.mark.parametrize(("length", "steps"), [({"epochs": 2}, 11), ({"evaluations": 600}, 10), ({"steps": 4}, 4)])
def test_epochs_and_budgets_count_growing_batches(length, steps, tmp_path):
    """30 minibatches a pass: 11 steps of 1, 2, ... are the first to see all rows twice; 10 cost two voters 550 rows."""
    problem = {"name": "tests.problems:Awkward", "rows": 300, "size": 10, "batch_size": 5}
    algorithm, file = {"name": "signum", "warmup": 3, "grow_every": 1}, tmp_path / "a.h5"
    job = {"run": length | {"file": str(file)}, "problem": problem, "algorithm": algorithm}
    simulate(make(job), 2, quiet=True)
    run, minibatches = Run(file), steps * (steps + 1) // 2
    assert run["steps"]["step"][-1] == steps
    assert run["steps"]["epoch"][-1] == pytest.approx(minibatches / 30)
    assert run["steps"]["gradient_evaluations"][-1] == 2 * 5 * minibatches


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
    [
        ("zo-signsgd", {}),
        ("feedsign", {}),
        ("signsgd", {"option": 2}),
        ("ssvr", {"start_batches": 2}),
        ("signsgd", {"grow_every": 5}),
        ("sign-igt", {}),
        ("accelerated-signgd", {}),
        ("rprop", {"backtrack": "risen"}),
    ],
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
