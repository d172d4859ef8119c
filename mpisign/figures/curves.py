"""Curves of runs against steps, epochs, evaluations, seconds and bytes, for `mpisign plot`.

A line per run; of means, mean and band over the seeds of runs that differ in nothing else, one standard deviation
(ddof = 1) to each side. Rows are columns of /eval, or table.column of any table; by default loss and accuracy, of means
also norms of the gradient where all runs have them (run.exact_gradient), and bits a character of text. Axes are by
default those that say anything.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mpisign.errors import UsageError, choices, did_you_mean, nearest, printable
from mpisign.figures import grouping, style, tables
from mpisign.storage.reader import Run
from mpisign.storage.schema import TABLES

SINGLY = 10  # runs up to which every seed has a line in the legend
AXES = {
    "step": "steps",
    "epoch": "epochs",
    "gradient_evaluations": "gradient evaluations",
    "function_evaluations": "function evaluations",
    "seconds": "seconds",
    "bytes": "bytes per rank, by the method",
    "wire": "bytes per rank, on the wire",
}
ROWS = {
    "eval.train_loss": "training loss",
    "eval.gradient_l1": "|gradient|_1",
    "eval.gradient_l2": "|gradient|_2",
    "eval.test_accuracy": "held-out accuracy",
    "eval.bits": "held-out bits a character",
    "probes.gradient_density": "density of the gradient",
    "probes.noise_density": "density of the noise",
    "probes.smoothness_density": "density of the smoothness",
    "probes.success": "success, a voter",
    "probes.success_vote": "success, the vote",
    "probes.descent": "<vote, g> / |g|_1",
    "probes.dissimilarity": "gradient dissimilarity",
    "probes.critical": "share above critical S/N",
}
DEFAULT = ("eval.train_loss", "eval.test_accuracy")
MEANS = ("eval.train_loss", "eval.gradient_l1", "eval.gradient_l2", "eval.test_accuracy")  # by default, of seeds
TEXT = ("eval.bits", "eval.test_accuracy")  # likewise of a job on text, whose losses are in nats a character
LOGARITHMIC = ("eval.train_loss", "eval.gradient_l1", "eval.gradient_l2", "probes.critical")
SENT = ("bytes", "wire")
DERIVED = ("eval.bits", "probes.descent")  # rows that are no columns of their tables
Lines = list[tuple[str, list[Run]]]  # label and runs of each line


def labels(runs: list[Run]) -> list[str]:
    """What tells runs apart: the algorithm and whatever of the job differs among its runs, the rate and seed included.

    Of more than SINGLY runs, those that differ in their seed alone share a label, which says how many they are.
    """
    names = grouping.names(runs)
    if len(runs) > SINGLY:
        return [f"{name} ({names.count(name)} seeds)" if names.count(name) > 1 else name for name in names]
    # by the seed, and by the file where the same job was run twice
    for part in (lambda run: f"seed {run.attributes['seed']}", lambda run: printable(run.path)):
        names = [f"{n}, {part(run)}" if names.count(n) > 1 else n for n, run in zip(names, runs, strict=True)]
    return names


def against(run: Run, axis: str, table: str = "eval") -> np.ndarray:
    """An axis of the rows of /eval, or of another table; NaN where an older mpisign did not tell."""
    if axis in SENT and "bytes_up" in run[table]:
        return (run.method_bytes(table) if axis == "bytes" else run.wire_bytes(table)).astype(float)
    return grouping.column(run, table, axis)


def mean_against(runs: list[Run], axis: str, table: str = "eval") -> np.ndarray:
    """The mean of an axis over seeds, whose seconds and bytes need not agree, as far as all runs have come."""
    columns = [against(run, axis, table) for run in runs]
    return np.mean([column[: min(map(len, columns))] for column in columns], axis=0)


def says_anything(values: np.ndarray) -> bool:
    """Whether an axis does: a single voter sends nothing, most methods take no function values."""
    return bool(np.nan_to_num(values).any())


def column(run: Run, row: str) -> np.ndarray:
    """The values of a row such as probes.success; raises UsageError naming those there are."""
    table, name = _table(row), row.rpartition(".")[2]
    if row == "eval.bits":
        return run["eval"]["test_loss"] / np.log(2)
    if row == "probes.descent" and len(run["probes"]["step"]):
        return grouping.column(run, "probes", "rho_norm_vote") / grouping.column(run, "probes", "gradient_l1")
    check_row([run], row)
    if name not in run[table] and row not in DERIVED:
        raise UsageError(f"{run.path}: an older mpisign wrote it, which did not record {row}")
    if not len(values := run[table].get(name, ())):
        raise UsageError(f"{run.path}: nothing of {row} was recorded; see [probe] for probes")
    return values


def check_row(runs: Sequence[Run], row: str) -> None:
    """Raises UsageError for what is a row of none of the runs, naming those that there are."""
    if all(reasons := [_no_row(run, row) for run in runs]):
        tables_of = [(table, run[table]) for run in runs for table in ("steps", "eval", "probes")]
        known = {f"{table}.{name}" for table, rows in tables_of for name, values in rows.items() if values.ndim == 1}
        hint = _hint(row, known) if reasons[0].startswith("no row") else ""
        raise UsageError(f"{reasons[0]}{hint}; known: {choices(known)}")


def _hint(row: str, known: Iterable[str]) -> str:
    """Which of the known rows has the nearest name, whatever its table; of two the one in the table that is asked."""
    ordered = sorted(known, key=lambda full: (_table(full) == _table(row), full))
    named = {full.rpartition(".")[2]: full for full in ordered}
    near = nearest(row.rpartition(".")[2], named)
    return f" (did you mean {named[near]}?)" if near else ""


def _no_row(run: Run, row: str) -> str:
    """Why that is no name of a row with numbers; "" for one that another mpisign, or a run with probes, records."""
    table, name = _table(row), row.rpartition(".")[2]
    if row in DERIVED or (table in TABLES and name not in run[table] and name in (c.name for c in TABLES[table])):
        return ""
    if table not in TABLES or name not in run[table]:
        return f"no row {row!r}"
    if run[table][name].dtype.kind not in "fiu":
        return f"row {row!r} holds no numbers"
    return f"row {row!r} has a value for each rank" if "rank" in run[table] else ""


def over_seeds(runs: list[Run], row: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of a column, as far as all runs have come; the deviation of one run is NaN."""
    columns = [column(run, row) for run in runs]
    values = np.array([c[: min(map(len, columns))] for c in columns], dtype=float)
    spread = values.std(axis=0, ddof=1) if len(values) > 1 else np.full(values.shape[1:], np.nan)
    return values.mean(axis=0), spread


def recorded(runs: list[Run], mean: bool) -> list[str]:
    """The rows by default: those that some run has, of means those that all have if there are such.

    A run that diverged has those it began with. Raises UsageError where there are none.
    """
    if mean and all(run.attributes["problem"] == "text" for run in runs):
        return list(TEXT)
    rows = MEANS if mean else DEFAULT
    has = {row: [np.isfinite(grouping.column(run, *row.split("."))).any() for run in runs] for row in rows}
    common = [row for row in rows if mean and all(has[row])]
    if not (chosen := common or [row for row in rows if any(has[row])]):
        raise UsageError("no run has a finite loss, accuracy or gradient")
    return chosen


def lacking(run: Run, rows: Sequence[str], axes: Sequence[str] = ()) -> str:
    """Why a run has no line for some of the rows, or against none of the axes, if any are named.

    Raises UsageError where a row is not among its columns.
    """
    for row in rows:
        if column(run, row).ndim > 1:
            return f"{row} has several values a row; see mpisign plot --votes"
    if why := grouping.no_evaluations(run):
        return why
    if axes and not any(axis == "step" or _tells([run], axis, rows or DEFAULT) for axis in axes):
        return f"it has nothing on {' or '.join(axes)}" + (f" ({run.bytes_note})" if run.bytes_note else "")
    return ""


def title(runs: list[Run]) -> str:
    """The problems, the voters and how rows are dealt; only what fits above a picture."""
    jobs = dict.fromkeys(
        f"{r.attributes['problem']}, n = {r.attributes['n']}, {grouping.key(r, 'partition.kind', 'iid')}" for r in runs
    )
    return "; ".join(jobs) if len(jobs) <= 3 else f"{len(runs)} runs"


def groups(runs: list[Run], mean: bool) -> Lines:
    """What has a line of its own: every run; of means, all that differ in their seed alone."""
    if mean:
        return list(grouping.by_name(runs).items())
    return [(name, [run]) for name, run in zip(labels(runs), runs, strict=True)]


def telling(runs: list[Run], rows: Sequence[str]) -> list[str]:
    """The axes that say anything of these runs, for each of the rows: those of /probes are against few."""
    return [axis for axis in AXES if _tells(runs, axis, rows)] or ["step"]


def _tells(runs: list[Run], axis: str, rows: Sequence[str]) -> bool:
    """Whether an axis says anything of some run, whichever the row."""
    named = {_table(row) for row in rows}
    return all(any(says_anything(against(run, axis, table)) for run in runs) for table in named)


def check_axes(axes: Sequence[str]) -> None:
    """Raises UsageError for one that is not among AXES."""
    for axis in axes:
        if axis not in AXES:
            raise UsageError(f"no axis {axis!r}{did_you_mean(axis, AXES)}; known: {choices(AXES)}")


def check_told(runs: list[Run], rows: Sequence[str], axes: Sequence[str]) -> None:
    """Raises UsageError for an axis that would be empty, as no run has anything on it."""
    for axis in axes:
        if axis != "step" and not _tells(runs, axis, rows):
            told = ", ".join(telling(runs, rows))
            raise UsageError(f"axis {axis!r}: none of these runs has anything on it; they have on: {told}")


@style.styled
def picture(lines: Lines, rows: Sequence[str], axes: Sequence[str], mean: bool) -> Figure:
    """A row of panels per quantity, a column per axis; with one axis, the quantities side by side."""
    across = len(axes) == 1
    shape, shared = ((1, len(rows)), {}) if across else ((len(rows), len(axes)), {"sharex": "col", "sharey": "row"})
    figure, panels = style.panels(*shape, 3.2, **shared)
    looks = style.looks(name for name, _ in lines)
    width = {"linewidth": 0.9} if len(looks) < len(lines) else {}
    for row, side in zip(rows, panels.reshape(len(rows), len(axes)), strict=True):
        for axis, panel in zip(axes, side, strict=True):
            for name, runs in lines:
                _draw(panel, runs, row, axis, {"label": name} | looks[name] | width, mean)
            if across or row == rows[-1]:
                style.counted(panel, AXES[axis])
                ends = [mean_against(runs, axis, _table(row))[-1] for _, runs in lines]
                if axis in SENT and max(ends) > 10 * min(ends) > 0:
                    panel.set_xscale("log", nonpositive="mask")  # bits and floats fit on one axis only so
        side[0].set_ylabel(ROWS.get(row, row))
        _scale(side[0], row, [over_seeds(runs, row)[0] for _, runs in lines], mean)
    every, most = [run for _, runs in lines for run in runs], max(len(runs) for _, runs in lines)
    band = f"mean and {tables.DEVIATION} of {most}" if most > 1 else "one seed"
    style.title(figure, title(every) + (f"; {band}" if mean else ""))
    style.legend(figure, panels.flat)
    return figure


def _table(row: str) -> str:
    return row.rpartition(".")[0] or "eval"


def _draw(panel: Axes, runs: list[Run], row: str, axis: str, look: dict[str, object], mean: bool) -> None:
    """A line, and a band where it is one of several runs; a point where it is too short for a line."""
    values, spread = over_seeds(runs, row)
    at = mean_against(runs, axis, _table(row))
    if axis in SENT and not says_anything(at):
        return
    if len(runs) > 1:
        # what is positive stays so, also below the mean of a logarithmic axis
        low = np.maximum(values - spread, values / 3) if row in LOGARITHMIC else values - spread
        panel.fill_between(at, low, values + spread, alpha=0.2, color=look["color"], linewidth=0)
    if not mean:
        finite = np.isfinite(at) & np.isfinite(values)
        at, values = style.envelope(at[finite], values[finite])
    point = {"marker": "o"} if np.isfinite(values).sum() == 1 else {}
    panel.plot(at, values, **look | point)


def _scale(panel: Axes, row: str, lines: list[np.ndarray], mean: bool) -> None:
    """A logarithmic axis for what is positive; means from where methods differ, as the first would fill the panel."""
    values = np.concatenate(lines)
    if row in LOGARITHMIC and (mean or (values[np.isfinite(values)] > 0).all()):
        panel.set_yscale("log")
    elif mean and row == "eval.bits":
        best = _least(line[-1] for line in lines)
        panel.set_ylim(best - 0.05, best + 1.0)
    elif mean and row not in LOGARITHMIC and _table(row) != "probes":
        panel.set_ylim(bottom=_least(line[len(line) // 6] for line in lines) - 0.02)


def _least(values: Iterable[float]) -> float:
    """The least that is finite, or 0."""
    return min((v for v in values if np.isfinite(v)), default=0.0)


def text(lines: Lines, rows: Sequence[str]) -> str:
    """The last values of each group of seeds, as a Markdown table."""
    return f"{tables.markdown(table(lines, rows))}\n\nMean +- {tables.DEVIATION}; bytes by the method."


def table(lines: Lines, rows: Sequence[str]) -> list[dict[str, object]]:
    """The last values of each group of seeds."""
    cells = []
    for name, runs in lines:
        row = {"method": name, "rate": tables.short(grouping.key(runs[0], grouping.RATE)), "seeds": len(runs)}
        for quantity in rows:
            mean, spread = (values[-1] for values in over_seeds(runs, quantity))
            form = (".3g", ".2g") if quantity in LOGARITHMIC else (".4f", ".4f")
            row[ROWS.get(quantity, quantity)] = tables.with_deviation(mean, spread, *form)
        row["evaluations"] = round(mean_against(runs, "gradient_evaluations")[-1])
        sent = mean_against(runs, "bytes")[-1]
        cells.append(row | {"bytes per rank": int(sent) if np.isfinite(sent) else "-"})
    return cells
