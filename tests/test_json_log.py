"""run.log = "json": every line of standard output is a JSON object, whatever becomes of the run."""

import json
import math

import pytest

from mpisign.run import progress
from mpisign.storage.reader import Run
from tests.running import mpisign, train

COMMON = ("run.log=json", "run.steps=40", "run.eval_every=10", "problem.batch_size=4")


def parsed(text):
    """The objects of a log, in order; fails for a line that is none, or has what JSON has not."""

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    lines = [json.loads(line, parse_constant=refuse) for line in text.splitlines()]
    assert all(isinstance(line["time"], float) and isinstance(line["event"], str) for line in lines)
    return lines


def of_kind(lines, kind):
    return [line for line in lines if line["event"] == kind]


def logged(*settings, n=2, command="simulate", flags=()):
    sets = [part for setting in (*COMMON, *settings) for part in ("--set", setting)]
    return mpisign(command, "-n", n, *sets, *flags)


def test_a_log_tells_what_the_run_file_holds(tmp_path):
    ended = logged(f"run.file={tmp_path}/one.h5", "checkpoint.every_steps=20", "problem.batch_sizes=[4,2000]")
    assert ended.code == 0, ended.err
    lines, run = parsed(ended.out), Run(tmp_path / "one.h5")
    found = of_kind(lines, "evaluation")
    assert [line["step"] for line in found] == run["eval"]["step"].tolist()
    assert [line["train_loss"] for line in found] == run["eval"]["train_loss"].tolist()
    assert [line["test_accuracy"] for line in found] == run["eval"]["test_accuracy"].tolist()
    assert all(line["steps"] == 40 and line["lr"] > 0 for line in found)
    seconds = [line["seconds"] for line in found]
    assert seconds == sorted(seconds)
    assert seconds[-1] <= run["steps"]["seconds"][-1] + 1
    (saved,) = of_kind(lines, "checkpoint")
    assert (saved["step"], saved["text"]) == (20, "step-000000020.h5")
    (warned,) = of_kind(lines, "warning")
    assert warned["text"].startswith("problem.batch_sizes: ")
    *_, end, summary = lines
    assert (end["event"], end["step"], end["exit_code"]) == ("complete", 40, 0)
    assert summary.items() >= run.summary().items()
    events = [line["event"] for line in lines if line["event"] in set(run["events"]["kind"])]
    assert events == run["events"]["kind"].tolist()


def test_root_alone_tells_and_a_stopped_run_goes_on(tmp_path):
    file = tmp_path / "ranks.h5"
    ended = train(*COMMON, f"run.file={file}", "run.steps=100000", "run.max_minutes=0.02", n=2)
    assert ended.code == 75, ended.err
    lines = parsed(ended.out)
    (end,) = of_kind(lines, "stop")
    assert end["exit_code"] == 75
    assert "run.max_minutes is over" in end["text"]
    assert len(of_kind(lines, "start")) == 1
    ended = mpisign("resume", file, "--max-time", "0.01", n=2)
    assert ended.code == 75, ended.err
    again = parsed(ended.out)
    (begin,) = of_kind(again, "resume")
    assert begin["step"] == end["step"]
    assert "step-" in begin["text"]
    assert all(line["step"] > end["step"] for line in of_kind(again, "evaluation"))
    # what moves no bit of x may change
    told = mpisign("resume", file, "--max-time", "0.01", "--set", "run.log=text", n=2).out
    assert "resumed from " in told
    assert not told.startswith("{")


def test_a_figure_that_a_problem_has_not_is_null(tmp_path):
    ended = logged("problem.name=quadratic", f"run.file={tmp_path}/one.h5")
    found = of_kind(parsed(ended.out), "evaluation")
    assert [line["test_accuracy"] for line in found] == [None] * 5
    assert "test_accuracy" not in logged("problem.name=quadratic", "run.log=text", f"run.file={tmp_path}/two.h5").out


def test_an_error_is_told_with_its_exit_code(tmp_path):
    settings = ("problem.name=quadratic", "algorithm.name=sgd", "schedule.lr=1e30", f"run.file={tmp_path}/bad.h5")
    ended = logged(*settings)
    assert ended.code == 3
    (end,) = of_kind(parsed(ended.out), "error")
    assert end["exit_code"] == 3
    assert end["text"] in ended.err


def test_costs_are_told_as_one_object(tmp_path):
    ended = logged(f"run.file={tmp_path}/none.h5", flags=("--dry-run", "-v"))
    assert ended.code == 0, ended.err
    (costs,) = of_kind(parsed(ended.out), "costs")
    assert costs["d"] > 0
    assert costs["bits_per_coordinate"] == 1
    assert all(type(costs[name]) is int for name in ("bytes_per_step", "memory_per_process", "evaluations_per_step"))
    stages = ("algorithm.name=dvr-sign", "algorithm.snapshot_every=10")
    ended = logged(*stages, f"run.file={tmp_path}/none.h5", flags=("--dry-run",))
    assert ended.code == 0, ended.err
    (costs,) = of_kind(parsed(ended.out), "costs")
    assert [type(figure) for figure in costs["bytes_per_step"]] == [int, int]


@pytest.mark.parametrize("jobs", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_points_of_a_sweep_are_objects_too(tmp_path, jobs):
    folder, text = tmp_path / "runs", "[problem]\nname = 'quadratic'\n[run]\nsteps = 5\nvoters = 2\nlog = 'json'\n"
    text += f"[sweep]\nfolder = '{folder}'\n'schedule.lr' = [0.1, 0.01]\n"
    (tmp_path / "sweep.toml").write_text(text)
    ended = mpisign("simulate", tmp_path / "sweep.toml", "--jobs", jobs)
    assert ended.code == 0, ended.err
    *points, sweep = parsed(ended.out)
    assert {(line["event"], line["points"], line["status"]) for line in points} == {("point", 2, "complete")}
    for number, line in enumerate(points, 1):
        assert line["number"] == number
        assert line.items() >= Run(folder / f"{line['name']}.h5").summary().items()
    assert (sweep["event"], sweep["points"], sweep["ended"]) == ("sweep", 2, 2)


def test_numbers_that_json_has_not_are_null(capsys):
    log = progress.Json(10, lambda: 1.5)
    log.update(3, math.nan, 0.1, {"train_loss": math.inf})
    (line,) = parsed(capsys.readouterr().out)
    assert line | {"time": 0} == {
        "time": 0, "event": "evaluation", "step": 3, "steps": 10, "seconds": 1.5, "loss": None, "lr": 0.1,
        "train_loss": None,
    }  # fmt: skip


@pytest.mark.parametrize("text", ["two\nlines", 'a "quote"', "\u2028\x1b[2J"])
def test_no_text_breaks_a_line(text, capsys):
    progress.Json(1, lambda: 0.0).line(text)
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert printed.isascii()
    assert parsed(printed)[0]["text"] == text
