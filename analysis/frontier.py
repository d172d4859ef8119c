"""Held-out accuracy against bytes on the wire: a point per method at its best rate, and the Pareto frontier.

python analysis/frontier.py runs/frontier --output frontier.png

x is what a rank sent in the whole run, both ways, by the exchange that carried it: headers, radii, warm-ups in floats
and what `auto` chose included. y is the accuracy at the end. Rates are compared as by `mpisign compare`; points are
means over seeds, with standard deviations (ddof = 1). Jobs that differ in more than the algorithm have a panel each.
Compare runs of the same number of gradient evaluations: the table beside the picture has it, too.
"""

import re

import labels
import numpy as np
import script
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from mpisign.figures import grouping, style, tables
from mpisign.figures.grid import NAMES, Row, not_ended, table, unusable
from mpisign.figures.selection import without
from mpisign.storage.reader import Run

METRIC = "test_accuracy"
TICKS = (0.1, 0.3, 0.5, 0.7, 0.8, 0.85, 0.9, 0.92, 0.94, 0.95, 0.96, 0.97, 0.98, 0.99)
SIGNS = "signs"
# what is sent, by the parts of an algorithm's definition that say so; the first family of which one is there
FAMILIES = {
    "low rank": ("LowRank",),
    "sparse": ("Largest", "LargestSigns", "Chosen", "Drawn", "ThresholdSign"),
    "quantised": ("Levels", "TwoMeans", "Ternary", "WholeNumbers"),
    "floats": ("Raw",),
}
LOOKS = {
    name: {"marker": look["marker"], "color": look["color"]}
    for name, look in style.looks((SIGNS, *FAMILIES), marked=True).items()
}


def family(definition: str) -> str:
    """What an algorithm sends, by its definition in the run file; of several stages the last counts."""
    parts = set(re.findall(r"\w+", definition.rpartition("then=")[2]))
    return next((name for name, own in FAMILIES.items() if parts.intersection(own)), SIGNS)


def megabytes(row: Row) -> float:
    """Millions of bytes that a rank sent on the wire in a run, up and down: mean over seeds."""
    return float(np.mean([run.wire_bytes("eval")[-1] for run in row.runs])) / 1e6


def bits(row: Row) -> float:
    """Bits on the wire per coordinate, rank and step, up and down: mean over seeds."""
    return float(np.mean([run.wire_bits_per_coordinate for run in row.runs]))


def pareto(points: list[tuple[float, float]]) -> list[int]:
    """The points than which no other has more accuracy for as many bytes or fewer, by increasing bytes."""
    frontier: list[int] = []
    for k in sorted(range(len(points)), key=lambda k: (points[k][0], -points[k][1])):
        if not frontier or points[k][1] > points[frontier[-1]][1]:
            frontier.append(k)
    return frontier


def panels(runs: list[Run]) -> dict[str, list[Row]]:
    """The rows of each panel, by increasing bytes: a panel for what differs in the jobs beside the algorithm."""
    said = lambda row: ", ".join(f"{grouping.named(k)} {grouping.said(v)}" for k, v in row.settings.items())  # noqa: E731
    groups = grouping.grouped(sorted(table(runs, METRIC), key=megabytes), said)
    return {title: groups[title] for title in sorted(groups)}


def cells(panels: dict[str, list[Row]]) -> list[dict[str, object]]:
    """The table: a row per point; those on the frontier are bold."""
    lines = []
    for title, rows in panels.items():
        best = {id(rows[k]) for k in pareto(_points(rows))}
        for row in rows:
            accuracy = tables.with_deviation(row.mean, row.deviation, ".4f", ".4f") if _ended(row) else row.said
            cells = {
                "method": row.method,
                "sends": family(row.runs[0].attributes["definition"]),
                "rate": row.shown()["best rate"],
                "seeds": len(row.runs),
                "evaluations": int(row.runs[0]["eval"]["gradient_evaluations"][-1]),
                "bits per coordinate and step": f"{bits(row):.3g}",
                "MB per rank": f"{megabytes(row):.3g}",
                NAMES[METRIC]: f"**{accuracy}**" if id(row) in best else accuracy,
            }
            lines.append(({"job": title} if title else {}) | cells)
    return lines


def _ended(row: Row) -> bool:
    """Whether the row has a place in the picture: no run of it ended by an error."""
    return bool(np.isfinite(row.mean))


def _points(rows: list[Row]) -> list[tuple[float, float]]:
    """(MB, accuracy) of each row; -inf where one of its runs ended by an error."""
    return [(megabytes(row), row.mean) for row in rows]


@style.styled
def picture(panels: dict[str, list[Row]]) -> Figure:
    """A panel below the other, on the same axes."""
    figure, grid = style.panels(len(panels), 1, 7.8, 5.0, sharex=True)
    for axes, (title, rows) in zip(grid[:, 0], panels.items(), strict=True):
        drawn = [row for row in rows if _ended(row)]
        axes.set(title=title, xscale="log", ylabel=NAMES[METRIC])
        _draw(axes, drawn)
    axes.set_xlabel("MB that a rank sends in the whole run, on the wire")
    style.title(figure, f"mean and {tables.DEVIATION}; bytes by the exchange")
    style.legend(figure, grid[:, 0], columns=3)
    for axes, rows in zip(grid[:, 0], panels.values(), strict=True):
        drawn = [row for row in rows if _ended(row)]
        spreads = [float(np.nan_to_num(row.deviation)) for row in drawn]
        labels.beside(axes, _points(drawn), [row.method for row in drawn], spreads)
    return figure


def _draw(axes: Axes, rows: list[Row]) -> None:
    """The points, the frontier, and an axis on which a tenth of the errors is as far at 0.5 as at 0.95."""
    points = _points(rows)
    best = [points[k] for k in pareto(points)]
    axes.step(*zip(*best, strict=True), where="post", color="0.6", zorder=1, label="frontier")
    for row, point in zip(rows, points, strict=True):
        name, spread = family(row.runs[0].attributes["definition"]), np.nan_to_num(row.deviation)
        axes.errorbar(*point, spread, linestyle="", capsize=2, elinewidth=0.7, label=name, **LOOKS[name])
    errors = lambda accuracy: -np.log(np.maximum(1 - accuracy, 1e-4))  # noqa: E731
    axes.set_yscale("function", functions=(errors, lambda e: 1 - np.exp(-e)))
    low, high = (f(point[1] for point in points) for f in (min, max))
    axes.set_ylim(1 - (1 - low) * 1.25, 1 - (1 - high) * 0.75)
    axes.set_yticks([tick for tick in TICKS if axes.get_ylim()[0] <= tick <= axes.get_ylim()[1]])
    axes.yaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlim(min(x for x, _ in points) / 1.6, max(x for x, _ in points) * 1.6)


def main() -> None:
    options = script.parser(__doc__, "frontier.png")
    with script.reading(options) as (runs, arguments):
        ended = without(runs, not_ended)
        why = lambda run: unusable(run, METRIC) or grouping.no_evaluations(run)  # noqa: E731
        rows = panels(without(ended, why, arguments.skipped))
        note = f"By increasing bytes; the frontier is bold. Mean +- {tables.DEVIATION}; bits and bytes by the exchange."
        print(style.save(picture(rows), arguments.output, f"{tables.markdown(cells(rows))}\n\n{note}"))


if __name__ == "__main__":
    main()
