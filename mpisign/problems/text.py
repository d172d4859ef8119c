"""`text`: the next character of a text, by a small transformer."""

from pathlib import Path

import numpy as np

from mpisign.errors import UsageError
from mpisign.problems.base import Rows, Tables
from mpisign.problems.classifier import Classifier
from mpisign.problems.data.readers.text import read_text
from mpisign.problems.models import Module, Recipe, char_gpt


class Text(Classifier):
    """Cross-entropy in nats a character of char-gpt on the text file `path`, its end held out.

    A row is a window of `context` characters and those that follow each; windows start every `stride` characters (0
    for context). In `labels`, for partitions by label: eight parts of the text, as long as each other.
    layers, heads, width, dropout: of the transformer.
    """

    hints = {"path": "a text file, as of mpisign data fetch shakespeare"}  # noqa: RUF012

    def __init__(
        self,
        path: str,
        context: int = 64,
        stride: int = 0,
        test_fraction: float = 0.1,
        layers: int = 2,
        heads: int = 4,
        width: int = 64,
        dropout: float = 0.0,
        encoding: str = "utf-8",
    ):
        for name, value in (("context", context), ("layers", layers), ("heads", heads), ("width", width)):
            if value < 1:
                raise UsageError(f"problem.{name} = {value}: at least 1")
        if width % heads:
            raise UsageError(f"problem.width = {width}: must be a multiple of problem.heads = {heads}")
        if stride < 0 or not 0 < test_fraction < 1:
            raise UsageError(f"problem.stride = {stride}, test_fraction = {test_fraction}: at least 0, and in (0, 1)")
        super().__init__(Recipe("mlp", dropout=dropout))  # which checks the dropout
        self.path, self.encoding, self.test_fraction = Path(path), encoding, test_fraction
        self.context, self.stride = context, stride or context
        self._sizes = {"context": context, "layers": layers, "heads": heads, "width": width, "dropout": dropout}

    def read(self):
        numbers, known = read_text(self.path, self.encoding)
        cut = round(len(numbers) * (1 - self.test_fraction))
        parts = numbers[:cut], numbers[cut:]
        if min(map(len, parts)) <= self.context:
            raise UsageError(
                f"{self.path}: {len(numbers)} characters, of which {len(parts[1])} are held out: too few for windows "
                f"of problem.context = {self.context}"
            )
        if len(known) < 2:
            raise UsageError(f"{self.path}: nothing but the character {known!r}; there is nothing to learn")
        self._characters = len(known)
        train, test = _windows(parts[0], self.context, self.stride), _windows(parts[1], self.context, self.context)
        return Tables(train, test, classes=np.arange(train.count) * 8 // train.count)

    def describe(self, tables):
        return {"characters": self._characters}

    def adopt(self, sizes):
        self.use(Module(char_gpt(**sizes, **self._sizes)))


def _windows(numbers: np.ndarray, context: int, stride: int) -> Rows:
    starts = np.arange(0, len(numbers) - context, stride)
    places = starts[:, None] + np.arange(context)
    return Rows(inputs=numbers[places], labels=numbers[places + 1])
