"""`mpisign bench optimizer` and `overlap`: SignOptimizer against torch's SGD, and how much of a step backward hides."""

import numpy as np
import torch
from torch import Tensor, nn

from mpisign.bench.measuring import in_turns
from mpisign.bench.table import Say, Table, machine
from mpisign.mpi import Ranks
from mpisign.optim import SignOptimizer

OPTIMIZER = {
    "tensors": ",d",
    "d": ",d",
    "SGD ms": ".3f",
    "one pass ms": ".3f",
    "mpisign ms": ".3f",
    "beyond SGD and a pass": "+.1%",
}
OVERLAP = {
    "n": "d",
    "d": ",d",
    "batch": ",d",
    "backward ms": ".1f",
    "step ms": ".1f",
    "both in turn ms": ".1f",
    "overlapped ms": ".1f",
    "hidden": ".0%",
}
RATE, LAYERS = 1e-3, 8


def optimizer(sizes: tuple[int, ...], tensors: int, repeats: int, say: Say) -> Table:
    """Medians of a step of SGD (foreach), of one copy of x, and of a step of signsgd-mv, at n = 1, in turns."""
    about = {"algorithm": "signsgd-mv", "median of": repeats, "threads": torch.get_num_threads()}
    table = Table("optimizer", OPTIMIZER, about | machine())
    for d in sizes:
        sgd = torch.optim.SGD(_parameters(d, tensors), RATE, foreach=True)
        ours = SignOptimizer(_parameters(d, tensors), "signsgd-mv", RATE, statistics_every=0, check_every=0)
        x, y = torch.zeros(d), torch.ones(d)
        works = {"SGD ms": sgd.step, "one pass ms": lambda x=x, y=y: x.copy_(y), "mpisign ms": ours.step}
        found = {name: times.median * 1e3 for name, times in in_turns(works, repeats, Ranks(), say).items()}
        beyond = found["mpisign ms"] / (found["SGD ms"] + found["one pass ms"]) - 1
        table.add(tensors=tensors, d=d, **found, **{"beyond SGD and a pass": beyond})
    return table


def _parameters(d: int, tensors: int) -> list[nn.Parameter]:
    """d coordinates in so many tensors, with gradients."""
    generator, found = torch.Generator().manual_seed(0), []
    for part in np.array_split(np.empty(d, dtype=np.int8), tensors):
        p = nn.Parameter(torch.zeros(len(part)))
        p.grad = torch.randn(len(part), generator=generator)
        found.append(p)
    return found


def overlap(batches: tuple[int, ...], width: int, name: str, repeats: int, ranks: Ranks, say: Say) -> Table:
    """Forward and backward alone, with a step after it, and with one that overlaps: a perceptron of square layers.

    hidden: the share of a step that overlap takes out of the time of both.
    """
    about = {"algorithm": name, "layers": f"{LAYERS} of {width} x {width}", "median of": repeats}
    about |= {"mpi": ranks.library, "hosts": ranks.hosts, "threads": torch.get_num_threads()}
    table = Table("overlap", OVERLAP, about | machine())
    loops = {overlaps: _Loop(width, name, ranks, overlaps) for overlaps in (False, True)}
    for batch in batches:
        x = torch.randn(batch, width)
        works = {
            "backward": lambda x=x: loops[False].backward(x),
            "in turn": lambda x=x: loops[False].train(x),
            "overlapped": lambda x=x: loops[True].train(x),
        }
        found = {k: times.median * 1e3 for k, times in in_turns(works, repeats, ranks, say).items()}
        step = found["in turn"] - found["backward"]
        row = {"backward ms": found["backward"], "step ms": step, "both in turn ms": found["in turn"]}
        row |= {"overlapped ms": found["overlapped"], "hidden": (found["in turn"] - found["overlapped"]) / step}
        table.add(n=ranks.size, d=loops[True].optimizer.layout.size, batch=batch, **row)
    return table


class _Loop:
    """A training loop around a perceptron."""

    def __init__(self, width: int, name: str, ranks: Ranks, overlaps: bool):
        layers = [layer for _ in range(LAYERS) for layer in (nn.Linear(width, width, bias=False), nn.ReLU())]
        self.model = nn.Sequential(*layers)
        how = {"comm": ranks.comm, "overlap": overlaps, "exchange": "sharded", "check_every": 0, "statistics_every": 0}
        self.optimizer = SignOptimizer(self.model, name, RATE, **how)

    def backward(self, x: Tensor) -> None:
        self.optimizer.zero_grad()
        self.model(x).square().mean().backward()

    def train(self, x: Tensor) -> None:
        self.backward(x)
        self.optimizer.step()
