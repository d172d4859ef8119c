"""Sums and maxima over tiles: float64, in the order that reference has, whatever the device."""

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from mpisign.bits.cuda.common import on

__all__ = ["add_and_sum", "tile_maxima", "tile_sums"]

ROWS = 16  # tiles of a program
SUM, SQUARES, MAXIMUM = 0, 1, 2


@triton.jit
def _over_tiles(y, x, factors, tiles, count, out, longest, KIND: tl.constexpr, ADD: tl.constexpr, ROWS: tl.constexpr):
    t = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    lo, hi = tl.load(tiles + t, mask=t < count, other=0), tl.load(tiles + count + t, mask=t < count, other=0)
    factor = tl.load(factors + tl.load(tiles + 2 * count + t, mask=t < count, other=0))[:, None]
    lane = tl.arange(0, 16)[None, :]
    total = tl.zeros((ROWS, 16), tl.float64)
    for start in range(0, longest, 16):
        # each of 16 lanes is added up in order
        i = lo[:, None] + start + lane
        inside = i < hi[:, None]
        value = tl.load(y + i, mask=inside, other=0.0)
        if ADD:
            value = value + factor * tl.load(x + i, mask=inside, other=0.0)
            tl.store(y + i, value, mask=inside)
        wide = tl.abs(value).to(tl.float64)
        if KIND == 2:
            total = tl.maximum(total, wide)
        elif KIND == 1:
            total += wide * wide
        else:
            total += wide
    if KIND == 2:
        result = tl.max(total, axis=1)
    else:
        result = tl.zeros((ROWS,), tl.float64)
        for k in tl.static_range(16):
            result += tl.sum(tl.where(lane == k, total, 0.0), axis=1)
    tl.store(out + t, result, mask=t < count)


def _tiles(y: Tensor, tiles: np.ndarray, kind: int, x: Tensor | None = None, factors: np.ndarray | None = None):
    count = tiles.shape[1]
    out = torch.empty(count, dtype=torch.float64, device=y.device)
    if not count:
        return out.numpy()
    longest = int((tiles[1] - tiles[0]).max())
    each = on(np.zeros(int(tiles[2].max()) + 1, dtype=np.float32) if factors is None else factors, y)
    arguments = (y, y if x is None else x, each, on(tiles, y), count, out, longest)
    constants = {"KIND": kind, "ADD": x is not None, "ROWS": ROWS, "enable_fp_fusion": False}
    _over_tiles[(triton.cdiv(count, ROWS),)](*arguments, **constants)
    return out.cpu().numpy()


def tile_sums(v, tiles, squares=False):
    return _tiles(v, tiles, SQUARES if squares else SUM)


def tile_maxima(v, tiles):
    return _tiles(v, tiles, MAXIMUM)


def add_and_sum(y, x, factors, tiles):
    return _tiles(y, tiles, SUM, x, factors)
