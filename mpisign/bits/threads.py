"""Several threads of ours: a kernel over a long vector is cut into one slice per thread.

The kernels release the GIL and give the same bits however they are cut.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

GRAIN = 4096  # slices start at multiples of so many coordinates, a tile
LEAST = 1 << 17  # coordinates for which another thread is worth its start, about 20 microseconds

_threads = 1
_pool: ThreadPoolExecutor | None = None


def use_threads(threads: int) -> None:
    """From now on kernels use up to so many threads, this one included."""
    global _threads, _pool
    if threads == _threads:
        return
    if _pool is not None:
        _pool.shutdown()
    _threads, _pool = threads, ThreadPoolExecutor(threads - 1, "mpisign-kernel") if threads > 1 else None


def in_slices(items: int, work: Callable[[int, int], object], each: int = 1) -> list:
    """work(lo, hi) for slices of range(items), in order of the slices; all of it here if it is short.

    each: coordinates that an item stands for.
    """
    if _threads == 1 or items * each < 2 * LEAST:
        return [work(0, items)]
    threads, grain = min(_threads, items * each // LEAST), GRAIN // each
    ends = [items * k // threads // grain * grain for k in range(threads)] + [items]
    others = [_pool.submit(work, lo, hi) for lo, hi in pairwise(ends[1:])]
    first = work(0, ends[1])
    return [first, *(other.result() for other in others)]
