"""What the ranks of a SignOptimizer keep and must have alike: buffers, rates, settings, what is saved; threads."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

import mpisign
from mpisign.errors import UsageError
from mpisign.optim import SignOptimizer, threads
from tests.raising import told

pytestmark = pytest.mark.mpi


@pytest.fixture
def folder(comm, tmp_path_factory):
    """One folder of all ranks."""
    return comm.bcast(tmp_path_factory.mktemp("saved") if comm.Get_rank() == 0 else None)


def made(comm, **how):
    """A network with BatchNorm, whose buffers move on every rank by its own batches, and its optimiser."""
    torch.manual_seed(comm.Get_rank())
    model = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, 2))
    model.register_buffer("table", torch.tensor([0.1, 0.7]))
    return model, SignOptimizer(model, "signum-mv", comm=comm, **({"lr": 0.01} | how))


def go_on(model, optimizer, steps=3):
    for t in range(optimizer.stepper.t, optimizer.stepper.t + steps):
        generator = torch.Generator().manual_seed(100 * t + optimizer.ranks.rank)
        optimizer.zero_grad()
        model(torch.randn(6, 5, generator=generator)).square().mean().backward()
        optimizer.step()


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def copied(model):
    return {name: t.clone() for name, t in model.state_dict().items()}


def test_each_ranks_buffers_come_back_bit_for_bit(comm, everywhere, folder):
    model, optimizer = made(comm)
    go_on(model, optimizer)
    optimizer.save(folder / "all.h5", rank=comm.Get_rank())
    before = copied(model)
    sums = comm.allgather(model[1].running_mean.sum().item())
    everywhere(len(set(sums)) == len(sums), "every rank has its own")
    go_on(model, optimizer)

    again, other = made(comm, lr=0.5)
    go_on(again, other, 1)
    everywhere(other.load(folder / "all.h5") == {"rank": 0}, "root's extra values")
    everywhere(same(before, copied(again)), "x and this rank's buffers")
    go_on(again, other)
    everywhere(same(copied(model), copied(again)), "and it goes on alike")


def test_buffers_are_averaged_for_an_evaluation(comm, everywhere):
    model, optimizer = made(comm)
    go_on(model, optimizer)
    with torch.no_grad():
        model[1].num_batches_tracked += comm.Get_rank()
    before = copied(model)
    rows = comm.allgather(model[1].running_var.numpy())
    mean = (np.add.accumulate(np.array(rows, dtype=np.float64))[-1] / len(rows)).astype(np.float32)
    with optimizer.averaged_buffers():
        everywhere(np.array_equal(model[1].running_var.numpy(), mean), "the mean over ranks")
        everywhere(int(model[1].num_batches_tracked) == 3, "what counts is root's")
        everywhere(torch.equal(model.table, before["table"]), "what is alike already keeps its bits")
    everywhere(same(before, copied(model)), "its own again")
    optimizer.average_buffers()
    everywhere(np.array_equal(model[1].running_var.numpy(), mean), "for good")
    up = optimizer.stepper.world.traffic.up
    everywhere(up == optimizer._sent[0], "not counted as sent towards votes")


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("overlap", [False, True])
def test_rates_that_differ_are_one_error_that_names_them(comm, everywhere, overlap):
    rank, last = comm.Get_rank(), comm.Get_size() - 1
    for name, value in (("lr", 0.25), ("weight_decay", 0.125)):
        model, optimizer = made(comm, overlap=overlap)
        go_on(model, optimizer, 2)
        width, before = optimizer.stepper._header.shape[1], model[0].weight.detach().clone()
        everywhere(width == 3, "the header is as wide as without")
        if rank == last:
            optimizer.param_groups[0][name] = value
        kind, text = told(lambda: go_on(model, optimizer, 1))  # noqa: B023
        words = [f"at step 2 {name} of parameter group 0 is", f"{value} on rank(s) {last}"]
        everywhere(kind is UsageError and all(word in text for word in words), f"{kind}: {text}")
        everywhere(len(set(comm.allgather(text))) == 1, "one error")
        everywhere(torch.equal(model[0].weight, before), "x is as it was")
        optimizer.param_groups[0][name] = 0.0
        go_on(model, optimizer, 1)


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"lr": 0.25}, "lr of the groups is [0.01] on rank(s) 0"),
        ({"weight_decay": 0.25}, "weight_decay of the groups is [0.0] on rank(s) 0"),
        ({"check_every": 7}, "check_every is 100 on rank(s) 0"),
        ({"statistics_every": 0}, "statistics_every is 1 on rank(s) 0"),
        ({"seed": 9}, "seed is 1 on rank(s) 0"),
        ({"beta": 0.25}, "algorithm is signum-mv:"),
        ({"overlap": True}, "overlap is False on rank(s) 0"),
        ({"lr": -1.0}, "lr = -1.0: a learning rate"),
        ({"overlap": "no"}, "overlap = 'no'"),
    ],
    ids=str,
)
def test_settings_that_differ_are_one_error_that_names_them(comm, everywhere, how, words):
    last = comm.Get_rank() == comm.Get_size() - 1
    kind, text = told(lambda: made(comm, **(how if last else {})))
    everywhere(kind is UsageError and words in text, f"{kind}: {text}")


def test_what_one_rank_cannot_save_is_one_error_before_anything_is_written(comm, everywhere, folder):
    model, optimizer = made(comm)
    go_on(model, optimizer, 1)
    last = comm.Get_rank() == comm.Get_size() - 1
    for spoil, words in (
        (lambda: {"best": object()} if last else {}, "best = <object"),
        (lambda: optimizer.param_groups[0].update(own=comm.Get_rank()) or {}, "differ between ranks"),
        (lambda: optimizer.param_groups[0].update(own={1} if last else 0) or {}, "can't be saved"),
    ):
        if "differ" in words and comm.Get_size() == 1:
            continue
        kind, text = told(lambda: optimizer.save(folder / "new/all.h5", **spoil()))  # noqa: B023
        everywhere(kind is UsageError and words in text, f"{kind}: {text}")
        everywhere(not (folder / "new").exists(), "nothing is written")
    go_on(model, optimizer, 1)


@pytest.mark.mpi(min_size=2)
def test_no_state_is_saved_while_a_step_is_under_way(comm, everywhere, folder):
    model, optimizer = made(comm, overlap=True)
    go_on(model, optimizer, 1)
    model(torch.randn(6, 5)).square().mean().backward()
    for save in (lambda: optimizer.save(folder / "all.h5"), optimizer.state_dict):
        kind, text = told(save)
        everywhere(kind is UsageError and "under way" in text, f"{kind}: {text}")
    optimizer.step()
    optimizer.save(folder / "all.h5")


def test_rank_and_size_are_those_of_all(comm, everywhere):
    everywhere((mpisign.rank(), mpisign.size()) == (comm.Get_rank(), comm.Get_size()), "as MPI has them")
    part = comm.Split(comm.Get_rank() % 2)
    SignOptimizer(nn.Linear(2, 2), comm=part)
    everywhere((mpisign.rank(), mpisign.size()) == (comm.Get_rank(), comm.Get_size()), "whatever an optimiser is of")


@pytest.mark.mpi(min_size=2)
def test_more_threads_than_cores_are_told_once_by_root(comm, everywhere, monkeypatch):
    _, optimizer = made(comm)
    for count, expected in ((1, 0), (1000, 1), (1000, 0)):
        monkeypatch.setattr(torch, "get_num_threads", lambda count=count: count)
        if count == 1:
            monkeypatch.setattr(threads, "_warned", False)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            threads.warn_if_crowded(optimizer.ranks)
        number = expected if comm.Get_rank() == 0 else 0
        everywhere(len(caught) == number and all("OMP_NUM_THREADS=" in str(w.message) for w in caught), f"{count}")
