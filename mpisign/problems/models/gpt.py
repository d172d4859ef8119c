"""`char-gpt`: a decoder-only transformer over characters, with the norms in front [Radford et al. 2019, GPT-2]."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Causal self-attention with several heads."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.mixed, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.mixed(x).chunk(3, dim=2))
        dropped = self.dropout if self.training else 0.0
        seen = F.scaled_dot_product_attention(q, k, v, dropout_p=dropped, is_causal=True)
        return self.out(seen.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """Attention, then a perceptron of four times the width, each with a way around."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.first_norm, self.attention = nn.LayerNorm(width), Attention(width, heads, dropout)
        self.second_norm, self.wide = nn.LayerNorm(width), nn.Linear(width, 4 * width)
        self.narrow, self.drop = nn.Linear(4 * width, width), nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop(self.attention(self.first_norm(x)))
        return x + self.drop(self.narrow(F.gelu(self.wide(self.second_norm(x)))))


class Gpt(nn.Module):
    """Characters (b, t) to logits (b, t, characters)."""

    def __init__(self, characters: int, context: int, layers: int, heads: int, width: int, dropout: float):
        super().__init__()
        self.what, self.where = nn.Embedding(characters, width), nn.Embedding(context, width)
        self.layers = nn.Sequential(*(Layer(width, heads, dropout) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, characters)

    def reset_parameters(self) -> None:
        """Called after the layers' own: matrices of deviation 0.02, those that end a way around less, by depth."""
        for name, p in self.named_parameters():
            if p.dim() > 1:
                ends = name.endswith(("out.weight", "narrow.weight"))
                nn.init.normal_(p, std=0.02 / (2 * len(self.layers)) ** 0.5 if ends else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def forward(self, x: Tensor) -> Tensor:
        places = torch.arange(x.shape[1], device=x.device)
        return self.head(self.norm(self.layers(self.what(x) + self.where(places))))


def char_gpt(characters: int, context: int, layers: int, heads: int, width: int, dropout: float) -> nn.Module:
    """heads must divide width."""
    return Gpt(characters, context, layers, heads, width, dropout)
