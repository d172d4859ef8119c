"""Overlap where torch.compile made the model's forward and backward, or all of backward: the bits of a plain step."""

import shutil
from contextlib import nullcontext
from itertools import product

import pytest
import torch
import torch._dynamo
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from mpisign.errors import UsageError
from mpisign.optim import SignOptimizer
from tests.cover import rest_is_slow

# inductor compiles C++ for the first of them, which takes a minute where nobody else wants the cores
pytestmark = [pytest.mark.mpi(min_size=2), pytest.mark.timeout(600)]

WIDTH, ROWS = 64, 8
# inductor wants a C++ compiler
BACKENDS = ("aot_eager", "inductor") if shutil.which("g++") else ("aot_eager",)
WAYS = list(product(("module", "blocks", "graph break", "compiled autograd"), BACKENDS))
QUICK = [("blocks", "aot_eager"), ("compiled autograd", "aot_eager")]


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return x + self.down(self.up(x).relu())


class Net(nn.Module):
    """Three blocks and a head, whose graph breaks behind the second block if it is told to."""

    def __init__(self, breaks=False):
        super().__init__()
        self.blocks, self.head, self.breaks = nn.ModuleList(Block() for _ in range(3)), nn.Linear(WIDTH, 4), breaks

    def forward(self, x):
        for k, block in enumerate(self.blocks):
            x = block(x)
            if self.breaks and k == 1:
                torch._dynamo.graph_break()
        return self.head(x).square().mean()


class Loop:
    """A training loop around a compiled model, which is the same net on all ranks, with rows of their own."""

    def __init__(self, comm, way, backend, overlap):
        torch._dynamo.reset()
        torch.manual_seed(0)
        self.net = self.model = Net(breaks=way == "graph break")
        self.optimizer = SignOptimizer(self.net, "signum-mv", lr=0.01, comm=comm, overlap=overlap, chunk=512, seed=3)
        assert self.optimizer.overlaps == overlap
        assert len(self.optimizer.stepper.exchange.chunks) > 4, "chunks leave at different times"
        if way == "blocks":
            for block in self.net.blocks:
                block.compile(backend=backend)
        elif way != "whole step":
            self.model = torch.compile(self.net, backend=backend)
        self.generator = torch.Generator().manual_seed(comm.Get_rank())
        self.compiled_autograd = way == "compiled autograd"
        if way == "whole step":
            self.step = torch.compile(self.step, backend=backend)

    def backward(self):
        patch = torch._dynamo.config.patch(compiled_autograd=True) if self.compiled_autograd else nullcontext()
        with patch:
            self.model(torch.randn(ROWS, WIDTH, generator=self.generator)).backward()

    def step(self, x):
        self.net(x).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def digest(self):
        return self.optimizer.layout.digest(self.optimizer.stepper.x)

    def digests(self):
        """x after steps of one backward pass, of three, and of one that adds to zeros."""
        found = []
        for passes, none in ((1, True), (3, True), (1, False), (2, True)):
            self.optimizer.zero_grad(set_to_none=none)
            for k in range(passes):
                with self.optimizer.no_sync() if k < passes - 1 else nullcontext():
                    self.backward()
            self.optimizer.step()
            found.append(self.digest())
        return found


@pytest.mark.parametrize(("way", "backend"), rest_is_slow(WAYS, QUICK))
def test_overlap_with_a_compiled_model_changes_no_bit(comm, everywhere, way, backend):
    plain, overlapped = (Loop(comm, way, backend, overlap).digests() for overlap in (False, True))
    everywhere(plain == overlapped, f"{way}: {plain} {overlapped}")
    everywhere(len(set(plain)) == len(plain), "x moves in every step")


def test_a_compiled_step_leaves_the_optimizer_alone(comm, everywhere):
    """Dynamo would trace kernels and MPI's calls, chunk by chunk, for minutes; the model's graph is all it may make."""
    digests = []
    for overlap in (False, True):
        backend = CompileCounterWithBackend("aot_eager")
        loop = Loop(comm, "whole step", backend, overlap)
        for _ in range(3):
            loop.step(torch.randn(ROWS, WIDTH, generator=loop.generator))
        digests.append(loop.digest())
        everywhere(backend.frame_count == 1, f"{backend.frame_count} graphs")
    everywhere(digests[0] == digests[1], "the same bits")


def test_two_compiled_passes_without_no_sync_are_one_error(comm, everywhere):
    loop = Loop(comm, "module", "aot_eager", overlap=True)
    before = loop.digest()
    loop.backward()
    loop.backward()
    with pytest.raises(UsageError, match=r"twice before step\(\).*no_sync"):
        loop.optimizer.step()
    everywhere(loop.digest() == before, "x has not moved")
