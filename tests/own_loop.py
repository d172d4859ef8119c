"""The transformer of jobs/transformer as a problem of the application, and in a loop of its own over the same batches.

mpirun -n 3 python -m tests.own_loop FOLDER STEPS     trains by a loop; writes FOLDER/loop.npz
"""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import torch
from torch.func import functional_call

from mpisign.bits.rng import Streams
from mpisign.optim import SignOptimizer
from mpisign.problems import Oracle, Problem, Rows, Tables
from mpisign.problems.data.partition import partition

ROOT = Path(__file__).parent.parent
LENGTH, BATCH, SEED, RATE, DROPOUT = 12, 4, 7, 3e-3, 0.1


def script():
    """The plain script as a module."""
    spec = importlib.util.spec_from_file_location("plain", ROOT / "jobs/transformer/plain.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Windows(Problem):
    """Windows of a text: the application's view of the script's model."""

    offers = frozenset({"finite sum", "two points", "function values"})

    def __init__(self):
        self.plain = script()
        torch.manual_seed(3)
        self.model = self.plain.Transformer(characters=40, window=LENGTH, width=16, heads=2, depth=1)
        # dropout, which plain.py does without, draws from torch's generator
        self.model.norm = torch.nn.Sequential(self.model.norm, torch.nn.Dropout(DROPOUT))

    def read(self):
        text = np.random.default_rng(0).integers(0, 40, 4000)
        starts = np.arange(0, len(text) - LENGTH - 1, 3)
        return Tables(train=Rows(windows=np.stack([text[s : s + LENGTH + 1] for s in starts])))

    def initial(self, generator):
        return {name: p.detach().clone() for name, p in self.model.named_parameters()}

    def loss(self, parameters, batch):
        logits = functional_call(self.model, dict(parameters), batch["windows"][:, :-1])
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["windows"][:, 1:].flatten())

    def measure(self, parameters, rows):
        return {"loss": 0.0, "rows": rows.count}


def train(folder: Path, steps: int, algorithm: str) -> None:
    """The loop: each rank finds the batches that the application would give it."""
    problem = Windows()
    model, streams = problem.model, Streams(SEED)
    optimizer = SignOptimizer(model, algorithm, lr=RATE, seed=SEED, overlap=True)
    torch.set_num_threads(1)
    rank, n = optimizer.ranks.rank, optimizer.ranks.size
    rows = problem.read().train
    shares = partition("iid", rows.count, None, n, streams.draw("partition", 0).generator())
    oracle = Oracle(problem, optimizer.layout, rows.take(shares[rank]), rank, streams, batch_size=BATCH)
    for t in range(steps):
        batch = oracle.rows.take(oracle._sample(t))["windows"]
        torch.manual_seed(streams.draw("torch", t, rank).seed())
        loss = model.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if rank == 0:
        np.savez(folder / "loop.npz", **{name: p.detach().numpy() for name, p in model.named_parameters()})


if __name__ == "__main__":
    train(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
