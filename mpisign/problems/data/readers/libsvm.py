"""LIBSVM, `label index:value ...` a line."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mpisign.errors import UsageError
from mpisign.problems.base import Rows
from mpisign.problems.data.readers.files import read, require

LABELS = ({0.0, 1.0}, {1.0, 2.0}, {-1.0, 1.0})
LARGEST = 2**31 - 2  # index that fits: one more is the number of features


def read_libsvm(files: Sequence[Path]) -> list[Rows]:
    """Rows (inputs float32 CSR, labels -1/+1 float32) of the LIBSVM files of one problem, plain or compressed.

    What a file alone may not show is decided from all of them: whether indices count from 0 or from 1, how many
    features there are, and which two classes: 0/1, 1/2 or -1/+1. Raises UsageError for anything that can't be read so.
    """
    parts = [_parsed(file) for file in files]
    base = min((int(inputs.indices.min()) for inputs, _ in parts if inputs.nnz), default=None)
    if base is None:
        raise UsageError(f"{_named(files)}: no row has a feature; lines are 'label index:value ...'")
    # the least index of all files tells where they begin to count, as in sklearn's own rule for a single one
    first = 1 if base > 0 else 0
    features = max(int(inputs.indices.max()) for inputs, _ in parts if inputs.nnz) + 1 - first
    positive = _positive(files, [labels for _, labels in parts])
    return [_rows(inputs, labels, first, features, positive) for inputs, labels in parts]


def _parsed(file: Path):
    """Inputs, with indices as they stand in the file, and labels as numbers."""
    from sklearn.datasets import load_svmlight_file

    require(file, "problem.path (or problem.test_path)", "a LIBSVM file")
    data = read(file)
    try:
        inputs, labels = load_svmlight_file(io.BytesIO(data), dtype=np.float32, zero_based=True)
    except OverflowError as error:
        raise UsageError(
            f"{file}: a feature's index is beyond {LARGEST}; hashed features have to be hashed to fewer ({error})"
        ) from error
    except (ValueError, OSError, EOFError, IndexError) as error:
        raise UsageError(f"{file}: can't be read as LIBSVM, 'label index:value ...' a line ({error})") from error
    if inputs.nnz and inputs.indices.max() > LARGEST:
        raise UsageError(f"{file}: a feature's index of {inputs.indices.max()}, beyond {LARGEST}")
    if not np.isfinite(inputs.data).all():
        row = int(np.searchsorted(inputs.indptr, np.flatnonzero(~np.isfinite(inputs.data))[0], side="right"))
        raise UsageError(f"{file}: row {row} has a value that is not a finite number in float32; scale or remove it")
    return inputs, labels


def _positive(files: Sequence[Path], labels: list[np.ndarray]) -> float:
    """The label that stands for +1, by the classes of all files."""
    classes = set(np.unique(np.concatenate(labels)).tolist())
    pair = next((pair for pair in LABELS if classes == pair), None)
    if pair is None:
        shown = ", ".join(f"{label:g}" for label in sorted(classes)[:5]) + (", ..." if len(classes) > 5 else "")
        raise UsageError(
            f"{_named(files)}: labels {shown or 'none: no rows'}; two classes are needed, as 0/1, 1/2 or -1/+1"
        )
    for file, part in zip(files, labels, strict=True):
        if not len(part):
            raise UsageError(f"{file}: no rows")
    if len(set(labels[0].tolist())) < 2:
        raise UsageError(f"{files[0]}: labels {labels[0][0]:g} only; two classes are needed in the rows to train on")
    return max(pair)


def _rows(inputs, labels: np.ndarray, first: int, features: int, positive: float) -> Rows:
    from scipy.sparse import csr_matrix

    moved = csr_matrix((inputs.data, inputs.indices - first, inputs.indptr), shape=(inputs.shape[0], features))
    moved.sort_indices()
    return Rows(inputs=moved, labels=np.where(labels == positive, 1, -1).astype(np.float32))


def _named(files: Sequence[Path]) -> str:
    return " and ".join(map(str, files))
