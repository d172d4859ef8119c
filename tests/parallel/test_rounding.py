"""x in bfloat16 alone on several ranks: the bits of a slow reference, whatever travels, saved, overlapped or not."""

import numpy as np
import pytest
import torch
from torch import nn

from mpisign.errors import MpisignError, NumericalError, UsageError
from mpisign.optim import SignOptimizer
from tests.reference.rounding import Rounded

pytestmark = pytest.mark.mpi

HOW = {"lr": 1e-3, "seed": 3, "check_every": 1, "rounding": "stochastic", "chunk": 512}


def made(comm, algorithm="signum-mv", groups=False, **how):
    """A network that starts elsewhere on each rank, and its optimiser. groups: whether biases are averaged."""
    torch.manual_seed(comm.Get_rank())
    net = nn.Sequential(nn.Linear(70, 65), nn.Tanh(), nn.Linear(65, 3)).bfloat16()
    matrices, others = ([p for p in net.parameters() if (p.dim() > 1) is flag] for flag in (True, False))
    given = [{"params": matrices}, {"params": others, "vote": False, "lr": 0.1}] if groups else net
    return net, SignOptimizer(given, algorithm, comm=comm, model=net, **HOW | how)


def gradients(net, t, rank):
    generator = torch.Generator().manual_seed(100 * t + rank)
    return [torch.randn(p.shape, generator=generator).bfloat16() for p in net.parameters()]


def step(net, opt, t, rank):
    opt.zero_grad()
    pairs = zip(net.parameters(), gradients(net, t, rank), strict=True)
    sum((p.float() * g.float()).sum() for p, g in pairs).backward()
    opt.step()


def flat(opt, tensors):
    names = [s.name for s in opt.layout.segments]
    return opt.layout.flatten({name: t.detach().float() for name, t in zip(names, tensors, strict=True)}).numpy()


@pytest.mark.parametrize("algorithm", ["signsgd-mv", "signum-mv"])
def test_steps_have_the_bits_of_a_slow_reference(comm, everywhere, algorithm):
    net, opt = made(comm, algorithm, weight_decay=0.1, zeros="abstain", ties="zero")
    beta, n = 0.9 if algorithm == "signum-mv" else 0.0, comm.Get_size()
    slow = Rounded(flat(opt, net.parameters()), HOW["lr"], 0.1, beta, voters=n, seed=HOW["seed"])
    for t in range(8):
        step(net, opt, t, comm.Get_rank())
        slow.step([flat(opt, gradients(net, t, rank)) for rank in range(n)])
        same = all(
            np.array_equal(p.detach().float().numpy().ravel(), slow.x[s.offset : s.end])
            for p, s in zip(net.parameters(), opt.layout.segments, strict=True)
        )
        everywhere(same, f"x after step {t + 1}")


@pytest.mark.parametrize("exchange", ["sharded", "allgather", "hierarchical"])
@pytest.mark.mpi(min_size=2)
def test_overlap_exchange_and_a_cut_change_no_bit(comm, everywhere, exchange, tmp_path_factory):
    """With parameters that are averaged, and a dense start that ends after the cut."""
    path = comm.bcast(tmp_path_factory.mktemp("saved") if comm.Get_rank() == 0 else None) / "all.h5"
    found = []
    for how in ({"exchange": "sharded"}, {"exchange": exchange, "overlap": True}):
        net, opt = made(comm, groups=True, dense_steps=4, **how)
        everywhere(opt.overlaps == ("overlap" in how), "it overlaps")
        for t in range(8):
            if t == 3:
                opt.save(path)
                net, opt = made(comm, groups=True, dense_steps=4, **how)
                opt.load(path)
            step(net, opt, t, comm.Get_rank())
        found.append(opt.gradients.x)
    everywhere(torch.equal(*found), "the same bits")


def test_faults_leave_x_where_it_is(comm, everywhere):
    net, opt = made(comm)
    step(net, opt, 0, comm.Get_rank())
    before = opt.gradients.x.clone()
    for p in net.parameters():
        p.grad = torch.full_like(p, float("nan") if comm.Get_rank() == comm.Get_size() - 1 else 1.0)
    with pytest.raises(NumericalError):
        opt.step()
    everywhere(torch.equal(opt.gradients.x, before), "x has not moved")
    opt.gradients.x.view(torch.int16)[3] += comm.Get_rank() == 0
    if comm.Get_size() > 1:
        with pytest.raises(NumericalError, match="drifted"):
            opt.stepper.check_replicas()


@pytest.mark.mpi(min_size=2)
def test_settings_that_differ_and_models_that_differ_are_told_everywhere(comm, everywhere):
    own = "stochastic" if comm.Get_rank() else "nearest"
    for work, text in (
        (lambda: made(comm, rounding=own), "different settings: "),
        (lambda: SignOptimizer(nn.Linear(3, 3), comm=comm, **HOW), "is torch.float32, but all lie in an x"),
    ):
        with pytest.raises(MpisignError) as told:
            work()
        everywhere(told.type is UsageError and text in str(told.value), str(told.value))
