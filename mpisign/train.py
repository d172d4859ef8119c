"""A job from its plan to its summary: `mpisign train` on MPI's ranks, `mpisign simulate` in one process.

plan -> ranks -> rows -> layout and x -> run file -> steps -> summary
"""

import math
from itertools import count

import numpy as np
import torch

from mpisign import bits, exchange, mpi
from mpisign.algorithm import Algorithm, Cycle, Stages
from mpisign.config import Config
from mpisign.errors import NumericalError, UsageError
from mpisign.layout import Layout
from mpisign.mpi import Ranks
from mpisign.observer import Observer
from mpisign.plan import Plan, resolve, with_theory
from mpisign.problems import Oracle
from mpisign.problems.share import Share, share_rows
from mpisign.rng import Streams
from mpisign.schedules import Schedule
from mpisign.stepper import Stepper
from mpisign.world import Local, Mpi

EVALUATIONS = 30  # a run, where run.eval_every is 0


def train(config: Config, dry_run: bool = False) -> None:
    """Runs a job on all ranks of MPI's world; root prints and writes.

    Raises UsageError before anything is written, NumericalError once the run file is closed.
    """
    plan = resolve(config, mpi.launch().size)
    ranks = mpi.start(config.run.threads)
    if ranks.size != mpi.launch().size:
        # a launcher that says nothing in the environment: only MPI knew how many there are
        plan = resolve(config, ranks.size)
    torch.set_num_threads(ranks.threads)
    _load_kernels(ranks)
    Job(plan, ranks, ranks.size).run(dry_run)


def simulate(config: Config, voters: int = 0, dry_run: bool = False, quiet: bool = False) -> None:
    """Runs a job with any number of voters in this process: the bits and the counters of mpirun with as many ranks.

    voters: 0 for run.voters. quiet: prints nothing. Raises as train() does.
    """
    if mpi.launch().size > 1:
        raise UsageError(f"simulate runs all voters in one process, but {mpi.launch().by} started several; use train")
    voters = voters or config.run.voters
    if not voters:
        raise UsageError("how many voters? Say it, as in mpisign simulate -n 27, or set run.voters")
    config = config.model_copy(update={"run": config.run.model_copy(update={"voters": voters})})
    plan = resolve(config, voters)
    ranks = mpi.alone(voters, config.run.threads)
    torch.set_num_threads(ranks.threads)
    Job(plan, ranks, voters, quiet).run(dry_run)


def _load_kernels(ranks: Ranks) -> None:
    # the first rank of a node fills numba's cache, the others read it
    if ranks.local_rank == 0:
        bits.compile_ahead()
    ranks.wait(ranks.node)
    if ranks.local_rank:
        bits.compile_ahead()


class Job:
    """One run: everything that lives from the first step to the last."""

    def __init__(self, plan: Plan, ranks: Ranks, voters: int, quiet: bool = False):
        """voters: one a rank, or any number in a process without MPI."""
        config, streams = plan.config, Streams(plan.config.run.seed)
        generator = streams.draw("partition", 0).generator()
        share = share_rows(plan.problem, ranks, voters, generator, **config.partition.model_dump())

        # x comes from root: a generator may differ between hosts, its bits may not
        start = plan.problem.initial(streams.draw("initial", 0).generator())
        layout = Layout({name: tuple(p.shape) for name, p in start.items()})
        x = layout.flatten(start)
        ranks.bcast(x.numpy())

        self.steps, rows_a_step = _length(config, plan.algorithm, share)
        if config.run.preset == "theory":
            plan = with_theory(plan, self.steps, voters, layout.size)
            config = plan.config
        self.config = config.model_copy(update={"run": config.run.model_copy(update={"steps": self.steps})})
        s = config.schedule
        self.schedule = Schedule(s.kind, s.lr, self.steps, s.warmup, s.milestones, s.decay)

        world = Mpi(ranks.comm) if ranks.size > 1 else Local(voters)
        a, p = config.algorithm, config.problem
        how = {"batch_size": p.batch_size, "sampling": p.sampling, "accumulate": a.accumulate, "clip": a.clip}
        oracles = [
            Oracle(plan.problem, layout, rows, voter, streams, **how)
            for voter, rows in zip(world.local, share.train, strict=True)
        ]
        carriers = exchange.build_all(plan.choices, world, layout, plan.algorithm, config.exchange.chunk)
        weights = _weights(config, share)
        self.stepper = Stepper(plan.algorithm, layout, carriers, world, streams, oracles, x, weights)
        self.observer = Observer(plan, self.config, ranks, share, self.stepper, rows_a_step, quiet)

    def run(self, dry_run: bool = False) -> None:
        """Takes all steps, or only tells what they would cost."""
        if dry_run:
            self._print_costs()
        else:
            self._run()

    def _run(self) -> None:
        """Takes all steps; the run file is closed whatever happens."""
        observer = self.observer
        observer.open()
        observer.print_header()
        try:
            self._loop()
            observer.complete()
        except NumericalError as error:
            observer.recorder.event("error", self.stepper.t, str(error))
            raise
        finally:
            observer.close()
        observer.summarise()

    def _loop(self) -> None:
        run, observer, stepper = self.config.run, self.observer, self.stepper
        eval_every = run.eval_every or max(1, self.steps // EVALUATIONS)
        output = _drawn_step(run.seed, self.steps)
        observer.evaluate(math.nan, self.schedule(0))
        for t in range(self.steps):
            lr, taken, last = self.schedule(t), t + 1, t + 1 == self.steps
            recording = taken % run.record_every == 0 or last
            if run.keep == "uniform" and t == output:
                observer.keep(t)
            outcome = stepper.step(lr, counting=recording)
            with stepper.timer("record"):
                if recording:
                    observer.record(outcome, lr)
                if taken % run.check_every == 0 or last:
                    observer.check()
            if taken % eval_every == 0 or last:
                observer.evaluate(outcome.loss, lr)
            else:
                observer.printer.update(taken, outcome.loss, lr)

    def _print_costs(self) -> None:
        world, say, stepper = self.stepper.world, self.observer.printer.line, self.stepper
        self.observer.print_header()
        totals = [stage.exchange.bytes_a_step() for stage in stepper.stages]
        sent = [round(world.sums({"bytes": sum(total)})["bytes"] / world.n) for total in totals]
        share = self.observer.share
        cost = _evaluations(self.config, stepper.turns, share, self.steps) / self.steps
        say(f"d: {stepper.layout.size}")
        say(f"bytes_per_step: {' or '.join(map(str, sent))}")
        say(f"memory_per_{'rank' if len(world.local) == 1 else 'process'}: {stepper.memory()}")
        say(f"evaluations_per_step: {cost:.10g}")
        self.observer.close()


def _drawn_step(seed: int, steps: int) -> int:
    """The step before which the iterate that a theorem speaks of is taken, uniform over the run."""
    return int(Streams(seed).draw("output", 0).generator().integers(steps))


def _batches(config: Config, share: Share) -> list[tuple[int, int]]:
    """(rows of a gradient, rows owned) of every voter; one draw each without rows."""
    accumulate, size = config.algorithm.accumulate, config.problem.batch_size
    if not share.rows.any():
        return [(accumulate, 0)] * len(share.rows)
    return [(min(size or int(rows), int(rows)) * accumulate, int(rows)) for rows in share.rows]


def _evaluations(config: Config, turns: Algorithm | Stages | Cycle, share: Share, steps: int) -> int:
    """Gradients of single rows that all voters take in the first `steps` steps."""
    return sum(_evaluations_at(turns, _batches(config, share), t) for t in range(steps))


def _evaluations_at(turns: Algorithm | Stages | Cycle, batches: list[tuple[int, int]], t: int) -> int:
    estimator = turns.stages[turns.stage(t)].estimator
    return sum(estimator.evaluations(batch, rows, t) for batch, rows in batches)


def _length(config: Config, turns: Algorithm | Stages | Cycle, share: Share) -> tuple[int, int]:
    """Steps of the run, and rows that all voters see in a step (0 without rows)."""
    rows, run, batches = share.rows, config.run, _batches(config, share)
    a_step = sum(batch for batch, _ in batches) if rows.any() else 0
    if run.steps:
        return run.steps, a_step
    if run.evaluations:
        spent = 0
        for t in count():
            spent += _evaluations_at(turns, batches, t)
            if spent > run.evaluations:
                break
        if not t:
            raise UsageError(
                f"run.evaluations = {run.evaluations}: the first step alone takes {spent}; allow more", agreed=True
            )
        return t, a_step
    if not a_step:
        raise UsageError(
            f"run.epochs = {run.epochs}: problem {config.problem.name!r} has no rows to pass over; "
            "set run.steps instead",
            agreed=True,
        )
    return math.ceil(run.epochs * rows.sum() / a_step), a_step


def _weights(config: Config, share: Share) -> np.ndarray:
    """Of each voter in the objective, adding up to n: all 1, or by rows."""
    rows = share.rows
    if config.run.objective == "ranks" or not rows.any():
        return np.ones(len(rows))
    return rows / rows.sum() * len(rows)
