"""What a SignOptimizer takes, keeps and hands out, in one process: numbers, groups, copies, other savers, its repr."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

import mpisign
from mpisign.engine import state
from mpisign.errors import UsageError
from mpisign.optim import SignOptimizer
from mpisign.optim.values import decode, encode


def trained(algorithm="signum-mv", steps=3, start=0, **how):
    """A small network with BatchNorm and its optimiser, after some steps."""
    torch.manual_seed(start)
    model = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, 2))
    optimizer = SignOptimizer(model, algorithm, **({"lr": 0.01} | how))
    go_on(model, optimizer, steps)
    return model, optimizer


def go_on(model, optimizer, steps=3):
    for t in range(optimizer.stepper.t, optimizer.stepper.t + steps):
        optimizer.zero_grad()
        model(torch.randn(6, 5, generator=torch.Generator().manual_seed(t))).square().mean().backward()
        optimizer.step()


def bits_of(model):
    return {name: t.clone() for name, t in model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# What is taken


@pytest.mark.parametrize(
    "how",
    [
        {"lr": np.float32(0.25), "weight_decay": np.float64(0.5)},
        {"lr": torch.tensor(0.25), "weight_decay": torch.tensor([0.5])},
        {"lr": np.array(0.25), "weight_decay": np.array([0.5]), "seed": np.int64(1), "beta": np.float32(0.5)},
        {
            "lr": 0.25,
            "weight_decay": 0.5,
            "seed": torch.tensor(1),
            "beta": torch.tensor(0.5),
            "overlap": np.bool_(False),
        },
    ],
    ids=["numpy", "torch", "arrays", "integers"],
)
def test_numbers_of_numpy_and_torch_are_numbers(how):
    model, _ = trained(**({"beta": 0.5} | how))
    expected, _ = trained(lr=0.25, weight_decay=0.5, beta=0.5)
    assert same(bits_of(model), bits_of(expected))


def test_a_rate_that_is_a_tensor_may_change_in_place():
    rate = torch.tensor(0.25)
    model, optimizer = trained(steps=0, lr=rate)
    before = bits_of(model)
    rate.zero_()
    go_on(model, optimizer, 1)
    assert torch.equal(model[0].weight, before["0.weight"])


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"lr": float("nan")}, "lr = nan"),
        ({"lr": "0.1"}, "lr = '0.1'"),
        ({"lr": True}, "lr = True"),
        ({"lr": torch.ones(2)}, "lr = tensor"),
        ({"weight_decay": -0.1}, "weight_decay = -0.1: a weight decay is a finite number, 0 or above"),
        ({"weight_decay": float("inf")}, "weight_decay = inf"),
        ({"overlap": "no"}, "overlap = 'no'"),
        ({"check_every": -1}, "check_every = -1"),
        ({"statistics_every": 0.5}, "statistics_every = 0.5"),
        ({"dense_steps": -1}, "dense_steps = -1"),
        ({"seed": -1}, "seed = -1"),
        ({"chunk": 3}, "chunk = 3"),
        ({"progress": "fast"}, "progress = 'fast'"),
        ({"betas": (0.9, 0.99)}, "unknown key algorithm.betas (did you mean beta?); signum-mv has: beta"),
        ({"algorithm": "adam", "betas": 0.9}, "it stands for (beta1, beta2), two numbers"),
        ({"algorithm": "adam", "betas": (0.9, 0.99), "beta2": 0.5}, "betas and beta2 are both given"),
        ({"algorithm": "adam", "betas": (0.9, 1.5)}, "algorithm.beta2 = 1.5"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_values_that_only_look_right_are_refused(how, words):
    with pytest.raises(UsageError) as raised:
        SignOptimizer(nn.Linear(2, 2), **how)
    assert words in str(raised.value)


@pytest.mark.parametrize(
    "own", [{"vote": "no"}, {"vote": 2}, {"vote": None}, {"lr": -1.0}, {"weight_decay": -1.0}], ids=str
)
def test_values_of_a_group_that_only_look_right_are_refused(own):
    model = nn.Linear(2, 2)
    with pytest.raises(UsageError, match="of parameter group 1 = "):
        SignOptimizer([{"params": [model.weight]}, {"params": [model.bias], **own}])


def test_betas_and_eps_as_torch_spells_them():
    for betas in ((0.8, 0.95), [0.8, 0.95], torch.tensor([0.8, 0.95], dtype=torch.float64)):
        optimizer = SignOptimizer(nn.Linear(2, 2), "dlion-mavo", betas=betas)
        assert (
            optimizer.stepper.algorithm
            == SignOptimizer(nn.Linear(2, 2), "dlion-mavo", beta1=0.8, beta2=0.95).stepper.algorithm
        )
    adam = SignOptimizer(nn.Linear(2, 2), "adam", betas=(0.8, 0.95), eps=1e-3)
    assert (
        adam.stepper.algorithm
        == SignOptimizer(nn.Linear(2, 2), "adam", beta1=0.8, beta2=0.95, epsilon=1e-3).stepper.algorithm
    )


@pytest.mark.parametrize(("name", "value"), [("lr", -1.0), ("lr", float("nan")), ("weight_decay", "much")])
def test_a_rate_that_turns_wrong_later_moves_nothing(name, value):
    model, optimizer = trained()
    before = dict(model.named_parameters())["0.weight"].detach().clone()
    optimizer.param_groups[0][name] = value
    with pytest.raises(UsageError, match=f"{name} of parameter group 0 = "):
        go_on(model, optimizer, 1)
    assert torch.equal(model[0].weight, before)


def test_the_repr_tells_what_it_is():
    _, optimizer = trained(steps=0)
    first, *others = repr(optimizer).splitlines()
    assert first == f"SignOptimizer signum-mv, d={optimizer.layout.size}, n=1, exchange=local ("
    assert "    lr: 0.01" in others


def test_rank_and_size_without_a_launcher():
    assert (mpisign.rank(), mpisign.size()) == (0, 1)


# What is kept

VALUES = {
    "integer": 3, "large": 2**80, "float": 0.1, "tiny": 5e-324, "infinite": float("-inf"), "flag": True, "none": None,
    "text": "warm \N{SNOWMAN}", "betas": (0.9, 0.99), "nested": [1, (2.0, [None]), {"a": (1,), 2: "b"}],
    "tensor": torch.tensor(0.1), "half": torch.tensor([[1.5, -2.0]], dtype=torch.bfloat16),
    "bits": torch.tensor([True, False]), "empty": torch.zeros(0, 3), "awkward": {"__mpisign__": "tuple"},
}  # fmt: skip
NUMPY = {"float32": np.float32(0.1), "float64": np.float64(0.1), "int8": np.int8(-3), "bool": np.bool_(True)}


def alike(one, other):
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return type(other) is dict and one.keys() == other.keys() and all(alike(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(alike, one, other))
    return type(one) is type(other) and one == other


def test_values_of_groups_and_extra_come_back_as_they_were(tmp_path):
    _, optimizer = trained()
    optimizer.param_groups[0].update(VALUES | NUMPY)
    optimizer.save(tmp_path / "all.h5", **VALUES, **NUMPY)
    torch.save(optimizer.state_dict(), tmp_path / "one.pt")
    numbers = {name: value.item() for name, value in NUMPY.items()}  # Python's own, of the same value
    for load in (
        lambda other: other.load(tmp_path / "all.h5"),
        lambda other: other.load_state_dict(torch.load(tmp_path / "one.pt", weights_only=True)),
    ):
        _, other = trained(start=1)
        extra = load(other)
        assert extra is None or alike(VALUES | numbers, extra)
        found = {name: other.param_groups[0][name] for name in VALUES | numbers}
        assert alike(VALUES | numbers, found)


@pytest.mark.parametrize(
    "value", [object(), 1j, {1, 2}, np.zeros(2), torch.eye(2).to_sparse(), b"x"], ids=lambda v: type(v)
)
def test_values_that_cannot_come_back_are_refused_before_anything_is_written(tmp_path, value):
    _, optimizer = trained()
    file = tmp_path / "folder/all.h5"
    with pytest.raises(UsageError, match=r"best\['k'\] = .*can't be saved"):
        optimizer.save(file, best={"k": value})
    optimizer.param_groups[0]["own"] = [value]
    for save in (lambda: optimizer.save(file), optimizer.state_dict):
        with pytest.raises(UsageError, match=r"param_groups\[0\]\['own'\]\[0\] = .*can't be saved"):
            save()
    assert not file.parent.exists()


def test_what_encode_did_not_write_is_no_value():
    assert decode(encode({"a": (1, 2)}, "")) == {"a": (1, 2)}
    for forged in (
        {"__mpisign__": "code"},
        {"__mpisign__": "tensor", "dtype": "torch.load", "shape": [], "device": "", "bytes": ""},
    ):
        with pytest.raises((ValueError, TypeError, KeyError)):
            decode(forged)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps, lambda o: torch.save(o, io.BytesIO())])
def test_copies_are_refused(copied):
    _, optimizer = trained(steps=0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    for holder in (optimizer, scheduler) if copied is not copy.copy else (optimizer,):
        with pytest.raises(UsageError, match="can't be copied or pickled"):
            copied(holder)
    copied(scheduler.state_dict())
    copied(optimizer.state_dict())


@pytest.mark.parametrize("flat", [False, True], ids=["nested", "flat"])
@pytest.mark.parametrize("algorithm", ["signum-mv", "sto-signsgd"])
def test_the_checkpoint_of_torch_distributed(tmp_path, algorithm, flat):
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    more = {"radius": 1.0, "error_feedback": True} if algorithm == "sto-signsgd" else {}
    model, optimizer = trained(algorithm, **more)
    optimizer.zero_grad()
    before = {name: a.clone() for name, a in optimizer.stepper.states().items()}
    saved = {"model": model.state_dict(), "optimizer": get_optimizer_state_dict(model, optimizer, options=options)}
    assert optimizer.stepper.t == 3
    assert same(before, optimizer.stepper.states())
    dcp.save(saved, checkpoint_id=tmp_path)
    go_on(model, optimizer)

    again, other = trained(algorithm, start=1, steps=1, **more)
    found = {"model": again.state_dict(), "optimizer": get_optimizer_state_dict(again, other, options=options)}
    dcp.load(found, checkpoint_id=tmp_path)
    again.load_state_dict(found["model"])
    set_optimizer_state_dict(again, other, found["optimizer"], options=options)
    assert other.stepper.t == 3
    go_on(again, other)
    assert same(bits_of(model), bits_of(again))


def test_a_state_dict_of_an_older_version_is_read():
    model, optimizer = trained()
    stepper = optimizer.stepper
    facts = {"t": 3, "begun": 0, "rank": 0, "n": 1, "definition": repr(stepper.algorithm)}
    arrays = {name: a.clone() for name, a in stepper.states().items() if name != "x" and "oracle/" not in name}
    older = {"state": {}, "param_groups": optimizer.state_dict()["param_groups"], "mpisign": facts | {"arrays": arrays}}
    again, other = trained(start=1, lr=0.5)
    again.load_state_dict(bits_of(model))
    other.load_state_dict(older)
    go_on(model, optimizer)
    go_on(again, other)
    assert same(bits_of(model), bits_of(again))
    with pytest.raises(UsageError, match="not one of a SignOptimizer"):
        other.load_state_dict(torch.optim.SGD(model.parameters(), lr=1.0).state_dict())


def test_buffers_of_any_kind_come_back_bit_for_bit(tmp_path):
    def made(seed):
        torch.manual_seed(seed)
        model = nn.Linear(2, 2)
        for name, buffer in (
            ("brief", torch.randn(3).to(torch.bfloat16)), ("scalar", torch.randn((), dtype=torch.float64)),
            ("flags", torch.rand(3) > 0.5), ("turned", torch.randn(2, 3).T),
            ("empty", torch.zeros(0)), ("complex", torch.randn(2, dtype=torch.complex64)),
        ):  # fmt: skip
            model.register_buffer(name, buffer)
        model.register_buffer("cache", torch.randn(seed + 1), persistent=False)  # of no matter to a state_dict
        return model, SignOptimizer(model, lr=0.1)

    model, optimizer = made(0)
    model.brief = torch.randn(3).to(torch.bfloat16)  # replaced after the optimiser was made
    optimizer.save(tmp_path / "all.h5")
    again, other = made(1)
    other.load(tmp_path / "all.h5")
    assert same(bits_of(model), bits_of(again))


def test_what_does_not_fit_is_refused_with_nothing_changed(tmp_path):
    model, optimizer = trained()
    optimizer.save(tmp_path / "all.h5")
    pairs = [{"params": [*model[0].parameters(), *model[1].parameters()]}, {"params": [*model[2].parameters()]}]
    for params, how, words in (
        (list(model.named_parameters()), {}, "this optimiser lacks buffer '1.running_mean'"),
        (pairs, {"model": model}, "1 parameter groups were saved, but this optimiser has 2"),
    ):
        other = SignOptimizer(params, lr=0.5, **how)
        go_on(model, other, 1)
        before, step = bits_of(model), other.stepper.t
        with pytest.raises(UsageError, match=words):
            other.load(tmp_path / "all.h5")
        if how:
            with pytest.raises(UsageError, match="parameter groups were saved"):
                other.load_state_dict(optimizer.state_dict())
        assert same(before, bits_of(model))
        assert other.stepper.t == step
        assert other.param_groups[0]["lr"] == 0.5


def test_whose_buffers_is_asked_without_a_model():
    optimizer = SignOptimizer(nn.BatchNorm1d(3).parameters())
    with pytest.raises(UsageError, match="model="):
        optimizer.average_buffers()


def test_a_checkpoint_of_an_older_version_without_buffers_is_read(tmp_path):
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    optimizer = SignOptimizer(model, lr=0.1)
    optimizer.gradients.keeps_buffers = False
    progress = {"groups": [{"lr": 0.5, "weight_decay": 0.0, "vote": True}], "extra": {"epoch": 3}}
    state.save_state(tmp_path / "old.h5", optimizer.stepper, optimizer.ranks, "", progress, None)
    optimizer.gradients.keeps_buffers = True
    x = optimizer.stepper.x.clone()
    optimizer.stepper.x.add_(1.0)
    model[1].running_mean.fill_(7.0)
    with pytest.warns(UserWarning, match="saved no buffers"):
        assert optimizer.load(tmp_path / "old.h5") == {"epoch": 3}
    assert torch.equal(optimizer.stepper.x, x)
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert model[1].running_mean.tolist() == [7.0] * 3
