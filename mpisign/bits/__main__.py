"""python -m mpisign.bits: compile the CPU kernels ahead of the first run on a node."""

import sys
import time

from mpisign.bits.precompile import compile_at_once, state

if __name__ == "__main__":
    start = time.perf_counter()
    compile_at_once()
    kept = state()
    print(f"kernels ready in {time.perf_counter() - start:.1f} s, {kept}")
    sys.exit(f"mpisign: {kept.remedy}" if kept.remedy else 0)
