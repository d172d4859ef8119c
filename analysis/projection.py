"""Steps on thousands of nodes as `mpisign project --output` simulated them: a column of panels per file.

python analysis/projection.py runs/projection/*.h5 --output projection.png

Above, milliseconds of a step without its gradient against nodes; bars are the deviation over sampled shifts. Below, the
speed-up over one rank where every rank has rows of its own (weak scaling), if a time was given for the gradient. The
table of all files is written beside the picture.
"""

import argparse
import sys
from pathlib import Path

import style
from matplotlib.figure import Figure

from mpisign.bench.table import Table, load
from mpisign.errors import MpisignError, UsageError, printable

SHOWN = {
    "nodes": ",d", "exchange": "", "step ms": ",.4g", "+-": ".2g", "wire ms": ",.4g", "core ms": ",.3g",
    "faster than ring": ",.3g", "than halving": ",.3g", "efficiency": ".0%", "pays below Gbit/s": "",
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
    ranks = f", {about['node size']} ranks a node" if about["node size"] != 1 else ""
    return f"{about['topology']}, {about['link Gbit/s']:g} Gbit/s, {about['latency us']:g} us{ranks}"


def cells(tables: list[Table]) -> list[dict[str, object]]:
    """The rows of all tables as text."""
    rows = []
    for table in tables:
        for row in table.rows:
            shown = {name: _shown(row.get(name), form) for name, form in SHOWN.items()}
            rows.append({"network": network(table)} | shown)
    return rows


def _shown(value: object, form: str) -> object:
    if not isinstance(value, float):
        return "-" if value is None else value
    return format(int(value) if form.endswith("d") else value, form)


def picture(tables: list[Table]) -> Figure:
    """A column of panels per table."""
    with_gradient = any(row["speed-up"] for table in tables for row in table.rows)
    figure, grid = style.panels(1 + with_gradient, len(tables), 3.0, 2.7, sharex=True)
    names = list(dict.fromkeys(str(row["exchange"]) for table in tables for row in table.rows))
    looks = style.looks(names, marked=True)
    for column, table in zip(grid.T, tables, strict=True):
        column[0].set_title(network(table))
        for name in names:
            rows = [row for row in table.rows if row["exchange"] == name]
            nodes, gradient = [row["nodes"] for row in rows], 1e3 * float(table.about["gradient s"])
            steps = [row["step ms"] - gradient for row in rows]
            column[0].errorbar(nodes, steps, [row["+-"] for row in rows], label=name, **looks[name])
            if with_gradient:
                column[1].plot(nodes, [row["speed-up"] for row in rows], label=name, **looks[name])
        _scales(column, nodes)
    grid[0, 0].set_ylabel("ms of a step without its gradient")
    if with_gradient:
        grid[1, 0].set_ylabel("speed-up")
    about = tables[0].about
    gradient = f", a gradient of {1e3 * about['gradient s']:g} ms" if with_gradient else ""
    style.title(figure, f"{about['algorithm']}, d = {about['d']:,}{gradient}: simulated by SimGrid")
    style.legend(figure, grid.ravel())
    return figure


def _scales(column, nodes: list[float]) -> None:
    for axes in column:
        axes.set(xscale="log", yscale="log")
        axes.set_xticks(nodes, [f"{int(n):,}" for n in nodes])
        axes.minorticks_off()
    if len(column) > 1:
        column[1].plot(nodes, nodes, color="grey", linewidth=0.8, linestyle=":", label="perfect")
    column[-1].set_xlabel("nodes")


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
    style.save(picture(tables), arguments.output, style.markdown(cells(tables)))


if __name__ == "__main__":
    main()
