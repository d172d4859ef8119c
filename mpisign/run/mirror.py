"""Checkpoints in memory: each rank keeps its part of one on its node and on the next; see parts.py and recovery.py.

Two steps are kept: while one is written, or if one is found damaged, there is the other.
"""

import contextlib
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from mpisign.algorithms.slots import State
from mpisign.engine import state
from mpisign.engine.stepper import Stepper
from mpisign.errors import StorageError, UsageError
from mpisign.parallel import memory, mpi
from mpisign.parallel.mpi import Ranks
from mpisign.run.recovery import identity
from mpisign.storage import parts

GENERATIONS = 2  # steps that are kept
ALONE = "checkpoint.memory_every: all ranks are on one host, which its checkpoints in memory don't outlive"


class Mirror:
    """Keeps the parts of this rank, and copies of those whose partner it is. Collective throughout."""

    def __init__(self, ranks: Ranks, run: Path):
        """run: the run file."""
        self.ranks, self.run = ranks, run
        self.folder = Path(memory.SHARED) / ranks.share(parts.folder_name(run))
        self._partners = partners(ranks.allgather(ranks.members, "nodes"))
        self._sources = self._sources_of(ranks.rank)
        self._written: deque[list[Path]] = deque()  # by step, the oldest first
        self._facts: dict[str, str] = {}

    @property
    def alone(self) -> bool:
        """Whether all ranks are on one host."""
        return self._partners[0] == 0

    def _sources_of(self, rank: int) -> list[int]:
        """The ranks whose partner a rank is."""
        return [source for source, partner in enumerate(self._partners) if partner == rank != source]

    def sizes(self, stepper: Stepper, config: str, kept: State | None) -> tuple[int, int]:
        """Bytes that a rank and a node keep at most. kept: the point kept for the end of the run, if any is."""
        ranks = self.ranks
        own = ranks.allgather(GENERATIONS * state.part_size(stepper, config, kept), "sizes of parts")
        by_rank = [own[rank] + sum(own[source] for source in self._sources_of(rank)) for rank in range(ranks.size)]
        return max(by_rank), max(ranks.allgather(sum(by_rank[rank] for rank in ranks.members), "sizes by node"))

    def require_room(self, stepper: Stepper, config: str, kept: State | None) -> None:
        """Raises UsageError on all ranks where some node can't keep what it is to keep."""
        _, size = self.sizes(stepper, config, kept)
        why = ""
        if self.ranks.local_rank == 0:
            needed = size - parts.occupied(self.folder)
            why = parts.obstacle(self.folder) or memory.lacking_shared(needed) or memory.lacking(needed)
        remedy = "set it to 0, or free some: mpisign doctor names what killed runs left"
        self.ranks.agree(UsageError(f"checkpoint.memory_every: {why}; {remedy}") if why else None)

    def begin(self) -> None:
        """Begins anew for a run whose file is open: what is in memory is on disk by now, or not wanted."""
        self._facts = self.ranks.share(self.ranks.root and {"run": identity(self.run), "file": str(self.run.resolve())})
        self.remove()

    def save(self, stepper: Stepper, config: str, progress: dict, kept: State | None) -> None:
        """Writes this rank's part here and on its partner's node.

        Raises StorageError on all ranks if there is no room; the step before it is then still there.
        """
        ranks = self.ranks
        while len(self._written) >= GENERATIONS:
            _unlink(self._written.popleft())
        own, *copies = files = [parts.path_at(self.folder, stepper.t, r) for r in (ranks.rank, *self._sources)]
        try:
            with ranks.agreed(), _told():
                state.save_part(own, stepper, ranks, self._facts, config, progress, kept)
            if not self.alone:
                received = mpi.pass_on(ranks.comm, parts.in_bytes(own), self._partners[ranks.rank], self._sources)
                with ranks.agreed(), _told():
                    for path, raw in zip(copies, received, strict=True):
                        parts.write(path, raw)
        except StorageError:
            _unlink(files)
            raise
        self._written.append(files)

    def remove(self) -> None:
        """Removes all parts: a checkpoint on disk has taken their place, or the run is complete."""
        self.ranks.wait(self.ranks.node)
        if self.ranks.local_rank == 0:
            parts.remove(self.folder)
        self._written.clear()
        self.ranks.wait(self.ranks.node)


def partners(members: list[tuple[int, ...]]) -> list[int]:
    """By rank, the one on the next node that keeps a copy of its part; itself where there is one node.

    members: by rank, the ranks of its node.
    """
    nodes = list(dict.fromkeys(members))
    if len(nodes) == 1:
        return list(nodes[0])
    partner = {}
    for node, following in zip(nodes, nodes[1:] + nodes[:1], strict=True):
        for k, rank in enumerate(node):
            partner[rank] = following[k % len(following)]
    return [partner[rank] for rank in range(len(members))]


def _unlink(files: list[Path]) -> None:
    for path in files:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Raises StorageError for a file that can't be written."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise StorageError(f"can't keep a checkpoint in {memory.SHARED}: {error}") from error
