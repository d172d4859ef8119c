"""Compares entries of the zoo with code that others wrote: the same gradients, and the same draws where that can be.

python analysis/others/same_steps.py --grace CLONE --dgc CLONE --powersgd CLONE --deepspeed CLONE

The clones are those of REPOSITORIES, whose code is run as it is; without one its rows are left out. Prints a table, and
ends with status 1 where a difference is larger than its row allows: that of two paths of x over 20 steps, by 4 voters
or by one, over the largest coordinate of x.
"""

import argparse
import importlib
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

import borrowed
import numpy as np
import of_grace
import torch
from sides import STREAMS, TILE, VOTERS, Row, difference, normal, ours
from torch import Tensor

from mpisign import bits

LR, SHARE, LIMIT = 0.1, 1 / 64, 40.0
REPOSITORIES = {
    "grace": "sands-lab/grace",
    "dgc": "synxlin/deep-gradient-compression",
    "powersgd": "epfml/powersgd",
    "deepspeed": "microsoft/DeepSpeed",
}


def of_dgc() -> Iterator[Row]:
    """Deep gradient compression by its authors."""
    code = "deep-gradient-compression"
    for select, gradients in (("tile", normal(TILE)), ("all", normal(3 * TILE))):
        for nesterov, limit in ((False, 0.0), (True, 0.0), (True, LIMIT)):
            hyper = {"density": SHARE, "select": select, "nesterov": nesterov, "clip_norm": limit}
            found = difference(ours("dgc", gradients, LR, **hyper), _by_dgc(gradients, nesterov, limit))
            size, what = gradients.shape[-1], "masking" + ", Nesterov" * nesterov + ", clipping" * bool(limit)
            note = "sample_ratio = 1: exact" + "; divides by norm + 1e-6" * bool(limit)
            yield Row(f"dgc, {select}", code, f"{int(SHARE * size)} of {size}, {what}", found, note)


def _by_dgc(gradients: Tensor, nesterov: bool, limit: float) -> Tensor:
    """x (steps, d). limit: of the norm of a rank's gradient, times sqrt(n); 0 for none."""
    _, voters, size = gradients.shape
    memory = importlib.import_module("dgc.memory").DGCSGDMemory
    compressor = importlib.import_module("dgc.compression").DGCCompressor
    clip = importlib.import_module("dgc.clip_grad").clip_grad_norm_
    clipping = (lambda g: clip(g, limit / voters**0.5)) if limit else None
    ranks = [compressor(SHARE, memory(0.9, nesterov, clipping), sample_ratio=1.0) for _ in range(voters)]
    for rank in ranks:
        rank.initialize([("x", torch.zeros(size))])
        rank.memory.initialize([("x", torch.zeros(size))])
    x, path = torch.zeros(size), []
    for row in gradients:
        sent = [rank.compress(g.clone(), "x") for rank, g in zip(ranks, row, strict=True)]
        gathered = [torch.cat(parts) for parts in zip(*(message for message, _ in sent), strict=True)]
        x = x - LR * ranks[0].decompress(gathered, sent[0][1])
        path.append(x)
    return torch.stack(path)


SHAPES = {"a": (48, 32), "b": (16, 36), "c": (64,)}


def of_powersgd() -> Iterator[Row]:
    """PowerSGD by its authors, in the form of their paper."""
    code = "powersgd, paper-code"
    gradients = normal(sum(map(np.prod, SHAPES.values())))
    note = "adds 1e-8 to norms of columns; a warm start hands rounding on"
    for rank, warm in ((1, True), (2, True), (4, True), (2, False)):
        mine = ours("powersgd", gradients, LR, SHAPES, rank=rank, warm_start=warm, momentum=0.0)
        paths = borrowed.in_threads(VOTERS, lambda v, of=(rank, warm): _by_powersgd(gradients[:, v], *of))
        found = max(difference(mine, path) for path in paths)
        inputs = f"rank {rank}, our {'first Q' if warm else 'Q at every step'}, two matrices and a vector"
        yield Row("powersgd", code, inputs, found, note, 2e-5)


def _by_powersgd(gradients: Tensor, rank: int, warm: bool) -> Tensor:
    """x (steps, d) of one of the ranks, given its gradients (steps, d)."""
    # their __init__ draws 128 million numbers that this reducer does not use
    reducer = object.__new__(importlib.import_module("gradient_reducers").RankKReducer)
    vars(reducer).update(n_workers=VOTERS, device="cpu", timer=lambda *what, **how: nullcontext())
    vars(reducer).update(rank=rank, reuse_query=warm, p_memory=None, q_memory=None)
    memories = [torch.zeros(shape) for shape in SHAPES.values()]
    x, path = torch.zeros(gradients.shape[1]), []
    for t, gradient in enumerate(gradients):
        fresh = iter(_factors(rank, t))
        reducer.set_random = lambda q, fresh=fresh: q.copy_(next(fresh))
        parts = gradient.split([memory.numel() for memory in memories])
        sent = [part.view_as(memory) + memory for part, memory in zip(parts, memories, strict=True)]
        out = [torch.zeros_like(memory) for memory in memories]
        reducer.reduce(sent, out, memories)
        x = x - LR * torch.cat([o.flatten() for o in out])
        path.append(x)
    return torch.stack(path)


def _factors(rank: int, step: int) -> list[Tensor]:
    """Q of each matrix as ours draws it."""
    sizes = [shape[1] * rank for shape in SHAPES.values() if len(shape) > 1]
    return [q.view(-1, rank) for q in bits.normals(sum(sizes), STREAMS.draw("low rank", step)).split(sizes)]


def of_deepspeed(clone: Path) -> Iterator[Row]:
    """The exchange of DeepSpeed's 1-bit Adam, between one rank and itself."""
    path = "deepspeed/runtime/comm/compressed.py"
    backend = object.__new__(borrowed.load(clone / path).CompressedBackend)
    vars(backend).update(size=1, rank=0, world_group=None, packer=borrowed.Packer)
    gradients, lr = normal(TILE, voters=1), 0.125
    mine = ours("doublesqueeze", gradients, lr, zeros="plus", ties="plus")
    found = difference(mine, _by_deepspeed(backend, gradients, lr))
    as_it_is = _by_deepspeed(backend, gradients, lr, norm=torch.linalg.vector_norm)
    ratio = float(as_it_is[-1].norm() / mine[-1].norm())
    note = f"|p|_1/d is put for its scale |p|_2/sqrt(d), with which |x| comes to {ratio:.2f} times ours"
    yield Row("doublesqueeze", "DeepSpeed, CompressedBackend", "one rank, scaled signs both ways", found, note)


def _by_deepspeed(backend, gradients: Tensor, lr: float, norm=borrowed.mean_magnitude) -> Tensor:
    """x (steps, d). norm: what is divided by sqrt(d) for a scale."""
    size = gradients.shape[-1]
    of_rank, of_share, x, path = torch.zeros(size), torch.zeros(size), torch.zeros(size), []
    with patch.object(torch.linalg, "norm", norm), patch.object(torch.linalg, "vector_norm", norm):
        for (gradient,) in gradients:
            x = x - lr * backend.compressed_allreduce(gradient.clone(), of_rank, of_share, 0)
            path.append(x)
    return torch.stack(path)


def of_torch() -> Iterator[Row]:
    """Optimisers of torch, on one voter's gradients."""
    optim, gradients = torch.optim, normal(TILE, voters=1)
    for name, hyper, lr, make in (
        ("sgd", {"momentum": 0.9, "weight_decay": 0.1}, 0.1, lambda p: optim.SGD(p, 0.1, 0.9, weight_decay=0.1)),
        ("sgd", {"momentum": 0.9, "nesterov": True}, 0.1, lambda p: optim.SGD(p, 0.1, 0.9, nesterov=True)),
        ("adam", {"weight_decay": 0.1}, 0.01, lambda p: optim.AdamW(p, 0.01, weight_decay=0.1)),
        ("adagrad", {}, 0.1, lambda p: optim.Adagrad(p, 0.1)),
        ("adadelta", {"rho": 0.9}, 1.0, lambda p: optim.Adadelta(p, 1.0)),
    ):
        x = torch.zeros(TILE, requires_grad=True)
        optimizer, path = make([x]), []
        for row in gradients:
            x.grad = row[0].clone()
            optimizer.step()
            path.append(x.detach().clone())
        found = difference(ours(name, gradients, lr, **hyper), torch.stack(path))
        inputs = ", ".join(f"{key} = {value}" for key, value in hyper.items()) or "defaults"
        yield Row(name, f"torch, {type(optimizer).__name__}", inputs, found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name, repository in REPOSITORIES.items():
        parser.add_argument(f"--{name}", type=Path, metavar="CLONE", help=f"of github.com/{repository}")
    clones = {name: clone for name, clone in vars(parser.parse_args()).items() if clone}
    for name, clone in clones.items():
        if not (clone / ".git").exists():
            address = f"https://github.com/{REPOSITORIES[name]}"
            parser.error(f"--{name} {clone}: there is no clone; make it by git clone {address} {clone}")
    borrowed.prepare([*clones.values(), *(clone / "paper-code" for clone in clones.values())], VOTERS)
    comparisons = {
        "grace": of_grace.rows,
        "dgc": of_dgc,
        "powersgd": of_powersgd,
        "deepspeed": lambda: of_deepspeed(clones["deepspeed"]),
    }
    rows = [row for name, compare in comparisons.items() if name in clones for row in compare()] + [*of_torch()]
    commits = [f"{clone.name} {borrowed.commit(clone)}" for clone in clones.values()]
    print(", ".join([*commits, f"torch {torch.__version__}"]), end="\n\n")
    print("| method | theirs | inputs | largest difference | how theirs was helped, and what it does otherwise |")
    print("|---|---|---|---|---|", *(row.line() for row in rows), sep="\n")
    return 0 if all(row.fine for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
