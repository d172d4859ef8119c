"""Writes a run file on root; other ranks get a writer that does nothing.

All datasets exist before HDF5's single-writer-multiple-reader mode starts, so the file is readable while it
grows and after SIGKILL. It is built under a temporary name and renamed before the first step; a run that goes on
starts a new file with its old rows. Where the file system can't do SWMR, the whole file is kept in memory and
rewritten aside now and then. A file that can't be written any more, as on a full disk, stops the run at its next step.
"""

import contextlib
import glob
import io
import math
import os
import re
import secrets
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import h5py
import numpy as np

from mpisign.errors import StorageError, UsageError
from mpisign.storage import checksum, lock
from mpisign.storage.hdf5 import CRC
from mpisign.storage.reader import refuse_occupied
from mpisign.storage.schema import FILETYPE, FORMAT_VERSION, TABLES, Column
from mpisign.storage.validation import missing

FLUSH_SECONDS = 1.0  # rows younger than this may be lost to SIGKILL
REWRITE_SECONDS = 30.0
# writers whose file can't be written: closing it would crash inside HDF5, and so would an orderly end of Python
ABANDONED: list["RunWriter"] = []


class NoWriter:
    """Same calls, nothing done."""

    mode = "none"
    failure: StorageError | None = None  # why rows are no longer written

    def append(self, table: str, **row) -> None: ...

    def event(self, kind: str, step: int, text: str = "") -> None: ...

    def flush(self, force: bool = False) -> None: ...

    def sync(self) -> None: ...

    def close(self) -> None: ...


class RunWriter(NoWriter):
    """An open run file: rows are buffered and written about once a second."""

    def __init__(
        self,
        path: Path,
        attributes: Mapping[str, object],
        config: str,
        arrays: Mapping[str, np.ndarray],
        *,
        overwrite: bool = False,
        mode: str = "auto",
        widths: Mapping[str, int] | None = None,
        tables: Mapping[str, Mapping[str, np.ndarray]] | None = None,
    ):
        """attributes, config and arrays ("group/name" -> array) are written once. widths: how many values a row has in
        columns with one for `each` of these things. tables: rows of the run so far, columns by table, of a run that
        goes on. Raises UsageError if the file exists and overwrite is False, or can't be written.
        """
        self.path = path
        self._rows: dict[str, list[dict]] = {table: [] for table in TABLES}
        self._temporary = aside_of(path)
        self._flushed = time.monotonic()
        self._data: dict[tuple[str, str], h5py.Dataset] = {}
        if not overwrite and tables is None:
            refuse_occupied(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            remove_leftovers(path.parent, glob.escape(path.name))
            self._file, self.mode = self._create(mode, attributes, config, arrays, widths or {}, tables or {})
        except OSError as error:
            with contextlib.suppress(OSError):
                self._temporary.unlink()
            raise UsageError(
                f"can't write the run file {path}: {error}; set run.file to a place that can be written"
            ) from error

        # HDF5 writes what it holds back when a dataset is closed: they stay open
        names = [(table, name) for table in TABLES for name in (*_names(table), CRC)]
        self._data = {(table, name): self._file[table][name] for table, name in names}

    def _create(self, mode, *contents):
        if mode != "rewrite":
            file = h5py.File(self._temporary, "x", libver="latest", **lock.hdf5(self._temporary))
            self.lay_out(file, *contents)
            try:
                file.flush()
                file.swmr_mode = True
                os.replace(self._temporary, self.path)
                return file, "swmr"
            except (OSError, ValueError, RuntimeError):
                file.close()
                self._temporary.unlink(missing_ok=True)
                if mode == "swmr":
                    raise
        file = h5py.File("run", "w", driver="core", backing_store=False, libver="latest")
        self.lay_out(file, *contents)
        self._rewrite(file)
        return file, "rewrite"

    @staticmethod
    def lay_out(file, attributes, config, arrays, widths, tables):
        # text of fixed length: HDF5 may read damaged text of other lengths for ever
        texts = {k: np.bytes_(v.encode()) if isinstance(v, str) else v for k, v in attributes.items()}
        file.attrs.update(texts, filetype=np.bytes_(FILETYPE), format_version=FORMAT_VERSION)
        for name, array in {"config": np.bytes_(config.encode()), **arrays}.items():
            file[name] = array
            file[name].attrs[CRC] = checksum.of_array(np.asarray(array))
        for table, columns in TABLES.items():
            group, before = file.create_group(table), {}
            for c in columns:
                row = (width,) if (width := widths.get(c.each, 0)) else ()
                chunk = (max(1, 512 // max(width, 1)) if row else 512, *row)
                before[c.name] = rows = _before(c, tables.get(table, {}), row)
                shapes = {"shape": (len(rows), *row), "maxshape": (None, *row), "chunks": chunk}
                data = group.create_dataset(c.name, **shapes, dtype=c.dtype)
                if len(rows):
                    data[:] = rows
                data.attrs.update(unit=np.bytes_(c.unit), meaning=np.bytes_(c.meaning))
            sums = checksum.of_rows([*before.values()])
            data = group.create_dataset(CRC, data=sums, maxshape=(None,), chunks=(512,))
            data.attrs.update(columns=np.bytes_(",".join(_names(table))))

    def append(self, table, **row):
        self._rows[table].append(row)
        self.flush()

    def event(self, kind, step, text=""):
        self.append("events", step=step, time=time.time(), kind=kind, text=text)
        self.flush(force=True)

    def flush(self, force=False):
        """Writes buffered rows if some time has passed, or at once."""
        period = FLUSH_SECONDS if self.mode == "swmr" else REWRITE_SECONDS
        if self.failure or (not force and time.monotonic() - self._flushed < period):
            return
        try:
            for table, rows in self._rows.items():
                if rows:
                    self._write(table, rows)
                    rows.clear()
            if self.mode == "rewrite":
                self._rewrite(self._file)
        except (OSError, RuntimeError) as error:
            self.failure = StorageError(f"can't write the run file {self.path} any more: {_reason(error)}")
            ABANDONED.append(self)
        self._flushed = time.monotonic()

    def sync(self):
        """Writes all rows, through to the disk."""
        self.flush(force=True)
        if self.mode == "swmr" and not self.failure:
            with contextlib.suppress(OSError):
                os.fsync(self._file.id.get_vfd_handle())

    def _write(self, table, rows):
        columns = {c.name: _column([row[c.name] for row in rows], c.dtype) for c in TABLES[table]}
        # the checksums come last: a row without one was not whole
        for name, values in (*columns.items(), (CRC, checksum.of_rows([*columns.values()]))):
            data = self._data[table, name]
            start = len(data)
            data.resize(start + len(rows), axis=0)
            data[start:] = values
            data.flush()

    def _rewrite(self, file):
        file.flush()
        with self._temporary.open("xb") as raw:
            raw.write(file.id.get_file_image())
        os.replace(self._temporary, self.path)

    def close(self):
        self.flush(force=True)
        if not self.failure:
            self._file.close()


def probe(path: Path) -> str:
    """How a run file at this path would be written: "swmr" if a reader sees what a writer adds, else "rewrite"."""
    try:
        with h5py.File(path, "x", libver="latest", **lock.hdf5(path)) as file:
            data = file.create_dataset("x", (0,), "i8", maxshape=(None,), chunks=(8,))
            file.swmr_mode = True
            data.resize(3, axis=0)
            data.flush()
            with h5py.File(path, "r", libver="latest", swmr=True, **lock.hdf5(path)) as reader:
                return "swmr" if len(reader["x"]) == 3 else "rewrite"
    except (OSError, ValueError, RuntimeError):
        path.touch()  # where nothing at all can be written, this says so
        return "rewrite"


def _names(table: str) -> list[str]:
    return [c.name for c in TABLES[table]]


def _before(column: Column, columns: Mapping[str, np.ndarray], row: tuple[int, ...]) -> np.ndarray:
    """A column of the run so far as it is stored; what an older version did not write is not known."""
    if column.name in columns and len(columns[column.name]):
        values = _column(columns[column.name], column.dtype)
        # a row may have values for more voters than it had when there were fewer
        absent = row[0] - values.shape[1] if row else 0
        return np.pad(values, ((0, 0), (0, absent)), constant_values=math.nan) if absent else values
    return missing(column.dtype, (len(columns.get("step", ())), *row))


def _column(values: Iterable, dtype: str) -> np.ndarray:
    """Values as they are stored: text is cut to its column, at a whole character."""
    if dtype.startswith("S"):
        values = (str(value).encode()[: int(dtype[1:])].decode(errors="ignore").encode() for value in values)
    return np.array(list(values), dtype=dtype)


def _reason(error: Exception) -> str:
    """The operating system's words from HDF5's long report."""
    found = re.search(r"errno = \d+, error message = '([^']+)'", str(error))
    return found[1] if found else str(error)


def write_aside(path: Path, fill, head=None, **how) -> None:
    """A new HDF5 file, filled by fill(file), that appears under its name only when it is whole and on disk.

    head: called with the finished file open in bytes, for what stands before HDF5's own. how: for h5py.File. Raises
    OSError where it can't be written; nothing is left then.
    """
    temporary = aside_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _Sink(temporary, "x+") as raw:
            with h5py.File(raw, "w", **how) as file:
                fill(file)
            if head and not raw.error:
                head(raw)
            raw.sync()
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


class _Sink(io.FileIO):
    """A file for HDF5 to write to, which hears of an error only once it has closed: it can't bear one before."""

    error: OSError | None = None

    def write(self, data) -> int:
        rest = memoryview(data).cast("B")
        while rest and not self.error:
            try:
                rest = rest[super().write(rest) :]
            except OSError as error:
                self.error = error
        return memoryview(data).nbytes

    def sync(self) -> None:
        """Raises the first error there was."""
        if self.error:
            raise self.error
        os.fsync(self.fileno())


def aside_of(path: Path) -> Path:
    """A hidden name beside a file that nobody could foresee, so that no link of others lies there."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


def remove_leftovers(folder: Path, name: str) -> None:
    """Removes what killed processes left of files aside, for whoever may write them. name: may hold wildcards."""
    for left in folder.glob(f".{name}.*.tmp"):
        with contextlib.suppress(OSError):
            left.unlink()


def sync_folder(folder: Path) -> None:
    """Makes a rename in a folder last through a power failure, where the file system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
