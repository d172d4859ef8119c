"""HDF5 with arrays `x` and `y`: rows are read where they are needed, not before."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from mpisign.errors import UsageError
from mpisign.parallel import memory
from mpisign.problems.base import Rows
from mpisign.problems.data.readers.files import require
from mpisign.storage import hdf5, lock
from mpisign.storage.hdf5 import Malformed, Outside

PIECE = 1 << 26  # bytes read at a time
ANY = "biufcSUOV"  # kinds of numpy: of which of them rows can be, is told with their shapes


class StoredRows(Rows):
    """Rows of two datasets in a file: inputs (rows, ...) and labels (rows,). take() reads."""

    def __init__(self, file: Path, inputs: str, labels: str, external: bool = False):
        """inputs, labels: names of the datasets. external: rows may lie in other files, which this one names.

        Raises UsageError where there are none such that fit.
        """
        self.file, self._inputs, self._external = file, inputs, external
        with _opened(file) as opened:
            x, y = (_dataset(file, opened, name, external) for name in (inputs, labels))
            if y.shape != x.shape[:1] or x.ndim < 2 or not x.size:
                raise UsageError(
                    f"{file}: {inputs} of shape {x.shape} and {labels} of shape {y.shape}: no rows of data"
                )
            if x.dtype.kind not in "fiu" or y.dtype.kind not in "iu":
                raise UsageError(f"{file}: {inputs} is {x.dtype}, {labels} {y.dtype}; numbers and integers are needed")
            _demand_room(file, x, y)
            for data in (x, y):
                _check_stored(data, file)
            self.labels = y[:].astype(np.int64)
            self.shape, self.dtype = x.shape[1:], x.dtype
        self.count = len(self.labels)

    @property
    def bytes(self) -> bool:
        """Whether inputs are bytes, as of images, and not numbers as a model takes them."""
        return self.dtype == np.uint8

    def take(self, rows) -> Rows:
        """The rows of these sorted numbers, or of a slice, as uint8 where they are bytes and float32 otherwise.

        Raises UsageError where they can't be read, or are not finite numbers.
        """
        wanted = np.arange(self.count)[rows]
        inputs = np.empty((len(wanted), *self.shape), dtype=np.uint8 if self.bytes else np.float32)
        step = max(PIECE // max(int(np.prod(self.shape)) * self.dtype.itemsize, 1), 1)
        with _opened(self.file) as opened, np.errstate(over="ignore"):
            stored = _dataset(self.file, opened, self._inputs, self._external)
            for lo in range(0, self.count, step):
                # a block of the file at a time, and of it the rows that are wanted
                first, last = np.searchsorted(wanted, (lo, lo + step))
                if first < last:
                    start, end = wanted[first], wanted[last - 1] + 1
                    inputs[first:last] = stored[start:end][wanted[first:last] - start]
                    self._check_finite(inputs[first:last], wanted[first:last])
        return Rows(inputs=inputs, labels=self.labels[wanted])

    def _check_finite(self, inputs: np.ndarray, numbers: np.ndarray) -> None:
        if self.bytes or np.isfinite(inputs).all():
            return
        wrong = numbers[~np.isfinite(inputs).reshape(len(inputs), -1).all(axis=1)][0]
        raise UsageError(
            f"{self.file}: row {wrong} of {self._inputs} has a value that is not a finite number in float32; scale or "
            "remove it"
        )


def names(file: Path) -> list[str]:
    """The datasets at the top of a file."""
    with _opened(file) as opened:
        return hdf5.datasets(opened)


def _dataset(file: Path, opened: h5py.File, name: str, external: bool) -> h5py.Dataset:
    try:
        if hdf5.find(opened, name, external) is None:
            known = ", ".join(hdf5.datasets(opened)) or "none"
            raise UsageError(f"{file}: no dataset {name!r}; its datasets: {known}. See problem.inputs, .labels")
        return hdf5.dataset(opened, name, ANY, outside=external)
    except Outside as error:
        raise UsageError(f"{file}: {error}; problem.external=true reads what lies in other files") from error
    except Malformed as error:
        raise UsageError(f"{file}: {error}") from error


def _demand_room(file: Path, inputs: h5py.Dataset, labels: h5py.Dataset) -> None:
    """Raises UsageError if what is read at once (a chunk or a row, and the labels) does not fit into memory."""
    chunk = inputs.dtype.itemsize * int(np.prod(inputs.chunks or (0,), dtype=object))
    row = inputs.dtype.itemsize * int(np.prod(inputs.shape[1:], dtype=object))
    amount = max(chunk, row) + 8 * len(labels)
    memory.require_memory(amount, f"{file}: {len(labels):,} labels, and rows of {row:,} bytes", "make the file smaller")


def _check_stored(data: h5py.Dataset, file: Path) -> None:
    """Raises UsageError for a dataset that HDF5 can't decompress, or would read as a constant in some part."""
    made = data.id.get_create_plist()
    filters = [made.get_filter(k) for k in range(made.get_nfilters())]
    lacking = [(code, name.decode(errors="replace")) for code, _, _, name in filters if not available(code)]
    if lacking and not _readable(data):  # a filter may have been left out where it was of no use
        code, name = lacking[0]
        raise UsageError(
            f"{file}: {data.name} was compressed by filter {code} ({name or 'no name'}), which this HDF5 has not; "
            "rewrite it with gzip, as by h5repack -f GZIP=4, or set HDF5_PLUGIN_PATH to that filter's plugin"
        )
    if data.is_virtual:
        gone = [
            s.file_name for s in data.virtual_sources() if "%" not in s.file_name and not _exists(s.file_name, file)
        ]
        if gone:
            raise UsageError(f"{file}: {data.name} is put together from files, of which {gone[0]} is not there")
    elif data.id.get_space_status() != h5py.h5d.SPACE_STATUS_ALLOCATED:
        raise UsageError(
            f"{file}: {data.name} of shape {data.shape} was never filled, or only in part; what is missing would be "
            "read as a constant: write it anew"
        )


def _readable(data: h5py.Dataset) -> bool:
    try:
        data[:1]
    except OSError:
        return False
    return True


def available(code: int) -> bool:
    """Whether HDF5 has a filter, of its own or as a plugin."""
    return bool(h5py.h5z.filter_avail(code))


def _exists(source: str, file: Path) -> bool:
    return source == "." or Path(source).exists() or (file.parent / source).exists()


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[h5py.File]:
    """A file open for reading; whatever HDF5 stumbles over inside becomes a UsageError."""
    require(file, "problem.path (or problem.test_path)", "an HDF5 file")
    hdf5.regular(file).close()
    try:
        with h5py.File(file, "r", **lock.hdf5(file)) as opened:
            yield opened
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise UsageError(f"{file}: can't be read as HDF5 ({error})") from error
