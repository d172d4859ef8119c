"""The ranks of one voter, where a voter is several: what they tell one another before their voter speaks."""

import hashlib
from collections.abc import Sequence

import numpy as np

from mpisign.parallel.communicator import Communicator
from mpisign.parallel.watchdog import WATCH


class Inside:
    """The ranks of this rank's voter, in the order of their shards. All calls are collective among them."""

    def __init__(self, comm: Communicator):
        self.comm, self.rank, self.size = comm, comm.Get_rank(), comm.Get_size()

    def rows(self, own: np.ndarray) -> np.ndarray:
        """A row of float64 (k,) of each rank, as (ranks, k)."""
        own = np.ascontiguousarray(own, dtype=np.float64)
        rows = np.empty((self.size, len(own)))
        with WATCH("an Allgather among the ranks of a voter"):
            self.comm.Allgather(own, rows)
        return rows

    def concatenate(self, own: np.ndarray, counts: Sequence[int]) -> np.ndarray:
        """All ranks' float64 (counts[rank],), one after the other."""
        own, joined = np.ascontiguousarray(own, dtype=np.float64), np.empty(sum(counts))
        with WATCH("an Allgatherv among the ranks of a voter"):
            self.comm.Allgatherv(own, [joined, list(counts)])
        return joined

    def header(self, own: np.ndarray, origin: int) -> np.ndarray:
        """The voter's header row from those of its ranks: (bad, value or request, loss, what follows).

        own: float64 (k,), its first bad coordinate counted from this rank's shard, which starts at `origin`. The
        voter's is the first of all; its request is the largest, its loss the mean, added in the order of the ranks.
        What follows is of the whole voter already, the same on all of them.
        """
        rows = self.rows(np.where(np.arange(len(own)) == 0, own + (origin if own[0] >= 0 else 0), own))
        voter, faulty = rows[0].copy(), rows[rows[:, 0] >= 0]
        voter[:2] = faulty[0, :2] if len(faulty) else (-1, rows[:, 1].max())
        voter[2] = np.add.accumulate(rows[:, 2])[-1] / self.size
        return voter

    def digest(self, own: bytes) -> bytes:
        """A hash of all ranks' hashes, as long as one of them."""
        rows = np.empty((self.size, len(own)), dtype=np.uint8)
        with WATCH("an Allgather of hashes among the ranks of a voter"):
            self.comm.Allgather(np.frombuffer(own, dtype=np.uint8), rows)
        return hashlib.blake2b(rows.tobytes(), digest_size=len(own)).digest()
