"""A run that goes on from checkpoints in memory: parts of the newest step that is whole are put together on disk.

What they become is a checkpoint like any other, so all that is true of checkpoints stays true: other ranks, hosts and
exchanges go on from it, and so does a simulation.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from mpisign.errors import StorageError, UsageError
from mpisign.parallel import mpi
from mpisign.parallel.mpi import Ranks
from mpisign.storage import checkpoint, parts
from mpisign.storage.parts import Held, Part
from mpisign.storage.reader import Run


def recover(ranks: Ranks, folder: Path, run: Path) -> str:
    """Makes a checkpoint of the newest step that is whole in memory, where it is newer than those on disk. Collective.

    folder: of the parts on each node. run: the run file. Returns what to tell of it, on root. Raises StorageError on
    all ranks where it can't be written.
    """
    if (asked := ranks.share(_asked(run) if ranks.root else None)) is None:
        return ""
    name, newest = asked
    own, damaged = parts.held(folder, name, slice(ranks.local_rank, None, len(ranks.members)))
    holders = _whole(ranks.allgather(own, "parts in memory"), newest)
    notes = dict.fromkeys(chain(*ranks.allgather(damaged, "damaged parts")))
    if not holders:
        return "; ".join(notes)
    step = max(holders)
    store = _Store(ranks, folder, run, step, holders[step])
    with ranks.agreed():
        if ranks.root:
            store.put_together()
        elif ranks.rank in holders[step]:
            store.serve()
    return "; ".join([f"step {step} was put together from parts in memory", *notes])


def identity(run: Path) -> str:
    """What tells the run in a file from others that had the file: when it began."""
    return _begun(Run(run, salvage=True))


def _begun(run: Run) -> str:
    return repr(float(run["events"]["time"][0]))


def _asked(run: Path) -> tuple[str, int] | None:
    """The identity of a run and the step of its newest checkpoint; None where there is no run that may go on."""
    with contextlib.suppress(UsageError, IndexError):
        if run.exists() and not (found := Run(run, salvage=True)).complete:
            return _begun(found), max(map(checkpoint.step_of, checkpoint.saved(run)), default=0)
    return None


def _whole(everyone: list[Held], newest: int) -> dict[int, list[int]]:
    """By step after the newest on disk of which all parts are there: who holds them, in the order of their makers."""
    holder, ranks = {}, {}
    for rank, held in enumerate(everyone):
        for (step, made_by), size in held.items():
            holder.setdefault((step, made_by), rank)
            ranks[step] = size
    whole = {step: [holder.get((step, made_by), -1) for made_by in range(size)] for step, size in ranks.items()}
    return {step: holders for step, holders in whole.items() if step > newest and -1 not in holders}


@dataclass(frozen=True)
class _Store:
    """The parts of one step on all nodes. holders: who holds which, by the rank that made it."""

    ranks: Ranks
    folder: Path
    run: Path
    step: int
    holders: list[int]

    def put_together(self) -> None:
        """On root: writes the checkpoint."""
        path = checkpoint.path_at(self.run, self.step)
        try:
            with self._fetching() as fetched:
                first = next(fetched)

                def fill(writer: checkpoint.Writer) -> None:
                    for part in chain([first], fetched):
                        part.give(writer)

                checkpoint.save(path, fill, first.texts, first.attributes)
        except (OSError, RuntimeError) as error:
            raise StorageError(f"can't write the checkpoint {path}, which is whole in memory: {error}") from error

    def serve(self) -> None:
        """Elsewhere: sends root the parts it asks for, until it wants no more."""
        while (made_by := self.ranks.receive(0)) is not None:
            mpi.send_arrays(self.ranks.comm, {"part": self._part(made_by)}, 0)

    @contextlib.contextmanager
    def _fetching(self) -> Iterator[Iterator[Part]]:
        """The parts one by one; those who serve them are told when no more are wanted."""

        def fetch() -> Iterator[Part]:
            for made_by, holder in enumerate(self.holders):
                if holder:
                    self.ranks.comm.send(made_by, holder)
                raw = mpi.receive_arrays(self.ranks.comm, holder)["part"] if holder else self._part(made_by)
                with Part(raw) as part:
                    yield part

        try:
            yield fetch()
        finally:
            for holder in {*self.holders} - {0}:
                self.ranks.comm.send(None, holder)

    def _part(self, made_by: int):
        return parts.in_bytes(parts.path_at(self.folder, self.step, made_by))
