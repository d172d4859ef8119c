"""Keeps a run safe: checkpoints when they are due or asked for, and an orderly end for a run that has to stop."""

from typing import NoReturn

from mpisign.algorithms.slots import State
from mpisign.config import Config
from mpisign.engine import state
from mpisign.engine.stepper import Stepper
from mpisign.errors import Interrupted, Stopped, StorageError
from mpisign.parallel.mpi import Ranks
from mpisign.parallel.stopping import Request, Requests
from mpisign.run.mirror import Mirror
from mpisign.run.recording import RunLog
from mpisign.storage import checkpoint
from mpisign.storage.writer import remove_leftovers


class CheckpointManager:
    """Asks at every step whether to save or stop, and does so at the step's edge, on all ranks alike."""

    def __init__(self, config: Config, ranks: Ranks, stepper: Stepper, log: RunLog, mirror: Mirror | None = None):
        """mirror: what keeps checkpoints in memory, if the job wants any."""
        self.config, self.ranks, self.stepper, self.log, self.mirror = config, ranks, stepper, log, mirror
        self.table = config.checkpoint
        self._lacking = ""  # why there is none in memory of late
        if mirror:
            mirror.begin()
        self.requests = self._requests(clock=ranks.root)

    def _requests(self, clock: bool) -> Requests:
        table = self.table
        return Requests(self.config.run.max_minutes, table.margin_seconds, table.every_minutes, clock=clock)

    def request(self) -> Request:
        """What this rank asks for at the step to come."""
        return Request.STORAGE if self.log.writer.failure else self.requests.now()

    def go_on(self, stepper: Stepper, ranks: Ranks) -> None:
        """Goes on for those that outlived others. Clocks of a new root count from now."""
        if ranks.root and not self.ranks.root:
            self.requests = self._requests(clock=True)
        self.stepper, self.ranks = stepper, ranks

    def due(self, request: Request, last: bool) -> bool:
        """Whether all ranks save after this step. last: the run is over anyway."""
        own = self._falls_on(self.table.every_steps) or self._falls_on(self.table.memory_every)
        return not last and (request != Request.NONE or own)

    def _falls_on(self, every: int) -> bool:
        return bool(every) and self.stepper.t % every == 0

    def edge(self, request: Request) -> None:
        """What all ranks do after a step where they save. Raises StorageError on all ranks."""
        if request == Request.STORAGE:
            self._stop_if_full()
        if request != Request.NONE or self._falls_on(self.table.every_steps):
            self.save()
        elif self.mirror:
            self._keep_in_memory(self.mirror)

    def stop(self, request: Request) -> None:
        """Raises Stopped on all ranks, as was asked for."""
        self.raise_stopped(request.reason, Interrupted if request == Request.INT else Stopped)

    def raise_stopped(self, why: str, kind: type[Stopped] = Stopped) -> NoReturn:
        """Ends the run in order, after a checkpoint."""
        raise kind(f"stopped after step {self.stepper.t}: {why}; {self._how_to_go_on()}", agreed=True)

    def save(self) -> None:
        """Writes a checkpoint, and drops the oldest beyond checkpoint.keep. Collective."""
        stepper, log = self.stepper, self.log
        path = checkpoint.path_at(log.path, stepper.t)
        with stepper.timer("record"):
            progress = self._secured()
            try:
                with stepper.world.watch("writing a checkpoint"):
                    state.save_state(path, stepper, self.ranks, self.config.text(), progress, self._kept())
            except StorageError as error:
                raise StorageError(f"{error}; {self._how_to_go_on()}", agreed=True) from error
        self.requests.saved()
        log.event("checkpoint", stepper.t, path.name)
        if self.ranks.root:
            for old in checkpoint.saved(log.path)[self.table.keep :]:
                old.unlink(missing_ok=True)
            remove_leftovers(path.parent, "step-*.h5")
        self.forget()

    def forget(self) -> None:
        """Leaves nothing in memory. Collective."""
        if self.mirror:
            self.mirror.remove()

    def _keep_in_memory(self, mirror: Mirror) -> None:
        """Where memory has no room any more, the run tells so and goes on: checkpoints on disk are there as ever."""
        stepper, before = self.stepper, self._lacking
        with stepper.timer("record"):
            progress = self._secured()
            try:
                with stepper.world.watch("keeping a checkpoint in memory"):
                    mirror.save(stepper, self.config.text(), progress, self._kept())
                self._lacking = ""
            except StorageError as error:
                self._lacking = str(error)
        if self._lacking and not before:
            self.log.event("memory", stepper.t, self._lacking)

    def _secured(self) -> dict[str, object]:
        """What the run counted, once no replica is found drifted and the rows that it counts are on disk."""
        with self.stepper.world.uncounted():
            progress = self.log.progress()
            self.stepper.check_replicas()
        self.log.writer.sync()
        self._stop_if_full()
        return progress

    def _kept(self) -> State | None:
        return self.log.kept if self.config.run.keep in ("best", "uniform") else None

    def _stop_if_full(self) -> None:
        failure = self.log.writer.failure
        self.ranks.agree(failure and StorageError(f"{failure}; {self._how_to_go_on()}"))

    @property
    def _ranks(self) -> str:
        """How many a run goes on with, those that were lost included."""
        each = self.stepper.world.each
        others = ", or on others with --ranks-changed" if each == 1 else ""
        return f"{len(self.stepper.weights) * each} rank(s){others}"

    def _how_to_go_on(self) -> str:
        """Which checkpoint there is, and the command that goes on from it."""
        files = checkpoint.saved(self.log.path)
        if not files:
            return "there is no checkpoint to go on from"
        return f"the last checkpoint is {files[0]}; go on with mpisign resume {self.log.path}, on {self._ranks}"
