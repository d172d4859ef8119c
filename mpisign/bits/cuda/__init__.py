"""The kernels for tensors of a GPU, compiled by Triton: same names and arguments as host, same bits as reference.

They also run on tensors of the CPU under Triton's interpreter (TRITON_INTERPRET=1), which is how every test run
compares them. Multiplications and additions are not fused, since rounding is part of a kernel's definition. Not
promised bit for bit is add_normal: logarithm and cosine are those of the device, within two units in the last place of
a float32. What is rare on a GPU takes the way over the host: votes other than a majority, fields for an integer
all-reduce, messages that are not planes.
"""

from mpisign.bits.cuda.deciding import *
from mpisign.bits.cuda.fallback import *
from mpisign.bits.cuda.moving import *
from mpisign.bits.cuda.packing import *
from mpisign.bits.cuda.tiles import *
