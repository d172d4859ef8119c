"""The polar factor of a matrix by Newton-Schulz steps, with the same bits on every machine; rates of its kin.

Where ranks work a polar factor out for themselves from the same verdict, x stays the same on all of them only if the
factor has the same bits. A library's product promises that on like machines with as many threads at best. Here every
sum is exact instead, so that its order does not matter: factors lie on a grid of 2^-25, products of two such are
multiples of 2^-50, and by Cauchy and Schwarz no part of a sum is as large as 4, so 53 bits of float64 hold each. What
is rounded is rounded number by number, as IEEE 754 prescribes.
"""

from typing import Literal

import numpy as np
from torch import Tensor

from mpisign import bits
from mpisign.layout import Layout, Segment

GRID = 2.0**25  # a factor is a whole number of its inverses

Kind = Literal["muon", "converged"]
# steps, and a, b, c of X <- aX + (bA + cA^2)X with A = X X^T. Muon's leave most singular values between 0.68 and 1.2,
# and small ones smaller; the others make them 1, but for those below about 1e-5 of the Frobenius norm, which stay small
STEPS: dict[Kind, tuple[int, float, float, float]] = {
    "muon": (5, 3.4445, -4.7750, 2.0315),
    "converged": (20, 15 / 8, -10 / 8, 3 / 8),
}


def votes_as_matrix(segment: Segment) -> bool:
    """Whether a parameter is voted on as a matrix: it has two or more dimensions, and votes."""
    return segment.is_matrix and segment.size > 0 and segment.options.vote


def to_polar(v: Tensor, layout: Layout, kind: Kind) -> None:
    """Every matrix in v, flat, becomes its polar factor U V^T; 0 stays 0, and what is no matrix stays as it is."""
    norms = np.sqrt(layout.block_sums(bits.tile_sums(v, layout.all_tiles, squares=True)))
    for k, s in enumerate(layout.segments):
        if votes_as_matrix(s) and norms[k]:
            m = v[s.offset : s.end].view(s.matrix)
            m.copy_(polar(m, float(norms[k]), kind))


def polar(matrix: Tensor, norm: float, kind: Kind = "muon") -> Tensor:
    """The polar factor of a matrix (rows, columns), float32, norm being its Frobenius norm, as float32.

    Raises nothing: a matrix that is not finite gives one that is not.
    """
    steps, a, b, c = STEPS[kind]
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = wide.double().div_(norm).mul_(GRID).round_()  # whole numbers, in units of the grid
    for _ in range(steps):
        gram = (x @ x.T).div_(GRID).round_()
        square = (gram @ gram).div_(GRID)
        # products and sums in calls of their own, which no compiler may contract
        change = gram.mul(b).add_(square.mul_(c)).round_()
        x = x.mul(a).add_((change @ x).div_(GRID)).round_()
    factor = x.div_(GRID).float()
    return factor if wide is matrix else factor.T


def gain(segment: Segment, family: Literal["polar", "sign"]) -> float:
    """What multiplies the rate of a matrix, by which a step of lr has the gain lr on white input, whatever its shape.

    sqrt(max(1, rows/columns)) for polar factors, 1/sqrt(columns) for signs [the code of SignMuon, unit gain].
    """
    rows, columns = segment.matrix
    return max(1.0, rows / columns) ** 0.5 if family == "polar" else columns**-0.5
