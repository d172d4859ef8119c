"""The same jobs under the MPI of each environment: rows and parameters must be the same, bit for bit.

python -m tests.same_bits .venv .venv-openmpi
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from mpisign.storage.reader import Run
from tests.comparing import differing

ALGORITHMS = ("signum-mv", "ssdm", "dist-ef-signsgd", "ssvr-mv", "dvr-q", "onebit-adam", "sgd")
RANKS = (2, 5)


def train(environment: Path, algorithm: str, n: int, folder: Path) -> Path:
    """The run file of a short run of the built-in job."""
    file = folder / f"{environment.name}-{algorithm}-{n}.h5"
    settings = ["run.steps=60", "run.record_every=1", f"algorithm.name={algorithm}", f"run.file={file}"]
    settings += [] if algorithm in ("sgd", "adam") else ["exchange.name=sharded"]  # bytes are compared, too
    flags = [part for setting in settings for part in ("--set", setting)]
    program = environment.absolute() / "bin"
    command = [program / "mpirun", "-n", str(n), program / "mpisign", "train", *flags]
    subprocess.run(command, check=True, timeout=120, stdout=subprocess.DEVNULL)
    return file


if __name__ == "__main__":
    environments, bad = [Path(argument) for argument in sys.argv[1:3]], 0
    with tempfile.TemporaryDirectory() as folder:
        for algorithm in ALGORITHMS:
            for n in RANKS:
                files = [train(environment, algorithm, n, Path(folder)) for environment in environments]
                fine = not differing(*files)
                bad += not fine
                libraries = " and ".join(Run(file)["segments"]["mpi"][0] for file in files)
                print(f"{algorithm} n={n} under {libraries}: {'the same bits' if fine else 'DIFFERENT'}", flush=True)
    sys.exit(bad > 0)
