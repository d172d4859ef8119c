"""Parameters of 16 bits: copies of x, which moves as if all were float32 and had the same gradients."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from mpisign.algorithms.registry import find
from mpisign.algorithms.updates.dense import NormalisedDescent
from mpisign.errors import UsageError
from mpisign.optim import SignOptimizer
from tests.cover import rest_is_slow
from tests.running import BIN, run

SETTINGS = {"seed": 3, "check_every": 2}


def model(dtype=torch.float32, mixed=False):
    """A net whose values 16 bits can tell. mixed: its first layer stays float32."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(70, 65), nn.Tanh(), nn.Linear(65, 3), nn.LayerNorm(3))
    for p in net.parameters():
        p.data = p.data.bfloat16().float()
    for layer in net[1:] if mixed else [net]:
        layer.to(dtype)
    return net


def gradients(step, net):
    """Of every parameter, numbers that bfloat16 can tell."""
    torch.manual_seed(step)
    return [torch.randn(p.shape).bfloat16().float() for p in net.parameters()]


def steps(net, opt, first=0, last=12):
    """Takes steps by gradients that depend on parameters as 16 bits tell them, the same whatever their types."""
    for t in range(first, last):

        def closure(t=t):
            for p, g in zip(net.parameters(), gradients(t, net), strict=True):
                p.grad = (g + p.detach().bfloat16().float()).bfloat16().to(p.dtype)
            return torch.tensor(1.0)

        opt.step(closure)


def assert_follows(net, opt):
    views = opt.layout.views(opt.gradients.x).values()
    assert all(torch.equal(p, view.to(p.dtype)) for p, view in zip(net.parameters(), views, strict=True))


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("algorithm", ["signsgd-mv", "signum-mv", "dist-ef-signsgd", "ssdm", "adam", "ssvr-mv"])
def test_x_moves_as_if_all_parameters_were_float32(algorithm, mixed):
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        net = model(dtype, mixed)
        opt = SignOptimizer(net, algorithm, lr=1e-3, **SETTINGS)
        for last in range(1, 13):
            steps(net, opt, last - 1, last)
            assert_follows(net, opt)
        found.append(opt.gradients.x)
    assert torch.equal(*found)
    assert not torch.equal(found[1], found[1].bfloat16().float())  # there is something that 16 bits can't tell


def test_float16_and_layouts_of_memory_stay_as_they_are():
    net = nn.Conv2d(64, 8, 3).half().to(memory_format=torch.channels_last)
    before = net.weight.stride(), net.weight.data_ptr()
    opt = SignOptimizer(net, "signum-mv", lr=1e-3, **SETTINGS)
    steps(net, opt)
    assert (net.weight.stride(), net.weight.data_ptr()) == before
    assert_follows(net, opt)


def test_updates_that_move_x_after_its_last_chunk_are_followed_too():
    net = model(torch.bfloat16)
    late = replace(find("sgd").build(), update=NormalisedDescent())
    opt = SignOptimizer(net, late, lr=0.1, **SETTINGS)
    steps(net, opt)
    assert_follows(net, opt)


def test_what_a_loop_writes_goes_into_x_and_nothing_else_does():
    net = model(torch.bfloat16)
    opt = SignOptimizer(net, "signum-mv", lr=1e-3, **SETTINGS)
    steps(net, opt, 0, 5)
    x, weight = opt.gradients.x.clone(), net[0].weight
    with torch.no_grad():
        weight[3] = 0.5
    for group in opt.param_groups:
        group["lr"] = 0.0
    steps(net, opt, 5, 6)
    views, before = opt.layout.views(opt.gradients.x), opt.layout.views(x)
    assert (views["0.weight"][3] == 0.5).all()
    views["0.weight"][3] = before["0.weight"][3]
    assert torch.equal(opt.gradients.x, x)


def test_what_is_written_unnoticed_is_told():
    net = model(torch.bfloat16)
    opt = SignOptimizer(net, "signum-mv", lr=1e-3, **SETTINGS)
    net[2].weight.data.zero_()
    with pytest.raises(UsageError, match=r"parameter '2.weight' \(torch.bfloat16\) was changed unnoticed"):
        steps(net, opt, 0, 2)


def test_storage_that_was_replaced_is_told():
    net = model(torch.bfloat16)
    opt = SignOptimizer(net, "signum-mv", lr=1e-3, **SETTINGS)
    net[2].weight.data = net[2].weight.data.clone()
    with pytest.raises(UsageError, match=r"parameter '2.weight' \(torch.bfloat16\) lies elsewhere than when"):
        steps(net, opt, 0, 2)


def test_a_state_of_float32_is_named_and_goes_by_a_checkpoint(tmp_path):
    net, net16 = model(torch.float32), model(torch.bfloat16)
    opt, opt16 = (SignOptimizer(one, "signum-mv", lr=1e-3, **SETTINGS) for one in (net, net16))
    steps(net, opt, 0, 3)
    with pytest.raises(UsageError, match=r"of a model in float32, without the float32 x .*opt.save\(\) it"):
        opt16.load_state_dict(opt.state_dict())
    opt.save(tmp_path / "all.h5")
    opt16.load(tmp_path / "all.h5")
    assert torch.equal(opt16.gradients.x, opt.gradients.x)
    assert_follows(net16, opt16)


def test_what_is_written_after_the_last_step_is_saved(tmp_path):
    net = model(torch.bfloat16)
    opt = SignOptimizer(net, "signum-mv", lr=1e-3, **SETTINGS)
    steps(net, opt, 0, 2)
    with torch.no_grad():
        net[0].weight.fill_(0.5)
    opt.save(tmp_path / "all.h5")
    opt.load_state_dict(opt.state_dict())
    opt.load(tmp_path / "all.h5")
    assert (net[0].weight == 0.5).all()


@pytest.mark.parametrize("order", ["model first", "optimiser first"])
def test_states_keep_what_16_bits_cant_tell(order, tmp_path):
    net = model(torch.bfloat16)
    opt = SignOptimizer(net, "signum-mv", lr=1e-3, **SETTINGS)
    steps(net, opt, 0, 6)
    opt.save(tmp_path / "all.h5")
    torch.save((net.state_dict(), opt.state_dict()), tmp_path / "own.pt")
    steps(net, opt, 6, 12)
    for how in ("all.h5", "own.pt"):
        again = model(torch.bfloat16)
        other = SignOptimizer(again, "signum-mv", lr=1e-3, **SETTINGS)
        if how == "all.h5":
            other.load(tmp_path / how)
        else:
            weights, state = torch.load(tmp_path / how, weights_only=True)
            calls = [lambda: again.load_state_dict(weights), lambda: other.load_state_dict(state)]  # noqa: B023
            for call in calls if order == "model first" else reversed(calls):
                call()
        steps(again, other, 6, 12)
        assert torch.equal(other.gradients.x, opt.gradients.x)
        assert_follows(again, other)


def test_other_types_are_refused():
    with pytest.raises(UsageError, match=r"'0.weight' is torch.float64; .*model.bfloat16\(\)"):
        SignOptimizer(model(torch.float64))


SCRIPT = """
import sys, torch, mpisign
from torch import nn
from mpisign.optim import SignOptimizer
from tests.test_copies import model
found = []
for dtype in (torch.float32, torch.bfloat16):
    net = model(dtype, mixed=True)
    opt = SignOptimizer(net, sys.argv[1], lr=1e-3, overlap=sys.argv[2] == "overlap", chunk=512, seed=3, check_every=5)
    for t in range(10):
        torch.manual_seed(100 * t + mpisign.rank())
        weights = [torch.randn(p.shape).bfloat16() for p in net.parameters()]
        opt.zero_grad()
        sum((p.float() * w.float()).sum() for p, w in zip(net.parameters(), weights)).backward()
        opt.step()
        views = opt.layout.views(opt.gradients.x).values()
        assert all(torch.equal(p, v.to(p.dtype)) for p, v in zip(net.parameters(), views))
    found.append(opt.gradients.x)
assert torch.equal(*found)
if mpisign.rank() == 0:
    print("alike")
"""


WAYS = [(name, how) for name in ("signum-mv", "dist-ef-signsgd") for how in ("plain", "overlap")]


@pytest.mark.parametrize(("algorithm", "how"), rest_is_slow(WAYS, WAYS[1:3]))
def test_ranks_agree(algorithm, how):
    ended = run(BIN / "mpirun", "-n", 4, BIN / "python", "-c", SCRIPT, algorithm, how)
    assert (ended.code, ended.out) == (0, "alike\n"), ended.err


GROUPS = """
import sys, torch, mpisign
from mpisign.optim import SignOptimizer
from tests.test_copies import model

def made(dtype, overlap):
    net = model(dtype)
    groups = [{"params": [p for p in net.parameters() if p.dim() > 1]}]
    groups += [{"params": [p for p in net.parameters() if p.dim() == 1], "vote": False, "lr": 0.1}]
    how = {"chunk": 512, "seed": 3, "check_every": 5, "dense_steps": 3, "dense_lr": 0.01}
    return net, SignOptimizer(groups, "signum-mv", lr=1e-3, overlap=overlap, model=net, **how)

def steps(net, opt, begin, end):
    for t in range(begin, end):
        torch.manual_seed(100 * t + mpisign.rank())
        weights = [torch.randn(p.shape).bfloat16() for p in net.parameters()]
        opt.zero_grad()
        sum((p.float() * w.float()).sum() for p, w in zip(net.parameters(), weights)).backward()
        opt.step()
        views = opt.layout.views(opt.gradients.x)
        assert all(torch.equal(p, views[name].to(p.dtype)) for name, p in net.named_parameters())
    return opt.gradients.x

overlap = sys.argv[2] == "overlap"
wanted = steps(*made(torch.float32, False), 0, 10)
for cut in (2, 6):  # while floats travel, and after
    one, again = made(torch.bfloat16, overlap), made(torch.bfloat16, overlap)
    assert one[1].overlaps == overlap
    steps(*one, 0, cut)
    one[1].save(f"{sys.argv[1]}/{cut}.h5")
    again[1].load(f"{sys.argv[1]}/{cut}.h5")
    assert torch.equal(steps(*one, cut, 10), wanted)
    assert torch.equal(steps(*again, cut, 10), wanted)
if mpisign.rank() == 0:
    print("alike")
"""


@pytest.mark.parametrize("how", rest_is_slow(["plain", "overlap"], ["overlap"]))
def test_what_does_not_vote_a_dense_start_and_checkpoints_of_ranks(how, tmp_path):
    """All of them together, by bits those of a float32 run without a cut."""
    ended = run(BIN / "mpirun", "-n", 3, BIN / "python", "-c", GROUPS, tmp_path, how, timeout=150)
    assert (ended.code, ended.out) == (0, "alike\n"), ended.err
