"""`mpisign bench optimizer` and `overlap`: SignOptimizer against torch's SGD, and how much of a step backward hides."""

import itertools
import time
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from mpisign.bench.table import Say, Table, machine
from mpisign.bench.timing import in_turns
from mpisign.optim import SignOptimizer
from mpisign.parallel.mpi import Ranks

OPTIMIZER = {
    "algorithm": "", "tensors": ",d", "d": ",d", "SGD ms": ".3f", "one pass ms": ".3f", "mpisign ms": ".3f",
    "beyond SGD": "+.1%", "beyond SGD and a pass": "+.1%",
}  # fmt: skip
OVERLAP = {
    "n": "d", "d": ",d", "computing": "", "model": "", "backward ms": ".1f", "step ms": ".1f", "both in turn ms": ".1f",
    "overlapped ms": ".1f", "hidden": ".0%",
}  # fmt: skip
RATE, LAYERS = 1e-3, 8
MODELS, FORMS = ("eager", "one graph", "a graph per layer"), (False, True)


def optimizer(sizes: tuple[int, ...], tensors: int, repeats: int, say: Say) -> Table:
    """Medians of a step of SGD (foreach), of one copy of x, and of a vote's step at n = 1, in turns.

    signum-mv is compared with SGD's momentum, signsgd-mv with SGD without.
    """
    table = Table("optimizer", OPTIMIZER, {"median of": repeats, "threads": torch.get_num_threads()} | machine())
    for d, (name, momentum) in itertools.product(sizes, (("signum-mv", 0.9), ("signsgd-mv", 0.0))):
        sgd = torch.optim.SGD(parameters(d, tensors), RATE, momentum=momentum, foreach=True)
        ours = SignOptimizer(parameters(d, tensors), name, RATE, statistics_every=0, check_every=0)
        x, y = torch.zeros(d), torch.ones(d)
        works = {"SGD ms": sgd.step, "one pass ms": lambda x=x, y=y: x.copy_(y), "mpisign ms": ours.step}
        ms = {name: times.median * 1e3 for name, times in in_turns(works, repeats, Ranks(), say).items()}
        beyond = {"beyond SGD": ms["SGD ms"], "beyond SGD and a pass": ms["SGD ms"] + ms["one pass ms"]}
        beyond = {name: ms["mpisign ms"] / of - 1 for name, of in beyond.items()}
        table.add(algorithm=name, tensors=tensors, d=d, **ms, **beyond)
    return table


def parameters(d: int, tensors: int) -> list[nn.Parameter]:
    """d coordinates in so many tensors, with gradients."""
    generator, made = torch.Generator().manual_seed(0), []
    for part in np.array_split(np.empty(d, dtype=np.int8), tensors):
        p = nn.Parameter(torch.zeros(len(part)))
        p.grad = torch.randn(len(part), generator=generator)
        made.append(p)
    return made


def overlap(
    batches: tuple[int, ...],
    waits: tuple[int, ...],
    width: int,
    name: str,
    compiled: bool,
    repeats: int,
    ranks: Ranks,
    say: Say,
) -> Table:
    """Forward and backward alone, with a step after it, and with one that overlaps: a perceptron of square layers.

    batches: rows that the CPU's cores work on, which they also need to pack, send and count. waits: milliseconds in
    which an accelerator would do so, while the cores are free. compiled: the same by torch.compile too, the model as
    one graph and layer by layer, all in turns. hidden: the share of a step that overlap takes out of the time of both.
    """
    about = {"algorithm": name, "layers": f"{LAYERS} of {width} x {width}", "median of": repeats}
    about |= {"mpi": ranks.library, "hosts": ranks.hosts, "threads": torch.get_num_threads()}
    table = Table("overlap", OVERLAP, about | machine())
    models = MODELS if compiled else MODELS[:1]
    loops = {(model, overlaps): _Loop(width, name, ranks, overlaps, model) for model in models for overlaps in FORMS}
    kinds = [(batch, 0, f"{batch} rows on the CPU") for batch in batches]
    for batch, wait, computing in kinds + [(1, wait, f"{wait} ms elsewhere") for wait in waits]:
        arguments, works = (torch.randn(batch, width), wait / 1e3 / LAYERS), {}
        for model in models:
            plain, overlapped = (loops[model, overlaps] for overlaps in FORMS)
            works |= {
                f"{model}, backward": partial(plain.backward, *arguments),
                f"{model}, in turn": partial(plain.train, *arguments),
                f"{model}, overlapped": partial(overlapped.train, *arguments),
            }
        ms = {k: times.median * 1e3 for k, times in in_turns(works, repeats, ranks, say).items()}
        for model in models:
            backward, both, hiding = (ms[f"{model}, {how}"] for how in ("backward", "in turn", "overlapped"))
            row = {"backward ms": backward, "step ms": both - backward, "both in turn ms": both}
            row |= {"overlapped ms": hiding, "hidden": (both - hiding) / (both - backward)}
            d = loops[model, True].optimizer.layout.size
            table.add(n=ranks.size, d=d, computing=computing, model=model, **row)
    return table


class _Loop:
    """A training loop around a perceptron."""

    def __init__(self, width: int, name: str, ranks: Ranks, overlaps: bool, model: str):
        layers = [Layer(width) for _ in range(LAYERS)]
        self.model = nn.Sequential(*layers)
        options = {"exchange": "sharded", "check_every": 0, "statistics_every": 0}
        self.optimizer = SignOptimizer(self.model, name, RATE, comm=ranks.comm, overlap=overlaps, **options)
        for part in {"eager": [], "one graph": [self.model], "a graph per layer": layers}[model]:
            part.compile(dynamic=False)

    def backward(self, x: Tensor, seconds: float) -> None:
        self.optimizer.zero_grad()
        ACCELERATOR.begin(seconds)
        self.model(x).square().mean().backward()

    def train(self, x: Tensor, seconds: float) -> None:
        self.backward(x, seconds)
        self.optimizer.step()


class Layer(nn.Module):
    """A layer that is computed by a simulated accelerator, a third of its time in the forward pass."""

    def __init__(self, width: int):
        super().__init__()
        self.linear = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return elsewhere(self.linear(x).relu(), 1 / 3)


@dataclass
class Accelerator:
    """It needs so many seconds per layer, whatever the CPU does meanwhile."""

    seconds: float = 0.0
    done: float = 0.0  # when its queue is empty

    def begin(self, seconds: float) -> None:
        """Begins a batch with an empty queue."""
        self.seconds, self.done = seconds, time.perf_counter()

    def wait(self, share: float) -> None:
        """Waits for its next piece of work, this share of a layer."""
        self.done += share * self.seconds
        if (left := self.done - time.perf_counter()) > 0 and self.seconds:
            time.sleep(left)


ACCELERATOR = Accelerator()


@torch.library.custom_op("mpisign::elsewhere", mutates_args=())
def elsewhere(x: Tensor, share: float) -> Tensor:
    """A copy of x, once the accelerator is done with this share of a layer: a node of a graph, compiled or not."""
    ACCELERATOR.wait(share)
    return x.clone()


elsewhere.register_fake(lambda x, share: torch.empty_like(x))
elsewhere.register_autograd(lambda ctx, g: (elsewhere(g, 2 / 3), None))
