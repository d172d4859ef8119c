"""CIFAR-10 and CIFAR-100: binary batches, and the pickled ones of their Python version, of any number of records."""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from mpisign.errors import UsageError
from mpisign.problems.base import Rows
from mpisign.problems.data.checking import outside
from mpisign.problems.data.readers.files import read

PIXELS = 3072  # bytes of an image: 1024 each of red, green and blue
# what a pickle of CIFAR may name: arrays of numpy, as old and new versions of numpy spell them
NAMED = {
    ("numpy", "dtype"), ("numpy", "ndarray"), ("_codecs", "encode"),
    ("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct"),
}  # fmt: skip


def read_batch(file: Path, classes: int) -> Rows:
    """Rows (inputs uint8 (b, 3, 32, 32), labels int64) of a batch, plain or compressed.

    classes: 10, or 100 for CIFAR-100, whose fine labels are taken. Raises UsageError for what is no such batch.
    """
    data = read(file)
    python = data[:1] == b"\x80"  # how a pickle starts; a label of 128 there is none
    images, labels = _unpickled(file, data, classes) if python else _binary(file, data, classes)
    if len(labels) and (wrong := outside(labels, classes)) is not None:
        raise UsageError(f"{file}: a label of {wrong}, but CIFAR-{classes} has 0 to {classes - 1}; it is another file")
    return Rows(inputs=images.reshape(-1, 3, 32, 32).copy(), labels=labels.astype(np.int64))


def _binary(file: Path, data: bytes, classes: int) -> tuple[np.ndarray, np.ndarray]:
    record = PIXELS + (1 if classes == 10 else 2)  # CIFAR-100 has a coarse label first
    if not data or len(data) % record:
        raise UsageError(
            f"{file}: {len(data)} bytes, which are no whole records of {record}; it was cut short, or is no batch of "
            f"CIFAR-{classes}: fetch it anew"
        )
    records = np.frombuffer(data, dtype=np.uint8).reshape(-1, record)
    return records[:, -PIXELS:], records[:, -PIXELS - 1].astype(np.int64)


class _OnlyArrays(pickle.Unpickler):
    """Reads dictionaries, lists, bytes and numpy's arrays, and refuses anything else: a pickle can be a program."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in NAMED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no batch of CIFAR does")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def _unpickled(file: Path, data: bytes, classes: int) -> tuple[np.ndarray, np.ndarray]:
    key = b"labels" if classes == 10 else b"fine_labels"
    try:
        batch = _OnlyArrays(io.BytesIO(data), encoding="bytes").load()
        images, labels = np.asarray(batch[b"data"]), np.asarray(batch[key])
    except Exception as error:  # a damaged pickle may raise anything
        raise UsageError(
            f"{file}: can't be read as a Python batch of CIFAR-{classes} ({type(error).__name__}: {error}); "
            "fetch it anew"
        ) from error
    if images.dtype != np.uint8 or images.shape != (len(labels), PIXELS) or labels.dtype.kind not in "iu":
        raise UsageError(f"{file}: data of shape {images.shape} and {len(labels)} labels; it is no batch of CIFAR")
    return images, labels
