"""One writer a run file: an advisory lock on a hidden file beside it, which ends with the process that holds it."""

import contextlib
import fcntl
import os
import socket
import time
from pathlib import Path

from mpisign.errors import UsageError

OWN: set[Path] = set()  # locks of this process


class Lock:
    """The right to write a run file and what lies beside it. Where the file system has no locks, nobody is kept out."""

    def __init__(self, run: Path, patience: float = 0.0):
        """Raises UsageError naming the holder if another process still has it after so many seconds."""
        self.path = _beside(run)
        run.parent.mkdir(parents=True, exist_ok=True)
        self._handle = self._take(run, time.monotonic() + patience)
        OWN.add(self.path)
        slurm = os.environ.get("SLURM_JOB_ID")
        holder = f"process {os.getpid()} on {socket.gethostname()}" + (f", Slurm job {slurm}" if slurm else "")
        with contextlib.suppress(OSError):
            os.ftruncate(self._handle, 0)
            os.write(self._handle, holder.encode())

    def _take(self, run: Path, until: float) -> int:
        while True:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.read(handle, 200).decode(errors="replace")
                os.close(handle)
                if time.monotonic() < until:
                    time.sleep(0.2)
                    continue
                raise UsageError(
                    f"the run file {run} is being written by {holder or 'another process'}; wait for it, "
                    "or set run.file=... to write another"
                ) from None
            except OSError:
                return handle  # no locks here
            # whoever had the lock before removes the file on leaving: it may not be the one that lies there now
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), os.stat(self.path)):
                    return handle
            os.close(handle)

    def release(self) -> None:
        if self._handle is not None:
            OWN.discard(self.path)
            self.path.unlink(missing_ok=True)
            os.close(self._handle)
            self._handle = None


def held(run: Path) -> bool:
    """Whether some other process is writing a run file now, as far as locks tell."""
    if _beside(run) in OWN:
        return False
    try:
        with _beside(run).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _beside(run: Path) -> Path:
    return run.with_name(f".{run.name}.lock")
