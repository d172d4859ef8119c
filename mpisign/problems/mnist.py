"""`mnist`: images in the IDX files of MNIST and its relatives, gzipped or not."""

import gzip
import zlib
from pathlib import Path

import numpy as np

from mpisign.errors import UsageError
from mpisign.problems.base import Tables
from mpisign.problems.classifier import Classifier, pixel_rows

FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


class Mnist(Classifier):
    """A perceptron on the four IDX files in the folder `path`.

    per_class: how many training images of each class are used, the first in the file; 0 for all.
    """

    def __init__(self, path: str, hidden: list[int] = [128], dropout: float = 0.0, per_class: int = 0):  # noqa: B006
        super().__init__(hidden, dropout)
        if per_class < 0:
            raise UsageError(f"problem.per_class = {per_class}: a number of images, or 0 for all")
        self.path, self.per_class = Path(path), per_class

    def read(self):
        parts = {}
        for part, (images, labels) in FILES.items():
            x, y = read_idx(_find(self.path, images), 3), read_idx(_find(self.path, labels), 1)
            if len(x) != len(y):
                raise UsageError(f"{self.path}: {len(x)} {part} images but {len(y)} labels; fetch the files anew")
            if part == "train" and self.per_class:
                first = np.concatenate([np.flatnonzero(y == c)[: self.per_class] for c in np.unique(y)])
                x, y = x[first], y[first]
            parts[part] = pixel_rows(x, y, 255)
        return Tables(**parts, classes=parts["train"]["labels"])


def _find(folder: Path, stem: str) -> Path:
    candidates = [folder / stem, folder / f"{stem}.gz"]
    for file in candidates:
        if file.is_file():
            return file
    raise UsageError(f"no {stem} or {stem}.gz in {folder}; set problem.path to the folder of the IDX files")


def read_idx(file: Path, dimensions: int) -> np.ndarray:
    """A uint8 array from an IDX file, gzipped or not.

    Raises UsageError if it is not IDX, has another number of dimensions, or is cut short.
    """
    try:
        raw = file.read_bytes()
        data = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{file}: can't be read or decompressed ({error}); fetch it anew") from error
    if data[:4] != bytes([0, 0, 8, dimensions]):
        wanted = f"0000 08 {dimensions:02x}"
        raise UsageError(
            f"{file}: not an IDX file of bytes in {dimensions} dimensions: starts {data[:4].hex()}, not {wanted}"
        )
    shape = np.frombuffer(data, ">u4", dimensions, offset=4)
    body = np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions)
    if len(body) != np.prod(shape, dtype=np.int64):
        raise UsageError(f"{file}: {len(body)} bytes of data where its header promises {shape.tolist()}; fetch it anew")
    return body.reshape(shape)
