"""Measured values of a sweep against the bands that its job file gives; exits with 1 if one lies outside.

mpisign simulate jobs/figures/c1.toml && python analysis/bands.py jobs/figures/c1.toml

A case of the sweep states `band = { what, expected, low, high }`, or a list of such. The value is the mean over the
case's seeds of one of QUANTITIES.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from span import out_of_span

from mpisign import sweep
from mpisign.errors import MpisignError, UsageError, choices
from mpisign.results import Run


def _x(run: Run) -> np.ndarray:
    """(evaluations, d), the starting point first."""
    if not len(run["trace"]["step"]):
        raise UsageError(f"{run.path}: it holds no x; set run.trace = true")
    return run["trace"]["x"].astype(float)


def _tail(values: np.ndarray) -> np.ndarray:
    return values[len(values) // 2 :]


def _drift(run: Run) -> float:
    """How far x went down in a step, in learning rates."""
    return -_x(run)[-1].mean() / (run["steps"]["learning_rate"][-1] * run["steps"]["step"][-1])


def _not_right(run: Run) -> float:
    """How often a coordinate did not move against its gradient: it moved along it, or not at all."""
    zeros = run["steps"]["zeros"].sum() / (len(run["steps"]["step"]) * run.attributes["d"])
    return (1 - _drift(run) + zeros) / 2


def _loss_at(run: Run, at: int) -> float:
    return float(run["eval"]["train_loss"][run["eval"]["step"] == at][0])


def _loss_from(run: Run, at: int) -> float:
    return float(run["eval"]["train_loss"][run["eval"]["step"] > at].mean())


QUANTITIES = {
    "final_loss": lambda run: run["eval"]["train_loss"][-1],
    "final_ratio": lambda run: run["eval"]["train_loss"][-1] / run["eval"]["train_loss"][0],
    "final_accuracy": lambda run: run["eval"]["test_accuracy"][-1],
    "final_x_sum": lambda run: _x(run)[-1].sum(),
    "tail_x": lambda run: _tail(_x(run)).mean(),
    "mean_abs_x": lambda run: np.abs(_x(run)).mean(),
    "tail_abs_x": lambda run: np.abs(_tail(_x(run))).mean(),
    "final_test_loss": lambda run: run["eval"]["test_loss"][-1],
    "out_of_span": lambda run: out_of_span(run)[-1],
    "loss_at": _loss_at,  # after the step that the band's `at` says
    "loss_from": _loss_from,  # mean of the steps after that one
    "drift": _drift,
    "not_right": _not_right,
    "wrong": lambda run: (1 - _drift(run)) / 2,
}


def rows(job: Path, settings: tuple[str, ...] = ()) -> list[tuple]:
    """(case, what, expected, low, high, measured, inside) for each band of a job file."""
    points = sweep.read(job, settings)
    if points is None:
        raise UsageError(f"{job} has no [sweep], hence no bands")
    found = []
    for k, case in enumerate(points[0].tables["sweep"].get("case", [])):
        mine = [p for p in points if p.case == k]
        if missing := [p for p in mine if p.status != "complete"]:
            raise UsageError(f"{job}: {missing[0].name} is {missing[0].status}; run it first: mpisign simulate {job}")
        bands = case.get("band", [])
        for band in bands if isinstance(bands, list) else [bands]:
            if band["what"] not in QUANTITIES:
                raise UsageError(f"{job}: no quantity {band['what']!r}; known: {choices(QUANTITIES)}")
            at = (band["at"],) if "at" in band else ()
            value = float(np.mean([QUANTITIES[band["what"]](Run(p.file), *at) for p in mine]))
            inside = band["low"] <= value <= band["high"]
            name = case.get("name") or mine[0].name
            found.append(
                (
                    name,
                    " ".join([band["what"], *map(str, at)]),
                    band["expected"],
                    band["low"],
                    band["high"],
                    value,
                    inside,
                )
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("jobs", nargs="+", type=Path, metavar="JOB.toml")
    parser.add_argument("--set", action="append", default=[], metavar="TABLE.KEY=VALUE", help="as in mpisign simulate")
    options = parser.parse_args()
    try:
        tables = {job: rows(job, tuple(options.set)) for job in options.jobs}
    except MpisignError as error:
        parser.error(str(error))
    for job, table in tables.items():
        print(f"{job}\n{'case':24} {'what':14} {'expected':>10} {'low':>10} {'high':>10} {'measured':>12}")
        for name, what, expected, low, high, value, inside in table:
            verdict = "" if inside else "  OUTSIDE"
            print(f"{name:24} {what:14} {expected:10.6g} {low:10.6g} {high:10.6g} {value:12.6g}{verdict}")
    sys.exit(not all(row[-1] for table in tables.values() for row in table))


if __name__ == "__main__":
    main()
