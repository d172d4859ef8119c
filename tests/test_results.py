"""What a run left behind: evaluated as the run measured it, as a torch module, and many runs as one table."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

from mpisign import results
from mpisign.errors import NumericalError, UsageError
from mpisign.problems import find
from mpisign.results import Run
from mpisign.run.job import Job
from tests.files import mnist_folder
from tests.running import ROOT, mpisign, train
from tests.test_simulate import here

FIGURES = ("train_loss", "test_loss", "test_accuracy")
COMMON = ("run.steps=40", "run.eval_every=10", "problem.batch_size=4")
SKEWED = ("partition.kind=dirichlet", "run.objective=rows")
MNIST = ("problem.name=mnist", "problem.model=cnn", "problem.path={path}", "partition.kind=iid", "run.steps=6",
         "run.eval_every=2", "problem.batch_size=4")  # fmt: skip
CASES = {
    "last": (*COMMON, *SKEWED),
    "best": (*COMMON, "run.keep=best", "schedule.kind=constant", "schedule.lr=0.1", "run.eval_every=4"),
    "uniform": (*COMMON, "run.keep=uniform"),
    "bf16": (*COMMON, "run.precision=bf16"),
    "dense": (*COMMON, "dense.parameters=['*bias']"),
    "nodes": (*COMMON, *SKEWED, "exchange.voter=node", "exchange.node_size=2"),
    "statistics": MNIST,
    "statistics of nodes": (
        *MNIST,
        "problem.batch_size=4",
        "exchange.voter=node",
        "exchange.node_size=2",
        "run.steps=6",
    ),
    "quadratic": ("problem.name=quadratic", "run.steps=40", "run.eval_every=10"),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Images of 12 x 12 pixels, which a convolution takes."""
    return mnist_folder(tmp_path_factory.mktemp("mnist"), side=12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, data):
    """A run of 3 voters for each case."""
    where = tmp_path_factory.mktemp("runs")
    for name, settings in CASES.items():
        here(*(s.format(path=data) for s in settings), f"run.file={where}/{name}.h5", n=3)
    return where


def recorded(run, step):
    """The row of /eval at a step."""
    (row,) = np.flatnonzero(run["eval"]["step"] == step)
    return {name: run["eval"][name][row] for name in FIGURES}


@pytest.mark.parametrize("name", [name for name in CASES if name != "uniform"])
def test_what_was_kept_is_measured_as_the_run_measured_it(folder, name):
    run = Run(folder / f"{name}.h5")
    figures, steps = results.evaluate(run.path), run["eval"]["step"]
    step = int(steps[-1])
    if name == "best":
        step = int(steps[run["eval"]["test_accuracy"].argmax()])
        assert step < steps[-1]
    assert figures["point"] == f"{'best' if name == 'best' else 'last'}, after step {step}"
    assert figures["recorded"] == "the same figures"
    for key, value in recorded(run, step).items():
        np.testing.assert_array_equal(figures[key], value, err_msg=key)


def test_the_command_prints_what_a_run_on_ranks_recorded(tmp_path):
    file = tmp_path / "ranks.h5"
    assert train(*COMMON, *SKEWED, f"run.file={file}", n=3).code == 0
    ended = mpisign("evaluate", file)
    assert ended.code == 0, ended.err
    last = recorded(Run(file), 40)
    assert {name: ended.values[name] for name in FIGURES} == {name: str(float(f"{last[name]:.6g}")) for name in FIGURES}
    assert f"parameters: {tmp_path}/ranks.model" in ended.out
    assert "recorded: the same figures" in ended.out


def test_a_point_without_a_row_is_measured_too(folder):
    run = Run(folder / "uniform.h5")
    figures = results.evaluate(run.path)
    step = int(figures["point"].removeprefix("uniform, after step "))
    assert (figures["recorded"] == "nothing at that step") == (step not in run["eval"]["step"])
    assert 0 < figures["test_loss"] < 3


@pytest.mark.parametrize("case", ["last", "statistics", "statistics of nodes", "best"])
def test_a_run_that_was_cut_is_measured_at_its_newest_checkpoint(tmp_path, data, case, monkeypatch):
    step = Job._step

    def cut(job):
        if job.stepper.t == 5:
            raise NumericalError("cut")
        return step(job)

    monkeypatch.setattr(Job, "_step", cut)
    settings = (*(s.format(path=data) for s in CASES[case]), "checkpoint.every_steps=2", "run.eval_every=2")
    with pytest.raises(NumericalError):
        here(*settings, f"run.file={tmp_path}/cut.h5", n=3)
    run = Run(tmp_path / "cut.h5")
    figures = results.evaluate(run.path, "last")
    assert figures["point"] == "last, after step 4"
    assert {name: figures[name] for name in FIGURES} == recorded(run, 4)
    if case == "best":
        step = int(run["eval"]["step"][run["eval"]["test_accuracy"][:3].argmax()])
        figures = results.evaluate(run.path, "best")
        assert figures["point"] == f"best, after step {step}"
        assert {name: figures[name] for name in FIGURES} == recorded(run, step)
    assert results.evaluate(run.path) == figures, "by default the point of run.keep"


@pytest.mark.parametrize(("drawn", "point"), [(3, "uniform, after step 3"), (30, "last, after step 4")])
def test_a_run_that_was_cut_has_its_uniform_point_once_it_was_drawn(tmp_path, drawn, point, monkeypatch):
    step = Job._step

    def cut(job):
        job.output = drawn
        if job.stepper.t == 5:
            raise NumericalError("cut")
        return step(job)

    monkeypatch.setattr(Job, "_step", cut)
    with pytest.raises(NumericalError):
        here(*CASES["uniform"], "checkpoint.every_steps=2", f"run.file={tmp_path}/cut.h5", n=3)
    assert results.evaluate(tmp_path / "cut.h5")["point"] == point
    if drawn > 4:
        with pytest.raises(UsageError, match=r"step-000000004\.h5 has no point of run.keep = 'uniform' yet"):
            results.evaluate(tmp_path / "cut.h5", "uniform")


def test_data_that_moved_are_named_and_other_data_are_told(folder, data, tmp_path):
    file = folder / "statistics.h5"
    moved = tmp_path / "moved"
    moved.mkdir()
    for part in data.iterdir():
        (moved / part.name).write_bytes(part.read_bytes())
    figures = results.evaluate(file, settings=(f"problem.path={moved}",))
    assert figures["recorded"] == "the same figures"
    assert results.evaluate(file, settings=f"problem.path={moved}") == figures
    assert "note" not in figures
    other = tmp_path / "other"
    other.mkdir()
    figures = results.evaluate(file, settings=(f"problem.path={mnist_folder(other, side=12, seed=1)}",))
    assert "not those that the run had" in figures["note"]
    assert figures["recorded"].startswith("train_loss ")
    with pytest.raises(UsageError, match=r"--set problem.paths \(did you mean problem.path\?\).*only these"):
        results.evaluate(file, settings=("problem.paths=x",))


def test_a_run_that_kept_nothing_says_what_would_have_kept_it(folder, tmp_path):
    # not that of a checkpoint either, which is older than its end
    here(*COMMON, "run.keep=none", "checkpoint.every_steps=30", f"run.file={tmp_path}/none.h5", n=2)
    for which in ((), ("--which", "last")):
        ended = mpisign("evaluate", tmp_path / "none.h5", *which)
        assert ended.code == 2
        assert 'kept no parameters; run.keep = "last" keeps' in ended.err
    with pytest.raises(UsageError, match=r'the point of run.keep = "last" alone; run.keep = "best"'):
        results.evaluate(folder / "last.h5", "best")
    (tmp_path / "other.h5").write_bytes((folder / "last.h5").read_bytes())
    with pytest.raises(UsageError, match=r"other\.model is missing: the parameters that .*other\.h5 kept lay there"):
        results.evaluate(tmp_path / "other.h5")
    with pytest.raises(UsageError, match=r"which = 'bset' \(did you mean best\?\): .* best, last, uniform"):
        results.evaluate(folder / "last.h5", "bset")


@pytest.mark.parametrize("name", ["last", "best", "statistics"])
def test_a_module_has_the_parameters_of_the_run(folder, data, name):
    run = Run(folder / f"{name}.h5")
    module, kept = results.load_module(run.path), results.load_parameters(folder / f"{name}.model")
    assert not module.training
    assert [n for n, _ in module.named_parameters()] == [n.decode() for n in run.layout["name"]]
    for own, array in (dict(module.named_parameters()) | dict(module.named_buffers())).items():
        if own in kept:
            np.testing.assert_array_equal(array.detach().numpy(), kept[own])
    assert kept.keys() - dict(module.named_buffers()).keys() == dict(module.named_parameters()).keys()
    problem = find("mnist")(path=data, model="cnn") if name == "statistics" else find("digits")()
    held_out = problem.read().test
    logits = module(torch.from_numpy(held_out["inputs"]))
    right = (logits.argmax(1).numpy() == held_out["labels"]).mean()
    assert right == results.evaluate(run.path)["test_accuracy"]
    # without the problem and its data
    pickled = pickle.dumps(module)
    assert len(pickled) < 2 * (folder / f"{name}.model").stat().st_size + 10_000
    assert torch.equal(pickle.loads(pickled)(torch.from_numpy(held_out["inputs"])), logits)


def test_a_module_for_text_gives_logits_of_each_character(tmp_path):
    (tmp_path / "text.txt").write_text("to be or not to be, that is the question. " * 20)
    settings = ("problem.name=text", f"problem.path={tmp_path}/text.txt", "problem.context=8", "problem.width=16")
    here(*settings, "run.steps=3", f"run.file={tmp_path}/text.h5", n=2)
    logits = results.load_module(tmp_path / "text.h5")(torch.zeros(2, 8, dtype=torch.int64))
    assert logits.shape[:2] == (2, 8)


def test_a_problem_without_a_module_says_where_its_arrays_are(folder):
    with pytest.raises(UsageError, match=r"Quadratic has no torch module; results.load_parameters"):
        results.load_module(folder / "quadratic.h5")
    assert results.load_parameters(folder / "quadratic.model")["x"].shape == (
        Run(folder / "quadratic.h5").attributes["d"],
    )


def test_a_module_of_other_data_is_refused(folder, tmp_path):
    other = mnist_folder(tmp_path, side=12, classes=3)
    with pytest.raises(UsageError, match=r"another shape there; give the data"):
        results.load_module(folder / "statistics.h5", settings=(f"problem.path={other}",))


def test_the_public_names_read_without_torch_or_mpi():
    code = "import sys, mpisign.results; print([m for m in ('torch', 'mpi4py', 'numba', 'pandas') if m in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert ended.stdout.strip() == "[]", ended.stderr
