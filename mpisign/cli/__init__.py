"""The command line: each command parses, then calls one function. Only what runs over ranks starts MPI."""

import sys
from pathlib import Path

import click

from mpisign import __version__, leaving, mpi, output, stopping
from mpisign.batch import KINDS
from mpisign.cli.bench import bench
from mpisign.cli.data import data
from mpisign.cli.group import Commands, explain
from mpisign.cli.helping import with_help
from mpisign.errors import Stopped, StorageError
from mpisign.schema import TABLES
from mpisign.words import printable

JOB = click.argument("job", required=False, type=click.Path(path_type=Path))
SET = click.option("settings", "--set", multiple=True, metavar="TABLE.KEY=VALUE", help="Overrides a key of the job.")


VERBOSE = click.option("-v", "--verbose", is_flag=True, help="Prints the definition, and what was measured, too.")
MAX_TIME = click.option("--max-time", type=float, metavar="MINUTES", help="Saves a checkpoint and stops after so long.")


def RUN(command):
    """The options that train and simulate share."""
    for option in (
        click.option("--init-from", type=click.Path(path_type=Path), help="A new run, from a checkpoint's x and step."),
        VERBOSE,
        MAX_TIME,
        click.option(
            "--resume",
            type=click.Choice(["never", "auto"]),
            default="never",
            help="auto: goes on where the run stopped, if it did.",
        ),
        click.option("--point", type=click.IntRange(min=0), help="The point of a [sweep] to run; see mpisign plan."),
        click.option(
            "--preset", type=click.Choice(["none", "theory"]), help="Rate and constants by the paper's formulas."
        ),
        click.option("--dry-run", is_flag=True, help="Prints d, bytes per step, memory and evaluations per step."),
        click.option("--overwrite", is_flag=True, help="Replaces an existing run file."),
        SET,
    ):
        command = option(command)
    return command


@click.group(cls=Commands)
@click.version_option(__version__, prog_name="mpisign")
def cli():
    """Training with sign-based distributed optimisation over MPI.

    \b
    mpirun -n 8 mpisign train                      the built-in job on real digits
    mpirun -n 8 mpisign train JOB.toml --set run.seed=2
    """


cli.add_command(bench)
cli.add_command(data)


@cli.command()
@JOB
@RUN
def train(job, **how):
    """Trains as JOB (a TOML file) says; without JOB, the built-in job on handwritten digits.

    USR1, TERM and a time limit save a checkpoint and end the run with exit code 75; Ctrl-C saves and ends it with 130,
    a second one at once.
    """
    stopping.catch_signals(leaving.interrupted)
    loaded = _load(job, **how)
    _check_file(loaded, mpi.launch().size, how)
    from mpisign.train import train

    train(loaded, how["dry_run"], _wish(how), how["verbose"])


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--from", "checkpoint", type=click.Path(path_type=Path), help="A checkpoint other than the newest.")
@click.option(
    "settings",
    "--set",
    multiple=True,
    metavar="TABLE.KEY=VALUE",
    help="Overrides what moves no bit of x, as in checkpoint.keep=5.",
)
@MAX_TIME
@VERBOSE
def resume(run, checkpoint, settings, max_time, verbose):
    """Goes on with the run in the file RUN, on as many ranks as it had, bit for bit."""
    stopping.catch_signals(leaving.interrupted)
    from mpisign.train import resume

    resume(run, (*settings, *_limit(max_time)), checkpoint, verbose)


@cli.command()
@JOB
@RUN
@click.option("-n", "--voters", type=click.IntRange(min=1), help="How many voters; run.voters by default.")
@click.option("--jobs", type=click.IntRange(min=1), default=1, help="Points of a sweep at a time.", show_default=True)
def simulate(job, voters, jobs, **how):
    """Runs JOB with any number of voters in this process, bit for bit as mpirun with as many ranks would.

    A job with a [sweep] runs all its points, those that have ended excepted.
    """
    if voters:
        how["settings"] = (*how["settings"], f"run.voters={voters}")
    stopping.catch_signals(leaving.interrupted)
    if how["point"] is None and not how["dry_run"] and _points(job, how):
        from mpisign.sweeping import run_points

        run_points(lambda: _points(job, how), jobs)
        return
    loaded = _load(job, **how)
    _check_file(loaded, loaded.run.voters, how)
    from mpisign.train import simulate

    return simulate(loaded, dry_run=how["dry_run"], wish=_wish(how), verbose=how["verbose"])


@cli.command()
@click.argument("job", type=click.Path(path_type=Path))
@SET
@click.option("--preset", type=click.Choice(["none", "theory"]), help="As in train.")
def plan(job, **how):
    """Lists the points of JOB's [sweep]: number, status, name and run file."""
    from mpisign.errors import UsageError

    points = _points(job, how | {"overwrite": False})
    if points is None:
        raise UsageError(f"{job} has no [sweep]; it is one run")
    for p in points:
        click.echo(f"{p.index:5} {p.status:10} {p.name:40} {p.file or ''}".rstrip())
    ended = sum(p.ended for p in points)
    click.echo(f"points: {len(points)}\nended: {ended}")


def _settings(how: dict) -> tuple[str, ...]:
    preset = (f"run.preset={how['preset']}",) if how.get("preset") else ()
    overwrite = ("run.overwrite=true",) if how["overwrite"] else ()
    return (*how["settings"], *overwrite, *preset, *_limit(how.get("max_time")))


def _limit(max_time: float | None) -> tuple[str, ...]:
    return (f"run.max_minutes={max_time}",) if max_time is not None else ()


def _wish(how: dict):
    from mpisign.beginning import Wish

    return Wish(how["resume"], init_from=how["init_from"])


def _points(job, how: dict):
    from mpisign import sweep

    return sweep.read(job, _settings(how)) if job else None


def _load(job, **how):
    """The job, or the point of it that was asked for; read before torch is imported: typing errors come at once."""
    from mpisign import config
    from mpisign.errors import UsageError

    points, wanted = _points(job, how), how["point"]
    if wanted is None and points is None:
        return config.load(job, _settings(how))
    if points is None:
        raise UsageError(f"--point {wanted}: {job or 'the built-in job'} has no [sweep]")
    if wanted is None:
        raise UsageError(f"{job} is a sweep of {len(points)} points; choose one: --point K (mpisign plan lists them)")
    if wanted >= len(points):
        raise UsageError(f"--point {wanted}: the sweep has points 0 to {len(points) - 1}")
    return points[wanted].config


def _check_file(loaded, voters: int, how: dict) -> None:
    from mpisign import existing

    if not how["dry_run"] and how["resume"] == "never":
        existing.refuse(loaded, voters)


@cli.command()
@click.argument("name", required=False)
@click.option("--markdown", "as_markdown", is_flag=True, help="Prints the zoo as the tables of a Markdown page.")
def algorithms(name, as_markdown):
    """Lists the zoo, or describes the algorithm NAME."""
    from mpisign import catalogue, zoo  # noqa: F401
    from mpisign.algorithm import entries, find
    from mpisign.errors import UsageError

    if name and as_markdown:
        raise UsageError(f"--markdown prints the whole zoo; leave out {name!r} or --markdown")
    listing = catalogue.markdown if as_markdown else catalogue.listing
    click.echo(catalogue.describe(find(name)) if name else listing(entries()))


@cli.command()
@click.argument("run", required=False, type=click.Path(path_type=Path), default=Path("runs"))
@click.option("--config", "with_config", is_flag=True, help="Prints the job with every default.")
@click.option("--follow", is_flag=True, help="Prints evaluations and events as they come, until the run ends.")
@click.option("--csv", "table", type=click.Choice(list(TABLES)), help="Prints a table as CSV.")
def show(run, with_config, follow, table):
    """Prints what the run file RUN holds: summary, machine, partition, events; or lists the runs of a folder.

    Without RUN, the folder runs.
    """
    from mpisign import show
    from mpisign.errors import UsageError
    from mpisign.results import Run

    if run.is_dir():
        if with_config or follow or table:
            raise UsageError(f"{run} is a folder, whose runs are listed; --config, --follow and --csv are for one run")
        lines, skipped = show.listing(run)
        click.echo("\n".join(lines))
        click.echo("".join(f"left out: {line}\n" for line in skipped), err=True, nl=False)
        click.get_current_context().exit(2 if skipped else 0)
    if follow:
        show.follow(run, click.echo)
        return
    found = Run(run)
    if table:
        show.as_csv(found, table, lambda text: click.echo(text, nl=False))
        return
    click.echo(printable(found.config_text, lines=True) if with_config else show.describe(found))


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--output", type=click.Path(path_type=Path), help="Another file, instead of replacing RUN.")
def repair(run, output):
    """Makes a run file whose writer was killed one that any HDF5 program opens, with all rows that can be read."""
    from mpisign.repair import repair

    for line in repair(run, output):
        click.echo(line)


@cli.command()
@JOB
@SET
@click.option("--kind", type=click.Choice(KINDS), help="sweep for a JOB with a [sweep]; train by default.")
@click.option("--nodes", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--tasks", type=click.IntRange(min=1), default=8, show_default=True, help="Ranks per node.")
@click.option("--cpus", type=click.IntRange(min=1), default=1, show_default=True, help="Cores per rank.")
@click.option("--gpus", type=click.IntRange(min=0), default=0, show_default=True, help="GPUs per rank.")
@click.option("--time", default="01:00:00", show_default=True, help="Limit, as Slurm writes it.")
@click.option("--sbatch", "directives", multiple=True, metavar="--OPTION=VALUE", help="Any other option of sbatch.")
def sbatch(job, settings, kind, **resources):
    """Prints a batch script for Slurm that runs JOB, is saved in time, and goes on when it is queued again.

    \b
    mpisign sbatch jobs/mnist_mlp.toml --nodes 4 --sbatch=--account=mine > mnist.sbatch
    """
    from mpisign import batch

    points = _checked_points(job, settings, kind, resources) if job else None
    kind = kind or ("sweep" if points else "train")
    sizes = {"points": points} if points else {}
    click.echo(batch.script(batch.Request(kind, job=job, settings=settings, **sizes, **resources)), nl=False)


def _checked_points(job, settings, kind, resources) -> int | None:
    """The number of a sweep's points; whatever would break the job in the queue breaks it here."""
    from mpisign import config
    from mpisign.errors import UsageError
    from mpisign.plan import resolve

    points = _points(job, {"settings": settings, "overwrite": False})
    if kind and (kind == "sweep") != (points is not None):
        raise UsageError(f"--kind {kind}: {job} has {'a' if points else 'no'} [sweep]")
    ranks = resources["nodes"] * resources["tasks"]
    for found in [p.config for p in points if p.settings] if points else [config.load(job, settings)]:
        resolve(found, found.run.voters if kind == "scaling" and found.run.voters else ranks)
    return len(points) if points else None


@cli.command()
@click.argument("folder", required=False, type=click.Path(path_type=Path), default=Path("runs"))
def doctor(folder):
    """Checks MPI, threads, pinning, memory and the FOLDER of run files, and says what to do; alone or under a launcher.

    \b
    mpirun -n 8 mpisign doctor
    srun -N2 -n16 mpisign doctor /scratch/me/runs
    """
    from mpisign.doctor import examine

    click.get_current_context().exit(examine(folder, click.echo))


with_help(cli)


def main():
    """The console entry point: known errors are printed once, unknown ones end the whole job."""
    output.prepare()
    try:
        code = cli(standalone_mode=False) or 0
        sys.stdout.flush()
    except click.ClickException as error:
        if mpi.speaks():
            explain(error).show()
        code = 2
    except click.exceptions.Abort as error:
        stopping.ignore_signals()
        code = leaving.leave(error.__cause__ or KeyboardInterrupt())
    except BaseException as error:  # whatever it is: the other ranks would wait for this one
        stopping.ignore_signals()
        code = _unwritten(error) if output.is_fault(error) and mpi.launch().size == 1 else leaving.leave(error)
        if isinstance(error, (Stopped, StorageError)):
            # who asked a run to stop may not wait for long, and HDF5 may not live through an orderly end
            leaving.finish_at_once(code)
    stopping.ignore_signals()
    leaving.finish(code)


def _unwritten(error: OSError) -> int:
    """The exit code where output can't be written; a reader that has read enough, as `head`, is told nothing."""
    output.silence()
    if not isinstance(error, BrokenPipeError):
        click.echo(f"mpisign: can't write the output: {error.strerror}", err=True)
    return 1


if __name__ == "__main__":
    main()
