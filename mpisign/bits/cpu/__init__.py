"""The kernels for one CPU thread, compiled by numba: same names, arguments and bits as reference.

Loops go over slices and release the GIL; callers bring their own threads. Nothing is contracted to a
fused multiply-add and nothing is reassociated, since rounding is part of a kernel's definition.
"""

from mpisign.bits.cpu.deciding import (
    add,
    agreement,
    codes,
    count,
    differing,
    gather,
    majority,
    randomised_majority,
    spread,
    weighted_majority,
)
from mpisign.bits.cpu.moving import (
    add_and_sum,
    add_levels,
    add_normal,
    add_normal_rows,
    add_signed,
    apply,
    blend,
    first_nonfinite,
    tile_maxima,
    tile_sums,
    uniform_rows,
)
from mpisign.bits.cpu.packing import (
    pack,
    pack_parts,
    pack_rows,
    pack_scaled_parts,
    pack_stochastic,
    pack_stochastic_parts,
    pack_stochastic_rows,
)

__all__ = [
    "add",
    "add_and_sum",
    "add_levels",
    "add_normal",
    "add_normal_rows",
    "add_signed",
    "agreement",
    "apply",
    "blend",
    "codes",
    "count",
    "differing",
    "first_nonfinite",
    "gather",
    "majority",
    "pack",
    "pack_parts",
    "pack_rows",
    "pack_scaled_parts",
    "pack_stochastic",
    "pack_stochastic_parts",
    "pack_stochastic_rows",
    "randomised_majority",
    "spread",
    "tile_maxima",
    "tile_sums",
    "uniform_rows",
    "weighted_majority",
]
