"""Checks that the data of a problem can be trained on, where it was read and before rows are dealt."""

import re

import numpy as np
import torch

from mpisign.errors import UsageError
from mpisign.problems.base import Problem, Rows, Tables

MOST_CLASSES = 1 << 20  # counted for every voter, and each an output of a model


def checked(problem: Problem, tables: Tables | None) -> Tables | None:
    """The tables of a problem, with arrays as torch takes them: native, with strides forwards, sparse ones as CSR.

    Values and precision stay as they are. Raises UsageError for tables without rows, arrays that are not of numbers,
    and classes that are not integers from 0, one per row.
    """
    if tables is None:
        return None
    name = type(problem).__name__
    if not isinstance(tables, Tables):
        raise UsageError(f"problem {name}: read() gave a {type(tables).__name__}; return Tables(train=Rows(...))")
    if not tables.train.count:
        raise UsageError(f"problem {name}: no rows to train on; look at the data, as with mpisign data show")
    for rows in (tables.train, tables.test):
        arrays = getattr(rows, "arrays", {})  # an HDF5 file's rows are not read yet
        arrays.update({key: _array(array, f"problem {name}: rows {key!r}") for key, array in arrays.items()})
    if tables.classes is not None:
        tables.classes = _classes(np.asarray(tables.classes), tables.train.count, name)
    return tables


def check_labels(labels: np.ndarray, where: object) -> None:
    """Raises UsageError if the labels (rows,) of all training rows are of one class. where: the file or folder."""
    if len(labels) and (labels == labels[0]).all():
        raise UsageError(
            f"{where}: all {len(labels)} training rows have the label {labels[0]}; there is nothing to learn: at least "
            "two classes are needed"
        )


def outside(labels: np.ndarray, classes: int) -> int | None:
    """A label, of one or more, that is not among 0 to classes - 1; None if all are."""
    low, high = int(labels.min()), int(labels.max())
    return low if low < 0 else high if high >= classes else None


def check_sizes(where: object, train: tuple[int, ...], test: tuple[int, ...]) -> None:
    """Raises UsageError if held-out rows are of another shape than those to train on."""
    if tuple(train) != tuple(test):
        raise UsageError(
            f"{where}: rows to train on are of shape {list(train)}, those held out of {list(test)}; they must be alike"
        )


def explain(error: RuntimeError, rows: Rows | None) -> None:
    """Raises UsageError if an error of torch in a problem's loss or measure comes from the types of its rows."""
    arrays = getattr(rows, "arrays", {})
    types = {name: str(array.dtype).removeprefix("torch.") for name, array in arrays.items()}
    if not re.search("dtype|scalar type", str(error)) or set(types.values()) <= {"float32"}:
        return
    listed = ", ".join(f"{name} {kind}" for name, kind in types.items())
    raise UsageError(
        f"the problem can't use its rows with x, which is float32 ({next(iter(str(error).splitlines()))}); its rows "
        f"are: {listed}; make inputs float32 in read(), as by .astype(np.float32)",
        agreed=True,  # all ranks have rows of the same types
    ) from error


def _array(array, what: str):
    if isinstance(array, torch.Tensor):
        array = array.detach().cpu().numpy()
    if hasattr(array, "tocsr"):
        return array.tocsr()
    array = np.asarray(array)
    if array.dtype.kind not in "fiubc":
        raise UsageError(f"{what} are {array.dtype}; numbers are needed, such as float32, or int64 for labels")
    if array.dtype.itemsize > 8 and array.dtype.kind == "f":
        array = array.astype(np.float64)  # torch has nothing longer
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return array.copy() if any(stride < 0 for stride in array.strides) else array


def _classes(classes: np.ndarray, rows: int, name: str) -> np.ndarray:
    if classes.shape != (rows,) or classes.dtype.kind not in "iub":
        raise UsageError(
            f"problem {name}: classes are {classes.dtype} of shape {classes.shape}; integers from 0, one for each of "
            f"{rows} rows, are needed"
        )
    if (wrong := outside(classes, MOST_CLASSES)) is not None:
        raise UsageError(f"problem {name}: a class of {wrong}; classes count from 0 to at most {MOST_CLASSES - 1}")
    return classes.astype(np.int64) if classes.dtype.kind == "b" else classes
