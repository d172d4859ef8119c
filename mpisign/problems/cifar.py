"""`cifar10` and `cifar100`: their binary or Python batches, with a convolutional or residual network."""

from pathlib import Path

import numpy as np

from mpisign.errors import UsageError, choices
from mpisign.problems.base import Rows, Tables
from mpisign.problems.data.checking import check_labels
from mpisign.problems.data.readers import files
from mpisign.problems.data.readers.cifar import read_batch
from mpisign.problems.images import Images
from mpisign.problems.models import Recipe


class Cifar10(Images):
    """Cross-entropy of a model on data_batch_N and test_batch in the folder path: .bin or Python's, of any length.

    model: mlp, cnn, resnet18 or resnet20. norm: batch or group. augment: see images.Images. test: stems of the files
    that are held out; where there is no test_batch, a training batch will do. hidden, dropout: of an mlp.
    """

    hints = {"path": "the folder of its batches, as of mpisign data fetch cifar10 or cifar100"}  # noqa: RUF012
    classes = 10
    batches = tuple(f"data_batch_{k}" for k in range(1, 6))  # stems of the files, those that are held out aside
    normal = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # mean and deviation of the training images' channels

    def __init__(
        self,
        path: str,
        model: str = "resnet18",
        norm: str = "batch",
        augment: bool = True,
        test: list[str] = ["test_batch"],  # noqa: B006
        hidden: list[int] = [128],  # noqa: B006
        dropout: float = 0.0,
    ):
        super().__init__(Recipe(model, norm, hidden, dropout), *self.normal, augment)
        self.path, self.held_out = Path(path), tuple(test)
        self.adopt({})  # everything is known: so is the number of coordinates, before a file is read

    def describe(self, tables):
        return {}

    def adopt(self, sizes):
        super().adopt({"shape": (3, 32, 32), "classes": self.classes})

    def read(self):
        train = [f for stem in self.batches if stem not in self.held_out and (f := self._find(stem))]
        test = [f for stem in self.held_out if (f := self._find(stem))]
        if not train:
            known = choices(f"{stem}.bin" for stem in self.batches)
            raise UsageError(
                f"no training batch in {self.path} ({known}, or without .bin the Python version; plain or compressed); "
                "set problem.path to their folder"
            )
        if len(test) < len(self.held_out):
            raise UsageError(
                f"not all of {choices(self.held_out)} in {self.path}; set problem.test to the batches that are held out"
            )
        rows = [_joined([read_batch(file, self.classes) for file in part]) for part in (train, test) if part]
        check_labels(rows[0]["labels"], self.path)
        return Tables(*rows, classes=rows[0]["labels"])

    def _find(self, stem: str) -> Path | None:
        return files.find(self.path, f"{stem}.bin", stem)


class Cifar100(Cifar10):
    """The same on the files train and test of CIFAR-100, with its 100 fine labels."""

    classes = 100
    batches = ("train",)
    normal = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)

    def __init__(
        self,
        path: str,
        model: str = "resnet18",
        norm: str = "batch",
        augment: bool = True,
        test: list[str] = ["test"],  # noqa: B006
        hidden: list[int] = [128],  # noqa: B006
        dropout: float = 0.0,
    ):
        super().__init__(path, model, norm, augment, test, hidden, dropout)


def _joined(parts: list[Rows]) -> Rows:
    return Rows(**{name: np.concatenate([part[name] for part in parts]) for name in ("inputs", "labels")})
