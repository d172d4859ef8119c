"""`mpisign bench voters`: a model cut by fully_shard inside each node, whose ranks are one voter, against its rivals.

Each entry is a whole step of a model with fixed gradients: forward, backward, and the parameters moved. With FSDP2 that
gathers parameters and averages gradients inside a node; votes or floats then travel between nodes. The first entry, in
which nodes go apart, tells how much of that is FSDP's own.
"""

from collections.abc import Callable

import torch
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from mpisign.bench.peers import Fixed, start_gloo
from mpisign.bench.table import Say, Table, machine
from mpisign.bench.timing import in_turns
from mpisign.engine.autotune import RATE
from mpisign.errors import UsageError
from mpisign.optim import SignOptimizer
from mpisign.parallel.mpi import Ranks

COLUMNS = {"n": "d", "d": ",d", "of": "d", "step": "", "ms": ".2f", "times slower": ".1f", "bits a node": ".3f"}


def voters(name: str, sizes: tuple[int, ...], repeats: int, of: int, ranks: Ranks, say: Say) -> Table:
    """Medians, each repeat lasting until the last rank is done.

    of: ranks of a voter, 0 for those of a host. bits a node: sent by the interfaces of a host, headers of TCP included,
    per coordinate.
    """
    of = of or len(ranks.members)
    if ranks.size % of:
        raise UsageError(
            f"{ranks.size} ranks can't be cut into voters of {of}; start as many on every host", agreed=True
        )
    if missing := start_gloo(ranks):
        raise UsageError(missing, agreed=True)
    about = {"algorithm": name, "median of": repeats, "mpi": ranks.library, "hosts": ranks.hosts}
    table = Table("voters", COLUMNS, about | machine())
    mesh = init_device_mesh("cpu", (ranks.size // of, of), mesh_dim_names=("replicate", "shard"))
    for d in sizes:
        times = in_turns(_works(name, d, mesh), repeats, ranks, say)
        least = min(one.median for one in times.values())
        for step, one in times.items():
            bits = one.sent * len(ranks.members) * 8 / d if one.sent and one.sent * 8 > 1e-3 * d else None
            row = {"times slower": one.median / least, "bits a node": bits}
            table.add(n=ranks.size, d=d, of=of, step=step, ms=one.median * 1e3, **row)
    torch.distributed.destroy_process_group()
    return table


def _works(name: str, d: int, mesh: DeviceMesh) -> dict[str, Callable[[], object]]:
    how = {"lr": RATE, "statistics_every": 0, "check_every": 0}
    inside, sharded = (fully_shard(Fixed(d), mesh=mesh["shard"]) for _ in range(2))
    both, whole = fully_shard(Fixed(d), mesh=mesh), Fixed(d)
    # one bucket, as in bench peers
    ddp = DistributedDataParallel(Fixed(d), bucket_cap_mb=1 << 14)
    works = {
        "FSDP inside nodes, SGD, nothing between": (inside, torch.optim.SGD(inside.parameters(), lr=RATE)),
        f"{name}, voters of {mesh.size(1)} ranks, FSDP": (sharded, SignOptimizer(sharded, name, voters=mesh, **how)),
        "HSDP float32, SGD": (both, torch.optim.SGD(both.parameters(), lr=RATE)),
        f"{name}, a voter per rank, hierarchical": (whole, SignOptimizer(whole, name, exchange="hierarchical", **how)),
        "DDP float32, SGD": (ddp, torch.optim.SGD(ddp.parameters(), lr=RATE)),
    }
    steps = {step: _stepping(model, optimizer) for step, (model, optimizer) in works.items()}
    for step in steps.values():  # what is made in a first step
        step()
    return steps


def _stepping(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    def step() -> None:
        optimizer.zero_grad(set_to_none=False)
        model().backward()
        optimizer.step()

    return step
