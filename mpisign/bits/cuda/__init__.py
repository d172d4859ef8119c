"""The kernels for tensors of a GPU, compiled by Triton: same names and arguments as host, same bits as reference.

They also run on tensors of the CPU under Triton's interpreter (TRITON_INTERPRET=1), which is how every test run
compares them. Multiplications and additions are not fused, since rounding is part of a kernel's definition. Not
promised bit for bit is add_normal: logarithm and cosine are those of the device, within two units in the last place of
a float32. What is rare on a GPU takes the way over the host: votes other than a plain majority, fields for an integer
all-reduce.
"""

from mpisign.bits.cuda.deciding import count, majority
from mpisign.bits.cuda.detour import (
    add,
    agreement,
    codes,
    differing,
    gather,
    randomised_majority,
    spread,
    uniforms,
    weighted_majority,
)
from mpisign.bits.cuda.moving import add_levels, add_normal, add_signed, apply, blend, first_nonfinite
from mpisign.bits.cuda.packing import (
    pack,
    pack_parts,
    pack_scaled_parts,
    pack_stochastic,
    pack_stochastic_parts,
)
from mpisign.bits.cuda.tiles import add_and_sum, tile_maxima, tile_sums

__all__ = [
    "add",
    "add_and_sum",
    "add_levels",
    "add_normal",
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
    "pack_scaled_parts",
    "pack_stochastic",
    "pack_stochastic_parts",
    "randomised_majority",
    "spread",
    "tile_maxima",
    "tile_sums",
    "uniforms",
    "weighted_majority",
]
