"""Lost ranks under Open MPI's ULFM: how the living find out, agree, and go on among themselves.

A process that dies leaves errors, not silence: calls that need it raise, on some ranks sooner than on others. Whoever
meets one revokes the communicator, which raises it on all the others, too; then the living make a communicator of
their own. MPICH has no such thing.
"""

import contextlib
import time
from collections.abc import Iterable
from typing import Any

import numpy as np

from mpisign.errors import UsageError
from mpisign.parallel import leaving, mpi
from mpisign.parallel.launchers import launch
from mpisign.parallel.mpi import Ranks
from mpisign.parallel.watchdog import WATCH

PATIENCE = 5.0  # seconds in which requests on a revoked communicator have to end


def require_survivors(key: str) -> None:
    """Raises UsageError where ranks can't outlive one another; to be called before MPI starts. key: who asks."""
    if launch().size == 1 or mpi.outlive():
        return
    raise UsageError(
        f"{key} needs Open MPI 5 or newer and its own mpirun --with-ft ulfm, which did not start "
        f"these ranks ({launch().by} did); start them so (MPICH and srun can't), or set run.lost_ranks=stop (by --set "
        "for a run that goes on): a lost rank then ends the job, and mpisign resume goes on from the last checkpoint"
    )


def is_loss(error: BaseException, comm: Any) -> bool:
    """Whether an error is that of a rank that was lost, here or, by a revoked communicator, elsewhere."""
    MPI = mpi._library()
    if not isinstance(error, MPI.Exception) or comm is None:
        return False
    if mpi.says_lost(error):
        return True
    # a Waitall only says that the error stands in a status
    return comm.Is_revoked() or comm.Get_failed().Get_size() > 0


def all_here(comm: Any, well: bool) -> bool:
    """Whether all ranks of a communicator, which may be revoked, are alive and well: the same on all. Collective.

    Whoever is not well has to ask, too: the others wait for its answer.
    """
    if comm is None:
        return well
    MPI = mpi._library()
    try:
        with WATCH("the agreement of all ranks on a step"):
            return bool(comm.Agree(int(well)))
    except MPI.Exception as error:
        if not is_loss(error, comm):
            raise
        return False


def shrink(comm: Any) -> Any:
    """A communicator of those of comm that are alive, in their order. Collective over them."""
    leaving.dismiss_rolls()
    with WATCH("the living finding each other"):
        return comm.Shrink()


def revoke(*comms: Any) -> None:
    """Has all that any rank waits for on these communicators end with an error, now and later."""
    for comm in comms:
        comm.Revoke()


def drain(requests: Iterable[Any], buffers: object) -> None:
    """Waits until no request of a revoked communicator is on its way; keeps `buffers` for good if one does not end."""
    until = time.monotonic() + PATIENCE
    for request in requests:
        with contextlib.suppress(Exception):  # that of the loss, which is known
            while not request.Test():
                if time.monotonic() > until:
                    mpi.KEPT.append((request, buffers))
                    break
                time.sleep(mpi.PAUSE)


def unite(ranks: Ranks, array: np.ndarray) -> None:
    """Fills in, on all ranks, what each of them knows of an array that is zero elsewhere."""
    if ranks.comm:
        with WATCH("what the living know of the vote"):
            for piece in mpi._pieces(array):
                ranks.comm.Allreduce(mpi._library().IN_PLACE, piece, op=mpi._library().BOR)
