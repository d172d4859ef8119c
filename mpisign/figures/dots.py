"""The rows of grid.py as dots with error bars, for `mpisign compare --output`."""

import numpy as np
from matplotlib.figure import Figure

from mpisign.figures import grid, grouping, style, tables


@style.styled
def picture(rows: list[grid.Row]) -> Figure:
    """A line per row of the table, the best on top: mean and standard deviation; and the bytes that the target took."""
    metric, target = rows[0].metric, rows[0].target
    names = []
    for row in rows:
        own = (f"{grouping.named(k)} {grouping.said(v)}" for k, v in row.settings.items() if v != "")
        names.append(", ".join([row.method, *own]))
    columns = 1 if target is None else 2
    width = 3.2 + (1.2 + 0.06 * max(map(len, names))) / columns
    figure, (panels,) = style.panels(1, columns, width, max(0.26 * len(rows), 1.5), sharey=True)
    places = np.arange(len(rows))[::-1]
    for place, row in zip(places, rows, strict=True):
        if np.isfinite(row.mean):
            spread = np.nan_to_num(row.deviation)
            panels[0].errorbar(row.mean, place, xerr=spread, fmt="o", color=style.COLOURS[0], capsize=3)
        if target is not None and (sent := row.to_target[f"bytes to {target:g}"]) != "":
            panels[1].plot(sent, place, "D", color=style.COLOURS[1])
    panels[0].set_yticks(places, names)
    panels[0].set(ylim=(-0.6, len(rows) - 0.4), xlabel=grid.NAMES[metric])
    if target is not None:
        panels[1].set(xlabel=f"bytes per rank to {target:g}\n(by the method)", xscale="log")
    style.title(figure, f"mean and {tables.DEVIATION}")
    return figure
