"""Models cut by FSDP2's fully_shard, whose ranks are one voter: the bits of voters that hold all of the model."""

import pytest
import torch
import torch.distributed as dist
from torch import nn

import mpisign
from mpisign.optim import SignOptimizer

if not dist.is_gloo_available():
    pytest.skip("this torch has no gloo", allow_module_level=True)

from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

pytestmark = pytest.mark.mpi(min_size=2)

STEPS = 50
FOUR = ("signsgd-mv", "signum-mv", "dist-ef-signsgd", "ssdm")


def network(dtype=torch.float32):
    """Pieces of 101 rows are uneven, and one row leaves all ranks but the first with nothing."""
    torch.manual_seed(1)
    layers = nn.Linear(90, 101), nn.Tanh(), nn.LayerNorm(101), nn.Linear(101, 7), nn.Linear(7, 1)
    return nn.Sequential(*layers).to(dtype)


class Voters:
    """All ranks as voters of two (or of all, where their number is odd): a sharded model each, and its optimiser."""

    def __init__(self, comm, algorithm="signum-mv", dtype=torch.float32, of=0, **how):
        n, self.rank = comm.Get_size(), comm.Get_rank()
        self.comm, self.of = comm, of or (2 if n % 2 == 0 else n)
        if not dist.is_initialized():
            mpisign.start_process_group()
        self.mesh = init_device_mesh("cpu", (n // self.of, self.of), mesh_dim_names=("replicate", "shard"))
        self.model = network(dtype)
        fully_shard(self.model[0], mesh=self.mesh["shard"])
        fully_shard(self.model, mesh=self.mesh["shard"])
        self.across = comm.Split(self.rank % self.of, self.rank)
        self.optimizer = SignOptimizer(self.model, algorithm, **{"lr": 0.01, "comm": comm, "voters": self.mesh} | how)
        self.t = 0

    def backward(self):
        """The gradients of a batch that is this rank's own."""
        self.optimizer.zero_grad()
        generator = torch.Generator().manual_seed(1000 * self.t + self.rank)
        batch = torch.randn(4, 90, generator=generator).to(next(self.model.parameters()).dtype)
        self.model(batch).square().mean().backward()
        self.t += 1

    def step(self):
        self.backward()
        self.optimizer.step()

    def whole(self, what=lambda p: p):
        """All parameters, or what hangs on them, put together from the pieces of the voter's ranks."""
        return [what(p).detach().full_tensor() for p in self.model.parameters()]


class Unsharded:
    """Voters of one rank each that get the gradients of sharded ones."""

    def __init__(self, voters, algorithm, **how):
        self.model = network(voters.whole()[0].dtype)
        with torch.no_grad():
            for p, start in zip(self.model.parameters(), voters.whole(), strict=True):
                p.copy_(start)
        self.optimizer = SignOptimizer(self.model, algorithm, **{"lr": 0.01, "comm": voters.across} | how)

    def step(self, gradients):
        for p, gradient in zip(self.model.parameters(), gradients, strict=True):
            p.grad = gradient.clone()
        self.optimizer.step()

    def same(self, voters):
        pairs = zip(self.model.parameters(), voters.whole(), strict=True)
        return all(torch.equal(p, other) for p, other in pairs)


@pytest.mark.parametrize("algorithm", FOUR)
def test_a_sharded_voter_has_the_bits_of_an_unsharded_one(comm, everywhere, algorithm):
    voters = Voters(comm, algorithm)
    reference = Unsharded(voters, algorithm)
    for t in range(STEPS):
        voters.backward()
        gradients = voters.whole(lambda p: p.grad)
        voters.optimizer.step()
        reference.step(gradients)
        everywhere(reference.same(voters), f"x after step {t}")
