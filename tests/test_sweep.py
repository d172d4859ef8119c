"""Sweeps: points and their names, what is skipped, the best of a grid, the table."""

import csv
import io

import numpy as np
import pytest

from mpisign.errors import UsageError
from mpisign.run import sweep
from mpisign.storage.reader import Run
from tests.running import mpisign
from tests.test_commands import refused

JOB = """
[run]
steps = 30
voters = 3
keep = "none"
[problem]
name = "quadratic"
dimension = 20
[sweep]
folder = "{folder}"
{sweep}
"""


@pytest.fixture
def job(tmp_path):
    def write(text, name="job.toml"):
        file = tmp_path / name
        file.write_text(JOB.format(folder=tmp_path / "runs", sweep=text))
        return file

    return write


def names(file):
    return [p.name for p in sweep.read(file)]


def test_a_grid_crosses_its_lists(job):
    file = job('"schedule.lr" = [0.1, 0.01]\n"run.voters" = [3, 4]\nrun.seed = [1, 2]')
    assert names(file)[:3] == ["lr0.1-voters3-seed1", "lr0.1-voters3-seed2", "lr0.1-voters4-seed1"]
    assert len(names(file)) == 8
    config = sweep.read(file)[7].config
    assert (config.schedule.lr, config.run.voters, config.run.seed) == (0.01, 4, 2)
    assert config.run.file.endswith("runs/lr0.01-voters4-seed2.h5")


def test_zipped_lists_go_side_by_side_and_seeds_cross(job):
    file = job('kind = "zip"\n"schedule.lr" = [0.1, 0.01]\n"run.voters" = [3, 4]\n"run.seed" = [1, 2]')
    assert names(file) == ["lr0.1-voters3-seed1", "lr0.1-voters3-seed2", "lr0.01-voters4-seed1", "lr0.01-voters4-seed2"]


def test_cases_hold_settings_that_belong_together(job):
    file = job(
        '"schedule.lr" = [0.1, 0.01]\n'
        '[[sweep.case]]\n"algorithm.name" = "ssdm"\n'
        '[[sweep.case]]\nname = "slow"\n"algorithm.name" = "signum-mv"\n'
        '"algorithm.beta" = 0.99\n"schedule.lr" = [1e-3]\n'
    )
    assert names(file) == ["ssdm-lr0.1", "ssdm-lr0.01", "slow-lr0.001"]
    assert sweep.read(file)[2].config.algorithm.beta == 0.99


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["nothing to sweep"]),
        ('kind = "gird"\n"schedule.lr" = [1.0]', ["sweep.kind", "'gird'", "grid"]),
        ('"schedule.lr" = 0.1', ["schedule.lr", "a list"]),
        ("rate = [0.1]", ["sweep.rate", "table.key"]),
        ('best = "schedule.rate"\n"schedule.lr" = [0.1]', ["sweep.best", "schedule.rate"]),
        ('kind = "zip"\n"schedule.lr" = [0.1]\n"run.voters" = [3, 4]', ["different lengths", "schedule.lr: 1"]),
        ('"schedule.lr" = [0.1, 0.1]', ["two points", "name"]),
        ('"schedule.lrr" = [0.1, 0.2]', ["schedule.lrr", "lr"]),
    ],
)
def test_bad_sweeps(text, words, job):
    def check():
        return [point.config for point in sweep.read(job(text))]

    with pytest.raises(UsageError) as caught:
        check()
    for word in words:
        assert word in str(caught.value)


def test_points_run_once_and_the_best_rate_gets_more_seeds(job, tmp_path):
    file = job('best = "schedule.lr"\nmetric = "train_loss"\n"schedule.lr" = [1e-4, 0.1, 9.0]\n"run.seed" = [1, 2, 3]')
    planned = mpisign("plan", file)
    assert planned.code == 0, planned.err
    assert "waiting" in planned.out
    assert planned.values["points"] == "5"
    refused(mpisign("simulate", file, "--point", 4), "has to wait")
    first = mpisign("simulate", file, "--jobs", 2)
    assert first.code == 0, first.err
    assert first.values["ended"] == "5"
    done = sorted((tmp_path / "runs").glob("*.h5"))
    assert [p.stem for p in done] == ["lr0.0001-seed1", "lr0.1-seed1", "lr0.1-seed2", "lr0.1-seed3", "lr9.0-seed1"]
    stamps = [p.stat().st_mtime_ns for p in done]
    again = mpisign("simulate", file)
    assert again.code == 0
    assert [p.stat().st_mtime_ns for p in done] == stamps
    done[0].unlink()
    assert "1/1  lr0.0001-seed1: complete" in mpisign("simulate", file).out

    table = mpisign("compare", *done, "--metric", "train_loss", "--format", "csv", "--target", 5.0)
    assert table.code == 0, table.err
    (row,) = csv.DictReader(io.StringIO(table.out))
    finals = [Run(p)["eval"]["train_loss"][-1] for p in done if p.stem.startswith("lr0.1")]
    assert float(row["train_loss"]) == pytest.approx(np.mean(finals))
    assert float(row["deviation"]) == pytest.approx(np.std(finals, ddof=1))
    assert (row["method"], row["best rate"], row["seeds"], row["reached"]) == ("signum-mv", "0.1", "3", "3")
    assert int(row["evaluations to 5"]) <= 30 * 3
    for form in ("text", "markdown"):
        printed = mpisign("compare", *done, "--format", form, "--metric", "train_loss")
        assert f"{np.mean(finals):.4g} +- {np.std(finals, ddof=1):.2g}" in printed.out


def test_a_point_of_a_sweep_runs_under_mpirun(job, tmp_path):
    file = job('"schedule.lr" = [0.1, 0.01]')
    refused(mpisign("train", file, n=3), "2 points", "--point")
    refused(mpisign("train", file, "--point", 2, n=3), "0 to 1")
    assert mpisign("train", file, "--point", 1, n=3).code == 0
    assert sweep.read(file)[1].status == "complete"


def test_a_product_of_another_job_is_refused(job, tmp_path):
    file = job('"schedule.lr" = [0.1]')
    assert mpisign("simulate", file).code == 0
    file.write_text(file.read_text().replace("steps = 30", "steps = 31"))
    refused(mpisign("simulate", file), "run.steps = 30", "31", "sweep.folder")


def test_a_point_that_diverges_ends_and_the_others_go_on(job):
    file = job('"problem.condition" = [1.0, 1e4]\n[[sweep.case]]\n"algorithm.name" = "sgd"\n"schedule.lr" = 0.1')
    file.write_text(file.read_text().replace("steps = 30", "steps = 300"))
    ended = mpisign("simulate", file)
    assert ended.code == 0, ended.err
    assert [p.status for p in sweep.read(file)] == ["complete", "error"]
    assert ended.values["ended"] == "2"


def test_mean_and_band_over_seeds(job, tmp_path):
    file = job('"run.seed" = [1, 2, 3]\n"problem.noise" = [0.1, 10.0]')
    assert mpisign("simulate", file).code == 0
    done = sorted((tmp_path / "runs").glob("*.h5"))
    table = mpisign("plot", *done, "--mean", "--table").out.splitlines()
    assert [line.split("|")[1].strip() for line in table[2:4]] == ["signum-mv, noise 0.1", "signum-mv, noise 10"]
    losses = [Run(f)["eval"]["train_loss"][-1] for f in done if "noise0.1" in f.stem]
    assert table[2].split("|")[4].strip() == f"{np.mean(losses):.3g} +- {np.std(losses, ddof=1):.2g}"
    picture = tmp_path / "seeds.png"
    drawn = mpisign("plot", *done, "--mean", "--axes", "step", "--output", picture)
    assert drawn.code == 0, drawn.err
    assert picture.stat().st_size > 10_000
