"""What takes seconds before a command starts: imported by the server of tests/preloaded.py, and by nobody else."""

import gc
import importlib

from mpisign.bits.precompile import compile_ahead

for name in ("torch._dynamo", "sklearn.datasets", "matplotlib.pyplot", "mpisign.cli", "mpisign.run.train"):
    importlib.import_module(name)
compile_ahead()  # from disk, where compiled kernels lie
# a copy that looked for garbage here would have to have a page of its own for each
gc.collect()
gc.freeze()
