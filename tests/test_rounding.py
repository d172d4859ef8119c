"""x in bfloat16 alone, rounded at random: the bits of a slow reference, and what an optimiser does besides steps."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from mpisign.algorithms.registry import entries, find
from mpisign.engine import rounding
from mpisign.errors import UsageError
from mpisign.layout import Layout
from mpisign.optim import SignOptimizer
from tests.cover import rest_is_slow
from tests.reference.rounding import Rounded
from tests.running import ROOT

LR, DECAY = 1e-3, 0.1
README = ROOT / "mpisign/optim/README.md"
SETTINGS = {"lr": LR, "seed": 3, "check_every": 2, "rounding": "stochastic"}


def model():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(70, 65), nn.Tanh(), nn.Linear(65, 3), nn.LayerNorm(3)).bfloat16()


def gradients(step, net):
    torch.manual_seed(step)
    return [torch.randn(p.shape).bfloat16() for p in net.parameters()]


def steps(net, opt, first=0, last=12):
    for t in range(first, last):
        for p, g in zip(net.parameters(), gradients(t, net), strict=True):
            p.grad = g
        opt.step()


def flat(opt, tensors):
    named = dict(zip((s.name for s in opt.layout.segments), tensors, strict=True))
    return opt.layout.flatten({name: t.detach().float() for name, t in named.items()}).numpy()


def assert_is_x(net, opt):
    """Parameters lie in x: the same memory."""
    views = opt.layout.views(opt.gradients.x)
    for name, p in net.named_parameters():
        view = views[name]
        assert p.dtype == view.dtype == torch.bfloat16
        assert p.data_ptr() == view.data_ptr()
        assert p.untyped_storage().nbytes() == p.nbytes


@pytest.mark.parametrize("piece", [rounding.PIECE, 4096])
@pytest.mark.parametrize("algorithm", ["signsgd-mv", "signum-mv"])
def test_steps_have_the_bits_of_a_slow_reference(algorithm, piece, monkeypatch):
    monkeypatch.setattr(rounding, "PIECE", piece)
    net = model()
    opt = SignOptimizer(net, algorithm, weight_decay=DECAY, chunk=512, **SETTINGS)
    beta = 0.9 if algorithm == "signum-mv" else 0.0
    slow = Rounded(flat(opt, net.parameters()), LR, DECAY, beta, voters=1, seed=3)
    for t in range(12):
        g = flat(opt, gradients(t, net))
        steps(net, opt, t, t + 1)
        slow.step([g])
        assert_is_x(net, opt)
        np.testing.assert_array_equal(flat(opt, net.parameters()), slow.x * present(opt))


def present(opt):
    """1 for coordinates that belong to a parameter, 0 for pads."""
    mask = np.zeros(opt.layout.length, dtype=np.float32)
    for s in opt.layout.segments:
        mask[s.offset : s.end] = 1
    return mask


def test_small_steps_add_up_where_rounding_to_nearest_would_lose_them():
    """Steps of 2^-14 from 1, whose neighbours are 2^-8 below and 2^-7 above: the mean of 10,000 walks, down by 64."""
    p = nn.Parameter(torch.ones(10_000, dtype=torch.bfloat16))
    opt = SignOptimizer([p], "signsgd-mv", lr=2.0**-14, seed=5, check_every=0, rounding="stochastic")
    for _ in range(64):
        p.grad = torch.ones_like(p)
        opt.step()
    # each step leaves an error below 2^-8, uncorrelated: a standard deviation of the mean of at most 2^-9*8/100
    assert abs(p.double().mean().item() - (1 - 64 * 2.0**-14)) < 5 * 2.0**-9 * 8 / 100
    nearest = torch.ones(1, dtype=torch.bfloat16)
    assert (nearest - 2.0**-14).equal(nearest)


METHODS = [
    ("adam", {}), ("sgd", {"momentum": 0.9}), ("dist-ef-signsgd", {}), ("ssdm", {}), ("dlion-mavo", {}),
    ("adagrad", {}), ("topk", {}),
]  # fmt: skip


@pytest.mark.parametrize(("algorithm", "hyper"), METHODS, ids=str)
def test_chunks_and_pieces_change_no_bit(algorithm, hyper, monkeypatch):
    found = []
    for chunk, piece in ((0, rounding.PIECE), (512, 1024)):
        monkeypatch.setattr(rounding, "PIECE", piece)
        net = model()
        opt = SignOptimizer(net, algorithm, chunk=chunk, weight_decay=0.0, **SETTINGS, **hyper)
        steps(net, opt)
        assert_is_x(net, opt)
        found.append(opt.gradients.x)
    assert torch.equal(*found)
    assert not torch.equal(found[0], flat_of(model()))


def flat_of(net):
    named = {name: p.detach() for name, p in net.named_parameters()}
    return Layout({name: tuple(p.shape) for name, p in named.items()}).flatten(named, torch.bfloat16)


def parts(net):
    """Groups: matrices vote, and all else is averaged."""
    groups = [{"params": [p for p in net.parameters() if p.dim() > 1]}]
    return [*groups, {"params": [p for p in net.parameters() if p.dim() == 1], "vote": False, "lr": 0.1}]


@pytest.mark.parametrize("how", ["save", "state_dict"])
def test_what_was_saved_goes_on_bit_for_bit(how, tmp_path):
    """With parameters that are averaged, and a dense start that ends after the cut."""
    net = model()
    made = lambda net: SignOptimizer(parts(net), "signum-mv", model=net, dense_steps=8, **SETTINGS)  # noqa: E731
    opt = made(net)
    steps(net, opt, 0, 6)
    if how == "save":
        opt.save(tmp_path / "all.h5", epoch=3)
    else:
        torch.save((net.state_dict(), opt.state_dict()), tmp_path / "own.pt")
    steps(net, opt, 6, 12)
    again = model()
    other = made(again)
    steps(again, other, 0, 2)
    if how == "save":
        assert other.load(tmp_path / "all.h5") == {"epoch": 3}
    else:
        weights, state = torch.load(tmp_path / "own.pt", weights_only=True)
        again.load_state_dict(weights)
        other.load_state_dict(state)
    assert_is_x(again, other)
    steps(again, other, 6, 12)
    assert torch.equal(opt.gradients.x, other.gradients.x)


@pytest.mark.parametrize("saved", ["stochastic", "nearest"])
def test_a_state_of_the_other_rounding_is_told(saved, tmp_path):
    nets = model(), model()
    other = {"stochastic": "nearest", "nearest": "stochastic"}[saved]
    one, two = (
        SignOptimizer(net, "signum-mv", **SETTINGS | {"rounding": how})
        for net, how in zip(nets, (saved, other), strict=True)
    )
    steps(nets[0], one, 0, 2)
    one.save(tmp_path / "all.h5")
    before = two.gradients.x.clone()
    text = f'of an optimiser with rounding = "{saved}", but this one has rounding = "{other}"'
    for call in (lambda: two.load(tmp_path / "all.h5"), lambda: two.load_state_dict(one.state_dict())):
        with pytest.raises(UsageError, match=text):
            call()
    assert torch.equal(two.gradients.x, before)


def test_a_job_may_start_from_x_in_bfloat16(tmp_path):
    """Exactly: it takes x as float32, as --init-from does."""
    from mpisign.engine import state
    from mpisign.parallel import mpi
    from mpisign.storage.checkpoint import Checkpoint

    net, net32 = model(), model().float()
    opt = SignOptimizer(net, "signum-mv", **SETTINGS)
    other = SignOptimizer(net32, "signum-mv", lr=LR)
    steps(net, opt, 0, 3)
    opt.save(tmp_path / "all.h5")
    with Checkpoint(tmp_path / "all.h5") as opened:
        state.start_from(opened, other.stepper, mpi.Ranks())
    assert torch.equal(other.gradients.x, opt.gradients.x.float())


def test_what_a_loop_writes_is_x_itself():
    net = model()
    opt = SignOptimizer(net, "signum-mv", **SETTINGS)
    with torch.no_grad():
        net[0].weight[3] = 0.5
    for group in opt.param_groups:
        group["lr"] = 0.0
    before = opt.gradients.x.clone()
    steps(net, opt, 0, 3)
    assert torch.equal(opt.gradients.x, before)
    assert (net[0].weight[3] == 0.5).all()


def test_storage_that_was_replaced_is_told():
    net = model()
    opt = SignOptimizer(net, "signum-mv", **SETTINGS)
    net[2].weight.data = net[2].weight.data.clone()
    with pytest.raises(UsageError, match=r"'2.weight' no longer lies in the flat vector x"):
        steps(net, opt, 0, 1)


def test_a_missing_gradient_leaves_its_parameter_where_it_is():
    net = model()
    opt = SignOptimizer(net, "signum-mv", weight_decay=DECAY, **SETTINGS)
    before = net[2].weight.clone()
    for t in range(3):
        for p, g in zip(net.parameters(), gradients(t, net), strict=True):
            p.grad = g
        net[2].weight.grad = None
        opt.step()
    assert torch.equal(net[2].weight, before)


def test_a_gradient_scaler_changes_nothing_but_the_scale():
    found = []
    for scaled in (False, True):
        net = model()
        opt, scaler = SignOptimizer(net, "signum-mv", **SETTINGS), torch.amp.GradScaler("cpu", init_scale=8.0)
        for t in range(4):
            opt.zero_grad()
            loss = sum((p * g).sum() for p, g in zip(net.parameters(), gradients(t, net), strict=True))
            if scaled:
                scaler.scale(loss).backward()
                scaler.step(opt)
                scaler.update()
            else:
                loss.backward()
                opt.step()
        found.append(opt.gradients.x)
    assert torch.equal(*found)


def test_it_tells_how_it_rounds():
    assert "rounding=stochastic" in repr(SignOptimizer(model(), "signum-mv", **SETTINGS))
    assert "rounding" not in repr(SignOptimizer(model(), "signum-mv", lr=LR))


def mixed():
    net = model()
    net[3].float()
    return net


REFUSED = [
    (model, "ssvr-mv", {}, "needs x in float32, as .* compares gradients at x and at the point before it"),
    (model, "signmuon", {}, "signmuon needs x in float32, as .* moves all of x at once; leave rounding at"),
    (mixed, "signum-mv", {}, "parameter '3.weight' is torch.float32, but all lie in an x of torch.bfloat16"),
    (lambda: model().half(), "signum-mv", {}, "parameter '0.weight' is torch.float16, but all lie"),
    (model, "signum-mv", {"rounding": "upwards"}, "rounding"),
]


@pytest.mark.parametrize(("make", "algorithm", "how", "text"), REFUSED)
def test_what_does_not_go_with_it_is_refused_when_it_is_made(make, algorithm, how, text):
    net = make()
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(UsageError, match=text):
        SignOptimizer(net, algorithm, **SETTINGS | how)
    assert all(torch.equal(one, other) for one, other in zip(before.values(), net.state_dict().values(), strict=True))


OFFERED = [entry.name for entry in entries() if not entry.build().needs]


@pytest.mark.parametrize("name", rest_is_slow(OFFERED, ("noisy-signsgd", "doublesqueeze", "powersgd", "signmuon")))
def test_every_method_of_the_zoo_takes_a_step_or_says_why_not(name):
    net = nn.Linear(70, 3).bfloat16()
    if why := rounding.unfit(find(name).build()):
        with pytest.raises(UsageError, match=f"{name} needs x in float32, as {why}"):
            SignOptimizer(net, name, rounding="stochastic")
        return
    opt, before = SignOptimizer(net, name, rounding="stochastic", lr=0.1), flat_of(net)
    steps(net, opt, 0, 2)
    assert_is_x(net, opt)
    assert torch.isfinite(opt.gradients.x).all()
    assert not torch.equal(opt.gradients.x, before)


ROWS = {
    "float32": (torch.float32, "nearest"), "bfloat16": (torch.bfloat16, "nearest"),
    'bfloat16, `rounding="stochastic"`': (torch.bfloat16, "stochastic"),
}  # fmt: skip


@pytest.mark.parametrize("row", ROWS)
def test_the_readme_tells_the_bytes_per_coordinate(row):
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in README.read_text().splitlines()]
    names = next(cells for cells in table if cells[:2] == ["parameters", "x"])
    own = next(cells for cells in table if cells[0] == row and len(cells) == len(names))
    wanted = {name: float(cell or 0) for name, cell in zip(names[1:], own[1:], strict=True)}
    d, (dtype, how) = 1 << 21, ROWS[row]
    opt = SignOptimizer([nn.Parameter(torch.zeros(d, dtype=dtype))], "signum-mv", rounding=how)
    memory = opt.memory()
    more = sum(memory.per_coordinate.get(name, 0) for name in ("messages", "moving"))
    assert wanted.pop("in all") == memory.total / d - more == sum(wanted.values())
    assert wanted == {name: memory.per_coordinate.get(name, 0) for name in wanted}


def test_replicas_that_drift_are_found():
    """The hash sees every bit of x."""
    net = model()
    opt = SignOptimizer(net, "signum-mv", **SETTINGS)
    layout, x = opt.layout, opt.gradients.x
    before = layout.digest(x)
    x.view(torch.int16)[layout.segments[-1].end - 1] ^= 1
    assert layout.digest(x) != before
