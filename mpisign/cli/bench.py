"""`mpisign bench`: kernels, exchanges and their rivals, measured here."""

import contextlib
import sys
import tempfile
from pathlib import Path

import click

from mpisign.cli.group import Commands, several
from mpisign.errors import UsageError
from mpisign.parallel import mpi
from mpisign.run.startup import PHASES, load_program

SIZES = (100_000, 1_000_000, 8_400_000)
POSITIVE = click.IntRange(min=1)


def common(repeats: int = 7):
    """What all benchmarks share."""
    return several(
        click.option("--output", type=click.Path(path_type=Path), help="An HDF5 file for the table."),
        click.option("--threads", type=POSITIVE, default=1, show_default=True, help="Of each process."),
        click.option("--repeats", type=POSITIVE, default=repeats, show_default=True),
    )


# what all benchmarks over MPI share
options = several(
    common(),
    click.option("--progress", type=click.Choice(["calls", "thread"]), default="calls", show_default=True),
    click.option("--chunk", type=click.IntRange(min=0), default=0, help="Bytes of a plane in one message."),
    click.option("--node-size", type=click.IntRange(min=0), default=0, help="Ranks of a node, 0: those of a host."),
    click.option("-d", "sizes", multiple=True, type=float, default=SIZES, help="Coordinates; more than once."),
    click.option("--algorithm", "name", default="signsgd-mv", show_default=True, help="Whose messages travel."),
)


@click.group("bench", cls=Commands)
def bench_group():
    """Measures kernels, exchanges and rivals on this machine; tables are Markdown, files HDF5.

    \b
    mpisign bench kernels
    mpirun -n 4 mpisign bench exchange -d 1e6 -d 1e7
    mpirun -n 4 mpisign bench peers --output peers.h5
    mpirun -n 4 mpisign bench explain
    mpirun -n 2 mpisign bench ratios --output new.h5
    mpisign bench compare old.h5 new.h5
    """


@bench_group.command()
@click.option("-d", "size", type=float, help="Coordinates of a vector; 2**24, or 2**27 on a GPU.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--voters", type=click.IntRange(min=2), default=8, show_default=True, help="Whose votes are counted.")
@common()
def kernels(size, device, voters, threads, repeats, output):
    """Nanoseconds per coordinate of every kernel, and its share of this machine's read or copy bandwidth."""
    from mpisign.bench.kernels import kernels

    (d,) = whole_sizes((size if size is not None else 2**27 if device == "cuda" else 2**24,))
    tell([kernels(d, voters, threads, repeats, say_progress(True), device)], output, True)


@bench_group.command()
@click.option("--output", type=click.Path(path_type=Path), help="An HDF5 file for the table.")
@click.option("--threads", type=POSITIVE, default=1, show_default=True, help="Of each process.")
def startup(threads, output):
    """Seconds of every rank from its creation to the end of a job's first step, by phase; of this one start."""
    from mpisign import config

    with tempfile.TemporaryDirectory() as folder:
        settings = f"run.file={folder}/run.h5", f"run.threads={threads}", "run.steps=2", "run.eval_every=2"
        job = config.load(None, settings)
        load_program()
        from mpisign.run.train import train

        train(job, quiet=True)
    from mpisign.bench.startup import startup

    ranks = mpi.started()
    tell([startup(PHASES.seconds, ranks)], output, ranks.root)


@bench_group.command()
@click.option("--hidden", "widths", multiple=True, type=POSITIVE, default=(128, 1024), help="Layer widths.")
@click.option("--batch", type=POSITIVE, default=32, show_default=True, help="Rows of a step.")
@common(repeats=9)
def step(widths, batch, threads, repeats, output):
    """A step of one rank against the same loop in plain torch."""
    from mpisign.bench.step import step
    from mpisign.run.setup import use_threads

    _zoo()
    use_threads(threads)
    tell([step(widths, batch, repeats, say_progress(True))], output, True)


@bench_group.command()
@click.option("-d", "sizes", multiple=True, type=float, default=(1_000_000, 8_400_000), help="Coordinates.")
@click.option("--tensors", type=POSITIVE, default=60, show_default=True, help="They lie in so many.")
@common(repeats=15)
def optimizer(sizes, tensors, threads, repeats, output):
    """A step of SignOptimizer at n = 1 against torch.optim.SGD and one pass over x."""
    from mpisign.bench.library import optimizer
    from mpisign.run.setup import use_threads

    use_threads(threads)
    tell([optimizer(whole_sizes(sizes), tensors, repeats, say_progress(True))], output, True)


@bench_group.command()
@click.option("--batch", "batches", multiple=True, type=POSITIVE, default=(32, 128, 512), help="Rows on the CPU.")
@click.option("--elsewhere", "waits", multiple=True, type=POSITIVE, default=(60, 200), help="Milliseconds off it.")
@click.option("--width", type=POSITIVE, default=1024, show_default=True, help="Of 8 square layers.")
@click.option("--algorithm", "name", default="signsgd-mv", show_default=True)
@click.option("--compiled", is_flag=True, help="By torch.compile, too: as one graph, and a graph per layer.")
@common()
def overlap(batches, waits, width, name, compiled, threads, repeats, output):
    """How much of a step of SignOptimizer a backward pass hides."""
    from mpisign.bench.library import overlap

    with _ranks(threads, name) as (ranks, _, say):
        tell([overlap(batches, waits, width, name, compiled, repeats, ranks, say)], output, ranks.root)


@bench_group.command()
@options
@click.option("--exchange", "names", multiple=True, help="One of those that fit; all by default.")
def exchange(name, names, sizes, repeats, output, threads, **settings):
    """Steps without their gradient, exchange by exchange: time, prediction, bits by the OS, work, memory."""
    from mpisign.bench.exchanges import exchanges

    with _ranks(threads, name, names) as (ranks, slots, say):
        tell([exchanges(slots, names, whole_sizes(sizes), repeats, ranks, say, **settings)], output, ranks.root)


@bench_group.command()
@options
@click.option("--no-ddp", is_flag=True, help="Leaves out DDP and its hooks, which take long to start.")
def peers(name, sizes, repeats, output, threads, no_ddp, **settings):
    """A vote against MPI's and gloo's float32 all-reduce, and DDP with its fp16 and PowerSGD hooks, in one run."""
    from mpisign.bench.peers import peers

    with _ranks(threads, name) as (ranks, slots, say):
        tell([peers(slots, whole_sizes(sizes), repeats, ranks, say, not no_ddp, **settings)], output, ranks.root)


@bench_group.command()
@common(repeats=5)
@click.option("-d", "sizes", multiple=True, type=float, default=SIZES, help="Coordinates; more than once.")
@click.option("--algorithm", "name", default="signum-mv", show_default=True, help="Whose messages travel.")
@click.option("--of", type=click.IntRange(min=0), default=0, help="Ranks of a voter, 0: those of a host.")
def voters(name, sizes, repeats, of, output, threads):
    """Steps of a model that FSDP cuts inside a node, which votes as one, against a voter per rank, HSDP and DDP."""
    from mpisign.bench.voters import voters

    with _ranks(threads, name) as (ranks, _, say):
        tell([voters(name, whole_sizes(sizes), repeats, of, ranks, say)], output, ranks.root)


@bench_group.command()
@options
@click.option("--exchange", "exchange_name", default="sharded", show_default=True)
def profile(name, exchange_name, sizes, repeats, output, threads, **settings):
    """Where each millisecond of a step without its gradient goes; the memory of its buffers."""
    from mpisign.bench.exchanges import profile

    with _ranks(threads, name, (exchange_name,)) as (ranks, slots, say):
        tables = [profile(slots, exchange_name, d, repeats, ranks, say, **settings) for d in whole_sizes(sizes)]
        tell(tables, output, ranks.root)


@bench_group.command()
@options
def explain(name, sizes, repeats, output, threads, **settings):
    """How exchange = "auto" chooses here, and the link bandwidth below which a method pays against float32."""
    from mpisign.bench.explain import explain

    with _ranks(threads, name) as (ranks, slots, say):
        say = click.echo if ranks.root else say
        tell([explain(slots, whole_sizes(sizes), ranks, say, **settings)], output, ranks.root)


@bench_group.command()
@click.option("-d", "size", type=float, default=1_000_000, help="Coordinates.", show_default=True)
@common()
def ratios(size, repeats, output, threads):
    """Kernels against a copy, a vote against gloo, a step against torch's, starts against torch's import.

    If the --output is there, this run is added to it: bench compare wants several. On a machine that is idle otherwise.
    """
    from mpisign.bench.ratios import add_to, ratios, summary

    with _ranks(threads, "signsgd-mv") as (ranks, slots, say):
        table = ratios(slots, *whole_sizes((size,)), repeats, ranks, say)
        with ranks.agreed():
            if ranks.root:
                table = add_to(output, table) if output else table
        tell([table], output, ranks.root, shown=[summary(table)])


@bench_group.command()
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
@click.option(
    "--least", type=click.FloatRange(min=0), default=0.03, show_default=True, help="Share of a change that counts."
)
@click.option("--fail", is_flag=True, help="Ends with code 1 if anything became slower.")
def compare(old, new, least, fail):
    """Which ratios of two files of bench ratios differ by more than runs of one program do."""
    from mpisign.bench.compare import compare

    table = compare(old, new, least)
    tell([table], None, True)
    if fail and any(row["moved"] == "slower" for row in table.rows):
        sys.exit(1)


def whole_sizes(sizes) -> tuple[int, ...]:
    for size in sizes:
        if not 1 <= size <= 2**40 or size != int(size):
            text = f"-d {size:g}: coordinates are a whole number from 1 to 2**40, as in -d 1e6"
            raise UsageError(text, agreed=True)  # all ranks read the same words
    return tuple(int(size) for size in sizes)


def _zoo() -> None:
    from mpisign.algorithms import zoo  # noqa: F401  its functions enter the registry


@contextlib.contextmanager
def _ranks(threads: int, name: str, exchanges: tuple[str, ...] = ()):
    """All ranks, which must be at least two; the algorithm whose messages travel; and what tells of progress."""
    from mpisign.algorithms.registry import find

    _zoo()
    slots = find(name).build().stages[-1]
    for wanted in exchanges:
        from mpisign.exchange import candidates

        if wanted not in (known := candidates(slots)):
            raise UsageError(f"--exchange {wanted} can't carry {name}; use one of: {', '.join(known)}")
    if mpi.launch().size < 2:
        raise UsageError("an exchange needs ranks: mpirun -n 4 mpisign bench ...")
    ranks = mpi.start(threads)
    from mpisign.run.setup import use_threads
    from mpisign.run.train import load_kernels

    use_threads(threads)
    load_kernels(ranks)
    yield ranks, slots.with_rules("auto", "auto", ranks.size), say_progress(ranks.root)


def say_progress(root: bool):
    """Tells on a terminal what is being measured."""
    if not root or not sys.stderr.isatty():
        return lambda text: None
    return lambda text: click.echo(f"\r\x1b[K{text}", nl=False, err=True)


def tell(tables, output, root: bool, shown=None) -> None:
    """Prints tables, or those that are to be shown instead, and writes them into the file."""
    if not root:
        return
    say_progress(True)("")
    click.echo("\n\n".join(table.markdown() for table in shown or tables))
    if output:
        from mpisign.bench.table import save

        save(output, tables)
        click.echo(f"\nwritten: {output}")
