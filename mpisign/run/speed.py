"""`problem.batch_sizes = "speed"`: a global batch dealt to ranks by how fast each of them takes gradients.

What is measured once is written into the job, and so into the run file: a run that goes on, or is simulated from its
stored job, has the sizes of then.
"""

import heapq
import time
from statistics import median

import numpy as np
from torch import Tensor

from mpisign.bits.rng import Streams
from mpisign.config import Config, run_path
from mpisign.errors import UsageError
from mpisign.layout import Layout
from mpisign.parallel.device import synchronize
from mpisign.parallel.mpi import Ranks
from mpisign.parallel.watchdog import WATCH
from mpisign.problems import Oracle
from mpisign.problems.data.distribute import LocalData
from mpisign.run.plan import Plan
from mpisign.run.resume import so_far

REPEATS = 5  # times that are taken, after one that warms up
LEAST = 0.03  # seconds that gradients are taken for each


def by_speed(plan: Plan, share: LocalData, layout: Layout, x: Tensor, streams: Streams, ranks: Ranks) -> list[int]:
    """Rows of each rank's minibatch, which add up to the global batch. Collective.

    Raises UsageError for a simulation, which has no ranks, for a problem without rows, and for too few rows.
    """
    problem, key = plan.config.problem, 'problem.batch_sizes = "speed"'
    if ranks.size < len(share.rows):
        raise UsageError(f"{key}: simulated voters have no speed; list the sizes, as a run's file has them")
    if not share.rows.any():
        raise UsageError(f"{key}: problem {problem.name!r} has no rows; leave it out", agreed=True)
    if share.rows.sum() < problem.global_batch_size:
        whole = f"problem.global_batch_size = {problem.global_batch_size}"
        raise UsageError(f"{key}: {whole}, but there are {share.rows.sum()} rows; set it lower", agreed=True)
    settings = {"batch_size": -(-problem.global_batch_size // ranks.size), "sampling": problem.sampling}
    settings["sharing"] = len(ranks.members)
    oracle = Oracle(plan.problem, layout, share.train[0], ranks.rank, streams, **settings)
    with WATCH("the measuring of each rank's speed"):
        found = ranks.allgather([oracle.batch_size / seconds for seconds in _seconds(oracle, x, ranks)], "speeds")
    return deal(problem.global_batch_size, distinct(found), share.rows.tolist())


def _seconds(oracle: Oracle, x: Tensor, ranks: Ranks) -> list[float]:
    """Seconds of one gradient, several times, while all others take theirs."""
    out, seconds = oracle.layout.zeros(), []
    for _ in range(1 + REPEATS):
        ranks.allgather(None, "speeds")
        start, count = time.perf_counter(), 0
        while not count or time.perf_counter() - start < LEAST:
            oracle.begin(count)
            oracle.gradient(x, out)
            synchronize(oracle.device)
            count += 1
        seconds.append((time.perf_counter() - start) / count)
    return seconds[1:]


def distinct(found: list[list[float]]) -> list[float]:
    """The median speed of each rank; all alike, where they differ by less than what the same rank does by itself.

    found: of each rank, rows per second as measured several times.
    """
    speeds = [median(own) for own in found]
    spread = max(max(own) / min(own) for own in found)
    return speeds if max(speeds) / min(speeds) > spread else [1.0] * len(speeds)


def deal(whole: int, speeds: list[float], rows: list[int]) -> list[int]:
    """So many rows over ranks, one at least each: every further one goes to whom would be done with it first.

    speeds: rows per second. rows: that each owns, and so the most it can have; whole is no more than all of them.
    """
    sizes = np.ones(len(speeds), dtype=int)
    waiting = [(2 / speed, rank) for rank, speed in enumerate(speeds) if rows[rank] > 1]
    heapq.heapify(waiting)
    for _ in range(whole - len(speeds)):
        _, rank = heapq.heappop(waiting)
        sizes[rank] += 1
        if sizes[rank] < rows[rank]:
            heapq.heappush(waiting, ((sizes[rank] + 1) / speeds[rank], rank))
    return sizes.tolist()


def sizes_of_then(config: Config, ranks: Ranks) -> list[int] | None:
    """The sizes that the run in the job's file was started with, if there is one. Collective."""
    sizes = None
    with ranks.agreed():
        if ranks.root and (path := run_path(config, config.run.voters)).is_file():
            stored = so_far(path).config.get("problem", {}).get("batch_sizes")
            there = config.run.voters * config.ranks_per_voter
            sizes = stored if isinstance(stored, list) and len(stored) == there else None
    return ranks.share(sizes)
