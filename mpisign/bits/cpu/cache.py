"""Compiled kernels on disk: read from every place that may hold them, kept in the first that can be written.

numba's own cache reads only where it may write, and unpickles what it finds. This one also reads what an installer
compiled into a tree that users can't write, takes nothing that others could have put there, and compiles anew what is
damaged. A kernel is found again by its signature, its code, the sources of this folder, the CPU, and the versions of
Python, numba and LLVM. That all of a set are there is noted beside them, so that what nobody calls need not be loaded.
"""

import contextlib
import hashlib
import os
import pickle
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import llvmlite
import numba
from llvmlite import binding
from numba import njit
from numba.core import caching, serialize
from numba.core.compiler import CompileResult
from numba.core.runtime import _nrt_python

MAGIC = b"mpisign kernel 1\n"
SOURCES = Path(__file__).parent
IN_TREE = SOURCES / "__pycache__"

used: set[Path] = set()  # folders from which this process has taken kernels
damaged: set[Path] = set()  # files that were no kernels any more
compiled: list[str] = []  # kernels that this process had to compile
lost: list[str] = []  # those of them that could be kept nowhere
_looking = False


class NotCompiledError(Exception):
    """A kernel that was only to be looked for is not there."""


def cached_njit(function: Callable) -> Callable:
    """Compiles a function when it is first called, or takes it from where it was kept."""
    # error_model "numpy": no check for division by zero, so that loops vectorise
    made = njit(nogil=True, error_model="numpy")(function)
    made._cache = KernelCache(function)
    return made


def folders() -> list[Path]:
    """Where kernels may lie: in NUMBA_CACHE_DIR, beside the sources, in the user's cache; in the order of search."""
    own = f"{SOURCES.name}_{hashlib.sha1(str(SOURCES).encode(errors='surrogateescape')).hexdigest()}"
    folders = [Path(numba.config.CACHE_DIR).absolute() / own] if numba.config.CACHE_DIR else []
    home = os.environ.get("XDG_CACHE_HOME", "")
    with contextlib.suppress(RuntimeError):  # a user without a home
        home = home if os.path.isabs(home) else str(Path.home() / ".cache")
    return [*folders, IN_TREE, *([Path(home) / "mpisign" / own] if os.path.isabs(home) else [])]


def trusted(folder: Path) -> bool:
    """Whether nobody but root, this user, and whoever wrote the program can have put something there."""
    try:
        here, above = os.stat(folder), os.stat(folder.parent)
    except OSError:
        return False
    sticky = bool(above.st_mode & stat.S_ISVTX)
    return _own(here, folder) and (_own(above, folder) or sticky)


def _own(status: os.stat_result, folder: Path) -> bool:
    owners = {0, os.geteuid()} | ({SOURCES.stat().st_uid} if folder == IN_TREE else set())
    return status.st_uid in owners and not status.st_mode & stat.S_IWOTH


@contextlib.contextmanager
def looking() -> Iterator[None]:
    """Inside, nothing is compiled: NotCompiledError is raised for the first kernel that is kept nowhere."""
    global _looking
    _looking = True
    try:
        yield
    finally:
        _looking = False


@cache
def _sources() -> str:
    """A digest of all kernels' sources: they inline helpers of each other's files."""
    files = sorted(path for path in SOURCES.glob("*.py") if path != Path(__file__))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:10]


@cache
def _link_runtime() -> None:
    """Tells LLVM where numba's runtime lies, which is all of its start that compiled kernels need.

    The rest, which compiles that runtime and imports what the compiler knows of, costs half a second of every process.
    """
    for name, address in _nrt_python.c_helpers.items():
        binding.add_symbol(name if name.startswith("_") else f"NRT_{name}", address)


class KernelCache(caching._Cache):
    """numba's idea of the cache of one function."""

    def __init__(self, function: Callable):
        self._function = function
        module = Path(function.__code__.co_filename).stem
        self._name = f"{module}.{function.__qualname__}".replace("<", "").replace(">", "")

    @property
    def cache_path(self):
        return str(IN_TREE)

    def enable(self): ...

    def disable(self): ...

    def flush(self): ...

    def load_overload(self, sig, target_context):
        """The compiled function for a signature, or None."""
        _link_runtime()
        name = self._file(sig, target_context.codegen())
        for folder in folders():
            if (payload := _read(folder, name)) is None:
                continue
            try:
                kernel = CompileResult._rebuild(target_context, *pickle.loads(payload))
            except Exception:
                damaged.add(folder / name)
                continue
            used.add(folder)
            return kernel
        if _looking:
            raise NotCompiledError(self._name)
        return None

    def save_overload(self, sig, data):
        """Keeps what was compiled, where that can be done."""
        compiled.append(self._name)
        if any(not part.can_cache for part in data.lifted) or data.library.has_dynamic_globals:
            lost.append(self._name)
            return
        name, payload = self._file(sig, data.codegen), serialize.dumps(data._reduce())
        kept = next((folder for folder in folders() if _write(folder, name, payload)), None)
        if kept is None:
            lost.append(self._name)
            return
        _forget_others(kept, self._name)

    def _file(self, sig, codegen) -> str:
        """The name of the file for a signature on this kind of CPU."""
        closure = tuple(cell.cell_contents for cell in self._function.__closure__ or ())
        versions = sys.implementation.cache_tag, numba.__version__, llvmlite.__version__
        key = sig, codegen.magic_tuple(), self._function.__code__.co_code, closure, versions
        return f"{self._name}-{_sources()}-{hashlib.sha256(repr(key).encode()).hexdigest()[:20]}.nbc"


def is_complete(name: str) -> bool:
    """Whether a set of kernels was found whole on disk, as note_complete() says; none is read."""
    return any(_read(folder, _mark(name)) is not None for folder in folders())


def note_complete(name: str) -> None:
    """Notes on disk that every kernel of a set is there, where this process could keep those it compiled."""
    if lost or damaged:
        return
    for folder in folders():
        if _write(folder, _mark(name), b""):
            _forget_others(folder, name)
            return


def _forget_others(folder: Path, name: str) -> None:
    """Removes what was kept under a name for other sources in this place, which nobody will ask for again."""
    for old in folder.glob(f"{name}-*"):
        if not old.name.startswith(f"{name}-{_sources()}-"):
            with contextlib.suppress(OSError):
                old.unlink()


def _mark(name: str) -> str:
    """The name of the file that stands for a set of kernels on this kind of CPU."""
    cpu = binding.get_host_cpu_name(), binding.get_host_cpu_features().flatten()
    key = name, cpu, sys.implementation.cache_tag, numba.__version__, llvmlite.__version__
    return f"{name}-{_sources()}-{hashlib.sha256(repr(key).encode()).hexdigest()[:20]}.nbc"


def _read(folder: Path, name: str) -> bytes | None:
    """What was kept under a name, whole; None where there is nothing, or nothing to be trusted."""
    if not trusted(folder):
        return None
    try:
        handle = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(handle, "rb") as file:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode) or not _own(status, folder):
                return None
            head, payload = file.read(len(MAGIC) + 32), file.read()
    except FileNotFoundError:
        return None
    except OSError:
        damaged.add(folder / name)
        return None
    if head != MAGIC + hashlib.sha256(payload).digest():
        damaged.add(folder / name)
        return None
    return payload


def _write(folder: Path, name: str, payload: bytes) -> bool:
    """Whether a payload now lies in a folder, under a name that appears only when it is whole."""
    aside = None
    try:
        for missing in (folder.parent, folder):
            missing.mkdir(mode=0o755, parents=True, exist_ok=True)
        if not trusted(folder):
            return False
        handle, aside = tempfile.mkstemp(prefix=f".{name}.", dir=folder)
        with open(handle, "wb") as file:
            file.write(MAGIC + hashlib.sha256(payload).digest() + payload)
        os.chmod(aside, 0o644)  # compiled by one, for the use of all
        os.replace(aside, folder / name)
    except OSError:
        if aside is not None:
            with contextlib.suppress(OSError):
                os.unlink(aside)
        return False
    damaged.discard(folder / name)
    return True
