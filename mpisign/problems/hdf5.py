"""`hdf5`: rows of arrays x and y in an HDF5 file; every rank reads its own from the file."""

from pathlib import Path

import torch

from mpisign.errors import UsageError
from mpisign.problems.base import Tables
from mpisign.problems.classifier import Classifier
from mpisign.problems.data.checking import MOST_CLASSES, check_labels, check_sizes, outside
from mpisign.problems.data.readers.hdf5 import StoredRows, names
from mpisign.problems.models import Recipe


class Hdf5(Classifier):
    """Cross-entropy of a model on x (rows, ...) and the integer labels y (rows,) in the file `path`.

    inputs, labels: names of the datasets. Held out is what lies in `test_path`, or in datasets of the same names with
    _test behind, if there are any. external: whether rows may lie in other files, by links or storage that the file
    names. classes: how many labels there are, 0 for the largest one and those below.
    model, norm, hidden, dropout: as in `mnist`. Bytes are divided by 255; images are (channels, height, width).
    """

    everywhere = True
    hints = {"path": "an HDF5 file with datasets x and y"}  # noqa: RUF012

    def __init__(
        self,
        path: str,
        test_path: str = "",
        inputs: str = "x",
        labels: str = "y",
        classes: int = 0,
        model: str = "mlp",
        norm: str = "batch",
        hidden: list[int] = [128],  # noqa: B006
        dropout: float = 0.0,
        external: bool = False,
    ):
        super().__init__(Recipe(model, norm, hidden, dropout))
        if classes < 0:
            raise UsageError(f"problem.classes = {classes}: a number of labels, or 0 to look for the largest")
        self.path, self.test_path, self.classes = Path(path), Path(test_path) if test_path else None, classes
        self.names, self.external = (inputs, labels), external

    def read(self):
        held_out = tuple(f"{name}_test" for name in self.names)
        train, test = StoredRows(self.path, *self.names, self.external), None
        if self.test_path:
            test = StoredRows(self.test_path, *self.names, self.external)
        elif held_out[0] in names(self.path):
            test = StoredRows(self.path, *held_out, self.external)
        self._known = self.classes or int(train.labels.max()) + 1
        if self._known > MOST_CLASSES:
            raise UsageError(
                f"{self.path}: {self._known} classes, by its labels or problem.classes; labels count from 0 and stay "
                f"below {MOST_CLASSES}"
            )
        for rows in (train, test) if test else (train,):
            if (wrong := outside(rows.labels, self._known)) is not None:
                raise UsageError(
                    f"{rows.file}: a label of {wrong}, but there are {self._known} classes, 0 to {self._known - 1}; "
                    "labels count from 0, and problem.classes says how many there are"
                )
            check_sizes(rows.file, train.shape, rows.shape)
            if rows.bytes != train.bytes:
                raise UsageError(
                    f"{rows.file}: rows to train on are {train.dtype}, those held out {rows.dtype}; bytes are divided "
                    "by 255 and other numbers are not: store both alike"
                )
        check_labels(train.labels, self.path)
        return Tables(train, test, classes=train.labels)

    def describe(self, tables):
        return {"shape": tuple(tables.train.shape), "classes": self._known}

    def prepared(self, inputs):
        return inputs / 255 if inputs.dtype == torch.uint8 else inputs
