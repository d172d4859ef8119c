"""Runs the points of a sweep, one after another or a few at a time, each in simulation."""

import contextlib
import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed

from mpisign.beginning import Wish
from mpisign.config import Config
from mpisign.errors import NumericalError
from mpisign.plan import resolve
from mpisign.results import Run
from mpisign.sweep import Point
from mpisign.train import simulate
from mpisign.words import printable


def run_points(read: Callable[[], list[Point]], jobs: int = 1) -> None:
    """Runs all points that have not ended, those that wait for a best value last.

    read: gives the points as they stand now. jobs: how many at a time, each in a process of its own. A point that
    diverges is reported and the others go on; any other error ends the sweep.
    """
    begin = time.monotonic()
    for point in read():
        # what a typing error can break is found before the first point runs
        if point.settings is not None:
            resolve(point.config, point.config.run.voters or 1)
    for _ in ("those that are known", "those that waited for the best of them"):
        _run([p for p in read() if p.status in ("missing", "incomplete", "stopped")], jobs)
    points = read()
    print(f"points: {len(points)}\nended: {sum(p.ended for p in points)}\nseconds: {time.monotonic() - begin:.0f}")


def _run(points: list[Point], jobs: int) -> None:
    if jobs == 1:
        for k, point in enumerate(points):
            run_point(point.config)
            _tell(k, len(points), point)
        return
    # fresh interpreters: torch and numba do not survive a fork
    cores = len(os.sched_getaffinity(0))
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=spawn) as pool:
        futures = {}
        for point in points:
            config = point.config
            threads = config.run.threads or max(1, cores // (jobs * max(config.run.voters, 1)))
            limited = config.run.model_copy(update={"threads": threads})
            futures[pool.submit(run_point, config.model_copy(update={"run": limited}))] = point
        try:
            for k, future in enumerate(as_completed(futures)):
                future.result()
                _tell(k, len(points), futures[future])
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def run_point(config: Config) -> None:
    """One point in simulation, from where it stopped if it did; that it diverged stands in its run file."""
    with contextlib.suppress(NumericalError):
        simulate(config, quiet=True, wish=Wish("auto"))


def _tell(k: int, count: int, point: Point) -> None:
    summary = Run(point.file).summary()
    figures = "  ".join(
        f"{name} {summary[name]}" for name in ("final_loss", "test_accuracy", "seconds") if name in summary
    )
    print(f"{k + 1}/{count}  {point.name}: {printable(summary['status']).split(':')[0]}  {figures}", flush=True)
