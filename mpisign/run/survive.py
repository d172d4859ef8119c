"""A run whose ranks outlive one another: a step counts once all that are alive have taken it.

Before a step everything that it changes is copied. It is taken, and recorded, on probation: rows are held back. Then
all agree that they are here. If one is lost meanwhile, wherever, the living take the step back, make exchanges among
themselves, and take it again: voters keep their numbers, thus their draws, and a vote counts those who vote. Where the
lost are adopted (adopt.py), their voters vote on, too, and the run has the bits of one that lost nobody.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from mpisign.engine.build import make_stepper
from mpisign.engine.regroup import bound
from mpisign.engine.snapshot import Snapshot
from mpisign.engine.stepper import Stepper
from mpisign.errors import UsageError, choices
from mpisign.exchange import Choice
from mpisign.parallel import leaving, lost, mpi
from mpisign.parallel.mpi import Ranks
from mpisign.parallel.world import Adopting, Local, Mpi, World
from mpisign.problems import Oracle
from mpisign.problems.data.loader import DeviceLoader
from mpisign.run.adopt import Copies, Copy, adopt
from mpisign.run.plan import Plan
from mpisign.run.survivors_log import SurvivorsLog

EXCHANGES = ("sharded", "allgather", "allreduce", "dense", "dense-mpi")  # which wait for other ranks in MPI alone
Done = TypeVar("Done")
FAILED = object()


def check_survivors(plan: Plan) -> None:
    """Raises UsageError for what of a job whose ranks may outlive one another can't do without a rank."""
    config, key = plan.config, f'run.lost_ranks = "{plan.config.run.lost_ranks}"'
    if config.run.lost_ranks == "stop":
        return
    lost.require_survivors(key)
    voters = plan.config.run.voters
    if why := bound(plan.algorithm, voters, voters - 1):
        raise UsageError(f'{key}: {plan.entry.name} can\'t go on without a voter: {why}; leave it at "stop"')
    if other := [c.name for c in plan.choices if c.name not in (*EXCHANGES, "local")]:
        raise UsageError(f"{key} does not go with exchange.name = {other[0]!r}; take one of: {choices(EXCHANGES)}")
    for table, key_in_it, fits in (
        ("exchange", "progress", "calls"),
        ("probe", "every", 0),
        ("checkpoint", "memory_every", 0),
        ("adversary", "voters", 0),
    ):
        if (value := getattr(getattr(config, table), key_in_it)) != fits:
            raise UsageError(f"{key} does not go with {table}.{key_in_it} = {value!r}; set it to {fits!r}")


class Survivors:
    """Does a job's work on probation, and again without the ranks that were lost meanwhile."""

    def __init__(
        self, stepper: Stepper, plan: Plan, log: SurvivorsLog, ranks: Ranks, moved: Callable[[Stepper, Ranks], None]
    ):
        """log: of a run whose file is open. moved: told of the Stepper and ranks that go on."""
        self.stepper, self.ranks, self._plan, self._log, self._moved = stepper, ranks, plan, log, moved
        self._snapshot = Snapshot(stepper)
        self._copies = Copies(ranks) if plan.config.run.lost_ranks == "adopt" else None
        if self._copies:
            self._copies.renew(stepper)
            self._copies.commit()

    def together(self, work: Callable[[], Done]) -> Done:
        """Does work that all ranks share until all that are alive agree that it is done; then its rows are written."""
        self._snapshot.take(self.stepper)
        self._log.mark()
        while True:
            done = self._tried(lambda: self._copied(work), self.ranks.comm)
            if lost.all_here(self.ranks.comm, done is not FAILED):
                break
            self._log.take_back()
            self._go_on()
        self._log.release()
        if self._copies:
            self._copies.commit()
        return done

    def _copied(self, work: Callable[[], Done]) -> Done:
        """Does work, and has partners hold what comes of it."""
        done = work()
        if self._copies:
            self._copies.renew(self.stepper)
        return done

    def _tried(self, work: Callable[[], Done], comm: Any) -> Any:
        """What work returns, or FAILED if a rank of comm was lost meanwhile, of which all its ranks then hear."""
        try:
            return work()
        except Exception as error:
            if not lost.is_loss(error, comm):
                raise
            lost.revoke(comm, *self._beside())
            return FAILED

    def _beside(self) -> list[Any]:
        """Communicators on which a step may wait besides that of the ranks."""
        own = vars(self.stepper.world)
        return [own["second_comm"]] if "second_comm" in own else []

    def _go_on(self) -> None:
        """Goes on among the living, of whom more may be lost meanwhile."""
        before, comm = self.stepper, self.ranks.comm
        lost.revoke(comm, *self._beside())
        while True:
            comm = lost.shrink(comm)
            found = self._tried(lambda comm=comm: self._among(comm, before), comm)
            if lost.all_here(comm, found is not FAILED):
                break
            lost.revoke(comm)
        self.ranks, self.stepper, self._copies, left, tests = found
        if self._copies:
            self._copies.commit()
        self._snapshot = Snapshot(self.stepper)
        self._moved(self.stepper, self.ranks)
        self._log.go_on(self.stepper, self.ranks, left, tests)

    def _among(self, comm: Any, before: Stepper) -> "Found":
        """What the ranks of a communicator of the living go on with. Collective."""
        ranks = mpi.go_on_among(comm, self.ranks.threads)
        leaving.watch_over(ranks, self._plan.config.run.watchdog, "run.watchdog")
        self._drain()
        adopted, found = self._read_anew(self._adopted(ranks, before), before, ranks)
        world = _living(ranks, before.world, tuple(found))
        after = among(world, before, self._plan, [oracle for oracle, _ in found.values()])
        keep, kept = self._plan.config.checkpoint.residuals == "keep", [copy.kept for copy in adopted]
        self._snapshot.restore(after, before, lambda whole: lost.unite(ranks, whole.numpy()), keep, kept)
        copies = Copies(ranks) if self._copies else None
        if copies:
            copies.renew(after)
        return ranks, after, copies, self._log.counts_of_living(world), {v: test for v, (_, test) in found.items()}

    def _drain(self) -> None:
        """Waits for the end of what a former step has on its way."""
        world = self.stepper.world
        for channel in (channel for stage in self.stepper.stages for channel in stage.channels):
            lost.drain([r for some in channel.exchange._requests for r in some], channel.exchange)
        lost.drain([world._request] if hasattr(world, "_request") else [], world)

    def _adopted(self, ranks: Ranks, before: Stepper) -> list[Copy]:
        """The copies of lost ranks that this one holds. Collective."""
        if not self._copies:
            return []
        living = ranks.allgather(before.world.local, "the voters that are left")
        return self._copies.of_lost({voter for own in living for voter in own}, self._snapshot.t)

    def _read_anew(
        self, adopted: list[Copy], before: Stepper, ranks: Ranks
    ) -> tuple[list[Copy], dict[int, tuple[Oracle, DeviceLoader | None]]]:
        """The copies whose voters can be run here, and what these ask; none where their rows can't be read."""
        voters = [voter for copy in adopted for voter in copy.voters]
        try:
            return adopted, {v: adopt(self._plan, v, len(before.weights), before, ranks) for v in voters}
        except (UsageError, MemoryError) as error:
            self._log.note(f"rank {ranks.rank} can't adopt voter(s) {voters}, which are missing from now on: {error}")
            return [], {}


# ranks and Stepper, copies of its arrays, what the living had counted, and the held-out rows of adopted voters
Found = tuple[Ranks, Stepper, Copies | None, dict[str, float], dict[int, DeviceLoader | None]]


def _living(ranks: Ranks, world: World, adopted: tuple[int, ...]) -> World:
    """The voters that vote on, with their numbers, of which this rank runs its own and those it adopted. Collective."""
    by_rank = ranks.allgather(tuple(sorted((*world.local, *adopted))), "who runs which voters")
    if ranks.size == 1:
        living: World = Local(voters=by_rank[0])
    elif any(len(own) > 1 for own in by_rank):
        living = Adopting(ranks.comm, by_rank)
    else:
        living = Mpi(ranks.comm, tuple(own[0] for own in by_rank))
    living.traffic, living.cost = world.traffic, world.cost
    return living


def among(world: World, before: Stepper, plan: Plan, adopted: Sequence[Oracle] = ()) -> Stepper:
    """A Stepper as `before`, of the voters of another world; its arrays are still to be filled in. Collective.

    adopted: oracles of local voters that are new here.
    """
    chosen = plan.choices if world.n > 1 else tuple(Choice("local", "one voter is left") for _ in plan.choices)
    weights = np.zeros_like(before.weights)
    weights[[*world.voters]] = before.weights[[*world.voters]]
    weights *= world.n / weights.sum()
    known = {oracle.voter: oracle for oracle in (*before.oracles, *adopted)}
    oracles = [known[voter] for voter in world.local]
    settings = plan.config.exchange.model_dump(exclude={"name", "voter"})
    parts = (before.layout, world, before.streams, oracles, before.x, weights, before.timer)
    return make_stepper(plan.algorithm, chosen, *parts, **settings)
