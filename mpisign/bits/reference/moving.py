"""What moves x or sums over it."""

import numpy as np

from mpisign.bits.reference.common import halves, normal, of_parts, to_bits
from mpisign.bits.reference.deciding import numbers

__all__ = [
    "add_and_sum", "add_levels", "add_normal", "add_signed", "apply", "blend", "round_stochastic", "tile_maxima",
    "tile_sums",
]  # fmt: skip


def apply(x, planes, parts, at, tables, decays):
    """x = fl(fl(decay * x) - table[code]) in each part, code being the binary number in planes (P, W).

    tables: float32 (segments, 2**P). decays: float32 (segments,).
    """
    for i, w, _, segment in of_parts(parts, at, len(x)):
        x[i] = decays[segment] * x[i] - tables[segment][numbers(planes[:, w], i.stop - i.start)]


def blend(y, x, a, b):
    """y = fl(fl(a * y) + fl(b * x))."""
    with np.errstate(over="ignore"):
        y[:] = np.float32(a) * y + np.float32(b) * x


def add_signed(total, planes, scale):
    """total += scale * sign, nothing where the second plane, if any, is 0."""
    signs = np.where(to_bits(planes[0], len(total)), np.float32(scale), -np.float32(scale))
    present = to_bits(planes[1], len(total)) if len(planes) == 2 else True
    total[:] = np.where(present, total + signs, total)


def add_and_sum(y, x, factors, tiles, sums):
    """y = fl(y + fl(factor * x)), a factor per segment; then tile_sums of |y|."""
    for lo, hi, segment in tiles.T:
        blend(y[lo:hi], x[lo:hi], 1.0, factors[segment])
    tile_sums(y, tiles, False, sums)


def add_levels(total, planes, table):
    """total += table[code], code being the binary number in planes (P, W)."""
    total += table[numbers(planes, len(total))]


def add_normal(y, scale, at, draw):
    """y = fl(y + fl(scale * xi)), xi from N(0, 1)."""
    y += np.float32(scale) * normal(draw, at, len(y))


def round_stochastic(v, at, draw, out):
    """out = (bits(v) + u) >> 16, u of 16 bits; infinities stay, and so does NaN, made quiet lest it become infinite."""
    pattern = v.view(np.uint32)
    quiet = pattern | np.where(np.isnan(v), np.uint32(1 << 22), np.uint32(0))
    rounded = np.where(np.isfinite(v), pattern + halves(draw, at, len(v)), quiet) >> np.uint32(16)
    out[:] = rounded.astype(np.uint16).view(np.int16)


def tile_maxima(v, tiles, maxima):
    """The largest |v| in each tile (3, T), as float64."""
    for t, (lo, hi, _) in enumerate(tiles.T):
        maxima[t] = np.abs(v[lo:hi]).max(initial=0.0)


def tile_sums(v, tiles, squares, sums):
    """float64 sum of |v| or v*v in each tile (3, T)."""
    for t, (lo, hi, _) in enumerate(tiles.T):
        values = v[lo:hi].astype(np.float64)
        sums[t] = lane_sum(values * values if squares else np.abs(values))


def lane_sum(values):
    """The sum of float64 values: 16 lanes, each added up in order, then lane by lane."""
    rows = np.zeros((-(-len(values) // 16), 16))
    rows.reshape(-1)[: len(values)] = values
    lanes = np.zeros(16)
    for row in rows:
        lanes += row
    total = 0.0
    for lane in lanes:
        total += lane
    return total
