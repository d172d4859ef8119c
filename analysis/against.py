"""Any figure of runs against any key of their jobs: accuracy against liars, loss against voters, success against skew.

python analysis/versus.py runs/adversaries_mnist --x adversary.voters/run.voters --panels adversary.kind --output a.png
python analysis/versus.py runs/heterogeneity --x partition.alpha --categories --y probes.success_vote --output b.png

One point is the mean over seeds of the runs whose job is the same, at the best of their rates by --metric (see
compare.py), with its standard deviation (ddof = 1). --x takes a key or the quotient of two. A run that lacks a key or a
column is named and skipped. The same numbers are written as a table beside the picture.
"""

from collections import defaultdict
from pathlib import Path

import numpy as np
import style
from compare import LARGER_IS_BETTER, table, unusable
from matplotlib.figure import Figure
from seeds import ROWS, column

from mpisign.errors import UsageError, choices
from mpisign.results import Run

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


def lacking(run: Run, metric: str, x: str, keys: list[str], categories: bool, **how) -> str:
    """Why a run has no place in the picture; "" if it has. Raises UsageError where it lacks a key or a column."""
    for key in keys:
        value(run, key)
    at = value(run, x)
    if not _number(at) and not (categories and isinstance(at, str | bool)):
        return f"{x} is {at!r}, which is no number; --categories takes words, too"
    figure_of(run, **how)
    return unusable(run, metric)


def figure_of(run: Run, y: str, tail: float, relative: bool) -> float:
    """The last value of a row such as eval.train_loss, or its mean over the last share of the run."""
    values = column(run, y)
    found = float(np.mean(values[-max(1, round(tail * len(values))) :]))
    return found / float(values[0]) if relative else found


def points(runs: list[Run], metric: str, x: str, lines: list[str], panel: str | None, **how) -> Points:
    """The mean, deviation and number of seeds for every panel, line and x."""
    found: Points = defaultdict(dict)
    for row in table(runs, metric, None):
        chosen = row["_runs"]
        first = chosen[0]
        line = ", ".join(_said(first, key) for key in lines)
        where = _said(first, panel) if panel else ""
        values = [figure_of(run, **how) for run in chosen]
        at = found[where, line]
        if (position := value(first, x)) in at:
            raise UsageError(
                f"several jobs at {x} = {position} for {line or 'the line'}; tell them apart by --lines or --panels"
            )
        at[position] = float(np.mean(values)), style.deviation(values), len(values)
    return {key: dict(sorted(at.items(), key=lambda item: _order(item[0]))) for key, at in sorted(found.items())}


def _order(x: object) -> tuple[bool, object]:
    """Numbers by their size, then words."""
    return (False, x) if _number(x) else (True, str(x))


def _tick(x: object) -> str:
    return f"{x:g}" if _number(x) else str(x)


def _said(run: Run, key: str) -> str:
    """algorithm.name speaks for itself, schedule.kind is of the schedule, other keys are named."""
    table, _, own = key.partition(".")
    if own == "name":
        return str(value(run, key))
    return f"{table if own == 'kind' else own} {value(run, key)}"


def picture(found: Points, x_label: str, y_label: str, log: str, categories: bool, width: float) -> Figure:
    """Lines with error bars, side by side for each panel."""
    names = list(dict.fromkeys(panel for panel, _ in found))
    figure, (panels,) = style.panels(1, len(names), width, 2.8, sharey=True)
    looks = style.looks(line for _, line in found)
    every = sorted({x for at in found.values() for x in at}, key=_order)
    for panel, name in zip(panels, names, strict=True):
        for k, line in enumerate(looks):
            at = found.get((name, line), {})
            positions = [every.index(x) for x in at] if categories else list(at)
            means, deviations, _ = zip(*at.values(), strict=True) if at else ((), (), ())
            panel.errorbar(
                positions, means, np.nan_to_num(deviations), label=line, capsize=2, **style.marked(looks[line], k)
            )
        panel.set_title(name)
        panel.set_xlabel(x_label)
        if "x" in log:
            panel.set_xscale("log")
        if "y" in log:
            panel.set_yscale("log")
        if "x" in log and len(every) <= LABELLED:
            panel.set_xticks(every, [_tick(x) for x in every])
            panel.minorticks_off()
        if categories:
            panel.set_xticks(range(len(every)), [_tick(x) for x in every])
    panels[0].set_ylabel(y_label)
    style.title(figure, f"mean and {style.DEVIATION}")
    style.legend(figure, panels)
    return figure


def rows(found: Points, x: str) -> list[dict[str, object]]:
    """The same numbers: a row a panel and line, a column an x."""
    every = sorted({at for line in found.values() for at in line}, key=_order)
    lines = []
    for (panel, line), at in found.items():
        cells = {f"{x} = {_tick(p)}": style.with_deviation(*at[p][:2]) if p in at else "" for p in every}
        lines.append(({"": panel} if panel else {}) | {"line": line} | cells)
    return lines


def main() -> None:
    options = style.parser(__doc__)
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
    options.add_argument("--output", type=Path, default=Path("versus.png"), help="a .png, .pdf or .svg")

    def work(runs, a):
        how = {"y": a.y, "tail": a.tail, "relative": a.relative}
        keys = [*a.lines, *([a.panels] if a.panels else [])]
        why = lambda run: lacking(run, a.metric, a.x, keys, a.categories, **how)  # noqa: E731
        runs = style.without(runs, why, a.skipped)
        found = points(runs, a.metric, a.x, a.lines, a.panels, **how)
        label = a.ylabel or ROWS.get(a.y, a.y) + (" / its first value" if a.relative else "")
        style.save(picture(found, a.xlabel or a.x, label, a.log, a.categories, a.width), a.output)
        told = style.markdown(rows(found, a.xlabel or a.x.rpartition(".")[2]))
        style.write(f"{told}\n\nMean +- {style.DEVIATION}.", style.beside(a.output, ".md"))

    style.run(options, work)


if __name__ == "__main__":
    main()
