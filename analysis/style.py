"""How every picture looks and every script speaks: the only place that sets colours, sizes, fonts and exit codes.

    with style.reading(style.parser(__doc__, "mine.png")) as (runs, arguments): ...

Colours are those of Okabe and Ito, which colour-blind readers tell apart; dashes and markers repeat what they say, so
that a print in grey can be read too.
"""

import argparse
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, MaxNLocator, ScalarFormatter

from mpisign.errors import MpisignError, UsageError, printable
from mpisign.storage.reader import Run, read_all

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C510A")
DASHES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.2, 1.2, 1.2)))
MARKERS = "osD^vPX<>*"
POINTS = 1500  # of a line: more are not to be seen
PICTURES = (".png", ".pdf", ".svg")
DEVIATION = "standard deviation over seeds (ddof = 1)"  # how every picture and table has it
LETTER = 0.08  # inches that one takes, about
SKIPPED = 2  # exit code where a file could not be read, though all else was done

plt.rcParams.update(
    {
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
)


def looks(names: Iterable[str], marked: bool = False) -> dict[str, dict[str, object]]:
    """Colour and dashes of each name, in order, and a marker for lines of few points; the same for the same name."""
    return {
        name: {"color": COLOURS[k % len(COLOURS)], "linestyle": DASHES[(k // len(COLOURS) + k) % len(DASHES)]}
        | ({"marker": MARKERS[k % len(MARKERS)]} if marked else {})
        for k, name in enumerate(dict.fromkeys(names))
    }


def panels(rows: int, columns: int, width: float = 3.4, height: float = 2.4, **kwargs) -> tuple[Figure, np.ndarray]:
    """A figure and its axes (rows, columns); room for a legend below. Sizes are of a panel, in inches."""
    size = (width * columns, height * rows + 0.5)
    return plt.subplots(rows, columns, squeeze=False, figsize=size, **kwargs)


def counted(axes: Axes, label: str) -> None:
    """Steps, bytes, seconds: few ticks, plain numbers or one power of ten for all."""
    axes.set_xlabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    numbers = ScalarFormatter(useMathText=True)
    numbers.set_powerlimits((-3, 5))
    axes.xaxis.set_major_formatter(numbers)


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


def save(figure: Figure, output: Path, table: str = "") -> None:
    """Writes a .png, .pdf or .svg; a table as .md beside it, and on the terminal."""
    if table:
        beside = output.with_suffix(".md") if output.suffix in PICTURES else output.with_name(f"{output.name}.md")
        replace(beside, lambda path: path.write_text(table + "\n"))
        print(table)
    numbers_as_mathematics(figure)
    replace(output, figure.savefig)
    plt.close(figure)
    print(f"picture: {output}")


def replace(output: Path, write: Callable[[Path], object]) -> None:
    """Has a file written under a temporary name of the same ending, and then renamed."""
    output.parent.mkdir(parents=True, exist_ok=True)
    aside = output.with_name(f".{output.stem}.tmp{output.suffix}")
    write(aside)
    aside.replace(output)


def numbers_as_mathematics(figure: Figure) -> None:
    """Has powers of ten on axes set as such, which texts that come from files are not (see text.parse_math)."""
    figure.canvas.draw()
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        if isinstance(axis.get_major_formatter(), (ScalarFormatter, LogFormatter)):
            for label in (*axis.get_ticklabels(), *axis.get_ticklabels(minor=True), axis.get_offset_text()):
                label.set_parse_math(True)


def deviation(values: Iterable[float]) -> float:
    """The sample's standard deviation, ddof = 1; NaN of a single value, and where one is not finite."""
    sample = np.asarray(list(values), dtype=float)
    return float(sample.std(ddof=1)) if len(sample) > 1 and np.isfinite(sample).all() else np.nan


def with_deviation(mean: float, spread: float, form: str = ".4g", own: str = ".2g") -> str:
    """mean +- deviation; the mean alone where there is no deviation."""
    return f"{mean:{form}}" + (f" +- {spread:{own}}" if np.isfinite(spread) else "")


def markdown(rows: list[dict[str, object]]) -> str:
    """A table for a README, one row a dict."""
    if not rows:
        return ""
    words = ([short(v).replace("|", "\\|") for v in row] for row in (rows[0], *(row.values() for row in rows)))
    lines = [next(words), ["---"] * len(rows[0]), *words]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def columns(rows: list[dict[str, object]]) -> str:
    """The same in line, for a terminal."""
    cells = [[short(v) for v in row] for row in (*rows[:1], *(row.values() for row in rows))]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in cells)


def short(value: object) -> str:
    """A figure of a table: four digits, thousands by commas."""
    if isinstance(value, (float, np.floating)):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, (int, np.integer)) and not isinstance(value, bool) else printable(value)


def parser(doc: str, output: str = "") -> argparse.ArgumentParser:
    """The arguments that all scripts have: run files or folders of them, and, with a default, --output of a picture."""
    options = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("runs", nargs="+", type=Path, metavar="RUN.h5", help="run files, or folders of them")
    if output:
        options.add_argument("--output", type=Path, default=Path(output), help=f"a .png, .pdf or .svg; {output}")
    return options


@contextmanager
def reading(options: argparse.ArgumentParser) -> Iterator[tuple[list[Run], argparse.Namespace]]:
    """The runs that were named, and all arguments; ends the script after the body of `with`.

    Files that can't be read, and runs that this script can't use, are named, here and in arguments.skipped; the exit
    code is then 2, though all else is done.
    """
    arguments = options.parse_args()
    try:
        runs, arguments.skipped = read_all(arguments.runs)
        for message in arguments.skipped:
            print(f"skipped: {printable(message)}", file=sys.stderr)
        if runs:
            yield without(runs, _unreadable, arguments.skipped), arguments
    except MpisignError as error:
        print(f"{Path(sys.argv[0]).name}: {printable(error, lines=True)}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error
    raise SystemExit(SKIPPED if arguments.skipped else 0)


def without(runs: list[Run], why: Callable[[Run], object], skipped: list[str] | None = None) -> list[Run]:
    """The runs of which why(run) says nothing and raises no UsageError; the others are named with what it says.

    skipped: where their names go, too, if leaving them out is worth an exit code. Raises UsageError if none is left.
    """
    kept, verb = [], "left out" if skipped is None else "skipped"
    for run in runs:
        try:
            reason = why(run)
        except MpisignError as error:
            reason = str(error).removeprefix(f"{run.path}: ")
        if not isinstance(reason, str) or not reason:
            kept.append(run)
            continue
        print(f"{verb}: {run.path}: {reason}", file=sys.stderr)
        if skipped is not None:
            skipped.append(f"{run.path}: {reason}")
    if not kept:
        raise UsageError("none of these runs is left; see what is said of each above")
    return kept


def _unreadable(run: Run) -> str:
    """Why nothing can be told of a run, whatever the script."""
    if missing := [name for name in ("algorithm", "problem", "n", "d", "seed") if name not in run.attributes]:
        return f"its attribute {missing[0]} is missing"
    try:
        tables = run.config
    except (ValueError, MpisignError) as error:
        return f"its job is damaged: {error}"
    return "" if all(isinstance(table, dict) for table in tables.values()) else "its job is no table of tables"
