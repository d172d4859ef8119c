"""What does not move is alike on all ranks too, whatever its kind, and what one rank alone does is told on all."""

import mmap

import pytest
import torch
from torch import nn

from mpisign.errors import UsageError
from mpisign.optim import SignOptimizer

pytestmark = [
    pytest.mark.mpi,
    pytest.mark.filterwarnings("ignore:Sparse CSR tensor support"),
    pytest.mark.filterwarnings("ignore:The given buffer is not writable"),
    pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor"),
    pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors"),
]


class Pair(torch.Tensor):
    """A tensor that wraps another one, as quantised weights do."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

    def __init__(self, inner):
        self.inner = inner

    def __tensor_flatten__(self):
        return ["inner"], None

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        unwrapped = [a.inner if isinstance(a, Pair) else a for a in args]
        found = function(*unwrapped, **(kwargs or {}))
        return Pair(found) if isinstance(found, torch.Tensor) else found


def of_all_kinds(k):
    """Tensors by kind, with values that come from k."""
    numbers = torch.arange(6.0).reshape(2, 3) + 10 * k
    sparse = torch.zeros(4, 4)
    sparse[: k + 1, 0] = 1 + k  # as many elements as k says
    squares = (torch.eye(4)[[3, 2, 1, 0]] if k else torch.eye(4)) * (k + 1)
    with torch.inference_mode():
        inference = torch.full((3,), float(k))
    for_reading = mmap.mmap(-1, 16, prot=mmap.PROT_READ)  # equal on all ranks, and a write to it ends the process
    return {
        "bool": torch.tensor([k % 2 == 0, True]),
        "int": torch.tensor([k, 2]),
        "0-d": torch.tensor(float(k)),
        "empty": torch.zeros(0, 3),
        "bfloat16": numbers.bfloat16(),
        "float64": numbers.double(),
        "float8": numbers.to(torch.float8_e4m3fn),
        "complex": torch.complex(numbers, -numbers),
        "conjugate": torch.complex(numbers, -numbers).conj(),
        "transposed": numbers.clone().T,
        "strided": torch.stack([numbers, numbers])[:, 0, ::2],
        "expanded": numbers[:, :1].clone().expand(2, 5),
        "windows": (torch.arange(5.0) + k).unfold(0, 3, 1),
        "sparse": sparse.to_sparse(),
        "compressed by rows": squares.to_sparse_csr(),
        "compressed by columns": squares.to_sparse_csc(),
        "compressed by blocks": squares.to_sparse_bsr((2, 2)),
        "nested": torch.nested.nested_tensor([torch.full((2,), float(k)), torch.full((3,), float(k))]),
        "quantised": torch.quantize_per_tensor(numbers, 0.5 + k, 0, torch.qint8),
        "inference": inference,
        "for reading": torch.frombuffer(for_reading, dtype=torch.float32),
        "meta": torch.zeros(3, device="meta"),
        "wrapper": Pair(numbers.clone()),
    }


def plainly(t):
    """The numbers of a tensor of any kind."""
    if isinstance(t, Pair):
        return plainly(t.inner)
    if t.is_meta:
        return "meta"
    if t.is_nested:
        return [plainly(part) for part in t.unbind()]
    if t.is_quantized:
        return t.q_scale(), t.int_repr().tolist()
    dense = t.to_dense() if t.layout is not torch.strided else t
    return (dense.float() if dense.dtype == torch.float8_e4m3fn else dense).tolist()


def model_of(rank):
    model = nn.Module()
    model.body = nn.Linear(3, 2)
    model.head = nn.Linear(2, 2)  # trained by somebody else
    model.frozen = nn.Parameter(torch.full((2, 3), float(rank)), requires_grad=False)
    model.codes = nn.Parameter(torch.tensor([rank, 3]), requires_grad=False)
    for name, t in of_all_kinds(rank).items():
        model.register_buffer(f"a {name} tensor", t, persistent=name != "int")
    return model


def test_frozen_parameters_and_buffers_of_all_kinds_come_from_root(comm, everywhere):
    torch.manual_seed(comm.Get_rank())
    model = model_of(comm.Get_rank())
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    SignOptimizer(model.body.parameters(), "signsgd-mv", comm=comm, model=model)
    now = dict(model.named_parameters()) | dict(model.named_buffers())
    for name, t in tensors.items():
        everywhere(now[name] is t, f"{name} is the same object")
        everywhere(len(set(comm.allgather(repr(plainly(t.detach()))))) == 1, f"{name} is alike")
    root = model_of(0)
    for name, t in [("frozen", root.frozen), ("codes", root.codes), *root.named_buffers()]:
        everywhere(repr(plainly(now[name].detach())) == repr(plainly(t.detach())), f"{name} is root's")


def test_frozen_parameters_come_from_root_without_a_model(comm, everywhere):
    moving, frozen = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.full((3,), float(comm.Get_rank())))
    SignOptimizer([moving, frozen.requires_grad_(False)], "signsgd-mv", comm=comm)
    everywhere((frozen == 0).all(), "root's")


@pytest.mark.mpi(min_size=2)
def test_buffers_that_differ_in_kind_are_named(comm, everywhere):
    last = comm.Get_rank() == comm.Get_size() - 1
    for mine, words in (
        (torch.zeros(2, dtype=torch.float64 if last else torch.float32), ["'b' of shape [2]", "float64"]),
        (torch.zeros(2, device="meta" if last else "cpu"), ["'b'", "meta"]),
        (torch.eye(2).to_sparse() if last else torch.eye(2), ["'b'", "sparse_coo"]),
        (torch.full((2, 2), float(last)).to_sparse_csr(), ["'b.col_indices' of shape [4]", "[0]"]),
        (None if last else torch.zeros(1), ["none and 'b'"]),
    ):
        model = nn.Linear(2, 2)
        model.register_buffer("b", mine)
        with pytest.raises(UsageError) as raised:
            SignOptimizer(model, "signsgd-mv", comm=comm)
        everywhere(all(word in str(raised.value) for word in ["buffers or frozen", *words]), str(raised.value))
        everywhere(len(set(comm.allgather(str(raised.value)))) == 1, "one error")


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("overlap", [False, True])
def test_what_one_rank_unfreezes_or_replaces_is_told_on_all(comm, everywhere, overlap):
    last = comm.Get_rank() == comm.Get_size() - 1
    for spoil, words in (
        (lambda model: model[0].requires_grad_(True), "'0.weight' was frozen"),
        (lambda model: setattr(model[1], "weight", nn.Parameter(torch.ones(2, 2))), "'1.weight' is no longer one"),
    ):
        model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        model[0].requires_grad_(False)
        optimizer = SignOptimizer(model, "signsgd-mv", comm=comm, overlap=overlap)
        if last:
            spoil(model)
        model(torch.ones(1, 2)).sum().backward()
        with pytest.raises(UsageError) as raised:
            optimizer.step()
        everywhere(words in str(raised.value), str(raised.value))


def test_frozen_parameters_with_places_take_part_once_all_unfreeze(comm, everywhere):
    found = []
    for overlap in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(70, 3), nn.Linear(3, 2))
        model[0].requires_grad_(False)
        optimizer = SignOptimizer(model, "signum-mv", lr=0.1, comm=comm, overlap=overlap, include_frozen=True)
        start = model[0].weight.detach().clone()
        torch.manual_seed(comm.Get_rank())
        for t in range(4):
            model[0].requires_grad_(t >= 2)
            optimizer.zero_grad()
            model(torch.randn(3, 70)).square().sum().backward()
            optimizer.step()
            everywhere(torch.equal(model[0].weight, start) == (t < 2), f"{t}: it moves once it is trained")
        optimizer.stepper.check_replicas()
        found.append(model[0].weight.detach().clone())
    everywhere(torch.equal(*found), "overlap changes no bit")
