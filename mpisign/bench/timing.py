"""Timing, in turns and over all ranks at once, and bytes by the counters of the operating system."""

import resource
import socket
import time
import timeit
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np

from mpisign.parallel.mpi import Ranks

Work = Callable[[], object]
NETWORK = Path("/sys/class/net")
PAGE = Path("/proc/self/statm")


@dataclass
class Times:
    """Seconds of each repeat, and bytes that a rank sent per repeat."""

    seconds: list[float] = field(default_factory=list)
    sent: float | None = None  # by the operating system

    @property
    def median(self) -> float:
        return median(self.seconds)


def in_turns(works: Mapping[str, Work], repeats: int, ranks: Ranks, say: Callable[[str], None]) -> dict[str, Times]:
    """Times of each work: one unmeasured round, then `repeats` rounds in which all take turns.

    A repeat lasts until the last rank is done. Bytes are counted over all rounds of a work.
    """
    times = {name: Times() for name in works}
    for turn in range(repeats + 1):
        for name, work in works.items():
            say(f"{name}: {turn}/{repeats}")
            took, sent = _once(work, ranks)
            if turn:
                times[name].seconds.append(took)
                if sent is not None:
                    times[name].sent = (times[name].sent or 0.0) + sent / repeats
    return times


def _once(work: Work, ranks: Ranks) -> tuple[float, float | None]:
    before = sent_bytes(ranks)
    if ranks.comm:
        ranks.comm.Barrier()
    begin = time.perf_counter()
    work()
    took = time.perf_counter() - begin
    if ranks.comm:
        took = float(np.max(ranks.comm.allgather(took)))
    after = sent_bytes(ranks)
    return took, None if before is None else after - before


def alone(work: Work, repeats: int = 7, clock: Callable[[], float] = time.perf_counter) -> float:
    """Median seconds of a work of this process, after one unmeasured call. clock: thread_time leaves out others."""
    work()
    return median(timeit.repeat(work, timer=clock, repeat=repeats, number=1))


def interfaces(ranks: Ranks) -> list[str]:
    """The network interfaces by which these ranks talk: loopback within a host, all others between hosts."""
    if not NETWORK.exists():
        return []
    return [link.name for link in NETWORK.iterdir() if (link.name == "lo") == (hosts(ranks) == 1)]


def hosts(ranks: Ranks) -> int:
    """The number of hosts that these ranks run on, by their names."""
    return len(set(ranks.comm.allgather(socket.gethostname())))


def sent_bytes(ranks: Ranks) -> float | None:
    """Bytes per rank sent so far by the hosts' interfaces, on the average over hosts; None where nobody counts.

    Within a host it is what went over loopback: nothing, where MPI uses shared memory.
    """
    if ranks.comm is None or not (links := interfaces(ranks)):
        return None
    ranks.comm.Barrier()
    hosts, own = ranks.comm.allgather(socket.gethostname()), 0
    if hosts.index(hosts[ranks.rank]) == ranks.rank:  # the first rank of each host
        own = sum(int((NETWORK / link / "statistics" / "tx_bytes").read_text()) for link in links)
    return sum(ranks.comm.allgather(own)) / ranks.size


def resident() -> int:
    """Bytes of memory that this process holds now."""
    return int(PAGE.read_text().split()[1]) * resource.getpagesize()
