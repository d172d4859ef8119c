"""`mpisign bench peers`: a vote against other ways to average gradients, in one run, by the same ranks, in turns.

The vote goes by MPI, and by a process group of torch.distributed, as where torchrun starts the ranks. Each entry ends
with the parameters moved. Those of torch.distributed run over gloo; DDP's are the backward pass of a model with fixed
gradients, so that its time is that of the exchange, and the step of torch's SGD.
"""

import os
from collections.abc import Callable

import torch
from mpi4py import MPI

from mpisign.algorithms.method import Algorithm
from mpisign.bench.table import Say, Table, machine
from mpisign.bench.timing import in_turns
from mpisign.engine.autotune import RATE, DryStepper, FloatStep, autotune, squares
from mpisign.exchange import choose
from mpisign.parallel import rendezvous
from mpisign.parallel.mpi import Ranks
from mpisign.parallel.process_group import GroupComm
from mpisign.parallel.world import Mpi

COLUMNS = {"n": "d", "d": ",d", "peer": "", "ms": ".2f", "times slower": ".1f", "bits by the OS": ".3f"}
Works = dict[str, Callable[[], object]]


def peers(
    algorithm: Algorithm, sizes: tuple[int, ...], repeats: int, ranks: Ranks, say: Say, ddp: bool = True, **kwargs
) -> Table:
    """Medians, each repeat lasting until the last rank is done; times slower: than the vote by `auto`."""
    about = {"algorithm": algorithm.name, "median of": repeats, "mpi": ranks.library, "hosts": ranks.hosts}
    table = Table("peers", COLUMNS, about | kwargs | machine())
    missing = start_gloo(ranks)
    if missing:
        say(missing)
        table.about["left out"] = missing
    for d in sizes:
        ours, works = _ours(algorithm, d, ranks, kwargs)
        works |= _mpi_sum(d, ranks)
        if not missing:
            works |= _ours_by_gloo(algorithm, d, kwargs) | gloo_sum(d) | (_ddp(d) if ddp else {})
        measurements = in_turns(works, repeats, ranks, say)
        for name, times in measurements.items():
            bits = times.sent * 8 / d if times.sent and times.sent * 8 > 1e-3 * d else None
            row = {"times slower": times.median / measurements[ours].median, "bits by the OS": bits}
            table.add(n=ranks.size, d=d, peer=name, ms=times.median * 1e3, **row)
    if not missing:
        torch.distributed.destroy_process_group()
    return table


def _ours(algorithm: Algorithm, d: int, ranks: Ranks, kwargs: dict) -> tuple[str, Works]:
    (choice,) = autotune(choose("auto", algorithm, ranks.size), (algorithm,), ranks.comm, d, **kwargs)
    name = f"mpisign, {algorithm.name} by {choice.name}"
    return name, {name: DryStepper.of(choice, algorithm, Mpi(ranks.comm), d, **kwargs).once}


def _ours_by_gloo(algorithm: Algorithm, d: int, kwargs: dict) -> Works:
    """The same vote as torchrun's users have it."""
    comm, kwargs = GroupComm(torch.distributed.group.WORLD), kwargs | {"progress": "calls"}  # torch has its own threads
    (choice,) = autotune(choose("auto", algorithm, comm.Get_size()), (algorithm,), comm, d, **kwargs)
    name = f"mpisign, {algorithm.name} by {choice.name} over gloo"
    return {name: DryStepper.of(choice, algorithm, Mpi(comm), d, **kwargs).once}


def _mpi_sum(d: int, ranks: Ranks) -> Works:
    return {f"{MPI.get_vendor()[0]} float32 Allreduce, SGD step": FloatStep(ranks.comm, d).once}


def start_gloo(ranks: Ranks) -> str:
    """Joins torch.distributed; returns why it can't."""
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        return "torch.distributed with gloo is missing from this torch: no gloo, no DDP"
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    rendezvous.start(ranks)
    return ""


def gloo_sum(d: int) -> Works:
    """A step of plain SGD by gloo, which all ranks have joined: the sum of d float32, and x moved along it."""
    gradient, x, n = torch.ones(d), torch.zeros(d), torch.distributed.get_world_size()

    def step():
        torch.distributed.all_reduce(gradient)
        x.add_(gradient, alpha=-RATE / n)
        gradient.fill_(1.0)

    return {"gloo float32 all-reduce, SGD step": step}


class Fixed(torch.nn.Module):
    """The parameters of a step without its gradient where shapes matter, with fixed gradients."""

    def __init__(self, d: int):
        super().__init__()
        shapes = squares(d).values()
        self.weights = torch.nn.ParameterList(torch.zeros(shape) for shape in shapes)
        self.fixed = [torch.empty(shape).uniform_(-1, 1) for shape in shapes]

    def forward(self) -> torch.Tensor:
        return sum((w * g).sum() for w, g in zip(self.weights, self.fixed, strict=True))


def _ddp(d: int) -> Works:
    from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
    from torch.nn.parallel import DistributedDataParallel

    hooks = {
        "DDP float32": None,
        "DDP fp16 hook": (None, default_hooks.fp16_compress_hook),
        "DDP PowerSGD rank 1": (
            powerSGD_hook.PowerSGDState(None, matrix_approximation_rank=1, start_powerSGD_iter=2),
            powerSGD_hook.powerSGD_hook,
        ),
    }
    works = {"DDP's model without DDP": _stepping(Fixed(d))}
    for name, hook in hooks.items():
        # one bucket: with more of them PowerSGD hangs over gloo
        model = DistributedDataParallel(Fixed(d), bucket_cap_mb=1 << 14)
        if hook:
            model.register_comm_hook(*hook)
        works[name] = _stepping(model)
        for _ in range(3):  # PowerSGD begins after two plain steps; the first one builds buckets
            works[name]()
    return works


def _stepping(model: torch.nn.Module) -> Callable[[], None]:
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)

    def step():
        optimizer.zero_grad(set_to_none=False)
        model().backward()
        optimizer.step()

    return step
