"""Runs the points of a sweep, one after another or a few at a time, each in simulation."""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait

from mpisign.config import Config
from mpisign.errors import Interrupted, NumericalError, Stopped, printable
from mpisign.parallel import stopping
from mpisign.parallel.stopping import Request
from mpisign.run.plan import resolve
from mpisign.run.resume import ResumeOptions
from mpisign.run.sweep import Point
from mpisign.run.train import simulate
from mpisign.storage.reader import Run


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
    stopping.can_save()  # each point does
    with ProcessPoolExecutor(jobs, mp_context=spawn, initializer=_begin_worker) as pool:
        futures = {}
        with _blocked():
            for point in points:
                config = point.config
                threads = config.run.threads or max(1, cores // (jobs * max(config.run.voters, 1)))
                futures[pool.submit(run_point, config.updated(run={"threads": threads}))] = point
        try:
            _collect(futures)
        except BaseException:
            _stop_workers()
            pool.shutdown(cancel_futures=True)
            raise


def _collect(futures: dict[Future, Point]) -> None:
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
                _tell(count, len(futures), futures[future])
                count += 1
    if request := stopping.asked():
        kind = Interrupted if request == Request.INT else Stopped
        raise kind(f"stopped: {request.reason}; the points that ran have saved: the same command goes on with them")


_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@contextlib.contextmanager
def _blocked() -> Iterator[None]:
    """Processes started inside get no signal before they are ready to."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
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
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def _stop_workers() -> None:
    """USR1, of which any number is one request: the terminal may have sent its own."""
    for worker in multiprocessing.active_children():
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker.pid, signal.SIGUSR1)


def run_point(config: Config) -> None:
    """One point in simulation, from where it stopped if it did; that it diverged stands in its run file."""
    with contextlib.suppress(NumericalError):
        simulate(config, quiet=True, options=ResumeOptions("auto"))


def _tell(k: int, count: int, point: Point) -> None:
    summary = Run(point.file).summary()
    figures = "  ".join(
        f"{name} {summary[name]}" for name in ("final_loss", "test_accuracy", "seconds") if name in summary
    )
    print(f"{k + 1}/{count}  {point.name}: {printable(summary['status']).split(':')[0]}  {figures}", flush=True)
