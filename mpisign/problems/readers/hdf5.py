"""HDF5 with arrays `x` and `y`: rows are read where they are needed, not before."""

from pathlib import Path

import h5py
import numpy as np

from mpisign import lock
from mpisign.errors import UsageError
from mpisign.problems.base import Rows

PIECE = 1 << 26  # bytes read at a time


class StoredRows(Rows):
    """Rows of two datasets in a file: inputs (rows, ...) and labels (rows,). take() reads."""

    def __init__(self, file: Path, inputs: str, labels: str):
        """inputs, labels: names of the datasets. Raises UsageError where there are none such that fit."""
        self.file, self._inputs = file, inputs
        with _opened(file) as opened:
            for name in (inputs, labels):
                if not isinstance(opened.get(name), h5py.Dataset):
                    found = ", ".join(k for k, v in opened.items() if isinstance(v, h5py.Dataset)) or "none"
                    raise UsageError(f"{file}: no dataset {name!r}; its datasets: {found}. See problem.inputs, .labels")
            x, y = opened[inputs], opened[labels]
            if y.shape != x.shape[:1] or x.ndim < 2 or not len(x):
                raise UsageError(
                    f"{file}: {inputs} of shape {x.shape} and {labels} of shape {y.shape}: no rows of data"
                )
            if x.dtype.kind not in "fiu" or y.dtype.kind not in "iu":
                raise UsageError(f"{file}: {inputs} is {x.dtype}, {labels} {y.dtype}; numbers and integers are needed")
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
            for lo in range(0, self.count, step):
                # a stretch of the file at a time, and of it the rows that are wanted
                first, last = np.searchsorted(wanted, (lo, lo + step))
                if first < last:
                    start, end = wanted[first], wanted[last - 1] + 1
                    found[first:last] = opened[self._inputs][start:end][wanted[first:last] - start]
        return Rows(inputs=found, labels=self.labels[wanted])


def names(file: Path) -> list[str]:
    """The datasets at the top of a file."""
    with _opened(file) as opened:
        return [name for name, item in opened.items() if isinstance(item, h5py.Dataset)]


def _opened(file: Path) -> h5py.File:
    if not file.is_file():
        raise UsageError(f"no file {file}; set problem.path to an HDF5 file")
    try:
        return h5py.File(file, "r", **lock.hdf5(file))
    except OSError as error:
        raise UsageError(f"{file}: can't be read as HDF5 ({error})") from error
