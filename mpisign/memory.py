"""Memory that a process may still take, so that an absurd size is refused before the system kills somebody."""

import contextlib
from pathlib import Path

from mpisign.errors import UsageError

CGROUP = Path("/sys/fs/cgroup")  # of this process, as containers and Slurm show it


def available() -> int | None:
    """Bytes that are free on this machine, or left to this job's control group; None where nobody tells."""
    found = []
    with contextlib.suppress(OSError, ValueError, StopIteration):
        line = next(x for x in Path("/proc/meminfo").read_text().splitlines() if x.startswith("MemAvailable:"))
        found.append(int(line.split()[1]) << 10)
    with contextlib.suppress(OSError, ValueError):
        limit, used = ((CGROUP / f"memory.{name}").read_text() for name in ("max", "current"))
        found.append(int(limit) - int(used))
    return min(found, default=None)


def demand(amount: int, what: str, remedy: str) -> None:
    """Raises UsageError if `what` takes more bytes than there are."""
    free = available()
    if free is not None and amount > free:
        raise UsageError(
            f"{what}: that takes at least {amount / 1e9:.3g} GB, but {free / 1e9:.3g} GB are free; {remedy}"
        )
