"""Voters of lost ranks that others adopt: after each step, a rank's arrays are copied to another, its partner.

If the rank is lost, the partner runs its voters besides its own, from where they stood, on rows that it reads anew.
"""

import pickle
from dataclasses import dataclass

import numpy as np
import torch

from mpisign.engine.snapshot import Kept, kept_of
from mpisign.engine.stepper import Stepper
from mpisign.parallel import mpi
from mpisign.parallel.mpi import Ranks
from mpisign.parallel.watchdog import WATCH
from mpisign.problems import Oracle
from mpisign.problems.data.distribute import rows_of_voter
from mpisign.problems.data.loader import DeviceLoader
from mpisign.run.mirror import partners
from mpisign.run.plan import Plan
from mpisign.run.setup import oracle_of, partition_settings


@dataclass(frozen=True)
class Copy:
    """What is known of another rank after so many steps: its voters, their arrays, and its share of the vote's."""

    t: int
    voters: tuple[int, ...]
    kept: Kept


class Copies:
    """The copies that this rank holds, and those of its own that its partner holds. Collective throughout."""

    def __init__(self, ranks: Ranks):
        self._comm, self._alone = ranks.comm, ranks.size == 1
        by_rank = partners(ranks.allgather(ranks.members, "nodes"))
        if by_rank == [*range(ranks.size)]:  # of one node
            by_rank = [(rank + 1) % ranks.size for rank in by_rank]
        self._partner = by_rank[ranks.rank]
        self._sources = [source for source, partner in enumerate(by_rank) if partner == ranks.rank != source]
        self.held: list[Copy] = []
        self._renewed: list[Copy] = []
        self._t = -1  # of the arrays that were sent at last

    def renew(self, stepper: Stepper) -> None:
        """Has partners hold what arrays are now, besides what they were: a rank may be lost meanwhile."""
        if self._alone or self._t == stepper.t:
            return
        kept = kept_of(stepper)
        arrays = {name: array.cpu().numpy() for name, array in kept.arrays.items()}
        raw = pickle.dumps((stepper.t, stepper.world.local, arrays, kept.shards), protocol=5)
        received = mpi.pass_on(self._comm, np.frombuffer(raw, np.uint8), self._partner, self._sources)
        stepper.world.traffic.other += len(raw)
        self._renewed, self._t = [_copy(*pickle.loads(one)) for one in received], stepper.t

    def commit(self) -> None:
        """All hold what was renewed."""
        self.held = self._renewed

    def of_lost(self, living: set[int], t: int) -> list[Copy]:
        """Those of voters that are not among the living any more, as they were after t steps."""
        return [copy for copy in self.held if copy.t == t and not living & {*copy.voters}]


def _copy(t: int, voters: tuple[int, ...], arrays: dict[str, np.ndarray], shards: list) -> Copy:
    return Copy(t, voters, Kept({name: torch.from_numpy(array) for name, array in arrays.items()}, shards))


def adopt(plan: Plan, voter: int, voters: int, stepper: Stepper, ranks: Ranks) -> tuple[Oracle, DeviceLoader | None]:
    """The oracle of an adopted voter, one of so many, and its slice of the held-out rows, both read by this process."""
    generator = stepper.streams.draw("partition", 0).generator()
    with WATCH.at(f"reading the rows of voter {voter}"):
        train, test = rows_of_voter(plan.problem, voters, voter, generator, **partition_settings(plan))
    oracle = oracle_of(plan, voter, train, voters, stepper.layout, stepper.streams, ranks)
    return oracle, DeviceLoader(test, stepper.layout.device) if test else None
