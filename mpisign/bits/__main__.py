"""python -m mpisign.bits: compile the CPU kernels ahead of the first run on a node."""

import time

from mpisign.bits.ahead import compile_ahead

if __name__ == "__main__":
    start = time.perf_counter()
    compile_ahead()
    print(f"kernels ready in {time.perf_counter() - start:.1f} s")
