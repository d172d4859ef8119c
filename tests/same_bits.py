"""The same jobs under the MPI of each environment: rows and parameters must be the same, bit for bit.

python tests/same_bits.py .venv .venv-openmpi
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from mpisign.results import Run, load_parameters

ALGORITHMS = ("signum-mv", "ssdm", "dist-ef-signsgd", "ssvr-mv", "dvr-q", "onebit-adam", "sgd")
RANKS, CLOCKS = (2, 5), {"seconds"}


def train(environment: Path, algorithm: str, n: int, folder: Path) -> Path:
    """The run file of a short run of the built-in job."""
    file = folder / f"{environment.name}-{algorithm}-{n}.h5"
    settings = ("run.steps=60", "run.record_every=1", f"algorithm.name={algorithm}", f"run.file={file}")
    flags = [part for setting in settings for part in ("--set", setting)]
    program = environment.absolute() / "bin"
    command = [program / "mpirun", "-n", str(n), program / "mpisign", "train", *flags]
    subprocess.run(command, check=True, timeout=120, stdout=subprocess.DEVNULL)
    return file


def same(one: Path, other: Path) -> bool:
    runs, kept = (Run(one), Run(other)), [load_parameters(f.with_suffix(".model")) for f in (one, other)]
    columns = [(table, name) for table in ("steps", "eval") for name in set(runs[0][table]) - CLOCKS]
    rows = all(np.array_equal(runs[0][t][c], runs[1][t][c], equal_nan=True) for t, c in columns)
    return rows and all(np.array_equal(kept[0][name], kept[1][name]) for name in kept[0])


if __name__ == "__main__":
    environments, bad = [Path(argument) for argument in sys.argv[1:3]], 0
    with tempfile.TemporaryDirectory() as folder:
        for algorithm in ALGORITHMS:
            for n in RANKS:
                files = [train(environment, algorithm, n, Path(folder)) for environment in environments]
                fine = same(*files)
                bad += not fine
                libraries = " and ".join(Run(file)["segments"]["mpi"][0] for file in files)
                print(f"{algorithm} n={n} under {libraries}: {'the same bits' if fine else 'DIFFERENT'}", flush=True)
    sys.exit(bad > 0)
