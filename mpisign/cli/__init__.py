"""The command line: each command parses, then calls one function. Only what runs over ranks starts MPI."""

import math
import sys
from pathlib import Path

import click

from mpisign import __version__
from mpisign.cli.batch import KINDS
from mpisign.cli.bench import bench_group
from mpisign.cli.data import data_group
from mpisign.cli.evaluate import evaluate_command
from mpisign.cli.group import Commands, JobFile, explain, several, with_help
from mpisign.cli.project import project_command
from mpisign.cli.views import VIEWS, print_listing
from mpisign.errors import Stopped, StorageError, UsageError, printable
from mpisign.parallel import leaving, mpi, stopping
from mpisign.run import output
from mpisign.run.startup import PHASES, load_program
from mpisign.storage.schema import TABLES

JOB = click.argument("job", required=False, type=JobFile())
HETEROGENEOUS = "Only those of which that is so of convergence where voters' rows are unlike."
RESUME = click.Choice(["never", "auto"])
VERBOSE = click.option("-v", "--verbose", is_flag=True, help="Prints the definition, and what was measured, too.")
MAX_TIME = click.option("--max-time", type=float, metavar="MINUTES", help="Saves a checkpoint and stops after so long.")


def setting_option(text: str):
    """The option --set, with its help."""
    return click.option("settings", "--set", multiple=True, metavar="TABLE.KEY=VALUE", help=text)


SET = setting_option("Overrides a key of the job.")
# what train and simulate share
RUN = several(
    click.option("--init-from", type=click.Path(path_type=Path), help="A new run, from a checkpoint's x and step."),
    VERBOSE,
    MAX_TIME,
    click.option("--resume", type=RESUME, default="never", help="auto: goes on where the run stopped, if it did."),
    click.option("--point", type=click.IntRange(min=0), help="The point of a [sweep] to run; see mpisign plan."),
    click.option("--preset", type=click.Choice(["none", "theory"]), help="Rate and constants by the paper's formulas."),
    click.option("--dry-run", is_flag=True, help="Prints d, bytes per step, memory and evaluations per step."),
    click.option("--overwrite", is_flag=True, help="Replaces an existing run file."),
    SET,
)


@click.group(cls=Commands)
@click.version_option(__version__, prog_name="mpisign")
def cli():
    """Training with sign-based distributed optimisation over MPI.

    \b
    mpirun -n 8 mpisign train                      the built-in job on real digits
    mpirun -n 8 mpisign train mnist_mlp --set problem.path=DIR     a job that comes with mpisign
    mpirun -n 8 mpisign train JOB.toml --set run.seed=2            a job of one's own
    """


cli.add_command(bench_group)
cli.add_command(data_group)
cli.add_command(evaluate_command)
cli.add_command(project_command)
for view in VIEWS:
    cli.add_command(view)


@cli.command()
@JOB
@RUN
def train(job, **options):
    """Trains as JOB (a TOML file, or a job's name) says; without JOB, the built-in job on handwritten digits.

    USR1, TERM and a time limit save a checkpoint and end the run with exit code 75; Ctrl-C saves and ends it with 130,
    a second one at once.
    """
    stopping.catch_signals(leaving.interrupted)
    config = _one(_read(job, options), job, options["point"])
    load_program()
    from mpisign.run.train import train

    train(config, dry_run=options["dry_run"], options=_resume_options(options), verbose=options["verbose"])


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--from", "checkpoint", type=click.Path(path_type=Path), help="A checkpoint other than the newest.")
@click.option("--ranks-changed", is_flag=True, help="Goes on on as many ranks as there are; see jobs/README.md.")
@setting_option("Overrides what moves no bit of x, as in checkpoint.keep=5.")
@MAX_TIME
@VERBOSE
def resume(run, checkpoint, ranks_changed, settings, max_time, verbose):
    """Goes on with the run in the file RUN, on as many ranks as it had, bit for bit.

    With --ranks-changed on another number of them: x, step and schedule are kept, voters that are left keep their
    states, rows are dealt anew.
    """
    stopping.catch_signals(leaving.interrupted)
    load_program()
    from mpisign.run.train import resume

    resume(run, (*settings, *_limit(max_time)), checkpoint, verbose, ranks_changed)


@cli.command()
@JOB
@RUN
@click.option("-n", "--voters", type=click.IntRange(min=1), help="How many voters; run.voters by default.")
@click.option("--jobs", type=click.IntRange(min=1), default=1, help="Points of a sweep at a time.", show_default=True)
def simulate(job, voters, jobs, **options):
    """Runs JOB with any number of voters in this process, bit for bit as mpirun with as many ranks would.

    A job with a [sweep] runs all its points, those that have ended excepted.
    """
    if voters:
        options["settings"] = (*options["settings"], f"run.voters={voters}")
    stopping.catch_signals(leaving.interrupted)
    loaded = _read(job, options)
    if isinstance(loaded, list) and options["point"] is None and not options["dry_run"]:
        from mpisign.run.sweep import run_points

        run_points(lambda: _read(job, options), jobs)
        return
    config = _one(loaded, job, options["point"])
    load_program()
    from mpisign.run.train import simulate

    simulate(config, dry_run=options["dry_run"], options=_resume_options(options), verbose=options["verbose"])


@cli.command()
@click.argument("job", type=JobFile())
@SET
@click.option("--preset", type=click.Choice(["none", "theory"]), help="As in train.")
def plan(job, **options):
    """Lists the points of JOB's [sweep]: number, status, name and run file."""
    points = _read(job, options)
    if not isinstance(points, list):
        raise UsageError(f"{job} has no [sweep]; it is one run")
    for p in points:
        click.echo(f"{p.index:5} {p.status:10} {p.name:40} {p.file or ''}".rstrip())
    click.echo(f"points: {len(points)}\nended: {sum(p.ended for p in points)}")


def _settings(options: dict) -> tuple[str, ...]:
    preset = (f"run.preset={options['preset']}",) if options.get("preset") else ()
    overwrite = ("run.overwrite=true",) if options.get("overwrite") else ()
    return (*options["settings"], *overwrite, *preset, *_limit(options.get("max_time")))


def _limit(max_time: float | None) -> tuple[str, ...]:
    if max_time is not None and not 0 < max_time < math.inf:
        raise UsageError(f"--max-time {max_time:g}: minutes, a finite number above 0, as in --max-time 55")
    return (f"run.max_minutes={max_time}",) if max_time is not None else ()


def _resume_options(options: dict):
    from mpisign.run.resume import ResumeOptions

    return ResumeOptions(options["resume"], init_from=options["init_from"])


def _read(job: Path | None, options: dict):
    """The job, or the points of its [sweep]; read before torch is imported: typing errors come at once."""
    from mpisign import config
    from mpisign.run import sweep

    if job is None:
        return config.load(None, _settings(options))
    tables, settings = config.tables(job, words := _settings(options)), map(config.parse, words)
    return sweep.points(tables, job) or config.make(tables, f"{job}: ", settings)


def _one(loaded, job: Path | None, point: int | None):
    """The job, or the point of it that was asked for."""
    if not isinstance(loaded, list):
        if point is not None:
            raise UsageError(f"--point {point}: {job or 'the built-in job'} has no [sweep]")
        return loaded
    if point is None:
        raise UsageError(f"{job} is a sweep of {len(loaded)} points; choose one: --point K (mpisign plan lists them)")
    if point >= len(loaded):
        raise UsageError(f"--point {point}: the sweep has points 0 to {len(loaded) - 1}")
    return loaded[point].config


@cli.command()
@click.argument("name", required=False)
@click.option(
    "--bits",
    type=float,
    metavar="MOST",
    help="Only those of which a rank sends at most so many bits per coordinate and step, up and down, with 8 ranks, "
    "default hyperparameters and after any warm-up; the list says how many.",
)
@click.option("--since", type=int, metavar="YEAR", help="Only those of papers of that year or later.")
@click.option("--until", type=int, metavar="YEAR", help="Only those of papers of that year or before.")
@click.option("--heterogeneous", type=click.Choice(["proved", "refuted", "claimed", "open"]), help=HETEROGENEOUS)
@click.option(
    "--offers", metavar="WHAT", help="Only those that need gradients and these at most: one or several, or none."
)
@click.option("--markdown", "as_markdown", is_flag=True, help="Prints the zoo as the tables of a Markdown page.")
@click.option("--pages", type=click.Path(path_type=Path), metavar="FOLDER", help="Writes a page for each into FOLDER.")
@click.option("--absent", is_flag=True, help="Tells which methods that papers compare with are no entries, and why.")
def algorithms(name, as_markdown, absent, pages, **wanted):
    """Lists the zoo, or describes the algorithm NAME."""
    from mpisign.cli import zoo

    told = {"--markdown": as_markdown, "--absent": absent, "--pages": pages}
    filters = {f"--{key}": value for key, value in wanted.items() if value is not None}
    for flag, given in (told | filters).items():
        if name and given:
            raise UsageError(f"{flag} is about the whole zoo; leave out {name!r} or {flag}")
    for flag in filters if absent else ():
        raise UsageError(f"{flag} is about entries; leave out --absent or {flag}")
    if name:
        zoo.describe(name)
    elif absent:
        zoo.absent()
    else:
        zoo.print_or_write(zoo.chosen(**wanted), as_markdown, pages)


@cli.command("show")
@click.argument("run", required=False, type=click.Path(path_type=Path), default=Path("runs"))
@click.option("--config", "with_config", is_flag=True, help="Prints the job with every default.")
@click.option("--follow", is_flag=True, help="Prints evaluations and events as they come, until the run ends.")
@click.option("--csv", "table", type=click.Choice(list(TABLES)), help="Prints a table as CSV.")
def show_command(run, with_config, follow, table):
    """Prints what the run file RUN holds: summary, machine, partition, events.

    A folder, runs by default, is listed as by mpisign list.
    """
    from mpisign.cli import show
    from mpisign.storage.reader import Run

    if run.is_dir():
        if with_config or follow or table:
            raise UsageError(f"{run} is a folder, whose runs are listed; --config, --follow and --csv are for one run")
        print_listing(run)
        return
    if follow:
        show.follow(run, click.echo)
        return
    opened = Run(run)
    if table:
        show.as_csv(opened, table, lambda text: click.echo(text, nl=False))
        return
    click.echo(printable(opened.config_text, lines=True) if with_config else show.describe(opened))


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--output", type=click.Path(path_type=Path), help="Another file, instead of replacing RUN.")
def repair(run, output):
    """Makes a run file whose writer was killed one that any HDF5 program opens, with all rows that can be read."""
    from mpisign.storage.repair import repair

    for line in repair(run, output):
        click.echo(line)


@cli.command()
@JOB
@SET
@click.option("--kind", type=click.Choice(KINDS), help="sweep for a JOB with a [sweep]; train by default.")
@click.option("--nodes", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--spares", type=click.IntRange(min=0), default=0, show_default=True,
              help="Further nodes, which take over when one of --nodes is lost.")  # fmt: skip
@click.option("--tasks", type=click.IntRange(min=1), default=8, show_default=True, help="Ranks per node.")
@click.option("--cpus", type=click.IntRange(min=1), default=1, show_default=True, help="Cores per rank.")
@click.option("--gpus", type=click.IntRange(min=0), default=0, show_default=True, help="GPUs per rank.")
@click.option("--time", default="01:00:00", show_default=True, help="Limit, as Slurm writes it.")
@click.option("--sbatch", "directives", multiple=True, metavar="--OPTION=VALUE", help="Any other option of sbatch.")
def sbatch(job, settings, kind, **resources):
    """Prints a batch script for Slurm that runs JOB, is saved in time, and goes on when it is queued again.

    \b
    mpisign sbatch jobs/mnist_mlp.toml --nodes 4 --sbatch=--account=mine > mnist.sbatch
    mpisign sbatch jobs/mnist_mlp.toml --nodes 4 --spares 1 > spares.sbatch
    """
    from mpisign.cli import batch

    points = _checked_points(job, settings, kind, resources) if job else None
    kind = kind or ("sweep" if points else "train")
    sizes = {"points": points} if points else {}
    click.echo(batch.script(batch.Request(kind, job=job, settings=settings, **sizes, **resources)), nl=False)


def _checked_points(job, settings, kind, resources) -> int | None:
    """The number of a sweep's points; whatever would break the job in the queue breaks it here."""
    from mpisign.run.nodes import foreseen, simulated
    from mpisign.run.plan import resolve

    loaded = _read(job, {"settings": settings})
    sweeps = isinstance(loaded, list)
    if kind and (kind == "sweep") != sweeps:
        raise UsageError(f"--kind {kind}: {job} has {'a' if sweeps else 'no'} [sweep]")
    ranks = resources["nodes"] * resources["tasks"]
    for config in [p.config for p in loaded if p.settings] if sweeps else [loaded]:
        simulates = kind == "scaling" and config.run.voters
        sizes = simulated(config, config.run.voters) if simulates else foreseen(config, ranks, resources["tasks"])
        resolve(config, *sizes)
    return len(loaded) if sweeps else None


@cli.command("doctor")
@click.argument("folder", required=False, type=click.Path(path_type=Path), default=Path("runs"))
def doctor_command(folder):
    """Checks MPI, threads, pinning, memory and the FOLDER of run files, and says what to do; alone or under a launcher.

    \b
    mpirun -n 8 mpisign doctor
    srun -N2 -n16 mpisign doctor /scratch/me/runs
    """
    from mpisign.cli.doctor import examine

    click.get_current_context().exit(examine(folder, click.echo))


with_help(cli)


def main():
    """The console entry point: known errors are printed once, unknown ones end the whole job."""
    output.prepare()
    PHASES.end("python, the command line")
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
