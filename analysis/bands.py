"""Measured values of a sweep against the bands that its job file gives; exits with 1 if one lies outside.

python analysis/bands.py jobs/figures/c7.toml     after mpisign simulate jobs/figures/c7.toml

A case of the sweep states `band = { what, expected, low, high }`, or a list of such. The value is the mean over the
case's seeds of one of QUANTITIES.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from studies.span import out_of_span

from mpisign.errors import MpisignError, UsageError, choices
from mpisign.figures import tables
from mpisign.run import sweep
from mpisign.storage.reader import Run


def _x(run: Run) -> np.ndarray:
    """(evaluations, d), the starting point first."""
    if not len(run["trace"]["step"]):
        raise UsageError(f"{run.path}: it holds no x; set run.trace = true")
    return run["trace"]["x"].astype(float)


def _tail(run: Run) -> np.ndarray:
    """The later half of it."""
    x = _x(run)
    return x[len(x) // 2 :]


def _drift(run: Run) -> float:
    """How far x went down in a step, in learning rates."""
    return -_x(run)[-1].mean() / (run["steps"]["learning_rate"][-1] * run["steps"]["step"][-1])


def _ascent(run: Run, at: int) -> float:
    """How far f went up in a step after that one, in learning rates."""
    loss, step = run["eval"]["train_loss"], run["eval"]["step"]
    return float(loss[-1] - loss[step == at][0]) / (int(step[-1]) - at) / run["steps"]["learning_rate"][-1]


def _not_right(run: Run) -> float:
    """How often a coordinate did not move against its gradient: it moved along it, or not at all."""
    zeros = run["steps"]["zeros"].sum() / (len(run["steps"]["step"]) * run.attributes["d"])
    return (1 - _drift(run) + zeros) / 2


QUANTITIES = {
    "final_loss": lambda run: run["eval"]["train_loss"][-1],
    "final_ratio": lambda run: run["eval"]["train_loss"][-1] / run["eval"]["train_loss"][0],
    "final_accuracy": lambda run: run["eval"]["test_accuracy"][-1],
    "final_x_sum": lambda run: _x(run)[-1].sum(),
    "tail_x": lambda run: _tail(run).mean(),
    "mean_abs_x": lambda run: np.abs(_x(run)).mean(),
    "tail_abs_x": lambda run: np.abs(_tail(run)).mean(),
    "final_test_loss": lambda run: run["eval"]["test_loss"][-1],
    "out_of_span": lambda run: out_of_span(run)[-1],
    # after the step that the band's `at` says, and the mean of the steps after that one
    "loss_at": lambda run, at: float(run["eval"]["train_loss"][run["eval"]["step"] == at][0]),
    "loss_from": lambda run, at: float(run["eval"]["train_loss"][run["eval"]["step"] > at].mean()),
    "ascent": _ascent,
    "drift": _drift,
    "not_right": _not_right,
    "wrong": lambda run: (1 - _drift(run)) / 2,
}


def bands(job: Path, settings: tuple[str, ...] = ()) -> list[dict[str, object]]:
    """A row per band of a job file, with what was measured. Raises UsageError where a run of theirs is missing."""
    points = sweep.read(job, settings)
    if points is None:
        raise UsageError(f"{job} has no [sweep], hence no bands")
    measured = []
    for k, case in enumerate(points[0].tables["sweep"].get("case", [])):
        mine = [p for p in points if p.case == k]
        if missing := [p for p in mine if p.status != "complete"]:
            raise UsageError(f"{job}: {missing[0].name} is {missing[0].status}; run it first: mpisign simulate {job}")
        stated = case.get("band", [])
        for band in stated if isinstance(stated, list) else [stated]:
            if band["what"] not in QUANTITIES:
                raise UsageError(f"{job}: no quantity {band['what']!r}; known: {choices(QUANTITIES)}")
            at = (band["at"],) if "at" in band else ()
            value = float(np.mean([QUANTITIES[band["what"]](Run(p.file), *at) for p in mine]))
            row = {"case": case.get("name") or mine[0].name, "what": " ".join([band["what"], *map(str, at)])}
            row |= {k: f"{band[k]:.6g}" for k in ("expected", "low", "high")} | {"measured": f"{value:.6g}"}
            measured.append(row | {"": "" if band["low"] <= value <= band["high"] else "OUTSIDE"})
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("jobs", nargs="+", type=Path, metavar="JOB.toml")
    parser.add_argument("--set", action="append", default=[], metavar="TABLE.KEY=VALUE", help="as in mpisign simulate")
    options = parser.parse_args()
    try:
        measured = {job: bands(job, tuple(options.set)) for job in options.jobs}
    except MpisignError as error:
        parser.error(str(error))
    for job, rows in measured.items():
        print(f"{job}\n{tables.columns(rows)}")
    sys.exit(any(row[""] for rows in measured.values() for row in rows))


if __name__ == "__main__":
    main()
