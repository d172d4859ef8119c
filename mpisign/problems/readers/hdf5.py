"""HDF5 with arrays `x` and `y`: rows are read where they are needed, not before."""

from pathlib import Path

import h5py
import numpy as np

from mpisign import hdf5, memory
from mpisign.errors import UsageError
from mpisign.hdf5 import Malformed
from mpisign.problems.base import Rows

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
            if y.shape != x.shape[:1] or x.ndim < 2 or not len(x):
                raise UsageError(
                    f"{file}: {inputs} of shape {x.shape} and {labels} of shape {y.shape}: no rows of data"
                )
            if x.dtype.kind not in "fiu" or y.dtype.kind not in "iu":
                raise UsageError(f"{file}: {inputs} is {x.dtype}, {labels} {y.dtype}; numbers and integers are needed")
            _demand_room(file, x, y)
            self.labels = y[:].astype(np.int64)
            self.shape, self.dtype = x.shape[1:], x.dtype
        self.count = len(self.labels)

    def take(self, rows) -> Rows:
        """The rows of these sorted numbers, or of a slice, as uint8 where they are bytes and float32 otherwise."""
        wanted = np.arange(self.count)[rows]
        kind = np.uint8 if self.dtype == np.uint8 else np.float32
        found = np.empty((len(wanted), *self.shape), dtype=kind)
        step = max(PIECE // max(int(np.prod(self.shape)) * self.dtype.itemsize, 1), 1)
        with _opened(self.file) as opened:
            stored = _dataset(self.file, opened, self._inputs, self._external)
            for lo in range(0, self.count, step):
                # a stretch of the file at a time, and of it the rows that are wanted
                first, last = np.searchsorted(wanted, (lo, lo + step))
                if first < last:
                    start, end = wanted[first], wanted[last - 1] + 1
                    found[first:last] = stored[start:end][wanted[first:last] - start]
        return Rows(inputs=found, labels=self.labels[wanted])


def names(file: Path) -> list[str]:
    """The datasets at the top of a file."""
    with _opened(file) as opened:
        return hdf5.datasets(opened)


def _dataset(file: Path, opened: h5py.File, name: str, external: bool) -> h5py.Dataset:
    try:
        if hdf5.find(opened, name, external) is None:
            found = ", ".join(hdf5.datasets(opened)) or "none"
            raise UsageError(f"{file}: no dataset {name!r}; its datasets: {found}. See problem.inputs, .labels")
        return hdf5.dataset(opened, name, ANY, outside=external)
    except Malformed as error:
        raise UsageError(f"{file}: {error}; problem.external=true reads what lies in other files") from error


def _demand_room(file: Path, inputs: h5py.Dataset, labels: h5py.Dataset) -> None:
    """Raises UsageError where a part that is read at once does not fit into memory, whatever the file claims."""
    chunk = inputs.dtype.itemsize * int(np.prod(inputs.chunks or (0,), dtype=object))
    row = inputs.dtype.itemsize * int(np.prod(inputs.shape[1:], dtype=object))
    amount = max(chunk, row) + 8 * len(labels)
    memory.demand(amount, f"{file}: {len(labels):,} labels, and rows of {row:,} bytes", "make the file smaller")


def _opened(file: Path) -> h5py.File:
    if not file.exists():
        raise UsageError(f"no file {file}; set problem.path to an HDF5 file")
    hdf5.regular(file).close()
    try:
        return h5py.File(file, "r")
    except OSError as error:
        raise UsageError(f"{file}: can't be read as HDF5 ({error})") from error
