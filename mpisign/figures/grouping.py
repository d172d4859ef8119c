"""What a run's job says, what tells runs apart, and the best rate of a grid."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import TypeVar

import numpy as np

from mpisign.errors import printable
from mpisign.storage.reader import Run

Item, Key = TypeVar("Item"), TypeVar("Key")
Job = dict[str, object]  # "table.key" -> value
RATE = "schedule.lr"
IGNORED = (RATE, "run.seed", "run.file", "run.overwrite", "run.threads")
RECORDING = ("record_every", "check_every", "eval_every", "recorder", "keep", "trace", "watchdog", "max_minutes",
             "exact_gradient")  # fmt: skip


def grouped(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """Items by their key, both in the order in which they come."""
    groups: dict[Key, list[Item]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return dict(groups)


def settings(run: Run) -> Job:
    """The job without what tells points of one grid apart: the rate, the seed, the file.

    And how often the number of voters has changed: such a run is none of those with one number.
    """
    keys = run.settings | {"run.regroupings": len(run.stretches) - 1}
    if keys.keys() & {"run.evaluations", "run.epochs"}:
        keys.pop("run.steps", None)  # follows from the other
    return {key: value for key, value in keys.items() if key not in IGNORED}


def key(run: Run, name: str, default: object = "") -> object:
    """A key of the run's job, as table.key; the default where the job has none of that name."""
    table, _, own = name.partition(".")
    return run.config.get(table, {}).get(own, default)


def rate(run: Run) -> float:
    return float(key(run, RATE, 0.0))


def algorithm(run: Run) -> str:
    return printable(run.attributes["algorithm"])


def column(run: Run, table: str, name: str) -> np.ndarray:
    """A column as floats; NaN in every row where an older mpisign did not write it."""
    rows = run[table]
    return np.asarray(rows[name], dtype=float) if name in rows else np.full(len(rows["step"]), np.nan)


def no_evaluations(run: Run) -> str:
    return "" if len(run["eval"]["step"]) else "it has no row of /eval"


def no_steps(run: Run) -> str:
    return "" if len(run["steps"]["step"]) else "it has no row of /steps"


def varies(key: str, jobs: list[Job], of: Job) -> bool:
    """Whether a key of a job differs among the jobs to which it means the same.

    A problem's own keys mean something to jobs on that problem alone, and so do an algorithm's; one that a job of
    another mpisign has not says nothing, nor does one of an algorithm that its run left at "auto".
    """
    table, _, name = key.partition(".")
    if table in ("problem", "algorithm") and name != "name":
        jobs = [job for job in jobs if job.get(f"{table}.name") == of.get(f"{table}.name") and job.get(key) != "auto"]
    return len({str(job[key]) for job in jobs if key in job}) > 1


def telling(job: Job, jobs: list[Job]) -> list[str]:
    """The keys of a job that tell it from others; how it is recorded is told only where nothing else does."""
    keys = [key for key in job if varies(key, jobs, job)]
    first = [key for key in keys if not _recording(key)]
    alike = lambda other, some: all(str(other.get(key)) == str(job[key]) for key in some)  # noqa: E731
    return first if all(alike(other, keys) for other in jobs if alike(other, first)) else keys


def _recording(key: str) -> bool:
    """Whether a key says what a run tells, not what it does."""
    table, _, name = key.partition(".")
    return table in ("checkpoint", "probe") or key == "run.steps" or (table == "run" and name in RECORDING)


def named(key: str) -> str:
    """A key's name beside its value: kind, name and every say too little without their table."""
    table, _, name = key.partition(".")
    return table if name in ("kind", "name", "every") else name


def said(value: object) -> str:
    """A key's value in a label."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def names(runs: list[Run]) -> list[str]:
    """Each run's algorithm and whatever of the job differs among its runs, the rate included but not the seed."""
    jobs = [(algorithm(run), settings(run) | {RATE: key(run, RATE)}) for run in runs]
    alike = {name: [job for _, job in pairs] for name, pairs in grouped(jobs, lambda pair: pair[0]).items()}
    own = lambda name, job: (f"{named(k)} {said(job[k])}" for k in telling(job, alike[name]))  # noqa: E731
    return [", ".join([name, *own(name, job)]) for name, job in jobs]


def by_name(runs: list[Run]) -> dict[str, list[Run]]:
    """Runs that differ in their seed alone, by what tells the groups apart; numbers in names in their order."""
    groups = grouped(zip(names(runs), runs, strict=True), lambda pair: pair[0])
    parts = lambda name: re.split(r"(\d+(?:\.\d+)?)", name)  # noqa: E731
    natural = lambda name: [float(part) if k % 2 else part for k, part in enumerate(parts(name))]  # noqa: E731
    return {name: [run for _, run in groups[name]] for name in sorted(groups, key=natural)}


def best_rate(runs: list[Run], score: Callable[[Run], float]) -> tuple[float, float, dict[float, list[Run]]]:
    """The least mean score, the rate that has it, and the runs of each rate, one per seed, in the order of rates.

    Means are over the seeds that all rates have, or over all where there is no such seed.
    """
    grid: dict[float, dict[str, Run]] = defaultdict(dict)
    for run in sorted(runs, key=rate):
        grid[rate(run)][run.attributes["seed"]] = run
    common = set.intersection(*map(set, grid.values()))
    mean = lambda r: np.mean([score(run) for seed, run in grid[r].items() if seed in common or not common])  # noqa: E731
    least, best = min((mean(r), r) for r in grid)
    return least, best, {r: list(seeds.values()) for r, seeds in grid.items()}
