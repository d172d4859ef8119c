"""Finds and reads files, plain or compressed."""

import bz2
import gzip
import lzma
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from mpisign.errors import UsageError

ENDINGS = ("", ".gz", ".xz", ".bz2")
PACKED = {b"\x1f\x8b": gzip, b"\xfd7zXZ\0": lzma, b"BZh": bz2}  # by how they start
DAMAGED = (EOFError, ValueError, gzip.BadGzipFile, lzma.LZMAError, zlib.error)


def find(folder: Path, *stems: str) -> Path | None:
    """The first file of one of these names in a folder, plain or compressed.

    Raises UsageError for a folder that can't be looked into.
    """
    candidates = (folder / f"{stem}{ending}" for stem in stems for ending in ENDINGS)
    return next((f for f in candidates if is_file(f)), None)


def is_file(path: Path) -> bool:
    """Whether there is a file at a path. Raises UsageError where that can't be told."""
    try:
        return path.is_file()
    except OSError as error:
        raise UsageError(f"{path}: can't be looked at: {error.strerror}") from error


def require(file: Path, key: str, kind: str) -> None:
    """Raises UsageError if there is no file; it names the key of the job and the kind of file that it wants."""
    if is_file(file):
        return
    if file.is_dir():
        raise UsageError(f"{file}: a folder; set {key} to {kind}")
    if file.is_symlink():
        raise UsageError(f"no file {file}: a link to {os.readlink(file)}, which is not there; set {key} to {kind}")
    special = "nothing that can be read twice" if file.exists() else "no such file"
    raise UsageError(f"no file {file} ({special}); set {key} to {kind}")


def read(file: Path) -> bytes:
    """The contents of a file, decompressed whatever it is called. Raises UsageError if it can't be read."""
    with _explained(file):
        data = file.read_bytes()
        packed = _packed(data)
        return packed.decompress(data) if packed else data


def head(file: Path, count: int) -> bytes:
    """The first bytes of a file's contents, decompressed, without reading the rest. Raises UsageError as read()."""
    with _explained(file):
        with file.open("rb") as raw:
            start = raw.read(count)
        packed = _packed(start)
        if not packed:
            return start
        with packed.open(file) as opened:
            return opened.read(count)


def _packed(start: bytes) -> ModuleType | None:
    """The module that decompresses what starts so, if it is compressed."""
    return next((module for magic, module in PACKED.items() if start.startswith(magic)), None)


@contextmanager
def _explained(file: Path) -> Iterator[None]:
    """Turns what goes wrong while a file is read into a UsageError."""
    try:
        yield
    except DAMAGED as error:
        raise UsageError(
            f"{file}: can't be decompressed ({error}): cut short, damaged, or followed by something else; fetch it anew"
        ) from error
    except OSError as error:
        raise UsageError(f"{file}: can't be read: {error.strerror or error}") from error
    except MemoryError:
        raise UsageError(f"{file}: its contents take more memory than there is") from None
