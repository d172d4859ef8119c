"""`mpisign data`: fetches public data sets, and looks at data before a job relies on it."""

from pathlib import Path

import click

from mpisign.cli.group import Commands


@click.group("data", cls=Commands)
def data_group():
    """Fetches public data sets, and shows what a file or folder holds."""


@data_group.command()
@click.argument("name", required=False)
@click.option("--to", "folder", type=click.Path(path_type=Path), help="The folder to put it in; data/NAME by default.")
@click.option("--from", "base", default="", metavar="URL", help="Another folder on the network that holds its files.")
def fetch(name, folder, base):
    """Fetches the data set NAME and checks it, or lists those that are known."""
    from mpisign.problems.data.datasets import SETS
    from mpisign.problems.data.fetch import fetch

    if name is None:
        for known, data_set in SETS.items():
            click.echo(f"{known:14} {data_set.title}")
    else:
        fetch(name, folder or Path("data") / name, base, click.echo)


@data_group.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--ranks", type=click.IntRange(min=1), default=4, show_default=True)
@click.option("--kind", type=click.Choice(["iid", "labels", "dirichlet", "sorted"]), default="iid", show_default=True)
@click.option("--alpha", type=click.FloatRange(min=0, min_open=True), default=0.3, show_default=True)
@click.option("--labels", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--min-rows", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True)
def show(path, **partition):
    """Shows what lies at PATH, and which rows each rank would own: as [partition] of a job deals them."""
    from mpisign.cli.inspect import show

    show(path, say=click.echo, **partition)
