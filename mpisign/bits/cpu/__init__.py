"""The kernels for one CPU thread, compiled by numba: same names, arguments and bits as reference.

Loops go over slices and release the GIL; callers bring their own threads. Nothing is contracted to a
fused multiply-add and nothing is reassociated, since rounding is part of a kernel's definition.
"""

from mpisign.bits.cpu.deciding import *
from mpisign.bits.cpu.moving import *
from mpisign.bits.cpu.packing import *
from mpisign.bits.cpu.quantised import *
from mpisign.bits.cpu.sparse import *
