"""Discrete cosine transforms of the chunks of parameters, with the same bits on every machine.

As with polar factors (polar.py), ranks that work a transform out for themselves must come to the same bits. Here a
chunk is whole numbers of 22 bits, a basis whole numbers of 2^-24, and by Cauchy and Schwarz no part of a sum of their
products is as large as 2^53, for chunks of up to 64 by 64: float64 holds each exactly, in whatever order it is added.
What is rounded is rounded number by number, as IEEE 754 prescribes.
"""

from functools import cache

import numpy as np
import torch
from torch import Tensor

from mpisign.layout import Layout, Segment

LARGEST = 64  # coordinates of a side of a chunk at most
BITS = 22  # of the whole numbers of a chunk
GRID = 2.0**24  # an entry of a basis is a whole number of its inverses


def to_coefficients(v: Tensor, layout: Layout, chunk: int) -> None:
    """Every parameter in v, flat, that votes becomes the coefficients of its chunks, one chunk after the other.

    A parameter of two or more dimensions is a matrix (its first dimension, all others), any other a row. chunk: of the
    divisors of a side up to it, the largest is the side of its chunks.
    """
    for s in (s for s in layout.segments if s.options.vote and s.size):
        m, (height, width) = _as_matrix(v, s), sides(s, chunk)
        chunks = m.view(m.shape[0] // height, height, m.shape[1] // width, width).transpose(1, 2)
        v[s.offset : s.end] = transformed(chunks, basis(height), basis(width)).reshape(-1)


def from_coefficients(v: Tensor, layout: Layout, chunk: int) -> None:
    """The inverse of to_coefficients, but for rounding."""
    for s in (s for s in layout.segments if s.options.vote and s.size):
        m, (height, width) = _as_matrix(v, s), sides(s, chunk)
        chunks = v[s.offset : s.end].view(m.shape[0] // height, m.shape[1] // width, height, width)
        m.copy_(transformed(chunks, basis(height).T, basis(width).T).transpose(1, 2).reshape(m.shape))


def sides(segment: Segment, chunk: int) -> tuple[int, int]:
    """Height and width of the chunks of a parameter."""
    rows, columns = segment.matrix if segment.is_matrix else (1, segment.size)
    return _side(rows, chunk), _side(columns, chunk)


def _side(size: int, most: int) -> int:
    """The largest divisor of a size that is at most `most`."""
    return next(side for side in range(min(size, most), 0, -1) if size % side == 0)


def _as_matrix(v: Tensor, segment: Segment) -> Tensor:
    part = v[segment.offset : segment.end]
    return part.view(segment.matrix if segment.is_matrix else (1, segment.size))


@cache
def basis(size: int) -> Tensor:
    """The orthonormal DCT-II (size, size) as whole numbers of 1/GRID, float64: row k is the cosine of frequency k.

    Cosines of two libraries differ by 2^-53, which is nothing beside the grid.
    """
    k, i = np.ogrid[:size, :size]
    cosines = np.cos(np.pi * (2 * i + 1) * k / (2 * size)) * np.sqrt(np.where(k, 2, 1) / size)
    return torch.from_numpy(np.rint(cosines * GRID))


def transformed(chunks: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """left @ chunk @ right^T of each chunk (..., height, width), float32; a chunk's largest value sets its grid."""
    exponents = torch.frexp(chunks.abs().amax(dim=(-2, -1), keepdim=True)).exponent
    left, right = left.to(chunks.device), right.to(chunks.device)
    x = (chunks.double() * _power(BITS - exponents)).round_()
    x = (left @ x).div_(GRID).round_()
    x = (x @ right.T).div_(GRID).round_()
    return (x * _power(exponents - BITS)).float()


def _power(exponents: Tensor) -> Tensor:
    """2**exponents, float64, from its bits: a library's power may be off by the last one."""
    return ((exponents.long() + 1023) << 52).view(torch.float64)
