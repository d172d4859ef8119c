"""SignOptimizer over torch.distributed, without MPI: its bits against those of one process, and what it refuses.

python tests/groups.py N PART     forks N ranks, as torchrun would start them, without its seconds of imports

Rank 0 prints what it found, one `name: value` a line; a rank that fails makes the whole fail.
"""

import os
import socket
import sys
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

import mpisign
from mpisign.engine.autotune import measure_link
from mpisign.errors import UsageError
from mpisign.optim import SignOptimizer
from mpisign.parallel.process_group import GroupComm
from tests.building import digest
from tests.parallel.test_optim import Loop, digests_of

STEPS = 50
FOUR = tuple((name, "sharded") for name in ("signsgd-mv", "signum-mv", "dist-ef-signsgd", "ssdm"))
OTHERS = (
    ("signsgd-mv", "allreduce"),
    ("signum-mv", "auto"),
    ("ssdm", "allgather"),
    ("topk", "auto"),  # messages whose length varies
    ("terngrad", "sharded"),
    ("sgd", "dense"),
)


def four(comm: GroupComm) -> None:
    """The four whose bits must be those of mpirun."""
    compare(comm, FOUR)


def others(comm: GroupComm) -> None:
    """Other exchanges, codes and floats."""
    compare(comm, OTHERS)


def compare(comm: GroupComm, cases: tuple[tuple[str, str], ...]) -> None:
    """50 steps of each case, by a loop over the group, and by a Stepper that has all voters in this process."""
    for algorithm, exchange in cases:
        loop = Loop(comm)
        loop.make(algorithm, comm=comm.group, exchange=exchange)
        stepper = loop.setup.stepper(loop.setup.algorithm(algorithm), "auto")
        expected = []
        for _ in range(STEPS):
            stepper.step(0.01)
            expected.append(digest(stepper))
        say(f"{algorithm} by {exchange}", digests_of(loop, STEPS) == expected)


def overlap(comm: GroupComm) -> None:
    """The bits of a step without overlap, by a part of the ranks too."""
    for name in ("signum-mv", "dlion-mavo"):
        one, other = Loop(comm), Loop(comm)
        one.make(name, comm=comm.group)
        other.make(name, comm=comm.group, overlap=True)
        say(f"{name} overlapped", other.optimizer.overlaps and digests_of(one) == digests_of(other))


def saved(comm: GroupComm) -> None:
    """One checkpoint of all ranks, and on from there."""
    folder = Path(comm.bcast(tempfile.mkdtemp()))
    one, other = Loop(comm), Loop(comm)
    for loop in (one, other):
        loop.make("dist-ef-signsgd", comm=comm.group)
    digests_of(one, 3)
    one.optimizer.save(folder / "c.h5", epoch=3)
    say("extra", other.optimizer.load(folder / "c.h5") == {"epoch": 3})
    other.t = one.t
    say("goes on", digests_of(one) == digests_of(other))


def refused(comm: GroupComm) -> None:
    """What needs MPI says so, on all ranks; what is wrong on one rank is told to all."""
    for name, value in (("exchange", "hierarchical"), ("exchange", "butterfly"), ("progress", "thread")):
        say(f"refused {value}", message(lambda: Loop(comm).make("signum-mv", comm=comm.group, **{name: value})))  # noqa: B023
    say("refused dense-mpi", message(lambda: Loop(comm).make("sgd", comm=comm.group, exchange="dense-mpi")))
    say("refused number", message(lambda: Loop(comm).make("signum-mv", comm=3)))
    loop = Loop(comm)
    loop.make("signum-mv", comm=comm.group)
    loop.closure()
    if comm.Get_rank() == 1:
        next(iter(loop.parameters.values())).grad = None
    say("one rank's fault", message(loop.optimizer.step))


def destroyed(comm: GroupComm) -> None:
    """A loop that ends torch.distributed too early is told so by what comes after."""
    loop = Loop(comm)
    loop.make("signum-mv", comm=comm.group)
    digests_of(loop, 1)
    say("without MPI", "mpi4py" not in sys.modules)
    dist.destroy_process_group()
    told = message(lambda: loop.optimizer.save("never.h5"))
    if loop.rank == 0:
        print(f"save: {told}", flush=True)
    os._exit(0)


def alone(comm: GroupComm) -> None:
    """Rank 0 makes an optimiser, and the others do not."""
    if comm.Get_rank() == 0:
        Loop(comm).make("signum-mv", comm=comm.group, watchdog=3.0)
    time.sleep(15)
    os._exit(0)


def default(comm: GroupComm) -> None:
    """The default group is taken where no communicator is given; DDP over the same ranks is refused."""
    loop = Loop(comm)
    loop.make("signum-mv", comm=None)
    ranks = loop.optimizer.ranks
    say("group", ranks.library == "torch.distributed by gloo" and ranks.size == comm.Get_size())
    say("place", (mpisign.rank(), mpisign.size()) == (comm.Get_rank(), comm.Get_size()))
    wrapped = nn.parallel.DistributedDataParallel(nn.Linear(3, 2))
    say("wrapped", "wrapped in DDP" in message(lambda: SignOptimizer(wrapped)))
    say("unwrapped", "none" in message(lambda: SignOptimizer(wrapped.module)))


def parts(comm: GroupComm) -> None:
    """Ranks 1 and up make an optimiser of their own group, of which the others know nothing."""
    group = dist.new_group(range(1, comm.Get_size()))
    if comm.Get_rank() == 0:
        say("outside", message(lambda: Loop(comm).make("signum-mv", comm=group)))
        return
    own = GroupComm(group)
    one, other = Loop(own), Loop(own)
    one.make("signum-mv", comm=group)
    stepper = other.setup.stepper(other.setup.algorithm("signum-mv"), "auto")
    expected = []
    for _ in range(3):
        stepper.step(0.01)
        expected.append(digest(stepper))
    assert digests_of(one, 3) == expected
    assert one.optimizer.ranks.size == comm.Get_size() - 1


def calls(comm: GroupComm) -> None:
    """The calls of communicator.py by themselves, where parts differ in length and lie apart."""
    n, rank = comm.Get_size(), comm.Get_rank()
    counts = [3 * r for r in range(n)]
    places = [10 * r for r in range(n)]
    whole = np.full(10 * n, -1)
    whole[places[rank] :][: counts[rank]] = rank
    comm.Iallgatherv(comm.library.IN_PLACE, [whole, (np.array(counts), np.array(places)), None]).Wait()
    wanted = np.full(10 * n, -1)
    for r in range(n):
        wanted[places[r] :][: counts[r]] = r
    say("parts apart", (whole == wanted).all())
    text = np.frombuffer(bytes([rank] * 5), dtype=np.uint8)  # not to be written to
    rows = np.empty((n, 5), dtype=np.uint8)
    comm.Allgather(text, rows)
    say("rows", (rows == np.arange(n)[:, None]).all())
    total = np.empty(4, dtype=np.float32)
    comm.Allreduce(np.full(4, rank + 1, dtype=np.float32), total)
    say("sum", (total == n * (n + 1) / 2).all())
    say("objects", comm.allgather({"rank": rank}) == [{"rank": r} for r in range(n)] and comm.bcast(rank) == 0)
    say("gathered", comm.gather(rank) == (list(range(n)) if rank == 0 else None))
    if rank == 0:
        comm.send(["a", 1], 1)
    elif rank == 1:
        assert comm.recv(0) == ["a", 1]
    requests = [comm.Ibarrier(), comm.Ibarrier()]
    comm.library.Request.Waitall(requests)
    say("barriers", comm.library.Request.Testall(requests))
    say("link", measure_link(comm, 0.01).bandwidth > 0)


def message(call) -> str:
    """The UsageError of a call, which all ranks must raise."""
    try:
        call()
    except UsageError as error:
        return str(error)
    return "none"


def say(name: str, value: object) -> None:
    if dist.get_rank() == 0:
        print(f"{name}: {value}", flush=True)


def become(rank: int, n: int, part: str, port: int) -> None:
    """This process as a rank that torchrun started."""
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(n), LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    dist.init_process_group("gloo")
    globals()[part](GroupComm(dist.group.WORLD))
    dist.barrier()
    say("without MPI", "mpi4py" not in sys.modules)
    dist.destroy_process_group()


def main(n: int, part: str) -> int:
    """Forks the ranks; how many of them failed."""
    torch.set_num_threads(1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(n):
        if not (child := os.fork()):
            try:
                become(rank, n, part, port)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        children.append(child)
    return sum(os.waitpid(child, 0)[1] != 0 for child in children)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2]))
