"""Runs tests/parallel under mpirun for each number of ranks, each with a timeout; fails if one ran no test."""

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
# what lies below them is tested at every number of ranks
LIBRARY = [f"tests/parallel/test_{name}.py" for name in ("optim", "optim_state", "parameters")]


def run(n: int, seconds: float, arguments: list[str]) -> bool:
    """Whether all tests passed on n ranks, and there were some."""
    pytest = ["-m", "pytest", "-x", "--with-mpi", "-p", "no:cacheprovider", "--timeout-method=thread"]
    mpirun = str(Path(sys.prefix) / "bin" / "mpirun")
    command = [
        mpirun,
        "-n",
        str(n),
        sys.executable,
        "-m",
        "mpi4py",
        *pytest,
        *arguments,
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    start = time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        output += f"\nno end after {seconds:.0f} s"
    passed = re.search(r"(\d+) passed", output)
    good = process.returncode == 0 and passed is not None
    print(f"n={n}: {passed[0] if passed else 'no test passed'}, {time.monotonic() - start:.0f} s", flush=True)
    if not good:
        print(output[-8000:], flush=True)
    return good


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, nargs="+", default=[1, 2, 3, 5, 8])
    parser.add_argument("--pipelines", type=int, nargs="*", default=[4, 7], help="only the tests of pipelines")
    parser.add_argument("--library", type=int, nargs="*", default=[1, 3], help="the only ones for the optimiser")
    parser.add_argument("--timeout", type=float, default=400, help="seconds for each number of ranks")
    options, rest = parser.parse_known_args()
    failed = []
    for n in options.n:
        chosen = rest or ["tests/parallel", *([] if n in options.library else [f"--ignore={file}" for file in LIBRARY])]
        failed += [] if run(n, options.timeout, chosen) else [n]
    pipelines = [] if rest else options.pipelines
    failed += [n for n in pipelines if not run(n, options.timeout, ["tests/parallel/test_pipeline.py"])]
    sys.exit(f"parallel tests failed at n = {failed}" if failed else 0)
