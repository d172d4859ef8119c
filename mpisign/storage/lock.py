"""One writer per run file: an advisory lock on a hidden file beside it, which ends with the process that holds it."""

import contextlib
import fcntl
import os
import socket
import stat
import tempfile
import time
from functools import cache
from pathlib import Path

from mpisign.errors import UsageError

OWN: set[Path] = set()  # locks of this process
NO_LOCKS = (
    "no file locks in {folder}, so nothing keeps two runs from writing the same file; other programs may need "
    "HDF5_USE_FILE_LOCKING=FALSE to open it"
)
# of a name that anybody could foresee: no link is followed, and nothing is waited for
CAREFUL = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Lock:
    """The exclusive right to write a run file and the files beside it.

    Where the file system has no locks, as NFS without its lock manager, nobody is kept out; `note` says so.
    """

    note = ""

    def __init__(self, run: Path, patience: float = 0.0):
        """Raises UsageError naming the holder if another process still has it after so many seconds."""
        self.path = _lock_file(run)
        run.parent.mkdir(parents=True, exist_ok=True)
        self._handle = self._take(run, time.monotonic() + patience)
        OWN.add(self.path)
        slurm = os.environ.get("SLURM_JOB_ID")
        holder = f"process {os.getpid()} on {socket.gethostname()}" + (f", Slurm job {slurm}" if slurm else "")
        with contextlib.suppress(OSError):
            os.ftruncate(self._handle, 0)
            os.write(self._handle, holder.encode(errors="replace"))

    def _take(self, run: Path, until: float) -> int:
        while True:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | CAREFUL, 0o644)
            info = os.fstat(handle)
            if not stat.S_ISREG(info.st_mode) or info.st_nlink > 1:
                os.close(handle)
                raise UsageError(f"{self.path} is no lock of mpisign, but something else; remove it")
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
                self.note = NO_LOCKS.format(folder=run.parent)
                return handle
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
    """Whether another process holds the lock of a run file."""
    return _lock_file(run) not in OWN and _lock_state(_lock_file(run)) == "held"


def hdf5(path: Path) -> dict[str, bool]:
    """Arguments for h5py.File by which a file is locked as usual, or not at all where the file system has no locks.

    HDF5 itself does without locks only where a file system says that it has none, not where it fails to give one.
    """
    return {} if "HDF5_USE_FILE_LOCKING" in os.environ or _gives_locks(path.parent, path) else {"locking": False}


@cache
def _gives_locks(folder: Path, path: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except PermissionError:
        return _lock_state(path) != "no locks"  # a folder that can only be read
    except OSError as error:
        return error.filename is not None  # that of flock names none
    return True


def _lock_state(path: Path) -> str:
    """Whether a file is locked: "held", "free", or "no locks" where that can't be told."""
    try:
        handle = os.open(path, os.O_RDONLY | CAREFUL)
    except OSError:
        return "free"
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return "held"
    except OSError:
        return "no locks"
    finally:
        os.close(handle)
    return "free"


def _lock_file(run: Path) -> Path:
    return run.with_name(f".{run.name}.lock")
