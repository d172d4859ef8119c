"""The rows of grid.py as dots with error bars, for `mpisign compare --output`."""

import numpy as np
from matplotlib.figure import Figure

from mpisign.figures import grid, grouping, style, tables


@style.styled
def picture(rows: list[grid.Row]) -> Figure:
    """A line per row of the table, the best on top: mean and standard deviation; and the bytes that the target took.

    The bytes are left out where no row reached the target, or sent anything on the way.
    """
    metric, target = rows[0].metric, rows[0].target
    sent = [row.to_target.get(f"bytes to {target:g}") or 0 for row in rows] if target is not None else []
    names = []
    for row in rows:
        own = (f"{grouping.named(k)} {grouping.said(v)}" for k, v in row.settings.items() if v != "")
        names.append(", ".join([row.method, *own]))
    columns = 2 if any(sent) else 1
    width = 3.2 + (1.2 + 0.06 * max(map(len, names))) / columns
    figure, (panels,) = style.panels(1, columns, width, max(0.26 * len(rows), 1.5), sharey=True)
    places = np.arange(len(rows))[::-1]
    for place, row in zip(places, rows, strict=True):
        if np.isfinite(row.mean):
            spread = np.nan_to_num(row.deviation)
            panels[0].errorbar(row.mean, place, xerr=spread, fmt="o", color=style.COLOURS[0], capsize=3)
    panels[0].set_yticks(places, names)
    panels[0].set(ylim=(-0.6, len(rows) - 0.4), xlabel=grid.NAMES[metric])
    if any(sent):
        known = [(count, place) for count, place in zip(sent, places, strict=True) if count]
        panels[1].plot(*zip(*known, strict=True), "D", color=style.COLOURS[1])
        panels[1].set(xlabel=f"bytes per rank to {target:g}\n(by the method)", xscale="log")
    style.title(figure, f"mean and {tables.DEVIATION}")
    return figure
