"""`mpisign bench ratios`: seconds of what mpisign does over those of something plain, measured in turns.

A ratio says more than seconds of whether a version became slower: what the machine does besides slows down both. Each
call adds one run to a file, so that a file with several tells how much ratios differ between runs of the same program.
"""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from statistics import median

import torch
from mpi4py import MPI

from mpisign import bits
from mpisign.algorithms.method import Algorithm
from mpisign.bench.compare import TITLE, medians
from mpisign.bench.kernels import works
from mpisign.bench.library import RATE, parameters
from mpisign.bench.peers import gloo_sum, start_gloo
from mpisign.bench.table import Say, Table, load, machine
from mpisign.bench.timing import Times, Work, in_turns
from mpisign.bits.precompile import compile_ahead
from mpisign.engine.autotune import DryStepper
from mpisign.errors import UsageError
from mpisign.exchange import Choice
from mpisign.optim import SignOptimizer
from mpisign.parallel import launchers
from mpisign.parallel.mpi import Ranks
from mpisign.parallel.world import Mpi

COLUMNS = {"ratio": "", "run": "d", "repeat": "d", "ms": ".4f", "reference ms": ".4f"}
SHOWN = {"ratio": "", "runs": "d", "median": ".3f", "lowest": ".3f", "highest": ".3f"}
SAME = ("processor", "cores", "n", "d", "threads")  # of all runs in a file
VOTERS, TENSORS, STARTS = 8, 60, 2
# (what is measured, what it is compared with, seconds of both)
Pairs = Iterator[tuple[str, str, Times, Times]]


def ratios(algorithm: Algorithm, d: int, repeats: int, ranks: Ranks, say: Say) -> Table:
    """One run, a row per repeat: exchanges among all ranks; kernels, optimiser and start by root, while others sleep.

    d: coordinates of an exchange, of the kernels' vectors and of the optimiser's x. repeats: of all but starts.
    """
    about = {"n": ranks.size, "d": d, "threads": torch.get_num_threads(), "mpi": ranks.library}
    table = Table(TITLE, COLUMNS, about | machine())
    pairs = list(_exchange(algorithm, d, repeats, ranks, say))
    if ranks.root:
        pairs += [*_kernels(d, repeats, say), *_steps(d, repeats, say), *_starts(say)]
    ranks.wait()
    for name, reference, ours, theirs in pairs:
        for i, (took, over) in enumerate(zip(ours.seconds, theirs.seconds, strict=True)):
            numbers = {"ms": took * 1e3, "reference ms": over * 1e3}
            table.add(ratio=f"{name} / {reference}", run=0, repeat=i, **numbers)
    return table


def add_to(path: Path, table: Table) -> Table:
    """The runs of a file, if it is there, and then those of a table. Raises UsageError where they don't go together."""
    if not path.exists():
        return table
    before = load(path, TITLE)
    for name in SAME:
        if (was := before.about.get(name)) != (now := table.about[name]):
            raise UsageError(f"{path}: its runs are of {name} {was}, this one of {name} {now}; name another --output")
    run = 1 + max((int(row["run"]) for row in before.rows), default=-1)
    joined = Table(TITLE, COLUMNS, table.about)
    joined.rows = [*before.rows, *(row | {"run": run} for row in table.rows)]
    return joined


def summary(table: Table) -> Table:
    """A row per ratio: the median of runs, and their range."""
    shown = Table(TITLE, SHOWN, table.about)
    for name, runs in medians(table).items():
        shown.add(ratio=name, runs=len(runs), median=median(runs), lowest=min(runs), highest=max(runs))
    return shown


def _exchange(algorithm: Algorithm, d: int, repeats: int, ranks: Ranks, say: Say) -> Pairs:
    """A vote by the sharded exchange, and a float32 all-reduce with SGD's step."""
    if missing := start_gloo(ranks):
        raise UsageError(missing)
    vote = DryStepper.of(Choice("sharded", ""), deepcopy(algorithm), Mpi(ranks.comm), d)
    ((name, plain),) = gloo_sum(d).items()
    times = in_turns({"vote": vote.once, name: plain}, repeats, ranks, say)
    torch.distributed.destroy_process_group()
    yield f"{algorithm.name} by sharded", name, times["vote"], times[name]


def _kernels(d: int, repeats: int, say: Say) -> Pairs:
    """Every kernel, and a copy of d float32."""
    compile_ahead(VOTERS)
    bits.use_threads(torch.get_num_threads())
    d = max(d // 4096, 1) * 4096
    v, x = (torch.empty(d).uniform_(-1, 1) for _ in range(2))
    kernels: dict[str, Work] = {name: work for name, work, *_ in works(v, x, d, VOTERS)}
    times = in_turns({"copy": lambda: x.copy_(v)} | kernels, repeats, Ranks(), say)
    for name in kernels:
        yield name, "copy", times[name], times["copy"]


def _steps(d: int, repeats: int, say: Say) -> Pairs:
    """A step of SignOptimizer of one rank, and one of torch's SGD, both with momentum."""
    sgd = torch.optim.SGD(parameters(d, TENSORS), RATE, momentum=0.9, foreach=True)
    ours = SignOptimizer(
        parameters(d, TENSORS), "signum-mv", RATE, comm=MPI.COMM_SELF, statistics_every=0, check_every=0
    )
    times = in_turns({"ours": ours.step, "SGD": sgd.step}, repeats, Ranks(), say)
    yield "SignOptimizer.step", "torch.optim.SGD.step", times["ours"], times["SGD"]


def _starts(say: Say) -> Pairs:
    """The whole program from outside, and a Python that imports torch."""
    launchers.hide()  # to what is started now, this is one process
    with tempfile.TemporaryDirectory() as folder:
        run = ["simulate", "quadratic", "-n", "2", "--set", "run.steps=1", "--set", f"run.file={folder}/run.h5"]
        commands = {
            "mpisign --version": ["-m", "mpisign", "--version"],
            "a run of one step": ["-m", "mpisign", *run, "--overwrite"],
            "import torch": ["-c", "import torch"],
        }

        def start(words: list[str]) -> None:
            command = [sys.executable, *words]
            subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)

        works = {name: lambda words=words: start(words) for name, words in commands.items()}
        times = in_turns(works, STARTS, Ranks(), say)
    reference = times.pop("import torch")
    for name, ours in times.items():
        yield name, "import torch", ours, reference
