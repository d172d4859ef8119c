"""Whether MPI really takes the memory of a GPU: it is asked, and then tried, before a run relies on it."""

from __future__ import annotations  # which name classes of an MPI that may not have started

import torch

from mpisign.errors import UsageError
from mpisign.exchange.late import MPI
from mpisign.parallel import mpi


def check_aware(comm: MPI.Intracomm, device: torch.device) -> None:
    """Sends a few words of a GPU both ways. Collective; raises UsageError on all ranks where they do not arrive.

    An MPI that does not know of GPUs would crash, so it is asked first (MPIX_Query_cuda_support).
    """
    asked, rank, n = mpi.gpu_aware(), comm.Get_rank(), comm.Get_size()
    able = comm.allreduce(int(asked), MPI.MIN)
    arrived = able and _arrive(comm, device, rank, n)
    if not comm.allreduce(int(bool(arrived)), MPI.MIN):
        why = "words sent from a GPU did not arrive as they were" if able else "this MPI says that it does not"
        raise UsageError(
            f"exchange.gpu_aware: MPI must take memory of a GPU, but {why} ({MPI.get_vendor()[0]}); leave it out, and "
            "words go through the host's memory",
            agreed=True,
        )


def _arrive(comm: MPI.Intracomm, device: torch.device, rank: int, n: int) -> bool:
    mine = torch.arange(n * 1000, dtype=torch.int64, device=device) + rank * 10**6
    received, everyone = torch.zeros_like(mine), torch.zeros(n, n * 1000, dtype=torch.int64, device=device)
    torch.cuda.synchronize(device)
    requests = [comm.Ialltoall(mine, received), comm.Iallgather(mine, everyone)]
    MPI.Request.Waitall(requests)
    senders = torch.arange(n, device=device)[:, None] * 10**6
    wanted = senders + torch.arange(rank * 1000, (rank + 1) * 1000, device=device)
    return torch.equal(received.view(n, 1000), wanted) and torch.equal(
        everyone, senders + torch.arange(n * 1000, device=device)
    )
