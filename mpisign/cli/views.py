"""`mpisign list`, `plot`, `compare` and `report`: run files as tables, as pictures, and as a page."""

import importlib
import math
import os
from pathlib import Path
from types import ModuleType

import click

from mpisign.cli.group import several
from mpisign.errors import UsageError, printable

METRICS = ("test_accuracy", "train_loss", "test_loss")
RUNS = click.argument("paths", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))


class PictureFile(click.Path):
    """Where a picture goes: its name says of what kind it is."""

    def __init__(self):
        super().__init__(dir_okay=False, path_type=Path)

    def convert(self, value, param, ctx):
        path = super().convert(value, param, ctx)
        if path.suffix not in (".png", ".pdf", ".svg"):
            self.fail(f"{printable(path)!r} is no picture's name; it has to end in .png, .pdf or .svg", param, ctx)
        return path


class Words(click.ParamType):
    """One or more names, with commas between them; each once."""

    name = "names"

    def convert(self, value, param, ctx):
        names = value if isinstance(value, tuple) else tuple(dict.fromkeys(value.replace(",", " ").split()))
        if not names:
            self.fail("at least one name is needed", param, ctx)
        return names


class Finite(click.types.FloatParamType):
    """A number, neither infinite nor NaN; and positive, if it has to be."""

    def __init__(self, positive: bool = False):
        self.positive = positive

    def convert(self, value, param, ctx):
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not finite", param, ctx)
        if self.positive and number <= 0:
            self.fail(f"{value!r} is not above 0", param, ctx)
        return number


@click.command("list")
@click.argument("folder", required=False, type=click.Path(path_type=Path), default=Path("runs"))
@click.option("--sort", "key", metavar="KEY", help="By a column, as seconds, or by a name of --csv; else by file.")
@click.option("--reverse", is_flag=True, help="The last first.")
@click.option("--json", "as_json", is_flag=True, help="Prints JSON objects, with all digits.")
@click.option("--csv", "as_csv", is_flag=True, help="Prints the same as CSV.")
def list_command(folder, key, reverse, as_json, as_csv):
    """Lists the run files of FOLDER and the folders below, a line each, the damaged ones too; runs by default.

    Bits are the method's own, per coordinate, rank and step. What is wrong with a file is told on standard error; the
    exit code is then 2.
    """
    if as_json and as_csv:
        raise UsageError("--json and --csv are two forms of one list; leave one out")
    print_listing(folder, key, reverse, "json" if as_json else "csv" if as_csv else "text")


def print_listing(folder: Path, key: str | None = None, reverse: bool = False, form: str = "text") -> None:
    """Prints the runs of a folder, and ends the command."""
    from mpisign.figures import listing

    listing.check_key(key)
    found = listing.rows(folder, key, reverse)
    click.echo(listing.FORMS[form](found))
    _end(listing.unreadable(found), tell=True)


@click.command("plot")
@RUNS
@click.option("--output", type=PictureFile(), help="A .png, .pdf or .svg; by default RUN.png, or RUN-votes.png.")
@click.option("--mean", is_flag=True, help="Draws mean and standard deviation over seeds in place of every run.")
@click.option("--rows", type=Words(), metavar="COLUMN,...", help="What to draw: of /eval, or table.column, by commas.")
@click.option("--axes", type=Words(), metavar="AXIS,...", help="Against what, as step,bytes; all that say anything.")
@click.option("--votes", is_flag=True, help="Draws agreement, ties and flips; and every voter, where a run has probes.")
@click.option("--table", "as_table", is_flag=True, help="Prints the last values over seeds instead of drawing.")
def plot_command(paths, output, mean, rows, axes, votes, as_table):
    """Draws curves of run files, or of folders of them, against steps, epochs, evaluations, seconds and bytes.

    By default loss and accuracy, a line per run. Bytes are the method's own, and those on the wire.

    \b
    mpisign plot runs/*.h5 --output plot.png
    mpisign plot runs/my_sweep --mean --axes step,bytes
    mpisign plot runs/mine.h5 --rows probes.success_vote,steps.agreement
    """
    if votes and (mean or rows or axes or as_table):
        raise UsageError("--votes draws a picture of its own; leave out --mean, --rows, --axes and --table")
    if as_table and (output or axes):
        raise UsageError("--table prints last values and draws nothing; leave out --output and --axes")
    curves, style = _drawing("curves"), _drawing("style")
    from mpisign.figures import grouping, selection

    curves.check_axes(axes or ())
    runs, skipped = selection.read(paths)
    output = output or _picture_of(paths[0], "-votes.png" if votes else ".png")
    for row in rows or ():
        curves.check_row(runs, row)
    if votes:
        pictures = _drawing("votes")
        voting = selection.without(selection.without(runs, grouping.no_steps, skipped), pictures.no_votes)
        click.echo(style.save(pictures.picture(voting), output))
        _end(skipped)
    runs = selection.without(runs, lambda run: curves.lacking(run, rows or (), axes or ()), skipped)
    lines, rows = curves.groups(runs, mean or as_table), rows or curves.recorded(runs, mean or as_table)
    if as_table:
        click.echo(curves.text(lines, rows))
    else:
        curves.check_told(runs, rows, axes or ())
        click.echo(style.save(curves.picture(lines, rows, axes or curves.telling(runs, rows), mean), output))
    _end(skipped)


@click.command("compare")
@RUNS
@several(
    click.option("--metric", type=click.Choice(METRICS), default="test_accuracy", show_default=True),
    click.option("--target", type=Finite(), help="Of the metric; tells the bytes and evaluations that it took."),
    click.option(
        "--bytes",
        "budgets",
        type=Finite(positive=True),
        multiple=True,
        help="Shows the metric, too, at the last evaluation before a rank had sent and received more, by the method; "
        "may be given several times.",
    ),
    click.option("--files", is_flag=True, help="Prints the run files of the best rates instead, for mpisign plot."),
    click.option("--format", "form", type=click.Choice(["text", "markdown", "csv"]), help="text by default."),
    click.option("--output", type=PictureFile(), help="A .png, .pdf or .svg of metric and bytes to the target."),
)
def compare_command(paths, metric, target, budgets, files, form, output):
    """Compares methods at the best of their learning rates, from the run files of one or more sweeps.

    Runs that differ in rate and seed alone are one row, the best first: mean and standard deviation over the seeds of
    the rate whose mean is best at the end. A run that ended by an error is the worst; one that goes on,
    or can be resumed, is left out. With --bytes, rates are still those that are best at the end, and what a run
    had reached in the middle of its schedule stands beside what another had at its end.

    \b
    mpisign compare runs/my_sweep --target 0.9
    mpisign compare runs/my_sweep --metric test_loss --bytes 1e6 --bytes 1e7
    mpisign plot --mean $(mpisign compare runs/my_sweep --files) --axes bytes
    """
    if files and form:
        raise UsageError("--files prints names, no table; leave out --format")
    if files and budgets:
        raise UsageError("--files prints names, no table; leave out --bytes")
    from mpisign.figures import grid, selection

    dots, style = (_drawing("dots"), _drawing("style")) if output else (None, None)
    runs, skipped = selection.read(paths)
    ended = selection.without(runs, grid.not_ended)
    usable = selection.without(ended, lambda run: grid.unusable(run, metric), skipped)
    rows = grid.table(usable, metric, target, budgets)
    if output:
        click.echo(style.save(dots.picture(rows), output))
    # names go to another command, so they are bytes as they are
    names = b"\n".join(os.fsencode(run.path) for row in rows for run in row.runs)
    click.echo(names if files else grid.text(rows, form or "text"))
    _end(skipped)


@click.command("report")
@RUNS
@click.option("--output", type=click.Path(path_type=Path), default=Path("report.html"), show_default=True)
@click.option("--title", help="Of the page; by default the names of what was given.")
def report_command(paths, output, title):
    """Makes one HTML page of run files, with nothing beside it: tables, pictures, configurations and machines."""
    report, style = _drawing("report"), _drawing("style")
    from mpisign.figures import selection

    runs, skipped = selection.read(paths)
    page = report.page(runs, skipped, title or ", ".join(path.resolve().name for path in paths[:3]))
    style.replace(output, lambda path: path.write_text(page, encoding="utf-8", errors="backslashreplace"))
    click.echo(f"report: {printable(output)}")
    _end(skipped)


VIEWS = (list_command, plot_command, compare_command, report_command)


def _picture_of(path: Path, ending: str) -> Path:
    """Where the picture of a run file, or of a folder, goes by default: beside it, under its name."""
    named = path.resolve() if path.is_dir() else path  # . and .. are no names
    return named.with_name((named.name if path.is_dir() else named.stem) + ending)


def _drawing(name: str) -> ModuleType:
    """A module of figures that draws. Raises UsageError where what it draws with is not installed."""
    try:
        return importlib.import_module(f"mpisign.figures.{name}")
    except ModuleNotFoundError as error:
        library = (error.name or "mpisign").partition(".")[0]
        if library == "mpisign":
            raise
        raise UsageError(f"{library} is not installed, which this needs: pip install 'mpisign[analysis]'") from error


def _end(skipped: list[str], tell: bool = False) -> None:
    """Ends the command, with another exit code where a file could not be read or used."""
    from mpisign.figures.selection import SKIPPED

    for line in skipped if tell else ():
        click.echo(line, err=True)
    click.get_current_context().exit(SKIPPED if skipped else 0)
