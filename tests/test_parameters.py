"""What a SignOptimizer takes as parameters, and what other tools find in them afterwards."""

import copy
import gc
import io
import pickle
import warnings

import pytest
import torch
from torch import nn

from mpisign.errors import UsageError
from mpisign.optim import SignOptimizer
from mpisign.optim.storage import distinct, repeats, sharing


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def backward(model, optimizer):
    optimizer.zero_grad()
    model(torch.randn(4, 8)).square().mean().backward()


def trained(model, steps=2, **how):
    optimizer = SignOptimizer(model, "signsgd-mv", lr=0.01, **how)
    for _ in range(steps):
        backward(model, optimizer)
        optimizer.step()
    return optimizer


def parameter(*shape, **how):
    return nn.Parameter(torch.zeros(*shape, **how))


# One storage per parameter


def test_each_parameter_has_a_storage_over_its_part_of_x():
    model = net()
    optimizer = trained(model)
    views = optimizer.layout.views(optimizer.stepper.x)
    for name, p in model.named_parameters():
        assert p.data_ptr() == views[name].data_ptr()
        assert p.untyped_storage().data_ptr() == p.data_ptr()
        assert p.untyped_storage().nbytes() == 4 * p.numel()
        assert p.storage_offset() == 0
        assert torch.equal(p, views[name])
    addresses = {t.untyped_storage().data_ptr() for t in model.state_dict().values()}
    assert len(addresses) == len(model.state_dict())


def test_savers_write_the_tensor_that_they_were_given():
    model = nn.Sequential(nn.Linear(4, 2), nn.Linear(500, 500))
    SignOptimizer(model, "signsgd-mv")
    for write in (torch.save, pickle.dump):
        file = io.BytesIO()
        write(model[0].state_dict(), file)
        assert file.tell() < 10_000  # of a million bytes of x
    twin = copy.deepcopy(model[0])
    assert torch.equal(twin.weight, model[0].weight)
    assert twin.weight.data_ptr() != model[0].weight.data_ptr()


def test_parameters_outlive_their_optimizer():
    model = net()
    length = trained(model).layout.length
    before = copy.deepcopy(model.state_dict())
    gc.collect()
    others = [torch.full((length,), 3.0) for _ in range(100)]  # where x would be, were it freed
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert all((other == 3).all() for other in others)


def test_safetensors_keeps_all_parameters(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    model, other = net(), net()
    trained(model)
    safetensors.save_model(model, str(tmp_path / "all.safetensors"))
    optimizer = trained(other, steps=1)
    safetensors.load_model(other, str(tmp_path / "all.safetensors"))
    for (name, t), mine in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(t, mine), name
    backward(other, optimizer)
    optimizer.step()  # what was read lies in x


def test_accelerate_keeps_all_parameters(tmp_path):
    accelerate = pytest.importorskip("accelerate")
    safe_open = pytest.importorskip("safetensors").safe_open
    model = net()
    accelerator = accelerate.Accelerator(cpu=True)
    optimizer = trained(model)
    prepared = accelerator.prepare(model)
    accelerator.register_for_checkpointing(optimizer)
    accelerator.save_model(prepared, str(tmp_path / "model"))
    with safe_open(str(tmp_path / "model/model.safetensors"), "pt") as file:
        assert set(file.keys()) == set(model.state_dict())
    accelerator.save_state(str(tmp_path / "state"))
    saved = copy.deepcopy(model.state_dict())
    backward(model, optimizer)
    optimizer.step()
    accelerator.load_state(str(tmp_path / "state"))
    for name, t in model.state_dict().items():
        assert torch.equal(t, saved[name]), name
    assert optimizer.stepper.t == 2


def move(p):
    p.data = p.data.clone()


def resize(p):
    p.data = torch.zeros(9)


@pytest.mark.parametrize("spoil", [move, resize, lambda p: p.share_memory_()], ids=["clone", "resize", "share"])
def test_a_storage_that_moved_is_told(spoil):
    model = net()
    optimizer = trained(model)
    backward(model, optimizer)
    spoil(model[0].bias)
    with pytest.raises(UsageError, match=r"'0\.bias' no longer lies in the flat vector x"):
        optimizer.step()


# Frozen parameters


def groups_of(model):
    return [{"params": model[0].parameters(), "lr": 1e-3}, {"params": model[3].parameters()}]


def test_a_frozen_group_keeps_its_place():
    model = net()
    model[0].requires_grad_(False)
    optimizer = SignOptimizer([*groups_of(model), {"params": []}], "signsgd-mv", lr=0.25)
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 2, 0]
    assert [group["lr"] for group in optimizer.param_groups] == [1e-3, 0.25, 0.25]
    assert optimizer.layout.size == 8 * 3 + 3
    before = copy.deepcopy(model)
    backward(model, optimizer)
    optimizer.step()
    assert torch.equal(before[0].weight, model[0].weight)
    moved = (before[3].weight - model[3].weight).abs()
    assert torch.allclose(moved[moved > 0], torch.tensor(0.25))  # the rate of its own group


@pytest.mark.parametrize("names", [False, True])
def test_a_frozen_parameter_that_is_to_move_is_told(names):
    model = net()
    model[0].requires_grad_(False)
    optimizer = SignOptimizer(model if names else model.parameters(), "signsgd-mv")
    model[0].requires_grad_(True)
    before = copy.deepcopy(model.state_dict())
    backward(model, optimizer)
    before |= {k: v.clone() for k, v in model.state_dict().items() if k.startswith("1.")}
    with pytest.raises(UsageError, match="'0.weight' was frozen" if names else "'frozen0' was frozen"):
        optimizer.step()
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_frozen_parameters_with_places_move_once_they_are_trained():
    plain, model = net(), net()
    everything = SignOptimizer(plain, "signum-mv", lr=0.01)
    model[0].requires_grad_(False)
    optimizer = SignOptimizer(model, "signum-mv", lr=0.01, include_frozen=True)
    assert [s.name for s in optimizer.layout.segments] == [s.name for s in everything.layout.segments]
    still = model[0].weight.detach().clone()
    backward(model, optimizer)
    optimizer.step()
    assert torch.equal(model[0].weight, still)
    model[0].requires_grad_(True)
    backward(model, optimizer)
    optimizer.step()
    assert ((model[0].weight - still).abs() > 0.009).any()


@pytest.mark.filterwarnings("ignore:no parameter has a gradient")
@pytest.mark.parametrize("how", ["assign", "attribute"])
def test_a_parameter_that_the_model_no_longer_has_is_told(how):
    model = net()
    optimizer = trained(model)
    if how == "assign":
        model.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)
    else:
        model[0].weight = nn.Parameter(torch.zeros(8, 8))
    backward(model, optimizer)
    with pytest.raises(UsageError, match=r"'0\.weight' is no longer one of the model"):
        optimizer.step()


def test_a_step_without_any_gradient_warns_once():
    model = net()
    optimizer = SignOptimizer(model, "signsgd-mv")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            optimizer.step()
    assert len(caught) == 1
    assert "no parameter has a gradient" in str(caught[0].message)
    assert [warning.filename for warning in caught] == [__file__]


# What is taken, and what is refused


class Plain(nn.Parameter):
    """As libraries mark parameters of theirs."""


class Wrapper(torch.Tensor):
    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return super().__torch_dispatch__(function, types, args, kwargs or {})


def in_inference_mode():
    with torch.inference_mode():
        return nn.Linear(2, 2)


def half(columns):
    whole = torch.zeros(4, 4)
    return [nn.Parameter(whole[:, :2]), nn.Parameter(whole[:, 2:] if columns else whole[3])]


def used_up():
    parameters = nn.Linear(2, 2).parameters()
    list(parameters)
    return parameters


def shared(how):
    module = nn.Module()
    module.w = parameter(4)
    if how == "buffer":
        module.register_buffer("other", module.w.data[1:3])
    else:
        module.other = nn.Parameter(module.w.data, requires_grad=how == "tied")
    return module


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(lambda: [nn.Parameter(torch.ones(5, 3).T)], id="transposed"),
        pytest.param(lambda: [nn.Parameter(torch.ones(5, 3)[:, 1])], id="strided"),
        pytest.param(lambda: [nn.Parameter(torch.tensor(1.0))], id="0-d"),
        pytest.param(lambda: [parameter(0, 3), nn.Parameter(torch.ones(2))], id="empty"),
        pytest.param(lambda: half(columns=True), id="interleaved views of one buffer"),
        pytest.param(lambda: {"w": parameter(3)}.items(), id="items of a dict"),
        pytest.param(lambda: {"w": parameter(3)}.values(), id="values of a dict"),
        pytest.param(lambda: [{"params": nn.Linear(2, 2)}, {"params": parameter(3)}], id="groups"),
        pytest.param(lambda: [{"params": [parameter(2)]}, {"params": []}], id="an empty group"),
        pytest.param(lambda: [Plain(torch.ones(3))], id="a subclass"),
        pytest.param(lambda: nn.ParameterList([parameter(3), parameter(2)]), id="ParameterList"),
    ],
)
def test_what_has_numbers_of_its_own_and_an_order_is_trained(given):
    optimizer = SignOptimizer(given(), "signsgd-mv", lr=0.5)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    before = [p.detach().clone() for p in parameters]
    kinds = [type(p) for p in parameters]
    for p in parameters:
        p.grad = torch.ones_like(p)
    optimizer.step()
    for p, was, kind in zip(parameters, before, kinds, strict=True):
        assert torch.equal(p, was - 0.5)
        assert type(p) is kind


DOUBLE = parameter(3)
REFUSED = {
    "set": (lambda: set(nn.Linear(2, 2).parameters()), ["set", "another order"]),
    "frozenset": (lambda: frozenset([parameter(1)]), ["frozenset", "another order"]),
    "a set in a group": (lambda: [{"params": {parameter(1)}}], ["group 0", "another order"]),
    "union of keys": (lambda: {DOUBLE: 1}.keys() | {parameter(1)}, ["another order"]),
    "used iterator": (used_up, ["used once only", "list(model.parameters())"]),
    "used iterator in a group": (lambda: [{"params": [parameter(1)]}, {"params": used_up()}], ["group 1", "once"]),
    "dict": (lambda: {"w": parameter(1)}, ["dict", "items()"]),
    "one tensor": (lambda: parameter(1), ["Parameter", "list"]),
    "none": (lambda: None, ["NoneType", "model"]),
    "number": (lambda: [3], ["'3' is a int"]),
    "modules": (lambda: [nn.Linear(2, 2)], ["Linear"]),
    "mixed": (lambda: [{"params": [parameter(1)]}, parameter(1)], ["group 1", "Parameter"]),
    "group without parameters": (lambda: [{"lr": 1.0}], ["group 0", "'params'"]),
    "computed": (lambda: [parameter(3) * 2], ["[3]", "computed from other tensors"]),
    "twice": (lambda: [DOUBLE, DOUBLE], ["'parameter0' is given twice", "dict.fromkeys"]),
    "twice by two names": (lambda: [("a", DOUBLE), ("b", DOUBLE)], ["'a' is given twice"]),
    "in two groups": (lambda: [{"params": [DOUBLE]}, {"params": [DOUBLE]}], ["groups 0 and 1"]),
    "tied by data": (lambda: shared("tied"), ["'w' and 'other' share memory"]),
    "tied and frozen": (lambda: shared("frozen"), ["'w' and 'other' share memory"]),
    "view in a buffer": (lambda: shared("buffer"), ["'w' and 'other' share memory"]),
    "views that meet": (lambda: half(columns=False), ["share memory"]),
    "expanded": (lambda: [nn.Parameter(torch.zeros(1).expand(5))], ["expand()", "clone()"]),
    "windows": (lambda: [nn.Parameter(torch.zeros(5).unfold(0, 3, 1))], ["share memory"]),
    "shared with processes": (lambda: [nn.Parameter(torch.zeros(3).share_memory_())], ["processes", "deepcopy"]),
    "meta": (lambda: [parameter(3, device="meta")], ["meta", "to_empty"]),
    "lazy": (lambda: nn.LazyLinear(3), ["'weight'", "lazy"]),
    "lazy buffer": (lambda: nn.Sequential(nn.Linear(2, 2), nn.LazyBatchNorm1d(affine=False)), ["'1.running_mean'"]),
    "complex": (lambda: [parameter(3, dtype=torch.complex64)], ["complex64", "view_as_real"]),
    "float64": (lambda: [parameter(3, dtype=torch.float64)], ["float64", "float()"]),
    "sparse": (lambda: [nn.Parameter(torch.eye(3).to_sparse())], ["sparse"]),
    "compressed": (lambda: [nn.Parameter(torch.eye(3).to_sparse_csr())], ["sparse_csr"]),
    "wrapper": (lambda: [torch.zeros(3).as_subclass(Wrapper).requires_grad_()], ["Wrapper"]),
    "inference": (in_inference_mode, ["inference_mode"]),
    "empty": (lambda: [parameter(0, 3)], ["no parameter has any element"]),
    "frozen": (lambda: net().requires_grad_(False), ["no parameter requires a gradient"]),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
@pytest.mark.parametrize("kind", REFUSED)
def test_what_can_not_be_trained_is_refused_by_name(kind):
    make, words = REFUSED[kind]
    given = make()
    with pytest.raises(UsageError) as raised:
        SignOptimizer(given, "signsgd-mv")
    assert all(word in str(raised.value) for word in words), str(raised.value)


def test_a_tensor_spread_over_a_mesh_is_refused():
    from torch import distributed
    from torch.distributed.tensor import Shard, distribute_tensor

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        mesh = distributed.init_device_mesh("cpu", (1,))
        with pytest.raises(UsageError, match="'parameter0' is a DTensor"):
            SignOptimizer([nn.Parameter(distribute_tensor(torch.zeros(4), mesh, [Shard(0)]))])
    finally:
        distributed.destroy_process_group()


def test_tied_modules_have_one_place():
    model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 10, bias=False))
    model[1].weight = model[0].weight
    optimizer = SignOptimizer(model, "signsgd-mv", lr=0.5)
    model(torch.tensor([1, 2])).square().sum().backward()
    optimizer.step()
    assert optimizer.layout.size == 40
    assert model[1].weight is model[0].weight


def test_elements_that_share_a_place():
    whole = torch.arange(24.0).reshape(4, 6)
    for t in (whole, whole.T, whole[::2, 1:5:3], whole[:, :0], whole[0, 0], whole[:1].expand(1, 6)):
        assert not repeats(t)
        assert distinct(t) is t
    for t, places in ((whole[:, :1].expand(4, 9), 4), (torch.arange(7.0).unfold(0, 3, 1), 7)):
        assert repeats(t)
        assert not repeats(distinct(t))
        assert distinct(t).numel() == places


def test_tensors_that_share_memory_are_found_among_many():
    whole = torch.zeros(1000)
    pieces = {f"p{k}": whole[10 * k : 10 * k + 10] for k in range(100)}
    assert sharing(pieces, {}) is None
    assert sharing(pieces, {"b": whole[995:997]}) == ("p99", "b")
    assert sharing({"b": whole[:1]}, pieces) == ("b", "p0")
    assert sharing({}, {"a": whole, "b": whole}) is None
    assert sharing({"a": whole[:4]}, {"other dtype": whole[2:3].view(torch.int16)}) == ("a", "other dtype")


# A second look at a batch


class Kept(nn.Module):
    """A model whose forward pass moves buffers of odd kinds, and replaces one."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(8, 3)
        self.register_buffer("wide", torch.zeros(3, 1).expand(3, 4))
        self.register_buffer("sparse", torch.eye(3).to_sparse())
        self.register_buffer("compressed", torch.eye(3).to_sparse_csr())
        self.register_buffer("count", torch.tensor(0))
        self.register_buffer("replaced", torch.zeros(2))
        self.register_buffer("none", None)

    def forward(self, batch):
        self.wide.narrow(1, 0, 1).add_(1)
        self.count += 1
        self.replaced = self.replaced + 1
        self.sparse.mul_(2)
        return self.inner(batch)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
def test_a_second_look_leaves_buffers_of_all_kinds_alone():
    torch.manual_seed(0)
    model = Kept()
    optimizer = SignOptimizer(model, "ssvr-mv", lr=0.01)
    looks = []
    for _ in range(3):
        batch = torch.randn(4, 8)

        def closure(batch=batch):
            looks.append(1)
            optimizer.zero_grad()
            loss = model(batch).square().mean()
            loss.backward()
            return loss

        optimizer.step(closure)
    assert len(looks) == 5
    assert model.count == 3
    assert torch.equal(model.replaced, torch.full((2,), 3.0))
    assert torch.equal(model.wide, torch.full((3, 4), 3.0))
    assert torch.equal(model.sparse.to_dense(), 8 * torch.eye(3))
