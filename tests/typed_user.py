"""What a user's type checker sees of mpisign: checked by `make lint`, never run."""

from pathlib import Path

import torch
from mpi4py import MPI

import mpisign
import mpisign.optim
from mpisign.optim import SignOptimizer, Statistics
from mpisign.optim.ddp import SignVote, sign_vote
from mpisign.storage.reader import Run, load_parameters


def train(model: torch.nn.Module, batches: list[torch.Tensor]) -> Statistics:
    optimizer = SignOptimizer(model, algorithm="signum-mv", lr=1e-3, weight_decay=0.1, comm=MPI.COMM_WORLD, beta=0.9)
    scheduler: torch.optim.lr_scheduler.LRScheduler = torch.optim.lr_scheduler.StepLR(optimizer, 10)
    for batch in batches:
        optimizer.zero_grad(set_to_none=True)
        loss: torch.Tensor = model(batch).sum()
        loss.backward()
        optimizer.step()
        scheduler.step()
    optimizer.save(Path("checkpoint.h5"), epoch=3)
    epoch: int = optimizer.load("checkpoint.h5")["epoch"]
    found: mpisign.optim.Statistics = optimizer.statistics
    agreement: float = found.agreement + epoch
    assert agreement
    return found


def groups(model: torch.nn.Linear) -> SignOptimizer:
    return SignOptimizer([{"params": [model.weight]}, {"params": [model.bias], "vote": False, "lr": 0.1}])


def evaluate(model: torch.nn.Module, batch: torch.Tensor) -> float:
    """What ranks do together around an evaluation, and numbers as torch users write them."""
    optimizer = SignOptimizer(model, "dlion-mavo", lr=torch.tensor(1e-3), betas=(0.9, 0.99))
    rank: int = mpisign.rank()
    size: int = mpisign.size()
    with optimizer.averaged_buffers(), torch.no_grad():
        loss: float = model(batch).sum().item()
    optimizer.average_buffers()
    with optimizer.no_sync():
        model(batch).sum().backward()
    optimizer.load_state_dict(optimizer.state_dict())
    return loss if optimizer.under_way else loss + rank / size


def hook(model: torch.nn.parallel.DistributedDataParallel) -> None:
    state = SignVote(beta=0.9)
    model.register_comm_hook(state, sign_vote)
    state.load_state_dict(state.state_dict())


def read(path: Path) -> float:
    run = Run(path)
    assert load_parameters(path)
    return float(run["eval"]["train_loss"][-1])
