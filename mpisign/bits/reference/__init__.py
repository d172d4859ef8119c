"""The kernels as obvious numpy: one bit at a time where it is clearer. Slow; the definition of the fast ones.

Arrays: v float32 (d,); a plane is uint64 (ceil(d/64),), little-endian, bit 1 is +1; `at` is the
coordinate of v[0], a multiple of 64.
"""

from mpisign.bits.reference.common import coin, first_nonfinite, normal, to_bits, to_words, uniform
from mpisign.bits.reference.deciding import (
    add,
    agreement,
    codes,
    count,
    differing,
    gather,
    majority,
    numbers,
    randomised_majority,
    spread,
    tally,
    weighted_majority,
)
from mpisign.bits.reference.moving import (
    add_and_sum,
    add_levels,
    add_normal,
    add_signed,
    apply,
    blend,
    tile_maxima,
    tile_sums,
)
from mpisign.bits.reference.packing import pack, pack_parts, pack_scaled_parts, pack_stochastic, pack_stochastic_parts

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
    "coin",
    "count",
    "differing",
    "first_nonfinite",
    "gather",
    "majority",
    "normal",
    "numbers",
    "pack",
    "pack_parts",
    "pack_scaled_parts",
    "pack_stochastic",
    "pack_stochastic_parts",
    "randomised_majority",
    "spread",
    "tally",
    "tile_maxima",
    "tile_sums",
    "to_bits",
    "to_words",
    "uniform",
    "weighted_majority",
]
