"""The kernels as obvious numpy: one bit at a time where it is clearer. Slow; the definition of the fast ones.

Arrays: v float32 (d,); a plane is uint64 (ceil(d/64),), little-endian, bit 1 is +1; `at` is the
coordinate of v[0], a multiple of 64.
"""

from mpisign.bits.reference.common import *
from mpisign.bits.reference.deciding import *
from mpisign.bits.reference.moving import *
from mpisign.bits.reference.packing import *
from mpisign.bits.reference.quantised import *
from mpisign.bits.reference.sparse import *
