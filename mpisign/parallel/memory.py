"""Memory that is free for this process, so that an absurd size is refused before the system kills somebody."""

import contextlib
import ctypes
import errno
import os
from pathlib import Path

from mpisign.errors import UsageError

CGROUP = Path("/sys/fs/cgroup")  # of this process, as containers and Slurm show it
SHARED = "/dev/shm"  # the file system in which MPI libraries put memory that ranks of a node share
MORE_SHARED = (
    f"make {SHARED} larger (docker --shm-size=1g, podman likewise; a mount option elsewhere), or remove what jobs that "
    "were killed left there: mpisign doctor names it"
)
POPULATE_WRITE = 23  # of madvise, since Linux 5.14
MIB = 1 << 20


def available() -> int | None:
    """Bytes that are free on this machine, or left to this job's control group; None where neither is known."""
    amounts = []
    with contextlib.suppress(OSError, ValueError, StopIteration):
        line = next(x for x in Path("/proc/meminfo").read_text().splitlines() if x.startswith("MemAvailable:"))
        amounts.append(int(line.split()[1]) << 10)
    with contextlib.suppress(OSError, ValueError):
        limit, used = ((CGROUP / f"memory.{name}").read_text() for name in ("max", "current"))
        amounts.append(int(limit) - int(used))
    return min(amounts, default=None)


def lacking(amount: int) -> str:
    """Why so many bytes are not free on this machine, or in this job's control group; "" if they are."""
    free = available()
    if free is None or amount <= free:
        return ""
    return f"{os.uname().nodename} has {free / MIB:.1f} MiB of memory free, of {amount / MIB:.1f} MiB that are needed"


def require_memory(amount: int, what: str, remedy: str) -> None:
    """Raises UsageError if `what` takes more bytes than there are."""
    free = available()
    if free is not None and amount > free:
        sizes = f"at least {amount / 1e9:.3g} GB, but {free / 1e9:.3g} GB are free"
        raise UsageError(f"{what}: that takes {sizes}; {remedy}")


def shared_free() -> int | None:
    """Bytes that are free in /dev/shm; None where there is none."""
    try:
        info = os.statvfs(SHARED)
    except OSError:
        return None
    return info.f_bavail * info.f_frsize


def lacking_shared(amount: int) -> str:
    """Why so many bytes of a node's shared memory are not free, "" if they are."""
    free = shared_free()
    if free is None or amount <= free:
        return ""
    return f"{SHARED} has {free / MIB:.1f} MiB free on {os.uname().nodename}, of {amount / MIB:.1f} MiB that are needed"


def populate(address: int, length: int) -> bool:
    """Has the system back the pages at an address by memory; False where it can't, instead of a bus error later.

    True as well where the kernel has no such call.
    """
    start = address // os.sysconf("SC_PAGESIZE") * os.sysconf("SC_PAGESIZE")
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    failed = madvise(start, length + address - start, POPULATE_WRITE)
    return not failed or ctypes.get_errno() not in (errno.EFAULT, errno.ENOMEM)
