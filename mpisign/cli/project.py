"""`mpisign project`: a step on nodes that you do not have, simulated by SimGrid's smpirun."""

import re
from pathlib import Path

import click

from mpisign.cli.group import JobFile, several
from mpisign.errors import UsageError, choices

POSITIVE = click.IntRange(min=1)
LARGEST = 100_000  # ranks
MOST = 1_000_000  # of the largest unit of time or rate
VOTERS = 8  # whose votes are counted where kernels are measured
ABOUT_CHECK = ("check_size", "check_link", "check_latency", "check_free")
CHECKED = ("sharded", "allgather", "hierarchical", "dense")  # where nobody says which
RATES = {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9, "tbit": 1e12}
TIMES = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
# what a run file or a job tells of itself
SUBJECT = several(
    click.option("-d", "size", type=float, help="Coordinates, in place of a JOB."),
    click.option("--algorithm", "name", help="Whose messages travel; signsgd-mv, where there is no JOB."),
    click.option("--chunk", type=click.IntRange(min=0), help="Bytes of a plane in one message; by default the JOB's."),
)
NETWORK = several(
    click.option("--nodes", "counts", default="8,64,512,4096", show_default=True, help="One or more, by commas."),
    click.option("--node-size", type=POSITIVE, help="Ranks of a node; by default the JOB's, or 1."),
    click.option("--topology", default="fat-tree", show_default=True,
                 help="star, fat-tree, fat-tree:4 (4:1 oversubscribed), dragonfly, torus; or SimGrid's parameters."),
    click.option("--link", default="100gbit", show_default=True, help="Rate of each link, as tc says it."),
    click.option("--latency", default="1us", show_default=True, help="Of each link; a path has two or more."),
)  # fmt: skip
WORK = several(
    click.option("--gradient", default="0s", show_default=True, help="Time of a rank's gradient, as 50ms."),
    click.option("--work", type=float, help="ns per coordinate of a vote's kernels; measured here by default."),
    click.option(
        "--float-work", type=float, help="ns per coordinate of a sum of float32 and its SGD step; measured here."
    ),
    click.option("--message", default="300ns", show_default=True, help="Time of a core per message, at either end."),
)
SIMULATION = several(
    click.option("--shifts", type=POSITIVE, default=4, show_default=True, help="Rounds of a sample, of many alike."),
    click.option("--samples", type=POSITIVE, default=4, show_default=True, help="Of rounds; their spread is told."),
    click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True, help="Of the samples."),
    click.option("--limit", default="600s", show_default=True, help="Time after which one simulation is given up."),
    click.option("--trace", "kept", type=click.Path(path_type=Path), help="A folder for traces and platforms."),
    click.option("--goal", is_flag=True, help="Writes GOAL text for LogGOPSim and ATLAHS beside each trace."),
    click.option("--output", type=click.Path(path_type=Path), help="An HDF5 file for the tables."),
)
CHECK = several(
    click.option("--check", "measured", multiple=True, type=click.Path(path_type=Path),
                 help="A file of bench exchange --output, whose times are to be foretold; more than once."),
    click.option("--check-size", type=float, help="Only rows of --check with so many coordinates."),
    click.option("--check-link", help="Links of the runs of --check; by default as they measured them."),
    click.option("--check-latency", help="Latency of those links; what a loaded host measures is mostly waiting."),
    click.option("--check-free", multiple=True, type=click.Path(path_type=Path),
                 help="A run of --check without a limit of links: what cores take that hosts share."),
)  # fmt: skip


@click.command("project")
@click.argument("job", required=False, type=JobFile())
@click.option("--exchange", "names", multiple=True, help="More than once; the JOB's, or sharded and hierarchical.")
@SUBJECT
@NETWORK
@WORK
@SIMULATION
@CHECK
def project_command(job, names, counts, kept, goal, output, measured, **options):
    """Simulates the messages of a step on thousands of nodes, beside float32 all-reduces: needs SimGrid's smpirun.

    JOB is a job or a run file, of which parameters, algorithm (its last stage) and [exchange] are taken. With --check
    alone nothing is projected but what was measured.

    \b
    mpisign project -d 124e6 --nodes 8,1024 --topology fat-tree:4 --link 100gbit --latency 1us
    mpisign project --check exchange.h5 --check-link 200mbit
    """
    from mpisign.bench import simgrid
    from mpisign.bench.project import Network, Sampling, Simulator, errors, project
    from mpisign.bench.topology import topology
    from mpisign.cli.bench import say_progress, tell
    from mpisign.run.setup import use_threads

    projected = bool(job) or options["size"] is not None
    if not (projected or measured):
        raise UsageError("what is to be projected? A job, a run file, or so many coordinates, as in -d 124e6")
    if not measured and (given := [name for name in ABOUT_CHECK if options[name]]):
        option = given[0].replace("_", "-")
        raise UsageError(f"--{option} says something of what was measured: add --check FILE, or leave it out")
    work = _work(options)
    network = Network(options["topology"], _rate("--link", options["link"]), _time("--latency", options["latency"]))
    sampling = Sampling(options["shifts"], options["samples"], options["seed"])
    if goal and not kept:
        raise UsageError("--goal writes GOAL text beside a trace; say where, by --trace FOLDER")
    use_threads(1)
    limit = _time("--limit", options["limit"])
    wanted = _subject(job, names, options) if projected else None
    nodes = _nodes(counts, wanted[0].node_size if wanted else options["node_size"] or 1)
    for count in nodes:
        topology(network.topology, count)  # refuses what can't be before anything takes its time
    for name in wanted[1] if wanted else ():
        wanted[0].schedule(name, min(nodes) * wanted[0].node_size)  # as this refuses what can't be sent
    rows = _rows(measured, names, options) if measured else None
    # what is wrong with the words is told before what this machine lacks
    lacking = not simgrid.installed()
    if lacking and not kept:
        simgrid.demand_program()
    simulator = Simulator(network, sampling, limit, kept, goal, lacking, say_progress(True))
    tables = []
    if rows:
        tables.append(_check(measured, *rows, work, simulator, options))
    if wanted:
        subject, names = wanted
        checked = errors(tables[0]) if tables else {}
        tables.append(project(subject, names, nodes, _measured(work, options, subject), simulator, checked))
    if lacking:
        simgrid.demand_program(kept)
    tell(tables, output, True)


def _nodes(text: str, node_size: int) -> list[int]:
    if node_size > LARGEST // 2:
        raise UsageError(f"--node-size {node_size}: at most {LARGEST // 2:,} ({LARGEST:,} ranks in all on two nodes)")
    counts = [int(part) if part.strip().isdecimal() else 0 for part in text.split(",")]
    most = LARGEST // node_size
    if wrong := [part for part, count in zip(text.split(","), counts, strict=True) if not 1 <= count <= most]:
        raise UsageError(
            f"--nodes {wrong[0].strip() or text!r}: whole numbers from 1 to {most:,} ({LARGEST:,} ranks in all), by "
            "commas, as in --nodes 8,64,512"
        )
    if lonely := [count for count in counts if count * node_size < 2]:
        raise UsageError(f"--nodes {lonely[0]}: one rank sends nothing; take two nodes, or --node-size 2")
    return counts


def _rate(option: str, text: str) -> float:
    """Bytes per second."""
    return _quantity(option, text, RATES, "100gbit") / 8


def _time(option: str, text: str) -> float:
    """Seconds."""
    return _quantity(option, text, TIMES, "1us")


def _quantity(option: str, text: str, units: dict[str, float], example: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d*)?(?:e[+-]?\d+)?)([a-z]+)", text.strip().lower())
    least = option not in ("--gradient", "--message", "--latency")
    if not found or found[2] not in units or (least and not float(found[1])):
        above = " above 0" if least else ", 0 or more,"
        raise UsageError(f"{option} {text}: a number{above} and its unit ({choices(units)}), as in {option} {example}")
    quantity, largest = float(found[1]) * units[found[2]], max(units, key=units.get)
    if quantity > MOST * units[largest]:
        raise UsageError(f"{option} {text}: at most {MOST:,}{largest}; for example {option} {example}")
    return quantity


def _work(options):
    from mpisign.bench.project import Work

    for option in ("work", "float_work"):
        if (value := options[option]) is not None and not 0 <= value < float("inf"):
            raise UsageError(f"--{option.replace('_', '-')} {value}: nanoseconds per coordinate, 0 or more")
    gradient, message = (_time(f"--{name}", options[name]) for name in ("gradient", "message"))
    return Work(gradient, options["work"] or 0.0, options["float_work"] or 0.0, message)


def _measured(work, options, subject):
    """The work, with what nobody named as it is measured here."""
    from dataclasses import replace

    from mpisign.bench.explain import float_work
    from mpisign.bench.explain import work as vote_work

    if options["work"] is None:
        work = replace(work, vote=vote_work(subject.algorithm(VOTERS), VOTERS))
    return replace(work, floats=float_work()) if options["float_work"] is None else work


def _subject(job: Path | None, names: tuple[str, ...], options: dict):
    """What is projected, and by which exchanges."""
    from dataclasses import replace

    from mpisign.bench.project import Subject
    from mpisign.cli.bench import whole_sizes
    from mpisign.exchange import REGISTRY
    from mpisign.layout import Layout

    if job and options["size"] is not None:
        raise UsageError(f"-d {options['size']:g} and {job} both say how many coordinates there are; leave one out")
    if job:
        subject, name = _of_job(job, options["name"])
        names = names or ((name,) if name in REGISTRY else ())
    else:
        (d,), name = whole_sizes((options["size"],)), options["name"] or "signsgd-mv"
        subject = Subject(Layout({"x": (d,)}), _of_zoo(name), name)
    given = {key: options[key] for key in ("chunk", "node_size") if options[key] is not None}
    subject = replace(subject, **given)
    return subject, names or _usual(subject.algorithm(2), subject.node_size)


def _usual(stage, node_size: int) -> tuple[str, ...]:
    from mpisign.exchange import candidates

    wanted = ("sharded", "dense", *(("hierarchical",) if node_size > 1 else ()))
    return tuple(name for name in wanted if name in candidates(stage)) or tuple(candidates(stage))[:1]


def _of_zoo(name: str):
    """The algorithm for any number of voters."""
    from mpisign.algorithms import zoo  # noqa: F401  its functions enter the registry
    from mpisign.algorithms.registry import find

    stage = find(name).build().stages[-1]
    return lambda n: stage.with_rules("auto", "auto", n)


def _of_job(path: Path, name: str | None):
    """What a job, or the job of a run file, projects; and the exchange that it names."""
    from mpisign import config as configuration
    from mpisign.bench.project import Subject
    from mpisign.layout import Layout
    from mpisign.run.plan import resolve
    from mpisign.run.setup import segment_options

    if name:
        raise UsageError(f"--algorithm {name}: {path} says which; leave one out")
    if path.suffix == configuration.ENDING:
        from mpisign.storage.reader import Run

        run = Run(path)
        config = configuration.make(run.config, f"{path}: ")
        sizes = {name.decode(): (int(size),) for name, size in zip(run.layout["name"], run.layout["size"], strict=True)}
        layout = Layout(
            sizes, segment_options(resolve(config, int(run.attributes["n"]), config.ranks_per_voter), sizes)
        )
    else:
        config = configuration.load(path)
        layout = _layout(config)

    def algorithm(n: int):
        return resolve(config.updated(run={"voters": n}), n, config.ranks_per_voter or 1).algorithm.stages[-1]

    exchange = config.exchange
    subject = Subject(layout, algorithm, config.algorithm.name, exchange.chunk, exchange.node_size or 1)
    return subject, exchange.name


def _layout(config):
    """The parameters of a job: its problem is made for one voter, rows and all."""
    from mpisign.parallel import mpi
    from mpisign.run.plan import resolve
    from mpisign.run.setup import set_up

    alone = config.updated(run={"voters": 1}, exchange={"name": "auto"})
    return set_up(resolve(alone, 1), mpi.alone(1, threads=1), 1).stepper.layout


def _rows(files, names, options):
    """What was measured, and milliseconds by step of what was measured without a limit of links."""
    from mpisign.bench.project import Measured
    from mpisign.bench.table import load

    size = options["check_size"]

    def rows_of(files):
        for table in (load(path, "exchanges") for path in files):
            for row in table.rows:
                if (name := row["exchange"]) in (names or CHECKED) and size in (None, row["d"]):
                    if not row.get("chunk"):
                        raise UsageError(f"--check {files[0]}: it does not tell its chunks; measure again")
                    n, d, chunk, node_size = int(row["n"]), int(row["d"]), int(row["chunk"]), table.about["node_size"]
                    yield Measured(n, d, name, row["ms"], row["work ns"], chunk, int(node_size), table.about)

    rows = list(rows_of(files))
    if not rows:
        wanted = f" and of {size:g} coordinates" if size else ""
        raise UsageError(f"--check {files[0]}: no row is of an exchange that is projected{wanted}; see --exchange")
    unlimited = {row.step: row.milliseconds for row in rows_of(options["check_free"])}
    if unlimited and (lacking := [row for row in rows if row.step not in unlimited]):
        row = lacking[0]
        raise UsageError(
            f"--check-free: no row is of {row.exchange} on {row.n} ranks with d = {row.d:,} and chunks of "
            f"{row.chunk:,} bytes, as in --check; measure the same there, or leave --check-free out"
        )
    return rows, unlimited


def _check(files, rows, unlimited, work, simulator, options):
    """What was measured beside what would have been projected."""
    from mpisign.bench.project import Network, Subject, check
    from mpisign.engine.autotune import LinkModel
    from mpisign.layout import Layout

    link, latency = options["check_link"], options["check_latency"]

    def subject_of(row) -> Subject:
        name = str(row.about["algorithm"])
        return Subject(Layout({"x": (row.d,)}), _of_zoo(name), name, row.chunk, row.node_size)

    def network_of(row) -> Network:
        try:
            found = LinkModel.parse(str(row.about.get("link")))
        except ValueError as error:
            raise UsageError(f"--check {files[0]}: it does not tell its link ({error}); measure again") from error
        bandwidth = _rate("--check-link", link) if link else found.bandwidth
        # a path through a star is two links
        return Network("star", bandwidth, _time("--check-latency", latency) if latency else found.latency / 2)

    return check(rows, subject_of, network_of, work, simulator, unlimited)
