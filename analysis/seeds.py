"""Mean and band over seeds of anything that runs record: a line for runs that differ in their seed alone.

python analysis/seeds.py runs/ssvr_mnist --axes epoch gradient_evaluations --output seeds.png
python analysis/seeds.py runs/density_cnn --rows probes.gradient_density probes.noise_density --axes epoch

The band is one standard deviation (ddof = 1) to each side. Rows are columns of /eval, or table.column of any table; by
default those of /eval that were recorded (norms of the gradient where a job has run.exact_gradient). --table prints the
last values instead, as markdown.
"""

import re
from pathlib import Path

import numpy as np
import style
from compare import settings
from curves import AXES, against, told
from matplotlib.figure import Figure
from style import algorithm

from mpisign.errors import UsageError, choices
from mpisign.results import Run
from mpisign.schema import TABLES

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
TEXT = ("eval.bits", "eval.test_accuracy")  # the rows of a job on text, whose losses are in nats a character
DEFAULT = ("eval.train_loss", "eval.gradient_l1", "eval.gradient_l2", "eval.test_accuracy")
LOGARITHMIC = ("eval.train_loss", "eval.gradient_l1", "eval.gradient_l2", "probes.critical")
FROM_THE_START = "probes."  # rows whose first values are as telling as their last


def grouped(runs: list[Run]) -> dict[str, list[Run]]:
    """Runs that differ in their seed alone, by the algorithm and what else tells the groups apart."""
    jobs = [settings(run) | {"schedule.lr": style.key(run, "schedule.lr")} for run in runs]
    found: dict[str, list[Run]] = {}
    for run, own in zip(runs, jobs, strict=True):
        alike = [job for job, other in zip(jobs, runs, strict=True) if algorithm(other) == algorithm(run)]
        told = (f"{style.named(key)} {style.said(own[key])}" for key in style.telling(own, alike))
        found.setdefault(", ".join([algorithm(run), *told]), []).append(run)
    return dict(sorted(found.items(), key=lambda item: _natural(item[0])))


def _natural(name: str) -> list:
    """Numbers in a name in the order of their values."""
    return [float(part) if k % 2 else part for k, part in enumerate(re.split(r"(\d+(?:\.\d+)?)", name))]


def column(run: Run, row: str) -> np.ndarray:
    """The values of a row such as probes.success; raises UsageError naming those there are."""
    table, _, name = row.rpartition(".")
    if row == "eval.bits":
        return run["eval"]["test_loss"] / np.log(2)
    if row == "probes.descent" and len(run["probes"]["step"]):
        return style.column(run, "probes", "rho_norm_vote") / style.column(run, "probes", "gradient_l1")
    try:
        found = run[table or "eval"][name]
    except KeyError:
        if any(c.name == name for c in TABLES.get(table or "eval", ())):
            raise UsageError(f"{run.path}: an older mpisign wrote it, which did not record {row}") from None
        known = choices(f"{t}.{c}" for t in ("steps", "eval", "probes") for c, v in run[t].items() if v.ndim == 1)
        raise UsageError(f"no row {row!r}; known: {known}") from None
    if not len(found):
        raise UsageError(f"{run.path}: nothing of {row} was recorded; see [probe] for probes")
    return found


def over_seeds(runs: list[Run], row: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of a column, as far as all runs have come; the deviation of one run is NaN."""
    columns = [column(run, row) for run in runs]
    values = np.array([c[: min(map(len, columns))] for c in columns], dtype=float)
    spread = values.std(axis=0, ddof=1) if len(values) > 1 else np.full(values.shape[1:], np.nan)
    return values.mean(axis=0), spread


def recorded(groups: dict[str, list[Run]]) -> list[str]:
    """The quantities of /eval that all runs have, or else that some have; a run that diverged has those it began with.

    Raises UsageError where there are none.
    """
    runs = [run for group in groups.values() for run in group]
    if all(run.attributes["problem"] == "text" for run in runs):
        return list(TEXT)
    has = {row: [bool(np.isfinite(style.column(run, *row.split("."))).any()) for run in runs] for row in DEFAULT}
    found = [row for row in DEFAULT if all(has[row])] or [row for row in DEFAULT if any(has[row])]
    if not found:
        raise UsageError("no run has a finite loss, accuracy or gradient")
    return found


def lacking(run: Run, rows: list[str]) -> str:
    """Why a run has no line for some of the rows; raises UsageError where one is not among its columns."""
    for row in rows:
        if column(run, row).ndim > 1:
            return f"{row} has several values a row; see vote.py"
    return style.no_evaluations(run)


def picture(groups: dict[str, list[Run]], rows: list[str], axes: list[str]) -> Figure:
    """A row of panels for each quantity, a column an axis; with one axis, the quantities side by side."""
    across = len(axes) == 1 and len(rows) > 1
    figure, panels = (
        style.panels(1, len(rows), 3.2, 2.6) if across else style.panels(len(rows), len(axes), 4.0, 2.2, sharex="col")
    )
    looks = style.looks(groups)
    for k, row in enumerate(rows):
        for axis, panel in zip(axes, panels[0, k : k + 1] if across else panels[k], strict=True):
            _draw(panel, groups, row, axis, looks)
            panel.set_ylabel(ROWS.get(row, row))
            if across or k + 1 == len(rows):
                style.counted(panel, AXES[axis])
                ends = [against(group[0], axis, _table(row))[-1] for group in groups.values()]
                if axis in ("bytes", "wire") and max(ends) > 10 * min(ends) > 0:
                    panel.set_xscale("log", nonpositive="mask")  # bits and floats fit on one axis only so
    style.title(figure, _title(groups))
    style.legend(figure, panels.flat)
    return figure


def _title(groups: dict[str, list[Run]]) -> str:
    runs, most = [run for group in groups.values() for run in group], max(map(len, groups.values()))
    problems = ", ".join(dict.fromkeys(str(run.attributes["problem"]) for run in runs))
    voters = "/".join(str(n) for n in sorted({int(run.attributes["n"]) for run in runs}))
    band = f"mean and {style.DEVIATION} of {most}" if most > 1 else "one seed"
    return f"{problems}, n = {voters}; {band}"


def _table(row: str) -> str:
    return row.rpartition(".")[0] or "eval"


def _draw(panel, groups: dict[str, list[Run]], row: str, axis: str, looks: dict) -> None:
    for name, group in groups.items():
        mean, spread = over_seeds(group, row)
        at = against(group[0], axis, _table(row))[: len(mean)]
        if axis in ("bytes", "wire") and not told(at):
            continue  # a single voter sends nothing
        # what is positive stays so, also below the mean of a logarithmic axis
        spread = np.nan_to_num(spread)
        low = np.maximum(mean - spread, mean / 3) if row in LOGARITHMIC else mean - spread
        point = {"marker": "o"} if np.isfinite(mean).sum() == 1 else {}  # too short for a line
        panel.plot(at, mean, label=name, **looks[name], **point)
        panel.fill_between(at, low, mean + spread, alpha=0.2, color=looks[name]["color"], linewidth=0)
    if row in LOGARITHMIC:
        panel.set_yscale("log")
    elif row == "eval.bits":
        best = _least(over_seeds(group, row)[0][-1] for group in groups.values())
        panel.set_ylim(best - 0.05, best + 1.0)
    elif not row.startswith(FROM_THE_START):
        # from where the methods differ: the first evaluations would fill the panel
        means = [over_seeds(group, row)[0] for group in groups.values()]
        panel.set_ylim(bottom=_least(mean[len(mean) // 6] for mean in means) - 0.02)


def _least(values) -> float:
    """The least that is finite, or 0."""
    return min((v for v in values if np.isfinite(v)), default=0.0)


def table(groups: dict[str, list[Run]], rows: list[str]) -> list[dict[str, object]]:
    """The last values of each group."""
    found = []
    for name, group in groups.items():
        cells = {"method": name, "rate": style.short(style.key(group[0], "schedule.lr")), "seeds": len(group)}
        for row in rows:
            mean, spread = (values[-1] for values in over_seeds(group, row))
            form = (".3g", ".2g") if row in LOGARITHMIC else (".4f", ".4f")
            cells[ROWS.get(row, row)] = style.with_deviation(mean, spread, *form)
        cells["evaluations"] = int(group[0]["eval"]["gradient_evaluations"][-1])
        sent = against(group[0], "bytes")[-1]
        cells["bytes per rank"] = int(sent) if np.isfinite(sent) else "-"
        found.append(cells)
    return found


def main() -> None:
    options = style.parser(__doc__)
    options.add_argument("--axes", nargs="+", choices=AXES, default=["epoch", "gradient_evaluations"])
    options.add_argument("--rows", nargs="+", metavar="TABLE.COLUMN", help="what to draw")
    options.add_argument("--output", type=Path, default=Path("seeds.png"), help="a .png, .pdf or .svg")
    options.add_argument("--table", action="store_true", help="print the last values instead of drawing")

    def work(runs, arguments):
        runs = style.without(runs, lambda run: lacking(run, arguments.rows or []), arguments.skipped)
        groups = grouped(runs)
        rows = arguments.rows or recorded(groups)
        if arguments.table:
            print(f"{style.markdown(table(groups, rows))}\n\nMean +- {style.DEVIATION}; bytes by the method.")
        else:
            style.save(picture(groups, rows, arguments.axes), arguments.output)

    style.run(options, work)


if __name__ == "__main__":
    main()
