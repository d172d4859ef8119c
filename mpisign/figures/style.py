"""How every picture looks: the only place that sets colours, sizes and fonts.

Colours are those of Okabe and Ito, which colour-blind readers tell apart; dashes and markers repeat what they say, so
that a print in grey can be read too. Nothing of matplotlib is changed for the program that imports this: functions that
draw are `styled`, and figures are none of pyplot's.
"""

import base64
import io
import os
import textwrap
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, LogLocator, MaxNLocator, NullLocator, ScalarFormatter

from mpisign.errors import UsageError, printable

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C510A")
DASHES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.2, 1.2, 1.2)))
MARKERS = "osD^vPX<>*"
POINTS = 1500  # of a line: more are not to be seen
PICTURES = (".png", ".pdf", ".svg")
LETTER = 0.08  # inches that one takes, about
LOOK = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "lines.linewidth": 1.3,
    "lines.markersize": 4,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 130,
    "svg.hashsalt": "mpisign",
    "text.parse_math": False,  # names come from files
}
styled = rc_context(LOOK)  # a decorator


class Picture(Figure):
    """A figure whose powers of ten on axes are set as such, which texts that come from files are not.

    A logarithmic axis with room for less than two of them has plain numbers.
    """

    @rc_context({"text.parse_math": True})  # for numbers that the layout makes
    def draw(self, renderer: RendererBase) -> None:
        for axis in (axis for axes in self.axes for axis in (axes.xaxis, axes.yaxis)):
            _use_plain_numbers(axis)
            if isinstance(axis.get_major_formatter(), (ScalarFormatter, LogFormatter)):
                for label in (*axis.get_ticklabels(), *axis.get_ticklabels(minor=True), axis.get_offset_text()):
                    label.set_parse_math(True)
        super().draw(renderer)


def _use_plain_numbers(axis: Axis) -> None:
    """On a logarithmic axis on which fewer than two powers of ten lie."""
    if not isinstance(axis.get_major_locator(), LogLocator):
        return
    low, high = sorted(np.log10(axis.get_view_interval()))
    if np.floor(high) - np.ceil(low) >= 1:
        return
    # even distances fit numbers up to a factor of 5 apart; the axis would squeeze those of more
    near = high - low < np.log10(5)
    axis.set_major_locator(MaxNLocator(5, steps=(1, 2, 2.5, 5, 10)) if near else LogLocator(subs=(1, 2, 3, 5)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(_numbers())


def _numbers() -> ScalarFormatter:
    """Plain numbers, or one power of ten for all."""
    numbers = ScalarFormatter(useOffset=False, useMathText=True)
    numbers.set_powerlimits((-3, 5))
    return numbers


def looks(names: Iterable[str], marked: bool = False) -> dict[str, dict[str, object]]:
    """Colour and dashes of each name, in order, and a marker for lines of few points; the same for the same name."""
    return {
        name: {"color": COLOURS[k % len(COLOURS)], "linestyle": DASHES[(k // len(COLOURS) + k) % len(DASHES)]}
        | ({"marker": MARKERS[k % len(MARKERS)]} if marked else {})
        for k, name in enumerate(dict.fromkeys(names))
    }


def panels(
    rows: int, columns: int, width: float = 3.4, height: float = 2.4, **kwargs: Any
) -> tuple[Figure, np.ndarray]:
    """A figure and its axes (rows, columns); room for a legend below. Sizes are of a panel, in inches."""
    figure = Picture(figsize=(width * columns, height * rows + 0.5))
    FigureCanvasAgg(figure)  # by which places are measured
    return figure, figure.subplots(rows, columns, squeeze=False, **kwargs)


def counted(axes: Axes, label: str) -> None:
    """Steps, bytes, seconds: few ticks, plain numbers or one power of ten for all."""
    axes.set_xlabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(_numbers())


def envelope(x: np.ndarray, y: np.ndarray, points: int = POINTS) -> tuple[np.ndarray, np.ndarray]:
    """A long line as its lowest and highest value in each shard: no spike is lost, and it is drawn in no time."""
    if len(x) <= points:
        return x, y
    edges = np.linspace(0, len(y), points // 2 + 1).astype(int)
    chosen = []
    for lo, hi in pairwise(edges):
        part = np.where(np.isnan(y[lo:hi]), np.inf, y[lo:hi])
        low = lo + int(part.argmin())
        high = lo + int(np.where(np.isinf(part), -np.inf, part).argmax())
        chosen += sorted((low, high))
    return x[chosen], y[chosen]


def legend(figure: Figure, axes: Iterable[Axes], columns: int = 4) -> None:
    """One legend for all panels, below them, each name once, in no more columns than fit."""
    handles: dict[str, object] = {}
    for panel in axes:
        for handle, name in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(name, handle)
    if handles:
        width, height = figure.get_size_inches()
        names = [textwrap.fill(name, max(int((width - 0.6) / LETTER), 10)) for name in handles]
        longest = max(len(line) for name in names for line in name.splitlines())
        columns = max(1, min(columns, len(handles), int(width / (0.6 + LETTER * longest))))
        lines = -(-sum(name.count("\n") + 1 for name in names) // columns)
        figure.set_size_inches(width, height + 0.17 * lines)
        figure.legend(handles.values(), names, loc="outside lower center", ncols=columns)


def title(figure: Figure, text: str) -> None:
    """A line, or as many as the figure's width asks for."""
    fitting = textwrap.fill(text, int(figure.get_size_inches()[0] / LETTER))
    figure.suptitle(fitting, x=0.01, ha="left", fontsize=10)


@styled
def save(figure: Figure, output: Path, table: str = "") -> str:
    """Writes a .png, .pdf or .svg, and a table as .md beside it; returns what to print: the table, and the file."""
    if table:
        beside = output.with_suffix(".md") if output.suffix in PICTURES else output.with_name(f"{output.name}.md")
        replace(beside, lambda path: path.write_text(table + "\n"))
    replace(output, figure.savefig)
    return "\n".join([*filter(None, [table]), f"picture: {printable(output)}"])


@styled
def encoded(figure: Figure) -> str:
    """A picture as base64, for an <img> that needs no file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return base64.b64encode(buffer.getvalue()).decode()


def replace(output: Path, write: Callable[[Path], object]) -> None:
    """Has a file written under a name of this process with the same ending, and then renamed.

    Nothing is left of it where that fails. Raises UsageError if it can't be written.
    """
    aside = output.with_name(f".{output.stem}.{os.getpid()}.tmp{output.suffix}")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        write(aside)
        aside.replace(output)
    except OSError as error:
        raise UsageError(f"{output}: {error.strerror}; give a file that can be written") from error
    finally:
        with suppress(OSError):  # a folder that is none has none to remove
            aside.unlink(missing_ok=True)
