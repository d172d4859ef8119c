"""`digits`: the 1,797 handwritten digits (8x8) that ship with scikit-learn."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from mpisign.errors import UsageError
from mpisign.problems.base import Rows, Tables
from mpisign.problems.classifier import Classifier
from mpisign.problems.models import Recipe


class Digits(Classifier):
    """A perceptron on scikit-learn's bundled digits, a fifth of them held out."""

    def __init__(self, hidden: list[int] = [64], dropout: float = 0.0, test_fraction: float = 0.2):  # noqa: B006
        super().__init__(Recipe("mlp", hidden=hidden, dropout=dropout))
        if not 0 < test_fraction < 1:
            raise UsageError(f"problem.test_fraction = {test_fraction}: a fraction in (0, 1)")
        self.test_fraction = test_fraction

    def read(self):
        images, labels = bundled()
        # the same rows are held out whatever the seed, so that runs can be compared
        order = np.random.Generator(np.random.PCG64(0)).permutation(len(labels))
        cut = round(len(labels) * self.test_fraction)
        test, train = order[:cut], order[cut:]
        if not len(test) or not len(train):
            raise UsageError(f"problem.test_fraction = {self.test_fraction}: of {len(labels)} rows none would be left")
        return Tables(
            train=_rows(images[train], labels[train]), test=_rows(images[test], labels[test]), classes=labels[train]
        )


def bundled() -> tuple[np.ndarray, np.ndarray]:
    """What scikit-learn's load_digits reads, images float64 (1797, 64) of 0 to 16, labels int64 (1797,).

    To import it takes a second, for which all ranks would wait, so its file is read where it lies today.
    """
    package = find_spec("sklearn")
    file = Path(package.origin).parent / "datasets/data/digits.csv.gz" if package and package.origin else None
    if file and file.is_file():
        table = np.loadtxt(file, delimiter=",")
        return table[:, :-1], table[:, -1].astype(np.int64)
    from sklearn.datasets import load_digits

    return load_digits(return_X_y=True)


def _rows(images: np.ndarray, labels: np.ndarray) -> Rows:
    return Rows(inputs=images.astype(np.float32) / np.float32(16), labels=labels.astype(np.int64))
