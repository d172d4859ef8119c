"""A byte-level GPT with parameters of 16 bits: votes of ranks, votes of nodes over FSDP's shards, or AdamW.

mpirun -n 4 python jobs/gpt/train.py --text FILE [--by rank|node|adamw] [--node 2] [--steps 400] [--seed 1] [--lr 5e-4]
       [--compute bfloat16|float32]

--by rank    every rank is a voter of signum-mv, or of another --algorithm of the zoo, with --lr for matrices
--by node    the model is sharded over the ranks of a node by FSDP2, and each node is one voter of signum-mv
--by adamw   no votes: AdamW on the mean of float32 gradients, by an all-reduce of all ranks

All three keep x in float32, of which the parameters are bfloat16 copies; see the same batches; and warm up, then follow
a cosine. Matrices decay, vectors do not. The last line is the loss on the last tenth of the text, in bits per byte.
--compute float32 casts the parameters up on their way into the model, and their gradients back: on a processor that
multiplies no bfloat16 a step takes a tenth of the time.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from mpi4py import MPI
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

import mpisign
from mpisign.optim import SignOptimizer

WARMUP = 0.05  # of all steps


class Block(nn.Module):
    """Causal attention, then a perceptron of four times the width, each behind a LayerNorm and with a way around."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        q, k, v = (p.unflatten(2, (self.heads, -1)).transpose(1, 2) for p in self.qkv(self.norm1(x)).chunk(3, dim=2))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.narrow(F.gelu(self.wide(self.norm2(x))))


class Gpt(nn.Module):
    """Bytes (b, t) to logits (b, t, 256)."""

    def __init__(self, width: int, heads: int, depth: int, window: int):
        super().__init__()
        self.bytes, self.places = nn.Embedding(256, width), nn.Embedding(window, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 256, bias=False)
        for name, p in self.named_parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=0.02 / (math.sqrt(2 * depth) if "out" in name or "narrow" in name else 1))

    def forward(self, x):
        y = self.bytes(x) + self.places.weight[: x.shape[1]]
        for block in self.blocks:
            y = block(y)
        return self.head(self.norm(y))


class Cast(nn.Module):
    """A model that computes in another dtype than that of its parameters."""

    def __init__(self, model: nn.Module, dtype: torch.dtype):
        super().__init__()
        self.model, self.dtype = model, dtype

    def forward(self, x):
        return functional_call(self.model, {name: p.to(self.dtype) for name, p in self.model.named_parameters()}, x)


def loss_of(model: nn.Module, windows: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy, in nats, of windows (batch, length + 1) of bytes."""
    logits = model(windows[:, :-1])
    return F.cross_entropy(logits.float().flatten(0, 1), windows[:, 1:].flatten())


def draw(text: torch.Tensor, generator: torch.Generator, batch: int, length: int) -> torch.Tensor:
    starts = torch.randint(len(text) - length - 1, (batch, 1), generator=generator)
    return text[starts + torch.arange(length + 1)]


def sharded(model: nn.Module, ranks: int, compute: torch.dtype):
    """FSDP2 over the ranks of a node; returns their mesh, which is one voter's."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mpisign.start_process_group()
    # gradients are averaged as they are elsewhere
    policy = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32)
    mesh = init_device_mesh("cpu", (mpisign.size() // ranks, ranks), mesh_dim_names=("voters", "shards"))["shards"]
    for block in model.blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    return mesh


def optimizer_of(model: nn.Module, options: argparse.Namespace) -> SignOptimizer:
    by_node = options.by == "node"
    voters = {"voters": sharded(model, options.node, getattr(torch, options.compute))} if by_node else {}
    named = list(model.named_parameters())
    groups = [
        {"params": [(name, p) for name, p in named if p.dim() > 1], "weight_decay": options.weight_decay},
        {"params": [(name, p) for name, p in named if p.dim() <= 1], "weight_decay": 0.0},
    ]
    algorithm = "adam" if options.by == "adamw" else options.algorithm
    hyper = {"adam": {"beta2": 0.95}, "signum-mv": {"beta": 0.95}}.get(algorithm, {})
    return SignOptimizer(groups, algorithm, lr=options.lr, seed=options.seed, model=model, **hyper, **voters)


def schedule(step: int, steps: int) -> float:
    """The factor of the learning rate: up in a line, then down to a tenth by a cosine."""
    warmup = max(int(WARMUP * steps), 1)
    if step < warmup:
        return (step + 1) / warmup
    return 0.55 + 0.45 * math.cos(math.pi * (step - warmup) / max(steps - warmup, 1))


def held_out_bits(model: nn.Module, text: torch.Tensor, length: int) -> float:
    """Mean loss over a text, in bits per byte. Ranks share its windows evenly; up to n - 1 at the end are left out."""
    windows = text[: (len(text) - 1) // length * length + 1].unfold(0, length + 1, length)
    own = windows[: len(windows) // mpisign.size() * mpisign.size()][mpisign.rank() :: mpisign.size()]
    with torch.no_grad():
        loss = sum(float(loss_of(model, some)) * len(some) for some in own.split(64)) / len(own)
    return MPI.COMM_WORLD.allreduce(loss) / mpisign.size() / math.log(2)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--by", choices=("rank", "node", "adamw"), default="rank")
    parser.add_argument("--algorithm", default="signum-mv", help="of the zoo, by its name")
    parser.add_argument("--node", type=int, default=2, help="ranks of a node")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--compute", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--batch", type=int, default=4, help="windows of a rank at once")
    parser.add_argument("--accumulate", type=int, default=2, help="batches whose gradients add up to one of a step")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--window", type=int, default=128)
    options = parser.parse_args()
    if options.by == "node" and mpisign.size() % options.node:
        parser.error(f"--node {options.node} does not divide the {mpisign.size()} ranks")
    return options


def main():
    options = arguments()
    text = torch.from_numpy(np.fromfile(options.text, dtype=np.uint8)).long()
    held_out, text = text[-len(text) // 10 :], text[: -len(text) // 10]
    torch.manual_seed(options.seed)
    model = Gpt(options.width, options.heads, options.depth, options.window).bfloat16()
    optimizer = optimizer_of(model, options)
    if options.by != "node" and options.compute == "float32":  # FSDP casts by itself
        model = Cast(model, torch.float32)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule(step, options.steps))
    generator = torch.Generator().manual_seed(1000 * options.seed + mpisign.rank())
    for step in range(options.steps):
        optimizer.zero_grad()
        for k in range(options.accumulate):
            if options.by == "node":  # gradients are averaged inside the node once
                model.set_requires_gradient_sync(k == options.accumulate - 1)
            loss = loss_of(model, draw(text, generator, options.batch, options.window)) / options.accumulate
            loss.backward()
        optimizer.step()
        scheduler.step()
        if step % 50 == 49 and mpisign.rank() == 0:
            print(f"step {step + 1}: {loss.item() * options.accumulate / math.log(2):.3f} bits per byte", flush=True)
    bits = held_out_bits(model.eval(), held_out, options.window)
    if mpisign.rank() == 0:
        print(f"held out: {bits:.4f} bits per byte")


if __name__ == "__main__":
    main()
