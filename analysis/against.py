"""Any figure of runs against any key of their jobs: accuracy against liars, loss against voters, success against skew.

python analysis/against.py runs/adversaries_mnist --x adversary.voters/run.voters --panels adversary.kind --output a.png

One point is the mean over seeds of the runs whose job is the same, at the best of their rates by --metric (see
`mpisign compare`), with its standard deviation (ddof = 1). --x takes a key or the quotient of two. A run that lacks a
key or a column is named and skipped. The same numbers are written as a table beside the picture.
"""

from collections import defaultdict

import numpy as np
import script
from matplotlib.figure import Figure

from mpisign.errors import UsageError, choices
from mpisign.figures import grouping, style, tables
from mpisign.figures.curves import ROWS, column
from mpisign.figures.grid import LARGER_IS_BETTER, table, unusable
from mpisign.figures.selection import without
from mpisign.storage.reader import Run

LABELLED = 8  # values of a logarithmic axis that are told one by one, up to this many
Points = dict[tuple[str, str], dict[float, tuple[float, float, int]]]  # (panel, line) -> x -> mean, deviation, seeds


def value(run: Run, key: str) -> object:
    """A key of the run's job, table.key, or the quotient of two."""
    parts = []
    for part in key.split("/"):
        name, _, own = part.partition(".")
        try:
            parts.append(run.config[name][own])
        except KeyError:
            keys = run.config.get(name, {})
            known = f"[{name}] has: {choices(keys)}" if keys else f"its tables: {choices(run.config)}"
            raise UsageError(f"{run.path}: its job has no {part!r}; {known}") from None
    if len(parts) == 1:
        return parts[0]
    if not all(map(_number, parts)) or not parts[1]:
        raise UsageError(f"{run.path}: {key} is {parts[0]!r}/{parts[1]!r}, which is no number")
    return parts[0] / parts[1]


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def lacking(run: Run, metric: str, x: str, keys: list[str], categories: bool, **quantity) -> str:
    """Why a run has no place in the picture; "" if it has. Raises UsageError where it lacks a key or a column."""
    for key in keys:
        value(run, key)
    at = value(run, x)
    if not _number(at) and not (categories and isinstance(at, str | bool)):
        return f"{x} is {at!r}, which is no number; --categories takes words, too"
    figure_of(run, **quantity)
    return unusable(run, metric)


def figure_of(run: Run, y: str, tail: float, relative: bool) -> float:
    """The last value of a row such as eval.train_loss, or its mean over the last share of the run."""
    values = column(run, y)
    end = float(np.mean(values[-max(1, round(tail * len(values))) :]))
    return end / float(values[0]) if relative else end


def points(runs: list[Run], metric: str, x: str, lines: list[str], panel: str | None, **quantity) -> Points:
    """The mean, deviation and number of seeds for every panel, line and x; quantity: see figure_of."""
    unsorted: Points = defaultdict(dict)
    for row in table(runs, metric):
        first = row.runs[0]
        line = ", ".join(_said(first, key) for key in lines)
        at = unsorted[_said(first, panel) if panel else "", line]
        if (position := value(first, x)) in at:
            raise UsageError(
                f"several jobs at {x} = {position} for {line or 'the line'}; tell them apart by --lines or --panels"
            )
        values = [figure_of(run, **quantity) for run in row.runs]
        at[position] = float(np.mean(values)), tables.deviation(values), len(values)
    return {key: dict(sorted(at.items(), key=lambda item: _order(item[0]))) for key, at in sorted(unsorted.items())}


def _order(x: object) -> tuple[bool, object]:
    """Numbers by their size, then words."""
    return (False, x) if _number(x) else (True, str(x))


def _said(run: Run, key: str) -> str:
    """algorithm.name speaks for itself, other keys are named."""
    return str(value(run, key)) if key.endswith(".name") else f"{grouping.named(key)} {value(run, key)}"


@style.styled
def picture(points: Points, x_label: str, y_label: str, log: str, categories: bool, width: float) -> Figure:
    """Lines with error bars, side by side for each panel."""
    names = list(dict.fromkeys(panel for panel, _ in points))
    figure, (panels,) = style.panels(1, len(names), width, 2.8, sharey=True)
    looks = style.looks((line for _, line in points), marked=True)
    every = _positions(points)
    ticks = list(map(grouping.said, every))
    for panel, name in zip(panels, names, strict=True):
        for line, look in looks.items():
            at = points.get((name, line), {})
            positions = [every.index(x) for x in at] if categories else list(at)
            means, deviations, _ = zip(*at.values(), strict=True) if at else ((), (), ())
            panel.errorbar(positions, means, np.nan_to_num(deviations), label=line, capsize=2, **look)
        panel.set(title=name, xlabel=x_label)
        panel.set(xscale="log" if "x" in log else "linear", yscale="log" if "y" in log else "linear")
        if "x" in log and len(every) <= LABELLED:
            panel.set_xticks(every, ticks)
            panel.minorticks_off()
        if categories:
            panel.set_xticks(range(len(every)), ticks)
    panels[0].set_ylabel(y_label)
    style.title(figure, f"mean and {tables.DEVIATION}")
    style.legend(figure, panels)
    return figure


def _positions(points: Points) -> list:
    """Every x at which there is a point, in order."""
    return sorted({x for at in points.values() for x in at}, key=_order)


def rows(points: Points, x: str) -> list[dict[str, object]]:
    """The same numbers: a row per panel and line, a column per x."""
    every, cells = _positions(points), []
    for (panel, line), at in points.items():
        values = {f"{x} = {grouping.said(p)}": tables.with_deviation(*at[p][:2]) if p in at else "" for p in every}
        cells.append(({"": panel} if panel else {}) | {"line": line} | values)
    return cells


def main() -> None:
    options = script.parser(__doc__, "against.png")
    options.add_argument("--x", required=True, metavar="TABLE.KEY[/TABLE.KEY]")
    options.add_argument("--y", default="eval.test_accuracy", metavar="TABLE.COLUMN")
    options.add_argument("--lines", nargs="*", default=["algorithm.name"], metavar="TABLE.KEY")
    options.add_argument("--panels", metavar="TABLE.KEY")
    options.add_argument("--metric", choices=LARGER_IS_BETTER, default="test_accuracy", help="that decides on rates")
    options.add_argument("--tail", type=float, default=0.0, help="the mean over this share of the rows, from the end")
    options.add_argument("--relative", action="store_true", help="divided by the first value")
    options.add_argument("--log", choices=("", "x", "y", "xy"), default="")
    options.add_argument("--categories", action="store_true", help="values of x side by side, whatever their size")
    options.add_argument("--xlabel")
    options.add_argument("--ylabel")
    options.add_argument("--width", type=float, default=3.2, help="of a panel, in inches")
    with script.reading(options) as (runs, a):
        quantity = {"y": a.y, "tail": a.tail, "relative": a.relative}
        keys = [*a.lines, *([a.panels] if a.panels else [])]
        why = lambda run: lacking(run, a.metric, a.x, keys, a.categories, **quantity)  # noqa: E731
        runs = without(runs, why, a.skipped)
        drawn = points(runs, a.metric, a.x, a.lines, a.panels, **quantity)
        label = a.ylabel or ROWS.get(a.y, a.y) + (" / its first value" if a.relative else "")
        numbers = tables.markdown(rows(drawn, a.xlabel or a.x.rpartition(".")[2]))
        figure = picture(drawn, a.xlabel or a.x, label, a.log, a.categories, a.width)
        print(style.save(figure, a.output, f"{numbers}\n\nMean +- {tables.DEVIATION}."))


if __name__ == "__main__":
    main()
