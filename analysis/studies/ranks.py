"""MNIST by 8 voters, by 6 from a third of the run on, and by 8 again for the last third, beside 8 all the time.

python analysis/studies/ranks.py data/mnist --folder runs/ranks

A run of 8 voters saves checkpoints at both thirds. A copy of it, as if it had been killed, goes on with other voters
from the first, and that one with 8 from the second. Prints a table, with held-out accuracies over the seeds.
"""

import argparse
import shutil
import statistics
import sys
from pathlib import Path

import h5py

from mpisign import config
from mpisign.run.train import resume, simulate
from mpisign.storage import checkpoint
from mpisign.storage.reader import Run

METHODS = ("signum-mv", "dist-ef-signsgd", "ssvr-mv", "adam")
RATES = {"signum-mv": 1e-3, "dist-ef-signsgd": 0.1, "ssvr-mv": 1e-3, "adam": 1e-3}
STEPS = 750  # a multiple of 3: three epochs of batches of 240, which 8 and 6 voters share evenly
JOB = (
    "problem.name=mnist",
    "problem.global_batch_size=240",
    "partition.kind=dirichlet",
    "schedule.kind=cosine",
    f"run.steps={STEPS}",
    "run.eval_every=25",
    f"checkpoint.every_steps={STEPS // 3}",
    "checkpoint.keep=9",
)


def undisturbed(file: Path, method: str, seed: int, data: Path) -> None:
    """A run of 8 voters, unless it is there."""
    if file.exists() and Run(file).complete:
        return
    own = (f"algorithm.name={method}", f"schedule.lr={RATES[method]}", f"run.seed={seed}", f"problem.path={data}")
    simulate(config.load(None, (*JOB, *own, f"run.file={file}", "run.overwrite=true")), 8, quiet=True)


def changed(file: Path, of: Path, residuals: str) -> None:
    """The same run with 6 voters in its middle third, unless it is there."""
    if file.exists() and Run(file).complete and Run(file).voters == "8-6-8":
        return
    shutil.copy(of, file)
    shutil.rmtree(checkpoint.folder(file), ignore_errors=True)
    shutil.copytree(checkpoint.folder(of), checkpoint.folder(file))
    for voters, step in ((6, STEPS // 3), (8, 2 * STEPS // 3)):
        forget_the_end(file)
        settings = (f"run.voters={voters}", f"checkpoint.residuals={residuals}")
        resume(file, settings, checkpoint.path_at(file, step), ranks_changed=True)


def forget_the_end(file: Path) -> None:
    """Takes the event from a run that tells that it is complete."""
    with h5py.File(file, "r+") as opened:
        for column in opened["events"].values():
            column.resize(len(column) - 1, axis=0)


def told(values: list[float]) -> str:
    return f"{statistics.median(values):.4f} ({min(values):.4f} to {max(values):.4f})"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("data", type=Path, help="folder of MNIST's IDX files")
    options.add_argument("--folder", type=Path, default=Path("runs/ranks"))
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    given = options.parse_args()
    head = ("method", "residuals", "8 voters", "8, 6 and 8 voters", "largest difference at one seed")
    rows = [f"| {' | '.join(head)} |", "|---|---|---|---|---|"]
    for method in given.methods:
        for residuals in ("keep", "drop") if method == "dist-ef-signsgd" else ("keep",):
            ends: tuple[list[float], list[float]] = ([], [])
            for seed in range(1, given.seeds + 1):
                whole = given.folder / f"{method}-{seed}.h5"
                other = given.folder / f"{method}-{seed}-{residuals}.h5"
                undisturbed(whole, method, seed, given.data)
                changed(other, whole, residuals)
                for file, of in zip((whole, other), ends, strict=True):
                    of.append(float(Run(file)["eval"]["test_accuracy"][-1]))
            most = max(abs(a - b) for a, b in zip(*ends, strict=True))
            which = residuals if method == "dist-ef-signsgd" else "none"
            rows.append(f"| `{method}` | {which} | {told(ends[0])} | {told(ends[1])} | {most:.4f} |")
    print("\n".join(rows))  # what resumed runs print stands above


if __name__ == "__main__":
    sys.exit(main())
