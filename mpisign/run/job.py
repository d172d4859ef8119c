"""One run from its plan to its summary.

setup (rows, layout, x, Stepper) -> run file -> steps -> summary
"""

import math
from dataclasses import replace

from mpisign.bits.rng import Streams
from mpisign.engine import state
from mpisign.engine.stepper import Outcome, Stepper
from mpisign.errors import Stopped, UsageError
from mpisign.parallel import leaving, stopping
from mpisign.parallel.mpi import Ranks
from mpisign.parallel.stopping import Request
from mpisign.parallel.watchdog import WATCH
from mpisign.run.mirror import ALONE, Mirror
from mpisign.run.nodes import NodeVoter
from mpisign.run.plan import Plan
from mpisign.run.probe import Probe
from mpisign.run.recording import RunLog
from mpisign.run.recovery import recover
from mpisign.run.regroup import taken_up, told
from mpisign.run.resume import FRESH, ResumeOptions, Start, decide
from mpisign.run.saving import CheckpointManager
from mpisign.run.schedules import Schedule
from mpisign.run.setup import set_up, use_threads
from mpisign.run.speed import sizes_of_then
from mpisign.run.startup import PHASES
from mpisign.run.survive import Survivors
from mpisign.run.survivors_log import SurvivorsLog
from mpisign.storage.lock import Lock
from mpisign.storage.reader import Run

EVALUATIONS = 30  # per run, where run.eval_every is 0
PATIENCE = 60.0  # seconds that `--resume auto` waits for whoever writes the run file


class Job:
    """One run: everything that lives from the first step to the last."""

    def __init__(
        self,
        plan: Plan,
        ranks: Ranks,
        voters: int,
        quiet: bool = False,
        verbose: bool = False,
        resuming: bool = False,
        node: NodeVoter | None = None,
    ):
        """voters: one per rank or node, or any number in a process without MPI. quiet, verbose: what root prints.

        resuming: whether it may go on with a run, and so with what that measured. node: where a voter is several ranks.
        """
        if resuming and plan.config.problem.batch_sizes == "speed":
            sizes = sizes_of_then(plan.config, ranks) or "speed"
            plan = replace(plan, config=plan.config.updated(problem={"batch_sizes": sizes}))
        setup = set_up(plan, ranks, voters, node)
        self.ranks, self.stepper, self.config, self.plan = ranks, setup.stepper, setup.plan.config, setup.plan
        self.steps = self.config.run.steps
        self.schedule = Schedule(steps=self.steps, **self.config.schedule.model_dump())
        self.survives = self.config.run.lost_ranks != "stop" and ranks.size > 1
        self.log = (SurvivorsLog if self.survives else RunLog)(setup, ranks, quiet, verbose)
        self.mirror = Mirror(ranks, self.log.path) if self.config.checkpoint.memory_every else None
        self.lock: Lock | None = None
        PHASES.end("rows, x, exchange")

    def run(self, dry_run: bool = False, options: ResumeOptions = FRESH) -> None:
        """Takes all steps, or only tells what they would cost."""
        if dry_run:
            self.log.print_costs(self.mirror)
            return
        try:
            # the process of a job that is queued again may still be on its way out
            self.lock = self._lock(PATIENCE if options.resume == "auto" else 0.0)
            if self.lock and self.lock.note:
                self.log.printer.note(self.lock.note)
            start = self._begin(options)
            if start.kind == "done":
                self.log.printer.line(start.note)
            else:
                self._run(start)
            self.log.summarise()
        finally:
            if self.lock:
                self.lock.release()

    def _lock(self, patience: float) -> Lock | None:
        with self.ranks.agreed(), WATCH.at("locking the run file"):
            try:
                return Lock(self.log.path, patience) if self.ranks.root else None
            except OSError as error:
                what = f"can't write the run file {self.log.path}: {error.strerror}"
                raise UsageError(f"{what}; set run.file to a place that can be written") from error

    def _begin(self, options: ResumeOptions) -> Start:
        """Fills the Stepper as it shall begin; of what is on disk, nothing is changed."""
        start, ranks, note = Start("new"), self.ranks, self._look_into_memory(options)
        with ranks.agreed(), WATCH.at("looking for a run so far"):
            if ranks.root:
                share = self.log.share
                start = decide(options, self.log.path, self.config, share.data_before or share.data)
                start = replace(start, note="; ".join(filter(None, (start.note, note))))
        kind = ranks.share(start.kind)
        if kind == "resume":
            self._keep_threads(start.run)
            start = self._restore(start, options)
        elif kind == "init":
            state.start_from(start.opened, self.stepper, ranks)
            if self.stepper.t >= self.steps:
                text = f"the checkpoint is of step {self.stepper.t}, but run.steps = {self.steps}; set it higher"
                raise UsageError(text, agreed=True)
        return start if ranks.root else Start(kind)

    def _look_into_memory(self, options: ResumeOptions) -> str:
        """Checkpoints in memory: what is left of the run so far, of which it tells, and whether there is room."""
        if not self.mirror:
            return ""
        asked = options.resume != "never" and not options.checkpoint
        with WATCH.at("looking for checkpoints in memory"):
            note = recover(self.ranks, self.mirror.folder, self.log.path) if asked else ""
        self.mirror.require_room(self.stepper, self.config.text(), self.log.kept_to_be)
        if self.mirror.alone:
            self.log.printer.note(ALONE)
        return note

    def _restore(self, start: Start, options: ResumeOptions) -> Start:
        """Fills the Stepper from the checkpoint that root has opened, whose voters may be others."""
        ranks, opened = self.ranks, start.opened
        with ranks.agreed():
            if ranks.root:
                opened = taken_up(start.opened, self.stepper, self.config, options)
        before, changed = ranks.share(ranks.root and (start.opened.voters, opened is not start.opened))
        self.log.restore_counters(*state.load_state(opened, self.stepper, ranks), len(before))
        return replace(start, regrouped=told(before, self.config, self.stepper.algorithm)) if changed else start

    def _keep_threads(self, before: Run | None) -> None:
        """As many torch threads as before, unless the job says how many: another number may give other bits."""
        ranks = self.ranks
        threads = ranks.share(before and int(before["segments"]["threads"][-1]))
        if not self.config.run.threads and threads != ranks.threads:
            ranks.threads, self.log.why_threads = threads, "as before"
            use_threads(threads)

    def _run(self, start: Start) -> None:
        """Takes all steps; the run file is closed whatever happens."""
        log = self.log
        stopping.can_save()
        log.open(start)
        log.print_header()
        PHASES.end("the run file")
        # the main thread sits in MPI when the watchdog ends the job, so the run file is free
        unregister = leaving.tell_first(lambda step, text: log.event("error", step, text, exit_code=1))
        try:
            self.checkpoints = CheckpointManager(self.config, self.ranks, self.stepper, log, self.mirror)
            self.probe = Probe(self.stepper, self.config.probe)
            self._together = self._survivors().together if self.survives else lambda work: work()
            if start.kind != "resume":
                self._together(lambda: log.evaluate(math.nan, self.schedule(self.stepper.t)))
            WATCH.least = 0.0  # the run has started
            PHASES.end("the first evaluation")
            self._loop()
            self._together(log.complete)
            self.checkpoints.forget()
            if self.survives:  # the last event was held back
                self.ranks.agree(log.writer.failure)
        except Stopped as stopped:
            log.event("stop", self.stepper.t, str(stopped), stopped.exit_code)
            raise
        except BaseException as error:
            log.event("error", self.stepper.t, str(error) or type(error).__name__, leaving.code_of(error))
            raise
        finally:
            unregister()
            log.close()

    def _survivors(self) -> Survivors:
        return Survivors(self.stepper, self.plan, self.log, self.ranks, self._go_on)

    def _go_on(self, stepper: Stepper, ranks: Ranks) -> None:
        """Takes what survivors go on with in place of what was there."""
        self.stepper, self.ranks = stepper, ranks
        self.checkpoints.go_on(stepper, ranks)
        self.probe = Probe(stepper, self.config.probe)
        if ranks.root and not self.lock:
            self.lock = Lock(self.log.path, PATIENCE)

    def _loop(self) -> None:
        run = self.config.run
        # the step before which the iterate that a theorem speaks of is taken, uniform over the run
        self.output = int(Streams(run.seed).draw("output", 0).generator().integers(self.steps))
        while self.stepper.t < self.steps:
            outcome = self._together(self._step)
            PHASES.end("the first step")
            request, last = Request(outcome.request), self.stepper.t == self.steps
            if self.checkpoints.due(request, last):
                self._together(lambda request=request: self.checkpoints.edge(request))
            if request.stops and not last:
                self.checkpoints.stop(request)
            if self.stepper.world.n < run.least_voters and not last:
                self._stop_with_few()

    def _stop_with_few(self) -> None:
        self._together(self.checkpoints.save)
        self.checkpoints.raise_stopped(
            f"{self.stepper.world.n} voter(s) are left, of run.least_voters = {self.config.run.least_voters}"
        )

    def _step(self) -> Outcome:
        """Takes the next step and tells of it; all that it leaves are arrays of the Stepper and rows."""
        run, log, stepper, probe = self.config.run, self.log, self.stepper, self.probe
        t, lr, taken = stepper.t, self.schedule(stepper.t), stepper.t + 1
        last, eval_every = taken == self.steps, run.eval_every or max(1, self.steps // EVALUATIONS)
        recording = taken % run.record_every == 0 or last
        if run.keep == "uniform" and t == self.output:
            log.keep(t)
        if probing := probe.due(taken):
            probe.begin()
        outcome = stepper.step(lr, counting=recording, request=self.checkpoints.request())
        if probing:
            log.probed(probe.end())
        with stepper.timer("record"):
            if recording:
                log.record(outcome, lr)
            if taken % run.check_every == 0 or last:
                log.check()
        if taken % eval_every == 0 or last:
            log.evaluate(outcome.loss, lr)
        else:
            log.printer.update(taken, outcome.loss, lr)
        return outcome
