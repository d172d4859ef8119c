"""The command line: each command parses, then calls one function. Only `train` starts MPI."""

import inspect
import sys
from pathlib import Path

import click

from mpisign import __version__, mpi

JOB = click.argument("job", required=False, type=click.Path(path_type=Path))
SET = click.option("settings", "--set", multiple=True, metavar="TABLE.KEY=VALUE", help="Overrides a key of the job.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mpisign")
def cli():
    """Training with sign-based distributed optimisation over MPI.

    \b
    mpirun -n 8 mpisign train                      the built-in job on real digits
    mpirun -n 8 mpisign train JOB.toml --set run.seed=2
    """


@cli.command()
@JOB
@SET
@click.option("--overwrite", is_flag=True, help="Replaces an existing run file.")
@click.option("--dry-run", is_flag=True, help="Prints d, bytes a step, memory a rank and evaluations a step.")
def train(job, settings, overwrite, dry_run):
    """Trains as JOB (a TOML file) says; without JOB, the built-in job on handwritten digits."""
    from mpisign import config

    # read before torch is imported, so that a typing error is answered at once
    extra = ("run.overwrite=true",) if overwrite else ()
    loaded = config.load(job, (*settings, *extra))
    from mpisign.train import train

    train(loaded, dry_run)


@cli.command()
@click.argument("name", required=False)
def algorithms(name):
    """Lists the zoo, or describes the algorithm NAME."""
    from mpisign import zoo  # noqa: F401
    from mpisign.algorithm import REGISTRY, find

    if name is None:
        for entry in REGISTRY.values():
            click.echo(f"{entry.name:16} {entry.summary}\n{'':16} {entry.paper}")
        return
    entry = find(name)
    click.echo(f"{entry.name}({entry.signature})\n{entry.paper}\nlr: {entry.lr}\n")
    click.echo(f"{inspect.getdoc(entry.make)}\n\n{entry.build()}")


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--config", "with_config", is_flag=True, help="Prints the job with every default.")
def show(run, with_config):
    """Prints what a run file holds: summary, machine, partition, events."""
    from mpisign.results import Run
    from mpisign.show import describe

    found = Run(run)
    click.echo(found.config_text if with_config else describe(found))


def main():
    """The console entry point: known errors are printed once, unknown ones end the whole job."""
    try:
        sys.exit(cli(standalone_mode=False))
    except click.ClickException as error:
        if mpi.launch().rank == 0:
            error.show()
        sys.exit(2)
    except click.exceptions.Abort:
        sys.exit(130)
    except (Exception, KeyboardInterrupt) as error:
        sys.exit(mpi.leave(error))


if __name__ == "__main__":
    main()
