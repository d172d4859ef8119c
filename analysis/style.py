"""How every picture looks and every script speaks: the only place that sets colours, sizes, fonts and exit codes.

Colours are those of Okabe and Ito, which colour-blind readers tell apart; dashes and markers repeat what they say, so
that a print in grey can be read too.
"""

import argparse
import sys
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from mpisign.errors import MpisignError
from mpisign.results import Run, read_all
from mpisign.words import printable

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C510A")
DASHES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.2, 1.2, 1.2)))
MARKERS = "osD^vPX<>*"
POINTS = 1500  # of a line: more are not to be seen
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


def looks(names: Iterable[str]) -> dict[str, dict[str, object]]:
    """Colour and dashes of each name, in order; the same name, the same looks within a picture."""
    found = {}
    for k, name in enumerate(dict.fromkeys(names)):
        dashes = DASHES[(k // len(COLOURS) + k) % len(DASHES)]
        found[name] = {"color": COLOURS[k % len(COLOURS)], "linestyle": dashes}
    return found


def marked(look: dict[str, object], k: int) -> dict[str, object]:
    """The same with a marker, for lines of few points."""
    return look | {"marker": MARKERS[k % len(MARKERS)]}


def panels(rows: int, columns: int, width: float = 3.4, height: float = 2.4, **how) -> tuple[Figure, np.ndarray]:
    """A figure and its axes (rows, columns); room for a legend below."""
    size = (width * columns, height * rows + 0.5)
    return plt.subplots(rows, columns, squeeze=False, figsize=size, **how)


def counted(axes: Axes, label: str) -> None:
    """Steps, bytes, seconds: few ticks, with k and M."""
    axes.set_xlabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def envelope(x: np.ndarray, y: np.ndarray, points: int = POINTS) -> tuple[np.ndarray, np.ndarray]:
    """A long line as its lowest and highest value in each stretch: no spike is lost, and it is drawn in no time."""
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
    found = {}
    for panel in axes:
        for handle, name in zip(*panel.get_legend_handles_labels(), strict=True):
            found.setdefault(name, handle)
    if found:
        width, height = figure.get_size_inches()
        columns = max(1, min(columns, len(found), int(width / (0.6 + 0.075 * max(map(len, found))))))
        figure.set_size_inches(width, height + 0.17 * -(-len(found) // columns))
        figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=columns)


def title(figure: Figure, text: str) -> None:
    figure.suptitle(text, x=0.01, ha="left", fontsize=10)


def save(figure: Figure, output: Path) -> None:
    """Writes a .png, .pdf or .svg, under a temporary name first."""
    output.parent.mkdir(parents=True, exist_ok=True)
    aside = output.with_name(f".{output.stem}.tmp{output.suffix}")
    figure.savefig(aside)
    aside.replace(output)
    plt.close(figure)
    print(f"picture: {output}")


def markdown(rows: list[dict[str, object]]) -> str:
    """A table for a README, one row a dict."""
    if not rows:
        return ""
    words = ([short(v).replace("|", "\\|") for v in row] for row in (rows[0], *(row.values() for row in rows)))
    lines = [next(words), ["---"] * len(rows[0]), *words]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def short(value: object) -> str:
    """A figure of a table: four digits, thousands by commas."""
    if isinstance(value, (float, np.floating)):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, (int, np.integer)) and not isinstance(value, bool) else printable(value)


def write(text: str, output: Path) -> None:
    """A table beside its picture, and on the terminal."""
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(text + "\n")
    print(text)


def parser(doc: str) -> argparse.ArgumentParser:
    """Arguments that all scripts have: run files or folders of them."""
    found = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("runs", nargs="+", type=Path, metavar="RUN.h5", help="run files, or folders of them")
    return found


def run(options: argparse.ArgumentParser, work: Callable[[list[Run], argparse.Namespace], None]) -> None:
    """Reads the runs and calls work(runs, arguments).

    Files that can't be read are named, here and in arguments.skipped; the exit code is then 2, though all else is done.
    """
    arguments = options.parse_args()
    try:
        runs, skipped = read_all(arguments.runs)
        arguments.skipped = skipped
        for message in skipped:
            print(f"skipped: {printable(message)}", file=sys.stderr)
        if runs:
            work(runs, arguments)
    except MpisignError as error:
        print(f"{Path(sys.argv[0]).name}: {printable(error, lines=True)}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error
    raise SystemExit(SKIPPED if skipped else 0)


def algorithm(run: Run) -> str:
    return printable(run.attributes["algorithm"])
