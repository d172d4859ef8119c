"""Many runs as one table for pandas, a row per run."""

import time
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from mpisign.errors import UsageError
from mpisign.storage.reader import Run, optional, read_all

FINAL = ("train_loss", "test_loss", "test_accuracy")  # columns of /eval whose last values are told


def frame(paths: str | Path | Iterable[str | Path], settings: str = "differing") -> Any:
    """Runs as a pandas.DataFrame, one row per run, in the order of their paths.

    paths: run files, and folders in which all are taken. The index, `run`, is the path. Columns: `state`, `algorithm`,
    `problem`, `n` (voters, of the latest stretch) and `d` (coordinates); `steps`; the last train_loss, test_loss,
    test_accuracy and the best_test_accuracy of /eval; bits_per_coordinate (per rank and step), `seconds` and `began`
    (UTC); and settings of the jobs by their dotted names, such as schedule.lr. settings: "differing" takes those that
    are not the same in all runs, "all" every one. NaN, or None, stands where a run has no such value. Files that can't
    be read are left out, with a warning. Raises UsageError for a path that is not there, where no run is left, and
    where pandas is not installed.
    """
    pandas = optional("pandas", "read_all(), a list of runs")
    if settings not in ("differing", "all"):
        raise UsageError(f'settings = {settings!r}: "differing" or "all"')
    runs, skipped = read_all([paths] if isinstance(paths, (str, Path)) else paths)
    for message in skipped:
        warnings.warn(f"left out: {message}", stacklevel=2)
    if not runs:
        raise UsageError("no run is left; see what is said of each")
    jobs = _jobs(runs, settings == "all")
    index = pandas.Index([str(run.path) for run in runs], name="run")
    return pandas.DataFrame([_figures(run) | job for run, job in zip(runs, jobs, strict=True)], index=index)


def _figures(run: Run) -> dict[str, object]:
    """What came of a run."""
    evals, steps, summary = run["eval"], run["steps"], run.summary()
    names = ("algorithm", "problem", "n", "d", "steps")
    last = {name: float(evals[name][-1]) if len(evals[name]) else np.nan for name in FINAL}
    began = [time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(when)) for when in run["events"]["time"][:1]]
    return {
        "state": run.state,
        **{name: summary[name] for name in names},
        **last,
        "best_test_accuracy": summary.get("best_test_accuracy", np.nan),
        "bits_per_coordinate": run.bits_per_coordinate,
        "seconds": float(steps["seconds"][-1]) if len(steps["seconds"]) else np.nan,
        "began": began[0] if began else None,
    }


def _jobs(runs: list[Run], everything: bool) -> list[dict[str, object]]:
    """The settings of each run by their dotted names, all of them or those that differ; None where one has none.

    The name of the file, which differs always, stands in the index.
    """
    flat = [run.settings for run in runs]
    names = [name for name in dict.fromkeys(name for job in flat for name in job) if name != "run.file"]
    if not everything:
        names = [name for name in names if len({repr(job.get(name)) for job in flat}) > 1]
    return [{name: job.get(name) for name in names} for job in flat]
