"""What starts and ends cost in two checkouts: a run of one step of the built-in job, in turns, medians.

python analysis/studies/startup.py OLD NEW --ranks 1 4 8 --times 5

OLD, NEW: folders of the repository with an environment in .venv. Prints a table: seconds from `mpirun` to its end, and
seconds of a processor per rank, all of `mpirun` included, as the operating system counts them.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from mpisign.figures import tables

LIMIT = 300  # seconds for one start


def start(checkout: Path, n: int, folder: str) -> tuple[float, float]:
    """Seconds by the clock, and of a processor per rank, of a run of one step on n ranks."""
    options = ["run.steps=1", "run.threads=1", f"run.file={folder}/run.h5"]
    settings = [word for option in options for word in ("--set", option)]
    command = [checkout / ".venv/bin/mpirun", "-n", str(n), checkout / ".venv/bin/mpisign", "train", "--overwrite"]
    before, begun = _used(), time.monotonic()
    subprocess.run([*command, *settings], check=True, timeout=LIMIT, stdout=subprocess.DEVNULL, cwd=folder)
    return time.monotonic() - begun, (_used() - before) / n


def _used() -> float:
    """Seconds of a processor that programs started here have taken, those that they started included."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measured(checkouts: list[Path], n: int, times: int) -> dict[str, object]:
    """A row of the table."""
    taken: list[list[tuple[float, float]]] = [[] for _ in checkouts]
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(times):
            for checkout, of in zip(checkouts, taken, strict=True):
                of.append(start(checkout, n, folder))
    row: dict[str, object] = {"n": n}
    for k, what in enumerate(("seconds", "CPU seconds of a rank")):
        before, after = (median(one[k] for one in of) for of in taken)
        row |= {
            f"{what}, before": f"{before:.2f}",
            f"{what}, after": f"{after:.2f}",
            f"{what}, ratio": f"{after / before:.2f}",
        }
    return row


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("old", type=Path)
    options.add_argument("new", type=Path)
    options.add_argument("--ranks", type=int, nargs="+", default=[1, 4, 8])
    options.add_argument("--times", type=int, default=5, help="starts of each; 5")
    arguments = options.parse_args()
    checkouts = [arguments.old.resolve(), arguments.new.resolve()]
    for checkout in checkouts:
        if not (checkout / ".venv/bin/mpisign").exists():
            sys.exit(f"startup.py: {checkout} has no .venv/bin/mpisign; run `make setup` there")
    rows = [measured(checkouts, n, arguments.times) for n in arguments.ranks]
    print(tables.markdown(rows))
    print(f"\nMedians of {arguments.times} in turns, {len(os.sched_getaffinity(0))} cores.")


if __name__ == "__main__":
    main()
