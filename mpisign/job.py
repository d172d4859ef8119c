"""One run from its plan to its summary.

rows -> layout and x -> run file -> steps -> summary
"""

import math
from dataclasses import replace
from itertools import chain

import torch

from mpisign import bits, budget, exchange, leaving, memory, restart, stopping
from mpisign.adversary import Adversary
from mpisign.beginning import ANEW, Beginning, Wish, decide, movable
from mpisign.choosing import measured
from mpisign.device import settle, spread
from mpisign.errors import Stopped, UsageError
from mpisign.keeper import Keeper
from mpisign.layout import Layout
from mpisign.lock import Lock
from mpisign.mpi import Ranks
from mpisign.observer import Observer
from mpisign.plan import Plan, fitted, groups, with_theory
from mpisign.probe import Probe
from mpisign.problems import Oracle, pick_for
from mpisign.problems.share import fingerprint, share_rows
from mpisign.results import Run, told
from mpisign.rng import Streams
from mpisign.schedules import Schedule
from mpisign.stepper import Stepper
from mpisign.stopping import Request
from mpisign.timing import Timer
from mpisign.watchdog import WATCH
from mpisign.world import Local, Mpi

EVALUATIONS = 30  # a run, where run.eval_every is 0
PATIENCE = 60.0  # seconds that `--resume auto` waits for whoever writes the run file


def use_threads(threads: int) -> None:
    """So many threads for torch and for the kernels."""
    torch.set_num_threads(threads)
    bits.use_threads(threads)


class Job:
    """One run: everything that lives from the first step to the last."""

    def __init__(self, plan: Plan, ranks: Ranks, voters: int, quiet: bool = False, verbose: bool = False):
        """voters: one a rank, or any number in a process without MPI. quiet, verbose: what root prints."""
        config, streams = plan.config, Streams(plan.config.run.seed)
        generator = streams.draw("partition", 0).generator()
        _check_size(plan, ranks, voters)
        how = config.partition.model_dump() | {"gives_way": config.gives_way("partition.kind")}
        share = share_rows(plan.problem, ranks, voters, generator, **how)
        if movable(config.problem.arguments):
            share.data = fingerprint(share, ranks)
        plan = fitted(plan, share)
        config = plan.config

        _check_size(plan, ranks, voters)  # again: some problems know their size only now
        # x comes from root: a generator may differ between hosts, its bits may not
        start = _initial(plan, streams, ranks)
        device = pick_for(plan.problem, config.run.device, ranks)
        layout = Layout({name: tuple(p.shape) for name, p in start.items()}, groups(plan, list(start)), device)
        x = layout.flatten(start)
        spread(ranks, x)

        self.steps, rows_a_minibatch = budget.length(config, plan.algorithm, share)
        if config.run.preset == "theory":
            plan = with_theory(plan, self.steps, voters, layout.size, budget.batches_a_pass(config, share))
            config = plan.config
        self.config = config.model_copy(update={"run": config.run.model_copy(update={"steps": self.steps})})
        s = config.schedule
        self.schedule = Schedule(s.kind, s.lr, self.steps, s.warmup, s.milestones, s.decay)

        world = Mpi(ranks.comm) if ranks.size > 1 else Local(voters)
        a, p = config.algorithm, config.problem
        how = {"batch_size": p.batch_size, "sampling": p.sampling, "accumulate": a.accumulate, "clip": a.clip}
        how["sharing"] = len(ranks.members)  # of a GPU's memory, at most
        oracles = [
            Oracle(plan.problem, layout, rows, voter, streams, **how)
            for voter, rows in zip(world.local, share.train, strict=True)
        ]
        how = config.exchange.model_dump(exclude={"name", "gpu_aware"})
        plan = replace(plan, choices=measured(plan.choices, plan.algorithm.stages, ranks.comm, layout.length, **how))
        how["gpu_aware"] = config.exchange.gpu_aware
        with WATCH("the making of the exchanges"):
            carriers = exchange.build(plan.choices, world, layout, plan.algorithm, **how)
        weights = budget.weights(config, share)
        timer = Timer(lambda: settle(layout.device)) if layout.device.type != "cpu" else None
        self.stepper = Stepper(plan.algorithm, layout, carriers, world, streams, oracles, x, weights, timer)
        if config.adversary.voters:
            liars = Adversary(**config.adversary.model_dump(), stepper=self.stepper)
            for carrier in chain.from_iterable(carriers):
                carrier.adversary = liars
        self.ranks = ranks
        self.observer = Observer(plan, self.config, ranks, share, self.stepper, rows_a_minibatch, quiet, verbose)

    def run(self, dry_run: bool = False, wish: Wish = ANEW) -> None:
        """Takes all steps, or only tells what they would cost."""
        if dry_run:
            self._print_costs()
            return
        lock = None
        try:
            # a job that is queued again may meet its own last breath
            lock = self._lock(PATIENCE if wish.resume == "auto" else 0.0)
            if lock and lock.note:
                self.observer.printer.line(f"note: {lock.note}")
            beginning = self._begin(wish)
            if beginning.kind == "done":
                self.observer.printer.line(beginning.note)
            else:
                self._run(beginning)
            self.observer.summarise()
        finally:
            if lock:
                lock.release()

    def _lock(self, patience: float) -> Lock | None:
        with self.ranks.agreed():
            try:
                return Lock(self.observer.path, patience) if self.ranks.root else None
            except OSError as error:
                what = f"can't write the run file {self.observer.path}: {error.strerror}"
                raise UsageError(f"{what}; set run.file to a place that can be written") from error

    def _begin(self, wish: Wish) -> Beginning:
        """Fills the Stepper as it shall begin; nothing on disk is changed."""
        beginning, ranks = Beginning("new"), self.ranks
        with ranks.agreed():
            if ranks.root:
                beginning = decide(wish, self.observer.path, self.config, self.observer.share.data)
        kind = ranks.share(beginning.kind)
        if kind == "resume":
            self._keep_threads(beginning.run)
            self.observer.take_back(*restart.restore(beginning.opened, self.stepper, ranks))
        elif kind == "init":
            restart.start_from(beginning.opened, self.stepper, ranks)
            if self.stepper.t >= self.steps:
                text = f"the checkpoint is of step {self.stepper.t}, but run.steps = {self.steps}; set it higher"
                raise UsageError(text, agreed=True)
        return beginning if ranks.root else Beginning(kind)

    def _keep_threads(self, before: Run | None) -> None:
        """As many torch threads as before, unless the job says how many: another number may give other bits."""
        ranks = self.ranks
        threads = ranks.share(before and int(before["segments"]["threads"][-1]))
        if not self.config.run.threads and threads != ranks.threads:
            ranks.threads = threads
            use_threads(threads)

    def _run(self, beginning: Beginning) -> None:
        """Takes all steps; the run file is closed whatever happens."""
        observer = self.observer
        stopping.can_save()
        observer.open(beginning)
        observer.print_header()
        # the main thread sits in MPI when the watchdog barks, so the run file is free
        take_back = leaving.tell_first(lambda step, text: observer.recorder.event("error", step, text))
        try:
            if beginning.kind != "resume":
                observer.evaluate(math.nan, self.schedule(self.stepper.t))
            WATCH.least = 0.0  # the run has started
            self._loop()
            observer.complete()
        except Stopped as stopped:
            observer.recorder.event("stop", self.stepper.t, str(stopped))
            raise
        except BaseException as error:
            observer.recorder.event("error", self.stepper.t, str(error) or type(error).__name__)
            raise
        finally:
            take_back()
            observer.close()

    def _loop(self) -> None:
        run, observer, stepper = self.config.run, self.observer, self.stepper
        eval_every = run.eval_every or max(1, self.steps // EVALUATIONS)
        output = _drawn_step(run.seed, self.steps)
        keeper = Keeper(self.config, self.ranks, stepper, observer)
        probe = Probe(stepper, self.config.probe)
        for t in range(stepper.t, self.steps):
            lr, taken, last = self.schedule(t), t + 1, t + 1 == self.steps
            recording = taken % run.record_every == 0 or last
            if run.keep == "uniform" and t == output:
                observer.keep(t)
            if probing := probe.due(taken):
                probe.begin()
            outcome = stepper.step(lr, counting=recording, request=keeper.request())
            if probing:
                observer.probed(probe.end())
            with stepper.timer("record"):
                if recording:
                    observer.record(outcome, lr)
                if taken % run.check_every == 0 or last:
                    observer.check()
            if taken % eval_every == 0 or last:
                observer.evaluate(outcome.loss, lr)
            else:
                observer.printer.update(taken, outcome.loss, lr)
            keeper.edge(Request(outcome.request), last)

    def _print_costs(self) -> None:
        self.observer.print_header()
        foretold = budget.foretold(self.config, self.stepper, self.observer.share, self.steps)
        for line in told(foretold):
            self.observer.printer.line(line)
        self.observer.close()


def _check_size(plan: Plan, ranks: Ranks, voters: int) -> None:
    """Refuses a problem whose x and gradients alone do not fit into memory, as far as it knows its size."""
    if d := plan.problem.coordinates:
        here = len(ranks.members) if ranks.size > 1 else voters
        what = f"problem {plan.config.problem.name!r} with {d:,} coordinates and {here} voter(s) on this machine"
        with ranks.agreed():
            memory.demand(4 * d * 2 * here, what, "make it smaller, or spread the ranks")


def _initial(plan: Plan, streams: Streams, ranks: Ranks) -> dict[str, torch.Tensor]:
    """The starting point, which every rank makes; raises UsageError on all if one that did not read the data can't."""
    with ranks.agreed():
        try:
            return plan.problem.initial(streams.draw("initial", 0).generator())
        except AttributeError as error:
            if ranks.local_rank == 0:
                raise
            raise UsageError(
                f"problem {plan.config.problem.name!r}: initial() fails on a rank that did not read the data "
                f"({error}); read() is called once a node: give what it finds out by describe(), and take it in "
                "adopt(), on every rank"
            ) from error


def _drawn_step(seed: int, steps: int) -> int:
    """The step before which the iterate that a theorem speaks of is taken, uniform over the run."""
    return int(Streams(seed).draw("output", 0).generator().integers(steps))
