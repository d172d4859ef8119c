"""The transformer of voted.py, cut by fully_shard among the ranks of a node, which are one voter together.

mpirun -n 4 python jobs/transformer/sharded.py [--of 2] [--steps 300]
torchrun --nproc-per-node 4 jobs/transformer/sharded.py           the same ranks by torch.distributed, without MPI
"""

import argparse

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from voted import Transformer, read, windows_of

import mpisign
from mpisign.optim import SignOptimizer


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--of", type=int, default=2, help="ranks of a voter: those of a node")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=1e-3)
    options = parser.parse_args()

    torch.manual_seed(1)
    text, length = read(None), 64
    held_out, text = text[-len(text) // 10 :], text[: -len(text) // 10]
    model = Transformer(characters=int(text.max()) + 1, window=length)
    mpisign.start_process_group()
    rank, of = mpisign.rank(), options.of
    mesh = init_device_mesh("cpu", (mpisign.size() // of, of), mesh_dim_names=("replicate", "shard"))
    for module in (*model.blocks, model):
        fully_shard(module, mesh=mesh["shard"])
    optimizer = SignOptimizer(model, "signum-mv", lr=options.lr, weight_decay=0.1, voters=mesh)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.steps)
    generator = torch.Generator().manual_seed(rank)
    for step in range(options.steps):
        starts = torch.randint(len(text) - length, (options.batch,), generator=generator)
        loss = model.loss(windows_of(text, starts, length))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        if step % 50 == 49 and rank == 0:
            print(f"step {step + 1}: loss {loss.item():.3f}")
    with torch.no_grad():
        windows = held_out[: len(held_out) // (length + 1) * (length + 1)].view(-1, length + 1)[:500]
        loss = model.loss(windows).item()  # of all ranks, each of which has pieces of the model
        if rank == 0:
            print(f"held out: {loss:.4f}")


if __name__ == "__main__":
    main()
