"""Views of folders as users have them: killed, diverged, older and other runs are named, and nothing crashes."""

import contextlib
import csv
import importlib
import io
import re
import shutil
import sys

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from mpisign.cli import cli
from mpisign.errors import NumericalError, UsageError
from mpisign.figures import curves, grid, scaling, style, tables, votes
from mpisign.run.train import resume
from mpisign.storage.reader import Run
from tests.files import older
from tests.running import ROOT
from tests.test_regrouped_runs import killed
from tests.test_simulate import here

sys.path.insert(0, str(ROOT / "analysis"))
QUADRATIC = ("problem.name=quadratic", "run.steps=30", "run.eval_every=5", "run.record_every=1", "run.check_every=5")


def cut(path, copy, rows):
    """The run as it stood after so many rows of each table, killed."""
    shutil.copy(path, copy)
    with h5py.File(copy, "r+") as file:
        for table in ("steps", "eval", "phases", "probes", "events"):
            for column in file[table].values():
                column.resize(min(rows, len(column)), axis=0)


def without_keys(path, copy, *keys):
    """The run of a job that has not these keys."""
    shutil.copy(path, copy)
    with h5py.File(copy, "r+") as file:
        lines = file["config"][()].decode().splitlines()
        del file["config"]
        file["config"] = np.bytes_("\n".join(x for x in lines if not x.startswith(keys)).encode())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Two rates and two seeds of one method, with probes, and a baseline."""
    folder = tmp_path_factory.mktemp("whole")
    for lr in (0.05, 0.1):
        for seed in (1, 2):
            own = (f"schedule.lr={lr}", f"run.seed={seed}", f"run.file={folder}/{lr}-{seed}.h5", "probe.every=10")
            here(*QUADRATIC, "algorithm.name=signum-mv", *own, n=3)
    here(*QUADRATIC, "algorithm.name=sgd", "schedule.lr=0.1", f"run.file={folder}/sgd.h5", n=3)
    return folder


@pytest.fixture(scope="module")
def mixed(whole, tmp_path_factory):
    """All of that, and what else collects in a folder."""
    folder = tmp_path_factory.mktemp("mixed") / "runs"
    shutil.copytree(whole, folder)
    with contextlib.suppress(NumericalError):
        here(
            *QUADRATIC, "algorithm.name=sgd", "schedule.lr=1e9", "problem.condition=9", f"run.file={folder}/nan.h5", n=2
        )
    here("run.steps=6", "run.eval_every=3", f"run.file={folder}/digits.h5", n=2)
    here("problem.name=targets", "run.steps=8", "algorithm.name=ssdm", f"run.file={folder}/one.h5", n=1)
    one = whole / "0.1-1.h5"
    cut(one, folder / "killed.h5", 4)
    cut(one, folder / "one-row.h5", 1)
    cut(one, folder / "no-rows.h5", 0)
    older(one, folder / "older.h5")
    with h5py.File(folder / "older.h5", "r+") as file:
        for name in ("function_evaluations", "gradient_l1", "gradient_l2"):
            del file["eval"][name]
        del file["steps"]["flips"], file["probes"]["voter_success"]
    without_keys(one, folder / "no-rate.h5", "lr = ", "kind = ", "batch_size = ", "accumulate = ")
    shutil.copy(one, folder / "again.h5")
    saving = ("checkpoint.every_steps=10", "probe.every=10", f"run.file={folder}/changed.h5")
    here(*QUADRATIC, "algorithm.name=signum-mv", "schedule.lr=0.1", *saving, n=3)
    killed(folder / "changed.h5")
    resume(folder / "changed.h5", ("run.voters=2",), ranks_changed=True)
    return folder


VIEWS = {
    "plot": (),
    "compare": ("--metric", "train_loss", "--target", "40"),
    "plot --mean": (),
    "plot --votes": (),
    "report": (),
}
SCRIPTS = {
    "against": ("--x", "schedule.lr", "--lines", "algorithm.name", "problem.name", "run.voters", "problem.condition",
               "--metric", "train_loss", "--y", "eval.train_loss"),
    "scaling": (),
    "studies.race": (),
    "to_tracker": ("--to", "tensorboard"),
    "studies.span": (),
    "studies.logistic_gap": (),
}  # fmt: skip


def viewed(name, folder, *arguments):
    """Runs a command, with its mode if it has one, in this process; (exit code, output, errors)."""
    command, *mode = name.split()
    ended = CliRunner().invoke(cli, [command, str(folder), *mode, *map(str, arguments)])
    if ended.exception and not isinstance(ended.exception, (SystemExit, UsageError)):
        raise ended.exception
    return ended.exit_code, ended.stdout, ended.stderr


def ran(script, folder, *arguments, capsys, monkeypatch):
    """Likewise a script."""
    monkeypatch.setattr(sys, "argv", [f"{script}.py", str(folder), *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(script).main()
    told = capsys.readouterr()
    return ended.value.code or 0, told.out, told.err


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("name", VIEWS)
def test_no_command_crashes_on_a_mixed_folder(mixed, tmp_path, name):
    output = tmp_path / ("r.html" if name == "report" else "p.png")
    code, _, errors = viewed(name, mixed, *VIEWS[name], "--output", output)
    assert code == (0 if name == "report" else 2), errors
    assert output.stat().st_size > 5_000
    if name != "report":
        assert f"{'no-rate' if name == 'compare' else 'no-rows'}.h5: " in errors


def test_a_mixed_folder_is_listed(mixed):
    code, out, errors = viewed("list", mixed, "--csv")
    assert (code, errors) == (0, "")
    rows = {row["file"]: row for row in csv.DictReader(io.StringIO(out))}
    assert sorted(rows) == sorted(path.name for path in mixed.glob("*.h5"))
    states = {name: rows[f"{name}.h5"]["state"] for name in ("sgd", "nan", "one-row", "no-rows", "older")}
    assert states == {"sgd": "complete", "nan": "error", "one-row": "killed", "no-rows": "killed", "older": "complete"}
    assert rows["changed.h5"]["voters"] == "3-2"
    assert (rows["no-rows.h5"]["steps"], rows["no-rows.h5"]["train_loss"]) == ("0", "")
    assert float(rows["digits.h5"]["test_accuracy"]) == Run(mixed / "digits.h5")["eval"]["test_accuracy"][-1]
    for row in rows.values():
        assert int(row["bytes"]) == (mixed / row["file"]).stat().st_size


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("name", SCRIPTS)
def test_no_script_crashes_on_a_mixed_folder(mixed, tmp_path, name, capsys, monkeypatch):
    if name == "to_tracker":
        pytest.importorskip("tensorboard")
    output = {"to_tracker": ("--folder", tmp_path), "studies.logistic_gap": ()}
    where = output.get(name, ("--output", tmp_path / "p.png"))
    code, _, errors = ran(name, mixed, *SCRIPTS[name], *where, capsys=capsys, monkeypatch=monkeypatch)
    nothing_fits = name == "scaling" or name.startswith("studies.")
    assert code == (0 if name == "to_tracker" else 2), errors
    assert ("none of these runs is left" in errors) == nothing_fits
    if not nothing_fits:
        assert next(tmp_path.iterdir()).stat().st_size > 0
    if name == "against":
        assert "no-rate.h5: " in errors


def test_rates_and_seeds_of_one_method_have_lines_of_their_own(whole, mixed):
    runs = [Run(path) for path in sorted(whole.glob("*.h5"))]
    names = curves.labels(runs)
    assert len(set(names)) == 5
    assert names[0] == "signum-mv, lr 0.05, seed 1"
    assert "sgd" in names
    # the same job, run twice
    twice = curves.labels([*runs, Run(mixed / "again.h5")])
    assert len(set(twice)) == 6
    # of many runs, those that differ in their seed alone share a line of the legend
    many = curves.labels([*runs, *runs[:4], *runs[:4]])
    assert many[0] == "signum-mv, lr 0.05 (6 seeds)"
    assert len(set(many)) == 3


def test_a_run_whose_voters_changed_is_none_of_those_with_one_number(whole, mixed):
    runs = [Run(path) for path in (whole / "0.1-1.h5", mixed / "changed.h5")]
    assert curves.labels(runs)[1].startswith("signum-mv, voters 2, regroupings 1")
    assert scaling.unusable(runs[1])
    probed = runs[1]["probes"]["voter_success"]
    assert np.isnan(probed[-1]).tolist() == [False, False, True]
    figure = votes.picture(runs[1:])
    assert len(figure.axes) >= 6


def test_hyperparameters_of_one_method_have_rows_of_their_own(tmp_path, whole):
    shutil.copytree(whole, tmp_path / "runs")
    here(*QUADRATIC, "algorithm.name=signum-mv", "algorithm.beta=0.5", "schedule.lr=0.1",
         f"run.file={tmp_path}/runs/beta.h5", n=3)  # fmt: skip
    rows = grid.table([Run(path) for path in sorted((tmp_path / "runs").glob("*.h5"))], "train_loss")
    assert {row.method for row in rows} == {"signum-mv, beta 0.9", "signum-mv, beta 0.5", "sgd"}


def test_csv_has_one_number_a_cell(mixed):
    flags = ("--metric", "train_loss", "--target", "40", "--format", "csv")
    _, out, _ = viewed("compare", mixed, *flags)
    rows = list(csv.DictReader(io.StringIO(out)))
    words = {"method", "edge", "run.recorder", "exchange.name"}
    for row in rows:
        for name, cell in row.items():
            if name not in words and not name.startswith(("problem.", "partition.", "schedule.")) and cell:
                float(cell)
    (signum,) = [r for r in rows if r["method"] == "signum-mv" and r["seeds"] == "2"]
    losses = [Run(mixed / f"{signum['best rate']}-{seed}.h5")["eval"]["train_loss"][-1] for seed in (1, 2)]
    assert float(signum["train_loss"]) == pytest.approx(np.mean(losses))
    assert float(signum["deviation"]) == pytest.approx(np.std(losses, ddof=1))


def test_a_target_costs_the_bytes_of_the_method(whole, tmp_path):
    """Whatever the exchange sent: an allgather counts as its votes do."""
    costs = []
    for name in ("sharded", "allgather"):
        file = tmp_path / f"{name}.h5"
        here(
            *QUADRATIC, "algorithm.name=signum-mv", "schedule.lr=0.1", f"exchange.name={name}", f"run.file={file}", n=3
        )
        (row,) = grid.table([Run(file)], "train_loss", 45.0)
        cells = row.cells()
        costs.append((cells["bytes to 45"], cells["bytes"]))
    assert costs[0] == costs[1]
    assert costs[0][1] == round(30 * 100 * 4 / 3 / 8)


def reached(run, budget):
    """By a loop over the rows of /eval, without the first: the last one whose bytes, up and down, are no more."""
    table, last = run["eval"], np.nan
    rows = zip(*(table[name] for name in ("method_bytes_up", "method_bytes_down", "train_loss")), strict=True)
    for up, down, loss in list(rows)[1:]:
        last = loss if up + down <= budget else last
    return last


def test_what_was_reached_within_so_many_bytes(whole):
    runs = [Run(path) for path in sorted(whole.glob("*.h5"))]
    sent = sorted({float(b) for run in runs for b in run.method_bytes("eval")})
    budgets = (*sent[1:], 1.5 * sent[-1])  # each as many as an evaluation had cost
    for row in grid.table(runs, "train_loss", budgets=budgets):
        for budget, (name, values) in zip(budgets, row.at_budgets().items(), strict=True):
            wanted = [reached(run, budget) for run in row.runs]
            assert values == pytest.approx(wanted, nan_ok=True)
            mean, deviation = np.mean(wanted), tables.deviation(wanted)
            assert row.cells()[name] == pytest.approx(mean, nan_ok=True)
            assert row.shown()[name] == ("-" if np.isnan(mean) else tables.with_deviation(mean, deviation))
        assert values == [run.score("train_loss") for run in row.runs]  # within more than all
    _, out, _ = viewed("compare", whole, "--metric", "train_loss", "--bytes", "1234567", "--bytes", "1e-3")
    head, *lines = (re.split("  +", line) for line in out.split("\n\n")[0].splitlines())
    assert "train_loss within 1,234,567 bytes" in head
    assert {line[head.index("train_loss within 0.001 bytes")] for line in lines} == {"-"}


def test_a_run_that_diverged_had_reached_nothing_within_what_it_sent(mixed):
    run = Run(mixed / "nan.h5")
    last = run.method_bytes("steps")[-1:].sum()
    assert grid.within(run, "train_loss", 2 * last + 1) == np.inf
    (row,) = grid.table([run], "train_loss", budgets=(1e12,))
    assert row.shown()["train_loss within 1,000,000,000,000 bytes"] == row.said == "diverged"


def test_what_rises_is_told_as_it_last_was(tmp_path):
    here(*QUADRATIC, "algorithm.name=signum-mv", "schedule.lr=3", f"run.file={tmp_path}/up.h5", n=2)
    run = Run(tmp_path / "up.h5")
    losses, sent = run["eval"]["train_loss"], run.method_bytes("eval")
    assert losses[2] > losses[1]
    assert grid.within(run, "train_loss", sent[2]) == losses[2]


def test_axes_have_plain_numbers_or_powers_of_ten():
    figure, ((panel,),) = style.panels(1, 1)
    for most in (30, 9_000, 2_500_000, 4e9):
        panel.clear()
        panel.plot([0, most], [0, 1])
        style.counted(panel, "bytes")
        figure.canvas.draw()
        told = [t.get_text() for t in panel.get_xticklabels()] + [panel.xaxis.get_offset_text().get_text()]
        assert not any(
            letter in text.replace("times", "").replace("mathdefault", "") for text in told for letter in "kMGT"
        )


@pytest.mark.parametrize("ends", [(2.16, 2.32), (0.6, 1.2), (0.3, 2.5), (0.12, 0.9), (1.2e6, 3.1e6), (2e-7, 1.5e-6)])
def test_logarithmic_axes_tell_numbers_less_than_a_power_of_ten_apart(ends):
    told, power = marked(ends)
    assert len(told) >= 3
    places = [place / float(re.search(r"[\d.]+", text)[0]) for place, text in told.items()]
    assert places == pytest.approx([places[0]] * len(told))
    assert bool(power) == (not 1e-3 < ends[0] < 1e5)


def test_logarithmic_axes_tell_powers_of_ten_where_there_are_two():
    told, power = marked((0.02, 2.4))
    assert [round(place, 12) for place, text in told.items() if "10^" in text] == [0.1, 1.0]
    assert not power


def marked(ends):
    """What is written on a logarithmic axis, by place, and the power of ten for all."""
    figure, ((panel,),) = style.panels(1, 1)
    panel.plot([0, 1], ends)
    panel.set_yscale("log")
    figure.canvas.draw()
    low, high = panel.get_ylim()
    ticks = [*panel.yaxis.get_major_ticks(), *panel.yaxis.get_minor_ticks()]
    told = {tick.get_loc(): tick.label1.get_text() for tick in ticks if low <= tick.get_loc() <= high}
    return {place: text for place, text in told.items() if text}, panel.yaxis.get_offset_text().get_text()


def test_runs_of_one_name_have_logs_of_their_own(tmp_path, whole):
    to_tracker = importlib.import_module("to_tracker")
    runs = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        shutil.copy(whole / "sgd.h5", tmp_path / folder / "sgd.h5")
        runs.append(Run(tmp_path / folder / "sgd.h5"))
    assert to_tracker.names(runs) == ["a-sgd", "b-sgd"]
    assert to_tracker.names(runs[:1]) == ["sgd"]
