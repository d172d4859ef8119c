"""`mnist`: images in the IDX files of MNIST and its relatives, plain or compressed."""

from pathlib import Path

import numpy as np

from mpisign.errors import UsageError
from mpisign.problems.base import Rows, Tables
from mpisign.problems.classifier import Classifier
from mpisign.problems.data.checking import check_labels, check_sizes
from mpisign.problems.data.readers import files
from mpisign.problems.data.readers.idx import read_idx
from mpisign.problems.models import Recipe

FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


class Mnist(Classifier):
    """A model on the four IDX files in the folder `path`; it has a class for every label, held-out ones included.

    model: mlp (with layers of the widths `hidden`, and dropout), cnn, resnet18 or resnet20; norm: batch or group.
    per_class: how many training images of each class are used, the first in the file; 0 for all.
    """

    hints = {"path": "the folder of the four IDX files, as of mpisign data fetch mnist"}  # noqa: RUF012

    def __init__(
        self,
        path: str,
        hidden: list[int] = [128],  # noqa: B006
        dropout: float = 0.0,
        per_class: int = 0,
        model: str = "mlp",
        norm: str = "batch",
    ):
        super().__init__(Recipe(model, norm, hidden, dropout))
        if per_class < 0:
            raise UsageError(f"problem.per_class = {per_class}: a number of images, or 0 for all")
        self.path, self.per_class = Path(path), per_class

    def read(self):
        parts = {}
        for part, (images, labels) in FILES.items():
            x, y = read_idx(self._find(images), 3), read_idx(self._find(labels), 1)
            if len(x) != len(y):
                raise UsageError(f"{self.path}: {len(x)} {part} images but {len(y)} labels; fetch the files anew")
            if not x.size:
                raise UsageError(f"{self.path}: {part} images of shape {list(x.shape)}: none at all; fetch them anew")
            if part == "train" and self.per_class:
                first = np.concatenate([np.flatnonzero(y == c)[: self.per_class] for c in np.unique(y)])
                x, y = x[first], y[first]
            inputs = x[:, None].astype(np.float32) / np.float32(255)
            parts[part] = Rows(inputs=inputs, labels=y.astype(np.int64))
        check_sizes(self.path, *(part["inputs"].shape[1:] for part in parts.values()))
        check_labels(parts["train"]["labels"], self.path)
        self._classes = max(int(part["labels"].max()) for part in parts.values()) + 1
        return Tables(**parts, classes=parts["train"]["labels"])

    def describe(self, tables):
        return {"shape": tuple(tables.train["inputs"].shape[1:]), "classes": self._classes}

    def _find(self, stem: str) -> Path:
        if file := files.find(self.path, stem):
            return file
        raise UsageError(f"no {stem} or {stem}.gz in {self.path}; set problem.path to the folder of the IDX files")
