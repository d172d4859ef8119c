"""`mpisign train`: a job from its plan to its summary.

plan -> ranks -> rows -> layout and x -> run file -> steps -> summary
"""

import math

import numpy as np
import torch

from mpisign import bits, exchange, mpi
from mpisign.config import Config
from mpisign.errors import NumericalError, UsageError
from mpisign.layout import Layout
from mpisign.mpi import Ranks
from mpisign.observer import Observer
from mpisign.plan import Plan, resolve
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
    job = Job(plan, ranks)
    if dry_run:
        job.print_costs()
    else:
        job.run()


def _load_kernels(ranks: Ranks) -> None:
    # the first rank of a node fills numba's cache, the others read it
    if ranks.local_rank == 0:
        bits.compile_ahead()
    ranks.wait(ranks.node)
    if ranks.local_rank:
        bits.compile_ahead()


class Job:
    """One run: everything that lives from the first step to the last."""

    def __init__(self, plan: Plan, ranks: Ranks):
        config, streams = plan.config, Streams(plan.config.run.seed)
        generator = streams.draw("partition", 0).generator()
        share = share_rows(plan.problem, ranks, generator, **config.partition.model_dump())
        self.steps, rows_a_step = _length(config, share)
        self.config = config.model_copy(update={"run": config.run.model_copy(update={"steps": self.steps})})
        s = config.schedule
        self.schedule = Schedule(s.kind, s.lr, self.steps, s.warmup, s.milestones, s.decay)

        # x comes from root: a generator may differ between hosts, its bits may not
        start = plan.problem.initial(streams.draw("initial", 0).generator())
        layout = Layout({name: tuple(p.shape) for name, p in start.items()})
        x = layout.flatten(start)
        ranks.bcast(x.numpy())

        world = Mpi(ranks.comm) if ranks.size > 1 else Local()
        a = config.algorithm
        batches = {"batch_size": config.problem.batch_size, "sampling": config.problem.sampling}
        oracle = Oracle(
            plan.problem,
            layout,
            share.train,
            ranks.rank,
            streams,
            accumulate=a.accumulate,
            clip=a.clip,
            **batches,
        )
        carrier = exchange.build(plan.choice, world, layout, plan.algorithm, config.exchange.chunk)
        weights = _weights(config, share)
        self.stepper = Stepper(plan.algorithm, layout, carrier, world, streams, [oracle], x, weights)
        self.observer = Observer(plan, self.config, ranks, share, self.stepper, rows_a_step)

    def run(self) -> None:
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
        observer.evaluate(math.nan, self.schedule(0))
        for t in range(self.steps):
            lr, taken, last = self.schedule(t), t + 1, t + 1 == self.steps
            recording = taken % run.record_every == 0 or last
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

    def print_costs(self) -> None:
        """Prints what a run would cost, without a step: the dry run."""
        world, say = self.stepper.world, self.observer.printer.line
        self.observer.print_header()
        up, down = self.stepper.exchange.bytes_a_step()
        total = world.sums({"bytes": up + down})["bytes"]
        rows = self.observer.rows_a_step or world.n * self.config.algorithm.accumulate
        say(f"d: {self.stepper.layout.size}")
        say(f"bytes_per_step: {round(total / world.n)}")
        say(f"memory_per_rank: {self.stepper.memory()}")
        say(f"evaluations_per_step: {rows * self.stepper.algorithm.estimator.evaluations()}")
        self.observer.close()


def _length(config: Config, share: Share) -> tuple[int, int]:
    """Steps of the run, and rows that all ranks see in a step (0 without rows)."""
    rows, run = share.rows, config.run
    if not rows.any():
        if run.steps is None:
            raise UsageError(
                f"run.epochs = {run.epochs}: problem {config.problem.name!r} has no rows to pass over; "
                "set run.steps instead",
                agreed=True,
            )
        return run.steps, 0
    batch = np.minimum(config.problem.batch_size or rows.max(), rows)
    a_step = int(batch.sum()) * config.algorithm.accumulate
    return run.steps or math.ceil(run.epochs * rows.sum() / a_step), a_step


def _weights(config: Config, share: Share) -> np.ndarray:
    """Of each rank in the objective, adding up to n: all 1, or by rows."""
    rows = share.rows
    if config.run.objective == "ranks" or not rows.any():
        return np.ones(len(rows))
    return rows / rows.sum() * len(rows)
