"""A character transformer, trained by all ranks of MPI: plain.py after the change that the README shows.

mpirun -n 4 python jobs/transformer/voted.py [--text FILE] [--steps 300]
torchrun --nproc-per-node 4 jobs/transformer/voted.py             the same ranks by torch.distributed, without MPI
"""

import argparse
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from mpisign.optim import SignOptimizer


class Block(nn.Module):
    """Attention and a perceptron, each behind a LayerNorm and added to what comes in."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x):
        b, t, width = x.shape
        q, k, v = (
            part.view(b, t, self.heads, width // self.heads).transpose(1, 2)
            for part in self.qkv(self.norm1(x)).split(width, dim=2)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(b, t, width))
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """Logits of the next character at every place of a window."""

    def __init__(self, characters: int, window: int = 64, width: int = 64, heads: int = 4, depth: int = 2):
        super().__init__()
        self.characters = nn.Embedding(characters, width)
        self.places = nn.Embedding(window, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, characters)

    def forward(self, x):
        places = torch.arange(x.shape[1], device=x.device)
        return self.head(self.norm(self.blocks(self.characters(x) + self.places(places))))

    def loss(self, windows):
        """Mean cross-entropy of windows (batch, length + 1) of character numbers."""
        logits = self(windows[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())


def read(file: Path | None) -> torch.Tensor:
    """Character numbers of a text; by default of the language reference that comes with Python."""
    if file is None:
        from pydoc_data.topics import topics

        text = "\n".join(topics.values())
    else:
        text = file.read_text()
    number = {c: i for i, c in enumerate(sorted(set(text)))}
    return torch.tensor([number[c] for c in text])


def windows_of(text: torch.Tensor, starts: torch.Tensor, length: int) -> torch.Tensor:
    return torch.stack([text[s : s + length + 1] for s in starts.tolist()])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=1e-3)
    options = parser.parse_args()

    torch.manual_seed(1)
    text, length = read(options.text), 64
    held_out, text = text[-len(text) // 10 :], text[: -len(text) // 10]
    model = Transformer(characters=int(text.max()) + 1, window=length)
    optimizer = SignOptimizer(model, "signum-mv", lr=options.lr, weight_decay=0.1)
    rank = optimizer.ranks.rank
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
        if rank == 0:
            print(f"held out: {model.loss(windows).item():.4f}")


if __name__ == "__main__":
    main()
