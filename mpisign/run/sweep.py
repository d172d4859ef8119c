"""[sweep] of a job file: many runs of one job, each with its own settings, name and product.

    [sweep]
    kind = "grid"                        # or "zip": the lists go side by side
    folder = "runs/study"                # where the products go; runs/NAME-OF-THE-JOB by default
    best = "schedule.lr"                 # optional: seeds after the first run only at the best of its values
    metric = "test_accuracy"             # by which it is the best, at the end of the run; or "test_loss", "train_loss"
    "schedule.lr" = [0.1, 0.01]          # any table.key with a list
    "run.seed" = [1, 2, 3]
    "run.voters" = [3, 27]

    [[sweep.case]]                       # optional: settings that belong together; a list in one is swept there
    name = "momentum"                    # optional: takes the place of the case's settings in names
    "algorithm.name" = "signum-mv"
    band = { what = "final_loss", expected = 1.0, low = 0.9, high = 1.1 }   # optional: see analysis/bands.py

A point whose run has ended is skipped, so a sweep that was cut short goes on where it stood. Points run one after
another or a few at a time, each in simulation. Torch is imported only then: a slip in the table is told at once.
"""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from pydantic import ConfigDict, Field

from mpisign import config, paths
from mpisign.config import Config, Table
from mpisign.errors import Interrupted, NumericalError, Stopped, UsageError, choices, did_you_mean
from mpisign.parallel import stopping
from mpisign.parallel.stopping import Request
from mpisign.run import progress
from mpisign.run.resume import MOVABLE, ResumeOptions
from mpisign.storage.reader import Run

Key = TypeVar("Key")
Settings = dict[str, Any]  # "table.key" -> value
SEED = "run.seed"
OF_A_CASE = ("name", "band")  # keys of a case that are no settings
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)  # that ask for a checkpoint and an end


class Sweep(Table):
    """The table itself; what is not one of its own keys is a list to sweep."""

    model_config = ConfigDict(extra="allow", frozen=True)

    kind: Literal["grid", "zip"] = "grid"
    folder: str = ""
    best: str | None = None
    metric: Literal["test_accuracy", "test_loss", "train_loss"] = "test_accuracy"
    case: list[dict[str, Any]] = Field(default_factory=lambda: [{}])


@dataclass(frozen=True)
class Point:
    """One run of a sweep. settings is None while the best value it waits for is not known."""

    index: int
    name: str
    file: Path | None
    settings: Settings | None
    tables: dict[str, dict]
    case: int = 0

    @property
    def config(self) -> Config:
        """The job of this point alone."""
        if self.settings is None:
            raise UsageError(f"point {self.index} ({self.name}) has to wait for the points before it; run those first")
        merged = {name: dict(table) for name, table in self.tables.items() if name != "sweep"}
        for key, value in self.settings.items():
            table, _, name = key.partition(".")
            merged.setdefault(table, {})[name] = value
        merged.setdefault("run", {}).update(file=paths.literal(self.file), overwrite=True)
        return config.make(merged)

    @property
    def status(self) -> str:
        """complete, error, stopped, incomplete, waiting (for the best value) or missing."""
        if self.settings is None:
            return "waiting"
        if not self.file.exists():
            return "missing"
        run = Run(self.file)
        self._check(run)
        return run.status.split()[0].rstrip(":")

    @property
    def ended(self) -> bool:
        return self.status in ("complete", "error")

    def _check(self, run: Run) -> None:
        """Refuses the product of another job under this point's name."""
        # data that the whole sweep shares may have moved; whether they are the same is seen where they are read
        moved = {f"problem.{key}" for key in MOVABLE} - self.settings.keys()
        for table, keys in self.config.model_dump(exclude_unset=True).items():
            for key, value in keys.items():
                stored = run.config.get(table, {}).get(key, value)
                if f"{table}.{key}" not in ("run.file", "run.overwrite", *moved) and stored != value:
                    raise UsageError(
                        f"{self.file} was made with {table}.{key} = {stored!r}, but the sweep says {value!r}; "
                        "remove it, or set sweep.folder to another folder"
                    )


@dataclass(frozen=True)
class _Case:
    """Settings that belong together, and the lists to sweep with them."""

    label: str | None
    fixed: Settings
    lists: dict[str, list]

    @property
    def seeds(self) -> list:
        return self.lists.get(SEED, [None])

    def combinations(self, kind: str) -> list[Settings]:
        """All settings of this case; seeds always cross."""
        crossing = self.lists if kind == "grid" else {k: v for k, v in self.lists.items() if k == SEED}
        beside = {k: v for k, v in self.lists.items() if k not in crossing}
        if len({len(v) for v in beside.values()}) > 1:
            sizes = ", ".join(f"{k}: {len(v)}" for k, v in beside.items())
            remedy = 'make them equal, or use "grid"'
            raise UsageError(f'sweep.kind = "zip": lists of different lengths ({sizes}); {remedy}')
        rows = [dict(zip(beside, row, strict=True)) for row in zip(*beside.values(), strict=True)] if beside else [{}]
        crossed = [dict(zip(crossing, values, strict=True)) for values in product(*crossing.values())]
        return [self.fixed | row | values for row in rows for values in crossed]


def read(file: Path, settings: tuple[str, ...] = ()) -> list[Point] | None:
    """The points of a job file, or None if it has no [sweep].

    Raises UsageError for a sweep that makes no sense.
    """
    return points(config.tables(file, settings), file)


def points(tables: dict[str, dict], file: Path) -> list[Point] | None:
    """The points of a job file whose tables were read already; likewise."""
    if "sweep" not in tables:
        return None
    table = _flat(tables["sweep"], Sweep.model_fields)
    sweep = config.validate(Sweep, table, "", "sweep.")
    return _Expansion(sweep, tables, Path(sweep.folder or f"runs/{file.stem}")).points()


def _flat(table: dict, own=()) -> Settings:
    """Settings written as tables (schedule.lr = ... without quotes) as "table.key"."""
    flat = {}
    for key, value in table.items():
        if isinstance(value, dict) and key not in own:
            flat |= {f"{key}.{name}": inner for name, inner in value.items()}
        else:
            flat[key] = value
    return flat


class _Expansion:
    """From the table to its points."""

    def __init__(self, sweep: Sweep, tables: dict[str, dict], folder: Path):
        self.sweep, self.tables, self.folder = sweep, tables, folder
        lists = dict(sweep.__pydantic_extra__ or {})
        self._check(lists)
        self.cases = [self._case(case, lists) for case in sweep.case]
        combined = [s for case in self.cases for s in case.combinations(sweep.kind)]
        keys = dict.fromkeys(k for s in combined for k in s)
        self.swept = [k for k in keys if len({str(s.get(k)) for s in combined}) > 1]
        if sweep.best and not all(sweep.best in case.lists for case in self.cases):
            known = f"lists are: {choices(self.swept)}"
            raise UsageError(f"sweep.best = {sweep.best!r} is not a list of every case; {known}")

    def _check(self, lists: dict[str, list]) -> None:
        if not lists and self.sweep.case == [{}]:
            raise UsageError('[sweep] has nothing to sweep; give lists, as in "schedule.lr" = [0.1, 0.01]')
        for key, values in lists.items():
            if "." not in key:
                near, known = did_you_mean(key, Sweep.model_fields), choices(Sweep.model_fields)
                raise UsageError(f'unknown key sweep.{key}{near}; [sweep] has: {known}, and "table.key" = [...]')
            if not isinstance(values, list) or not values:
                remedy = "a list of at least one value; a single one goes into its table"
                raise UsageError(f'sweep."{key}" = {values!r}: {remedy}')

    @staticmethod
    def _case(case: dict[str, Any], lists: dict[str, list]) -> _Case:
        own = _flat({k: v for k, v in case.items() if k not in OF_A_CASE})
        swept = {k: v for k, v in own.items() if isinstance(v, list)}
        fixed = {k: v for k, v in own.items() if k not in swept}
        return _Case(case.get("name"), fixed, {k: v for k, v in lists.items() if k not in own} | swept)

    def points(self) -> list[Point]:
        """All points; with `best`, first the grid with one seed, then the other seeds of each of its groups."""
        points: list[Point] = []
        groups: dict[str, list[Point]] = {}
        for index, case in enumerate(self.cases):
            for settings in case.combinations(self.sweep.kind):
                if self.sweep.best and settings.get(SEED) != case.seeds[0] and SEED in case.lists:
                    continue
                points.append(self._point(len(points), index, settings))
                rest = {k: v for k, v in settings.items() if k != self.sweep.best}
                groups.setdefault(str((index, rest)), []).append(points[-1])
        for group in groups.values() if self.sweep.best else ():
            best = _best(group, self.sweep.metric)
            for seed in self.cases[group[0].case].seeds[1:]:
                points.append(self._later(len(points), group, best, seed))
        if twice := [name for name, count in Counter(p.name for p in points).items() if count > 1]:
            remedy = "give their cases a name, or drop one"
            raise UsageError(f"two points of the sweep have the name {twice[0]!r}; {remedy}")
        return points

    def _later(self, index: int, group: list[Point], best: Point | None, seed: int) -> Point:
        """The point of another seed at the best value of a group, which may not be known yet."""
        case = group[0].case
        if best is not None:
            return self._point(index, case, best.settings | {SEED: seed})
        rest = {k: v for k, v in group[0].settings.items() if k != self.sweep.best} | {SEED: seed}
        return Point(index, f"{self._name(case, rest)} at the best {self.sweep.best}", None, None, self.tables, case)

    def _point(self, index: int, case: int, settings: Settings) -> Point:
        name = self._name(case, settings)
        return Point(index, name, self.folder / f"{name}.h5", settings, self.tables, case)

    def _name(self, case: int, settings: Settings) -> str:
        """The algorithm, or the case's own name, first; then what else is swept, as in signum-mv-lr0.01-seed1."""
        label, fixed = self.cases[case].label, self.cases[case].fixed
        parts = [label] if label else []
        for key in self.swept:
            # a case's own name stands for what it fixes
            if key in settings and not (label and key in fixed):
                short = key.rpartition(".")[2]
                text = _text(settings[key])
                parts.append(text if short in ("name", "path", "kind") else f"{short}{text}")
        return "-".join(parts) or "point"


def _text(value: object) -> str:
    """A value in a file's name."""
    text = "x".join(map(str, value)) if isinstance(value, list) else str(value)
    return Path(text).name.replace(" ", "")


def _best(group: list[Point], metric: str) -> Point | None:
    """The point that ended best, None until all have ended."""
    if not all(p.ended for p in group):
        return None
    return group[best_of({k: [Run(p.file)] for k, p in enumerate(group)}, metric)]


def best_of(runs: Mapping[Key, Sequence[Run]], metric: str) -> Key:
    """The key whose runs ended best by the mean of a metric, the first of equals; a run that diverged is the worst."""
    return min(runs, key=lambda key: float(np.mean([run.score(metric) for run in runs[key]])))


# Running


def run_points(read: Callable[[], list[Point]], jobs: int = 1) -> None:
    """Runs all points that have not ended, those that wait for a best value last.

    read: gives the points as they stand now. jobs: how many at a time, each in a process of its own. A point that
    diverges is reported and the others go on; any other error ends the sweep.
    """
    from mpisign.run.plan import resolve

    begin, planned = time.monotonic(), read()
    for point in planned:
        # what a typing error can break is found before the first point runs
        if point.settings is not None:
            resolve(point.config, point.config.run.voters or 1, point.config.ranks_per_voter or 1)
    as_json = any(point.settings is not None and point.config.run.log == "json" for point in planned)
    printer = progress.Json(0, lambda: time.monotonic() - begin) if as_json else progress.Lines(0)
    for _ in ("those that are known", "those that waited for the best of them"):
        _run([p for p in read() if p.status in ("missing", "incomplete", "stopped")], jobs, printer)
    points = read()
    figures = {"points": len(points), "ended": sum(p.ended for p in points)}
    printer.figures("sweep", figures | {"seconds": round(time.monotonic() - begin)})


def _run(points: list[Point], jobs: int, printer: progress.Lines) -> None:
    if jobs == 1:
        for k, point in enumerate(points):
            run_point(point.config)
            _tell(k, len(points), point, printer)
        return
    # fresh interpreters: torch and numba do not survive a fork
    cores = len(os.sched_getaffinity(0))
    spawn = multiprocessing.get_context("spawn")
    stopping.can_save()  # each point does
    with ProcessPoolExecutor(jobs, mp_context=spawn, initializer=_begin_worker) as pool:
        futures = {}
        with _blocked():
            for point in points:
                config = point.config
                ranks = max(config.run.voters * config.ranks_per_voter, 1)
                threads = config.run.threads or max(1, cores // (jobs * ranks))
                futures[pool.submit(run_point, config.updated(run={"threads": threads}))] = point
        try:
            _collect(futures, printer)
        except BaseException:
            _stop_workers()
            pool.shutdown(cancel_futures=True)
            raise


def _collect(futures: dict[Future, Point], printer: progress.Lines) -> None:
    """Tells of points as they end. Raises Stopped, once all points that run have saved, if this process is asked to."""
    left, count = set(futures), 0
    while left:
        done, left = wait(left, timeout=0.2, return_when=FIRST_COMPLETED)
        if stopping.asked() and not any(future.cancelled() for future in futures):
            left = {future for future in left if not future.cancel()}
            _stop_workers()
        for future in done:
            with contextlib.suppress(Stopped) if stopping.asked() else contextlib.nullcontext():
                future.result()
                _tell(count, len(futures), futures[future], printer)
                count += 1
    if request := stopping.asked():
        kind = Interrupted if request == Request.INT else Stopped
        raise kind(f"stopped: {request.reason}; the points that ran have saved: the same command goes on with them")


@contextlib.contextmanager
def _blocked() -> Iterator[None]:
    """Processes started inside get no signal before they are ready to."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin_worker() -> None:
    """What a worker does first: it saves its point when it is asked to stop, and ends with the process that started it.

    A terminal sends Ctrl-C to the workers themselves.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG, where there is such a thing
    stopping.catch_signals(lambda: os._exit(Interrupted.exit_code), saves=True)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _stop_workers() -> None:
    """USR1, of which any number is one request: the terminal may have sent its own."""
    for worker in multiprocessing.active_children():
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker.pid, signal.SIGUSR1)


def run_point(config: Config) -> None:
    """One point in simulation, from where it stopped if it did; that it diverged stands in its run file."""
    from mpisign.run.train import simulate

    with contextlib.suppress(NumericalError):
        simulate(config, quiet=True, options=ResumeOptions("auto"))


def _tell(k: int, count: int, point: Point, printer: progress.Lines) -> None:
    printer.point(k + 1, count, point.name, Run(point.file).summary())
