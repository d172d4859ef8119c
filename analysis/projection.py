"""Steps on thousands of nodes as `mpisign project --output` simulated them: a column of panels per file.

python analysis/projection.py runs/projection/*.h5 --output projection.png

Above, milliseconds of a step without its gradient against ranks; bars are the deviation over sampled shifts. Below, the
efficiency where every rank has rows of its own (weak scaling), if a time was given for the gradient: the speed-up over
one rank, as a part of the number of ranks. The table of all files is written beside the picture.
"""

import argparse
import sys
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from mpisign.bench.table import Table, load
from mpisign.errors import MpisignError, UsageError, printable
from mpisign.figures import style
from mpisign.figures.tables import markdown

SHOWN = {
    "n": ",d", "exchange": "", "step ms": ",.4g", "+-": ".2g", "wire ms": ",.4g", "core ms": ",.3g",
    "faster than ring": ",.3g", "than halving": ",.3g", "speed-up": ",.4g", "efficiency": ".0%",
    "pays below Gbps": "", "messages": ",d", "checked": "", "simulated": "",
}  # fmt: skip


def panels(path: Path) -> Table:
    """A projection. Raises UsageError where the file holds none, or one without rows."""
    table = load(path, "projection")
    if not table.rows:
        raise UsageError(f"{path}: its projection has no rows")
    return table


def network(table: Table) -> str:
    """The network of a projection, for a title."""
    about = table.about
    ranks = f",\n{about['node size']} ranks per node" if about["node size"] != 1 else ""
    return f"{about['topology']}, {about['link Gbit/s']:g} Gbit/s, {about['latency us']:g} us{ranks}"


def cells(tables: list[Table]) -> list[dict[str, object]]:
    """The rows of all tables as text."""
    rows = []
    for table in tables:
        for row in table.rows:
            shown = {name: _shown(row.get(name), form) for name, form in SHOWN.items()}
            rows.append({"network": network(table).replace("\n", " ")} | shown)
    return rows


def _shown(value: object, form: str) -> object:
    if not isinstance(value, float):
        return "-" if value is None else value
    return format(int(value) if form.endswith("d") else value, form)


@style.styled
def picture(tables: list[Table]) -> Figure:
    """A column of panels per table."""
    with_gradient = any(row["efficiency"] for table in tables for row in table.rows)
    figure, grid = style.panels(1 + with_gradient, len(tables), 2.7, 2.5, sharex="col", sharey="row")
    names = list(dict.fromkeys(str(row["exchange"]) for table in tables for row in table.rows))
    looks = style.looks(names, marked=True)
    for column, table in zip(grid.T, tables, strict=True):
        column[0].set_title(network(table))
        for name in names:
            rows = [row for row in table.rows if row["exchange"] == name]
            ranks, gradient = [row["n"] for row in rows], 1e3 * float(table.about["gradient s"])
            steps = [row["step ms"] - gradient for row in rows]
            if rows:
                column[0].errorbar(ranks, steps, [row["+-"] for row in rows], label=name, **looks[name])
            if rows and with_gradient:
                column[1].plot(ranks, [row["efficiency"] for row in rows], label=name, **looks[name])
        _scales(column, [row["n"] for row in table.rows])
    grid[0, 0].set_ylabel("ms of a step without its gradient")
    if with_gradient:
        grid[1, 0].set(ylabel="efficiency", ylim=(0, 1))
    about = tables[0].about
    gradient = f", a gradient of {1e3 * about['gradient s']:g} ms" if with_gradient else ""
    style.title(figure, f"{about['algorithm']}, d = {about['d']:,}{gradient}: simulated by SimGrid")
    style.legend(figure, grid.ravel())
    return figure


def _scales(column, ranks: list[float]) -> None:
    for axes in column:
        axes.set_xscale("log")
        axes.set_xticks(ranks, [f"{int(n):,}" for n in ranks])
        axes.minorticks_off()
    column[0].set_yscale("log")
    column[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    column[0].yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    column[0].yaxis.set_minor_locator(NullLocator())
    column[-1].set_xlabel("ranks")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("files", nargs="+", type=Path, metavar="PROJECTION.h5", help="of mpisign project --output")
    options.add_argument("--output", type=Path, default=Path("projection.png"), help="a .png, .pdf or .svg")
    arguments = options.parse_args()
    try:
        tables = [panels(path) for path in arguments.files]
    except MpisignError as error:
        print(f"projection.py: {printable(error, lines=True)}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error
    print(style.save(picture(tables), arguments.output, markdown(cells(tables))))


if __name__ == "__main__":
    main()
