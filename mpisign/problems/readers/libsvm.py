"""LIBSVM, `label index:value ...` a line."""

import io
from pathlib import Path

import numpy as np

from mpisign.errors import UsageError
from mpisign.problems.base import Rows
from mpisign.problems.readers.opening import read

LABELS = ({0.0, 1.0}, {1.0, 2.0}, {-1.0, 1.0})


def read_libsvm(file: Path, features: int | None = None) -> Rows:
    """Rows (inputs float32 CSR, labels -1/+1 float32) of a LIBSVM file, plain or compressed.

    Labels may be 0/1, 1/2 or -1/+1. Raises UsageError for anything that can't be read as that.
    """
    from sklearn.datasets import load_svmlight_file

    if not file.is_file():
        raise UsageError(f"no file {file}; set problem.path (or problem.test_path) to a LIBSVM file")
    data = io.BytesIO(read(file))
    try:
        inputs, labels = load_svmlight_file(data, n_features=features, dtype=np.float32)
    except (ValueError, OSError, EOFError, IndexError) as error:
        raise UsageError(f"{file}: can't be read as LIBSVM, 'label index:value ...' a line ({error})") from error
    found = set(np.unique(labels).tolist())
    if not any(found <= pair for pair in LABELS) or not found:
        shown = sorted(found)[:5]
        raise UsageError(f"{file}: labels {shown}; two classes are needed, as 0/1, 1/2 or -1/+1")
    positive = max(next(pair for pair in LABELS if found <= pair))
    inputs.sort_indices()
    return Rows(inputs=inputs, labels=np.where(labels == positive, 1, -1).astype(np.float32))
