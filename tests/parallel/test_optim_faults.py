"""SignOptimizer on all ranks: what one rank lacks, or has otherwise, is told on all of them."""

import math

import pytest
import torch
from torch import nn

from mpisign.errors import NumericalError, UsageError
from mpisign.optim import SignOptimizer
from tests.parallel.test_optim import Loop
from tests.raising import told

pytestmark = pytest.mark.mpi


def spoil_missing(loop):
    loop.parameters["layer1.bias"].grad = None


def spoil_sparse(loop):
    loop.parameters["layer1.bias"].grad = torch.zeros(50).to_sparse()


def spoil_storage(loop):
    loop.parameters["layer1.bias"].data = loop.parameters["layer1.bias"].data.clone()


def spoil_nan(loop):
    loop.parameters["layer1.bias"].grad[3] = math.nan


FAULTS = [
    (spoil_missing, UsageError, ["'layer1.bias'", "no gradient on rank(s) ["]),
    (spoil_sparse, UsageError, ["'layer1.bias'", "sparse"]),
    (spoil_storage, UsageError, ["'layer1.bias'", "no longer lies"]),
    (spoil_nan, NumericalError, ["layer1.bias[3]", "is nan"]),
]


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize(("spoil", "kind", "words"), FAULTS, ids=[f[0].__name__ for f in FAULTS])
@pytest.mark.parametrize("name", ["signum-mv", "signsgd-mv"])  # gradients are copied, or packed where they lie
def test_a_fault_on_one_rank_is_told_on_all(comm, everywhere, spoil, kind, words, overlap, name):
    loop = Loop(comm)
    loop.make(name, overlap=overlap)
    loop.step()
    if overlap and loop.n > 1 and spoil is spoil_nan:
        return  # a gradient that is changed after backward is told as such; see below
    before = loop.digest()
    loop.closure()
    if loop.rank == loop.n - 1:
        spoil(loop)
    got, text = told(loop.optimizer.step)
    if loop.n == 1 and spoil is spoil_missing:
        everywhere(got is None, "missing on all ranks: it stays where it is")
        return
    if overlap and loop.n > 1 and spoil in (spoil_missing, spoil_sparse):
        words = ["'layer1.bias'"]
    everywhere(got is kind and all(word in text for word in words), f"{got}: {text}")
    if spoil is not spoil_storage:
        everywhere(loop.digest() == before, "x is as it was")
    everywhere(len(set(comm.allgather(text))) == 1, "one error")


@pytest.mark.mpi(min_size=2)
def test_gradients_changed_after_backward_do_not_overlap(comm, everywhere):
    for spoil, words in (
        (lambda loop: torch.nn.utils.clip_grad_norm_(loop.parameters.values(), 1e-3), "changed after backward"),
        (lambda loop: loop.problem.loss(loop.parameters, loop.batch()).backward(), "twice before step()"),
    ):
        loop = Loop(comm)
        loop.make("signum-mv", overlap=True)
        loop.closure()
        spoil(loop)
        kind, text = told(loop.optimizer.step)
        everywhere(kind is UsageError and words in text, f"{kind}: {text}")


def test_a_missing_closure_is_told(comm, everywhere):
    loop = Loop(comm)
    loop.make("ssvr-mv")
    loop.closure()
    last = loop.rank == loop.n - 1
    kind, text = told(loop.optimizer.step if last else lambda: loop.optimizer.step(loop.closure))
    everywhere(kind is UsageError and "without a closure" in text, f"{kind}: {text}")


def test_a_gradient_missing_on_all_ranks_moves_nothing(comm, everywhere):
    for overlap in (False, True):
        loop = Loop(comm)
        loop.make("signum-mv", weight_decay=0.1, overlap=overlap)
        loop.step()
        before = loop.parameters["layer1.bias"].detach().clone()
        loop.parameters["layer1.bias"].requires_grad_(False)
        loop.step()
        everywhere(torch.equal(loop.parameters["layer1.bias"], before), "it stays where it is")


def test_different_models_and_settings_are_refused(comm, everywhere):
    loop = Loop(comm)
    last = loop.rank == loop.n - 1
    if loop.n > 1:
        shapes = [(3, 4), (5, 2) if last else (5, 1)]
        parameters = [nn.Parameter(torch.zeros(s)) for s in shapes]
        kind, text = told(lambda: SignOptimizer(parameters, comm=comm))
        everywhere(kind is UsageError and "[5, 2]" in text and "[5, 1]" in text, f"{kind}: {text}")
        kind, text = told(lambda: SignOptimizer([nn.Parameter(torch.zeros(3))], comm=comm, seed=int(last)))
        everywhere(kind is UsageError and "different settings" in text, f"{kind}: {text}")
        nets = nn.BatchNorm1d(3), nn.BatchNorm1d(3, track_running_stats=False)
        kind, text = told(lambda: SignOptimizer(nets[last], comm=comm))
        everywhere(kind is UsageError and "buffers" in text, f"{kind}: {text}")
    pairs = [("a", nn.Parameter(torch.ones(1))), ("a", nn.Parameter(torch.ones(1)))]
    kind, text = told(lambda: SignOptimizer(pairs, comm=comm))
    everywhere(kind is UsageError and "'a'" in text, f"{kind}: {text}")
    parameters = [nn.Parameter(torch.zeros(3, dtype=torch.float64 if last else torch.float32))]
    kind, text = told(lambda: SignOptimizer(parameters, comm=comm))
    everywhere(kind is UsageError and "torch.float64" in text and "parameter0" in text, f"{kind}: {text}")
    kind, text = told(
        lambda: SignOptimizer([nn.Parameter(torch.zeros(3))], "signum-mv" if last else "signam", comm=comm)
    )
    if loop.n > 1:
        everywhere(kind is UsageError and "known:" in text, f"{kind}: {text}")
