"""Mean and band over seeds of anything that runs record: a line for runs that differ in their seed alone.

python analysis/seeds.py runs/ssvr_mnist --axes epoch gradient_evaluations --output seeds.png
python analysis/seeds.py runs/density_cnn --rows probes.gradient_density probes.noise_density --axes epoch

The band is one standard deviation to each side. Rows are columns of /eval, or table.column of any table; by default
those of /eval that were recorded (norms of the gradient where a job has run.exact_gradient). --table prints the last
values instead, as markdown.
"""

import re
from pathlib import Path

import numpy as np
import style
from compare import settings
from curves import AXES, against
from matplotlib.figure import Figure
from style import algorithm

from mpisign.errors import UsageError, choices
from mpisign.results import Run

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
    jobs = [settings(run) | {"schedule.lr": run.config["schedule"]["lr"]} for run in runs]
    values: dict[str, dict[str, set]] = {}
    for run, own in zip(runs, jobs, strict=True):
        seen = values.setdefault(algorithm(run), {})
        for key, value in own.items():
            seen.setdefault(key, set()).add(str(value))
    found: dict[str, list[Run]] = {}
    for run, own in zip(runs, jobs, strict=True):
        differing = [k for k in own if len(values[algorithm(run)][k]) > 1]
        name = ", ".join([algorithm(run), *(f"{k.rpartition('.')[2]} {own[k]}" for k in differing)])
        found.setdefault(name, []).append(run)
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
        return run["probes"]["rho_norm_vote"] / run["probes"]["gradient_l1"]
    try:
        found = run[table or "eval"][name]
    except KeyError:
        known = choices(f"{t}.{c}" for t in ("steps", "eval", "probes") for c, v in run[t].items() if v.ndim == 1)
        raise UsageError(f"no row {row!r}; known: {known}") from None
    if not len(found):
        raise UsageError(f"{run.path}: nothing of {row} was recorded; see [probe] for probes")
    return found


def over_seeds(runs: list[Run], row: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of a column, as far as all runs have come."""
    columns = [column(run, row) for run in runs]
    values = np.array([c[: min(map(len, columns))] for c in columns])
    return values.mean(axis=0), values.std(axis=0)


def recorded(groups: dict[str, list[Run]]) -> list[str]:
    """The quantities of /eval that all runs have."""
    runs = [run for group in groups.values() for run in group]
    if all(run.attributes["problem"] == "text" for run in runs):
        return list(TEXT)
    return [row for row in DEFAULT if all(np.isfinite(column(run, row)).all() for run in runs)]


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
                if axis == "bytes" and max(ends) > 10 * min(ends) > 0:
                    panel.set_xscale("log", nonpositive="mask")  # bits and floats fit on one axis only so
    first, seeds = next(iter(groups.values()))[0], {len(group) for group in groups.values()}
    voters = "/".join(sorted({str(r.attributes["n"]) for g in groups.values() for r in g}, key=int))
    style.title(figure, f"{first.attributes['problem']}, n = {voters}; mean and band of {max(seeds)} seed(s)")
    style.legend(figure, panels.flat)
    return figure


def _table(row: str) -> str:
    return row.rpartition(".")[0] or "eval"


def _draw(panel, groups: dict[str, list[Run]], row: str, axis: str, looks: dict) -> None:
    for name, group in groups.items():
        mean, spread = over_seeds(group, row)
        at = against(group[0], axis, _table(row))[: len(mean)]
        if axis == "bytes" and not at.any():
            continue  # a single voter sends nothing
        # what is positive stays so, also below the mean of a logarithmic axis
        low = np.maximum(mean - spread, mean / 3) if row in LOGARITHMIC else mean - spread
        panel.plot(at, mean, label=name, **looks[name])
        panel.fill_between(at, low, mean + spread, alpha=0.2, color=looks[name]["color"], linewidth=0)
    if row in LOGARITHMIC:
        panel.set_yscale("log")
    elif row == "eval.bits":
        best = min(over_seeds(group, row)[0][-1] for group in groups.values())
        panel.set_ylim(best - 0.05, best + 1.0)
    elif not row.startswith(FROM_THE_START):
        # from where the methods differ: the first evaluations would fill the panel
        worst = min(over_seeds(group, row)[0][len(group[0]["eval"]["step"]) // 6] for group in groups.values())
        panel.set_ylim(bottom=worst - 0.02)


def table(groups: dict[str, list[Run]], rows: list[str]) -> list[dict[str, object]]:
    """The last values of each group."""
    found = []
    for name, group in groups.items():
        cells = {"method": name, "rate": f"{group[0].config['schedule']['lr']:g}", "seeds": len(group)}
        for row in rows:
            mean, spread = (values[-1] for values in over_seeds(group, row))
            digits = f"{mean:.3g} +- {spread:.2g}" if row in LOGARITHMIC else f"{mean:.4f} +- {spread:.4f}"
            cells[ROWS.get(row, row)] = digits
        cells["evaluations"] = int(group[0]["eval"]["gradient_evaluations"][-1])
        cells["bytes a rank"] = int(against(group[0], "bytes")[-1])
        found.append(cells)
    return found


def main() -> None:
    options = style.parser(__doc__)
    options.add_argument("--axes", nargs="+", choices=AXES, default=["epoch", "gradient_evaluations"])
    options.add_argument("--rows", nargs="+", metavar="TABLE.COLUMN", help="what to draw")
    options.add_argument("--output", type=Path, default=Path("seeds.png"), help="a .png, .pdf or .svg")
    options.add_argument("--table", action="store_true", help="print the last values instead of drawing")

    def work(runs, arguments):
        groups = grouped(runs)
        rows = arguments.rows or recorded(groups)
        if arguments.table:
            print(style.markdown(table(groups, rows)))
        else:
            style.save(picture(groups, rows, arguments.axes), arguments.output)

    style.run(options, work)


if __name__ == "__main__":
    main()
