"""Best of grid, for `mpisign compare`: a row per method and setting, from the run files of one or more sweeps.

Runs that differ in the learning rate and the seed alone are one row: of the rates, the one whose mean is best at the
end of the run, over the seeds that all rates have; then mean +- standard deviation (ddof = 1) over that rate's seeds,
the same as it was within some bytes of a rank, and the median over the seeds of what it took to reach the target: bytes
of a rank by the method (both ways, whatever the exchange sent) and gradient evaluations. A run that diverged, or ended
by another error, counts as the worst; one that has not ended is left out, and so is one that never had the metric. In
CSV every cell is one number, one word, or empty.
"""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from mpisign.figures import grouping, tables
from mpisign.storage.reader import Run, cell

NAMES = {"test_accuracy": "held-out accuracy", "train_loss": "training loss", "test_loss": "held-out loss"}
LARGER_IS_BETTER = {"test_accuracy": True, "train_loss": False, "test_loss": False}
NOT_ENDED = ("running", "killed", "stopped")  # states of runs that go on, or can be resumed
NOT_FINITE = re.compile(r" is (nan|-?inf)\b")  # in what a run says that ends so


@dataclass(frozen=True)
class Row:
    """A method and setting at its best rate."""

    method: str
    settings: dict[str, object]  # whatever else differs among rows, by table.key
    runs: list[Run]  # of the best rate, one per seed
    rates: list[float]
    rate: float
    metric: str
    target: float | None
    budgets: tuple[float, ...] = ()  # bytes of a rank within which the metric is told, too

    @property
    def score(self) -> float:
        """The mean over seeds of the metric at the end, less being better; infinite where a run ended by an error."""
        return float(np.mean([run.score(self.metric) for run in self.runs]))

    @property
    def mean(self) -> float:
        return -self.score if LARGER_IS_BETTER[self.metric] else self.score

    @property
    def deviation(self) -> float:
        return tables.deviation(run.score(self.metric) for run in self.runs)

    @property
    def said(self) -> str:
        """The mean at the end with its deviation; "diverged" or "error" where a run ended so."""
        return self._said(self.mean, self.deviation)

    def _said(self, mean: float, deviation: float) -> str:
        if np.isnan(mean):
            return "-"
        if np.isfinite(mean):
            return tables.with_deviation(mean, deviation)
        return "diverged" if any(diverged(run, self.metric) for run in self.runs) else "error"

    @property
    def edge(self) -> bool:
        """Whether the grid of rates ended at the best."""
        return len(self.rates) > 2 and self.rate in (self.rates[0], self.rates[-1])

    @property
    def to_target(self) -> dict[str, object]:
        """How many runs reached the target, and what it took them; evaluations and bytes so far."""
        if self.target is None:
            return {}
        reached = [(run, k) for run in self.runs if (k := first(run, self.metric, self.target)) is not None]
        costs = {
            f"evaluations to {self.target:g}": _median([run["eval"]["gradient_evaluations"][k] for run, k in reached]),
            f"bytes to {self.target:g}": _median([run.method_bytes("eval")[k] for run, k in reached]),
        }
        return {"reached": len(reached)} | costs

    def at_budgets(self) -> dict[str, list[float]]:
        """For each budget of bytes, the metric of every run within it."""
        named = {f"{self.metric} within {budget:,.15g} bytes": budget for budget in self.budgets}
        return {name: [within(run, self.metric, budget) for run in self.runs] for name, budget in named.items()}

    def cells(self) -> dict[str, object]:
        """Column -> one number or word, for CSV."""
        last = self.runs[0]["steps"]["gradient_evaluations"][-1:]  # none of a run that diverged before its first row
        grid = {"rates": len(self.rates), "best rate": self.rate, "edge": self.edge, "seeds": len(self.runs)}
        cost = {"evaluations": int(last.sum()), "bytes": _median(self.runs[0].method_bytes("steps")[-1:])}
        end = {self.metric: self.mean, "deviation": self.deviation}
        before = {name: float(np.mean(values)) for name, values in self.at_budgets().items()}
        return {"method": self.method} | self.settings | grid | end | before | cost | self.to_target

    def shown(self) -> dict[str, object]:
        """The same for a reader: mean and deviation in one cell, the edge of a grid beside its rate."""
        cells = {k: v for k, v in self.cells().items() if k not in ("edge", "deviation")}
        cells["best rate"] = f"{self.rate:g}" + (" (edge)" if self.edge else "")
        cells[self.metric] = self.said
        for name, values in self.at_budgets().items():
            cells[name] = self._said(float(np.mean(values)), tables.deviation(values))
        if "reached" in cells:
            cells["reached"] = f"{cells['reached']}/{len(self.runs)}"
        return {k: "-" if v == "" else v for k, v in cells.items()}


def _median(values: Sequence[float] | np.ndarray) -> int | str:
    """The median of values, whole; "" where there are none, or one is not known."""
    known = np.asarray(values, dtype=float)
    return int(np.median(known)) if len(known) and np.isfinite(known).all() else ""


def first(run: Run, metric: str, target: float) -> int | None:
    """The row of /eval at which the metric is there, or None."""
    values = grouping.column(run, "eval", metric)
    good = values >= target if LARGER_IS_BETTER[metric] else values <= target
    return int(np.argmax(good)) if good.any() else None


def within(run: Run, metric: str, budget: float) -> float:
    """The metric at the last evaluation before a rank had sent and received more bytes, by the method (method_bytes).

    NaN where none but the one before the first step is within. Infinite where the run ended by an error within.
    """
    values, sent = grouping.column(run, "eval", metric), run.method_bytes("eval")
    if run.state == "error" and not (run.method_bytes("steps") > budget).any():
        return np.inf
    known = np.flatnonzero((sent <= budget) & (run["eval"]["step"] > run["eval"]["step"][:1]))
    if not len(known):
        return np.nan
    return float(values[known[-1]]) if np.isfinite(values[known[-1]]) else np.inf


def table(runs: list[Run], metric: str, target: float | None = None, budgets: tuple[float, ...] = ()) -> list[Row]:
    """A row per method and setting, the best first."""
    groups = grouping.grouped(runs, lambda run: str(sorted(grouping.settings(run).items(), key=str)))
    jobs = [grouping.settings(group[0]) for group in groups.values()]
    telling = [grouping.telling(job, jobs) for job in jobs]
    # a method's own hyperparameters stand behind its name; what else differs has a column of its own
    differing = [k for k in dict.fromkeys(chain(*telling)) if not k.startswith("algorithm.")]
    rows = []
    for group, job, keys in zip(groups.values(), jobs, telling, strict=True):
        own = [k for k in keys if k.startswith("algorithm.") and k != "algorithm.name"]
        hyperparameters = (f"{k.partition('.')[2]} {grouping.said(job[k])}" for k in own)
        method = ", ".join([grouping.algorithm(group[0]), *hyperparameters])
        _, rate, grid = grouping.best_rate(group, lambda run: run.score(metric))
        settings = {k: job.get(k, "") for k in differing}
        rows.append(Row(method, settings, grid[rate], list(grid), rate, metric, target, budgets))
    return sorted(rows, key=lambda row: row.score)


def not_ended(run: Run) -> str:
    """Why a run is no figure of its job yet, as it goes on or can be resumed; "" once it has ended, well or not."""
    return run.status if run.state in NOT_ENDED else ""


def diverged(run: Run, metric: str) -> bool:
    """Whether a run came to values that are not finite; any other error says nothing of the method."""
    last = run["eval"][metric][-1:]
    return not np.isfinite(last).all() or (run.state == "error" and bool(NOT_FINITE.search(run.status)))


def unusable(run: Run, metric: str) -> str:
    """Why a run can't be compared by a metric; "" if it can. One that diverged at once has no row of /eval."""
    lr = grouping.key(run, grouping.RATE, None)
    if isinstance(lr, bool) or not isinstance(lr, int | float):
        return "its job has no schedule.lr"
    values = grouping.column(run, "eval", metric)
    if len(values) and not np.isfinite(values).any() and np.isfinite(run["eval"]["train_loss"][0]):
        return f"it has no {NAMES[metric]}; choose another --metric"
    return ""


def _csv_cell(value: object) -> object:
    """A value in CSV; empty for NaN, such as the deviation of one seed."""
    return "" if value != value else cell(value)


def text(rows: list[Row], form: str) -> str:
    """The table as "text" for a terminal, as "markdown", or as "csv"."""
    if form == "csv":
        lines = io.StringIO()
        cells = (rows[0].cells(), *([_csv_cell(value) for value in row.cells().values()] for row in rows))
        csv.writer(lines, lineterminator="\n").writerows(cells)
        return lines.getvalue().removesuffix("\n")
    shown = (tables.columns if form == "text" else tables.markdown)([row.shown() for row in rows])
    return f"{shown}\n\n{rows[0].metric}: mean +- {tables.DEVIATION}; bytes: of a rank, by the method"
