"""A job: `mpisign train` on MPI's ranks, `mpisign simulate` in one process, `mpisign resume` for either.

plan -> ranks -> Job, see job.py
"""

from pathlib import Path

from mpisign import config as configuration
from mpisign.bits.precompile import make_ready
from mpisign.config import Config
from mpisign.errors import UsageError
from mpisign.exchange import REGISTRY
from mpisign.parallel import leaving, memory, mpi
from mpisign.parallel.launchers import take_gpu
from mpisign.parallel.mpi import Ranks
from mpisign.parallel.watchdog import START, WATCH
from mpisign.run import nodes
from mpisign.run.job import Job
from mpisign.run.plan import resolve
from mpisign.run.regroup import continued
from mpisign.run.resume import FRESH, ResumeOptions, another_number, may_regroup, refuse_existing, so_far, stored_job
from mpisign.run.setup import use_threads
from mpisign.run.startup import PHASES
from mpisign.run.survive import check_survivors

A_VOTER = 4000  # bytes that a simulated voter takes besides its arrays, roughly


def train(
    config: Config,
    dry_run: bool = False,
    quiet: bool = False,
    options: ResumeOptions = FRESH,
    verbose: bool = False,
) -> None:
    """Runs a job on all ranks of MPI's world; root prints and writes. quiet, verbose: it prints nothing, all it knows.

    Raises UsageError before anything is written; once the run file is closed NumericalError, StorageError, or
    Stopped if the run was asked to stop and saved a checkpoint.
    """
    promised = nodes.foreseen(config, mpi.launch().size)
    plan = resolve(config, *promised)
    check_survivors(plan)
    if not dry_run:
        refuse_existing(plan.config, options)
    if config.run.device != "cpu":
        take_gpu()
    PHASES.end("the plan")
    limit = config.run.watchdog and max(config.run.watchdog, START)
    if mpi.outlive():  # whose launcher does not end the others when one dies before MPI has started
        limit = START
    ranks = mpi.start(config.run.threads, limit)
    leaving.guard()
    WATCH.least = START
    leaving.watch_over(ranks, config.run.watchdog, "run.watchdog")
    ranks, node = nodes.divide(ranks, config)
    voters = (node.voters, node.each) if node else (ranks.size, 1)
    if voters != promised:
        # a launcher that says nothing in the environment: only MPI knew how many there are
        plan = resolve(config, *voters)
        check_survivors(plan)
    PHASES.end("MPI")
    use_threads(ranks.threads)
    load_kernels(ranks)
    PHASES.end("kernels")
    plan = continued(plan, config, ranks, voters[0], options)
    Job(plan, ranks, voters[0], quiet, verbose, options.resume != "never", node).run(dry_run, options)


def simulate(
    config: Config,
    voters: int = 0,
    dry_run: bool = False,
    quiet: bool = False,
    options: ResumeOptions = FRESH,
    verbose: bool = False,
) -> None:
    """Runs a job with any number of voters in this process: the bits and the counters of mpirun with as many ranks.

    voters: 0 for run.voters; where a voter is a node, of exchange.node_size ranks each. quiet: prints nothing.
    verbose: prints all it knows. Raises as train() does.
    """
    if mpi.launch().size > 1:
        raise UsageError(f"simulate runs all voters in one process, but {mpi.launch().by} started several; use train")
    voters = voters or config.run.voters
    if not voters:
        raise UsageError("how many voters? Say it, as in mpisign simulate -n 27, or set run.voters")
    memory.require_memory(voters * A_VOTER, f"{voters} voters", "simulate fewer")
    config = config.updated(run={"voters": voters})
    plan = resolve(config, *nodes.simulated(config, voters))
    if not dry_run:
        refuse_existing(plan.config, options)
    ranks = mpi.alone(voters * plan.config.ranks_per_voter, config.run.threads)
    use_threads(ranks.threads)
    plan = continued(plan, config, ranks, voters, options)
    Job(plan, ranks, voters, quiet, verbose, options.resume != "never").run(dry_run, options)


def resume(
    path: Path,
    settings: tuple[str, ...] = (),
    checkpoint: Path | None = None,
    verbose: bool = False,
    ranks_changed: bool = False,
) -> None:
    """Goes on with the run in a run file, as it was started: over MPI, or simulated.

    settings: `table.key=value` for what moves no bit of x. checkpoint: to go on from, instead of the newest.
    ranks_changed: on as many ranks as there are now, or with as many simulated voters as the setting run.voters says.
    """
    stored, parsed = so_far(path), [configuration.parse(s) for s in (*settings, "run.overwrite=false")]
    simulated, before = mpi.launch().size == 1 and stored.simulated, int(stored.attributes["n"])
    wanted = {f"{table}.{key}": value for table, key, value in parsed}.get("run.voters", before)
    voters = (wanted or before) if simulated else _launched(path, stored.config.get("exchange", {}), before)
    if (chosen := str(stored.attributes["exchange"])) in REGISTRY and voters == before:
        parsed.insert(0, ("exchange", "name", chosen))  # what a run measured once, it keeps to
    config = stored_job(stored, parsed, voters=voters)
    options = ResumeOptions("must", checkpoint, ranks_changed=ranks_changed)
    if config.run.voters != before and not may_regroup(options, config):
        raise another_number(path, before, config.run.voters, config.ranks_per_voter)
    if simulated:
        simulate(config, options=options, verbose=verbose)
    else:
        train(config, options=options, verbose=verbose)


def _launched(path: Path, exchange: dict, before: int) -> int:
    """The voters that the ranks which were launched are, in a run of so many before."""
    ranks, each = mpi.launch().size, exchange["node_size"] if exchange.get("voter") == "node" else 1
    if ranks % each:
        text = f"{path} has {before} voters of {each} ranks, but there are {ranks} ranks"
        raise UsageError(f"{text}; start {before * each}")
    return ranks // each


def load_kernels(ranks: Ranks) -> None:
    """Compiles what is not compiled yet: the first rank of a node fills numba's cache, the others read it."""
    with WATCH.at("loading kernels"):
        if ranks.local_rank == 0:
            make_ready(ranks.size)
        ranks.wait(ranks.node)
        if ranks.local_rank:
            make_ready(ranks.size)
