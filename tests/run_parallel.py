"""Runs tests/parallel under mpirun for each number of ranks, each with a timeout; fails if one ran no test.

python tests/run_parallel.py                     what make test runs
python tests/run_parallel.py --all               all tests on all numbers of ranks, those marked slow too
python tests/run_parallel.py -n 3 FILE -k WORD   pytest's own arguments, on so many ranks
"""

import argparse
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parent.parent
EVERYTHING = ["tests/parallel"]
LIBRARY = [f"tests/parallel/test_{name}.py" for name in ("optim", "optim_faults", "optim_state", "parameters")]
EXCHANGES = ["tests/parallel/test_exchange.py"]
PIPELINE = ["tests/parallel/test_pipeline.py"]
MEMORY = "tests/parallel/test_memory.py"
SHARDS, FSDP, NODES, COMPILED = (f"tests/parallel/test_{name}.py" for name in ("shards", "fsdp", "nodes", "compiled"))
LONGEST = (FSDP, NODES, COMPILED)  # which are of most use on few numbers of ranks; gloo waits long without a core


def without(*files: str) -> list[str]:
    return [*EVERYTHING, *(f"--ignore={file}" for file in files)]


# what lies below the library; the exchanges among it on most numbers of ranks
BELOW = without(*LIBRARY, *LONGEST)
# where the numbers of ranks of the nodes differ most, a count is of four planes, and there are four voters of two ranks
COUNTED = [*EXCHANGES, NODES, "-k", "rules or ties or node or hierarchical"]
# the least number of ranks for which there are two levels, and two voters of several ranks
LEVELS = [*PIPELINE, *EXCHANGES, "-k", "pipeline or butterfly"]
VOTERS = [SHARDS, NODES]
# in a run of its own, as all others wait when it waits for gloo; and of it what needs two voters
BY_GLOO = [FSDP, "-k", "bits_of_an_unsharded or bytes_are or refused_by_all"]

# (ranks, what they run)
SHORT = [
    (3, without(*LONGEST)),
    (2, without(*LIBRARY, NODES)),
    (5, EXCHANGES),
    (8, COUNTED),
    (4, LEVELS),
    (4, VOTERS),
    (4, BY_GLOO),
    (1, [*LIBRARY, MEMORY]),
]
FULL = [
    (3, EVERYTHING),
    (2, BELOW),
    (5, BELOW),
    (8, without(*LIBRARY, FSDP, COMPILED)),
    (4, LEVELS),
    (4, [*VOTERS, COMPILED]),
    (4, [FSDP]),
    (7, PIPELINE),
    (1, EVERYTHING),
]
SECONDS, SECONDS_OF_ALL = 900, 2400  # for one number of ranks, beside another


# There are more ranks than cores. Under MPICH those that wait sleep between looks: where they only yield they are
# given a core again before a rank that works, and tests of gloo's then took up to ten times as long. Open MPI's yield.
WAITING = {"MPIR_CVAR_ENABLE_HEAVY_YIELD": "1", "OMPI_MCA_mpi_yield_when_idle": "1"}
STARTED: set[subprocess.Popen] = set()  # the launchers at work


def run(n: int, seconds: float, arguments: list[str]) -> str:
    """All tests on n ranks: nothing where they passed and there were some, else what is to be read of them."""
    pytest = ["-m", "pytest", "-x", "--with-mpi", "-p", "no:cacheprovider", "--timeout-method=thread"]
    mpirun = str(Path(sys.prefix) / "bin" / "mpirun")
    command = [mpirun, "-n", str(n), sys.executable, "-m", "mpi4py", *pytest, *arguments]
    environment = os.environ | WAITING | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
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
    STARTED.add(process)
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        output += f"\nno end after {seconds:.0f} s"
    STARTED.remove(process)
    passed = re.search(r"(\d+) passed", output)
    good = process.returncode == 0 and passed is not None
    counted = f"n={n}: {passed[0] if passed else 'no test passed'}, {time.monotonic() - start:.0f} s"
    failure = "" if good else f"{counted}, FAILED with exit code {process.returncode}\n{output[-8000:]}"
    # what was asked for, as --durations, stands above the counts
    slowest = re.search(r"=+ slowest .*?(?=\n=+ |\n\d+ passed)", output, re.DOTALL)
    print(failure or counted + (f"\n{slowest[0]}" if slowest else ""), flush=True)
    return failure


def side_by_side(plan: list[tuple[int, list[str]]], limit: float) -> list[str]:
    """What is to be read of the runs that failed. Two at once: while the ranks of one start, those of another work."""
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(run, n, limit, arguments) for n, arguments in plan]
        try:
            return [failure for one in runs if (failure := one.result())]
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(STARTED):
                with contextlib.suppress(ProcessLookupError):  # it has just ended
                    os.killpg(process.pid, signal.SIGKILL)
            raise


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=lambda text: [int(n) for n in text.split(",")], help="numbers of ranks, as 2,3,5")
    parser.add_argument("--all", action="store_true", help="those marked slow, too, and more numbers of ranks")
    parser.add_argument("--timeout", type=float, help="seconds for each number of ranks")
    options, rest = parser.parse_known_args()
    plan, seconds = (FULL, SECONDS_OF_ALL) if options.all else (SHORT, SECONDS)
    slow = ["--all"] if options.all else []
    # a file or a folder takes the place of what is planned
    if any((ROOT / word.partition("::")[0]).exists() for word in rest):
        plan = [(n, []) for n in options.n or dict(plan)]
    elif options.n:
        planned = dict.fromkeys(n for n, _ in plan)
        plan = [
            *((n, files) for n, files in plan if n in options.n),
            *((n, EVERYTHING) for n in options.n if n not in planned),
        ]
    limit = options.timeout or seconds
    failed = side_by_side([(n, [*slow, *files, *rest]) for n, files in plan], limit)
    sys.exit("\n\n".join(["parallel tests failed:", *failed]) if failed else 0)
