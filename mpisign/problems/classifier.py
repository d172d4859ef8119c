"""A multilayer perceptron on rows of pixels: what `digits` and `mnist` share."""

import math
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F

from mpisign.errors import UsageError
from mpisign.problems.base import Problem, Rows


class Classifier(Problem):
    """Cross-entropy of inputs - hidden... - classes with ReLU in between."""

    offers = frozenset({"finite sum", "two points", "function values"})

    def __init__(self, hidden: list[int], dropout: float):
        if any(h < 1 for h in hidden):
            raise UsageError(f"problem.hidden = {hidden}: the width of a layer is at least 1")
        if not 0 <= dropout < 1:
            raise UsageError(f"problem.dropout = {dropout}: a fraction in [0, 1)")
        self.hidden, self.dropout = hidden, dropout

    def describe(self, tables):
        return {"features": tables.train["inputs"].shape[1], "classes": int(tables.train["labels"].max()) + 1}

    def adopt(self, sizes):
        self._widths = [sizes["features"], *self.hidden, sizes["classes"]]
        self.coordinates = sum((inputs + 1) * outputs for inputs, outputs in pairwise(self._widths))

    def initial(self, generator):
        # torch.nn.Linear's own start, uniform in +-1/sqrt(fan in), from the run's random stream
        point = {}
        for k, (inputs, outputs) in enumerate(pairwise(self._widths)):
            bound = 1 / math.sqrt(inputs)
            for name, shape in (("weight", (outputs, inputs)), ("bias", (outputs,))):
                values = generator.uniform(-bound, bound, shape).astype(np.float32)
                point[f"layer{k}.{name}"] = torch.from_numpy(values)
        return point

    def _logits(self, parameters, inputs, training):
        h, last = inputs, len(self._widths) - 2
        for k in range(last + 1):
            h = F.linear(h, parameters[f"layer{k}.weight"], parameters[f"layer{k}.bias"])
            if k < last:
                h = F.dropout(F.relu(h), self.dropout, training)
        return h

    def loss(self, parameters, batch):
        return F.cross_entropy(self._logits(parameters, batch["inputs"], True), batch["labels"])

    def measure(self, parameters, rows):
        loss, correct = 0.0, 0
        with torch.no_grad():
            for lo in range(0, rows.count, 4096):
                part = rows.take(slice(lo, lo + 4096))
                logits = self._logits(parameters, part["inputs"], False)
                loss += float(F.cross_entropy(logits, part["labels"], reduction="sum"))
                correct += int((logits.argmax(dim=1) == part["labels"]).sum())
        return {"loss": loss, "correct": correct, "rows": rows.count}


def pixel_rows(images: np.ndarray, labels: np.ndarray, scale: float) -> Rows:
    """Images (n, ...) flattened and scaled to float32, labels as int64."""
    inputs = images.reshape(len(images), -1).astype(np.float32) / np.float32(scale)
    return Rows(inputs=inputs, labels=labels.astype(np.int64))
