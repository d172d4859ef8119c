"""SignOptimizer.close(): what an optimiser gives back, and what it still does afterwards."""

import threading

import pytest
import torch
from torch import nn

from mpisign.errors import UsageError
from mpisign.exchange import nodes
from mpisign.optim import SignOptimizer
from mpisign.parallel import mpi

pytestmark = pytest.mark.mpi


def made(comm, **how):
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(70, 65), nn.Tanh(), nn.Linear(65, 3))
    return net, SignOptimizer(net, "signum-mv", comm=comm, **{"lr": 0.01, "chunk": 512} | how)


def backward(net, opt):
    opt.zero_grad()
    net(torch.ones(4, 70)).square().mean().backward()


def step(net, opt):
    backward(net, opt)
    opt.step()


def helpers():
    return [thread for thread in threading.enumerate() if thread.name == "mpisign-progress"]


@pytest.mark.parametrize("exchange", ["sharded", "hierarchical"])
@pytest.mark.mpi(min_size=2)
def test_windows_threads_and_hooks_are_given_back(comm, everywhere, exchange):
    windows, threads = len(nodes._open), len(helpers())
    progress = "thread" if mpi.multithreaded() else "calls"
    net, opt = made(comm, overlap=True, exchange=exchange, progress=progress)
    step(net, opt)
    everywhere(len(nodes._open) == windows + (exchange == "hierarchical"), "a window")
    everywhere(len(helpers()) == threads + (progress == "thread"), "a thread")
    hooks = [p._post_accumulate_grad_hooks for p in net.parameters()]
    everywhere(all(hooks), "hooks")
    for _ in range(2):
        opt.close()
        everywhere(len(nodes._open) == windows, "no window is left")
        everywhere(len(helpers()) == threads, "no thread is left")
        everywhere(not any(hooks), "no hook is left")
    backward(net, opt)  # which sends nothing


def test_no_step_afterwards_but_all_else(comm, everywhere, tmp_path_factory):
    path = comm.bcast(tmp_path_factory.mktemp("saved") if comm.Get_rank() == 0 else None) / "all.h5"
    net, opt = made(comm)
    step(net, opt)
    opt.close()
    before = opt.gradients.x.clone()
    backward(net, opt)
    with pytest.raises(UsageError, match="this SignOptimizer was closed, and takes no step any more") as told:
        opt.step()
    everywhere(told.value.agreed and torch.equal(opt.gradients.x, before), "x has not moved")
    opt.save(path)
    with opt.no_sync():
        backward(net, opt)
    _, other = made(comm)
    other.load(path)
    everywhere(other.stepper.t == 1 and torch.equal(other.gradients.x, before), "what was saved")
    everywhere(opt.memory().bytes["x"] == before.nbytes, "it still tells its memory")


@pytest.mark.mpi(min_size=2)
def test_a_step_under_way_is_told(comm, everywhere):
    net, opt = made(comm, overlap=True)
    backward(net, opt)
    with pytest.raises(UsageError, match="a step is under way"):
        opt.close()
    opt.step()
    opt.close()
    everywhere(opt.closed, "after the step")


def test_a_context_closes_unless_one_rank_leaves_it_alone(comm, everywhere):
    net, opt = made(comm)
    with opt as entered:
        everywhere(entered is opt, "it is its own context")
        step(net, opt)
    everywhere(opt.closed, "at the end")
    for agreed in (False, True):
        with pytest.raises(UsageError), made(comm)[1] as opt:
            raise UsageError("something", agreed=agreed)
        everywhere(opt.closed is agreed, "by an error of all ranks")
        opt.close()


def test_many_optimisers_one_after_the_other(comm, everywhere):
    """As many as a search for a rate makes: no window of any is left."""
    windows = len(nodes._open)
    for rate in range(1, 13):
        net, opt = made(comm, lr=1e-3 * rate, exchange="hierarchical" if comm.Get_size() > 1 else "auto")
        with opt:
            step(net, opt)
        everywhere(len(nodes._open) == windows, f"after {rate}")
