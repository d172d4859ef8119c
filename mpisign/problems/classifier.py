"""Cross-entropy of a model on labelled rows: what all problems with a network share."""

import torch
import torch.nn.functional as F

from mpisign.problems.base import FINITE_SUM, Problem
from mpisign.problems.models import Network, Recipe

PIECE = 1024  # rows of a measurement taken at a time


class Classifier(Problem):
    """Mean cross-entropy over rows (inputs, labels); of a row with several labels, their mean."""

    offers = FINITE_SUM
    devices = ("cpu", "cuda")

    network: Network

    def __init__(self, recipe: Recipe):
        self.recipe, self._compiled, self._bf16 = recipe, False, False

    def describe(self, tables):
        inputs, labels = tables.train["inputs"], tables.train["labels"]
        return {"shape": tuple(inputs.shape[1:]), "classes": int(labels.max()) + 1}

    def adopt(self, sizes):
        self.use(self.recipe.build(sizes["shape"], sizes["classes"]))

    def use(self, network: Network) -> None:
        """Sets the model."""
        self.network, self.coordinates = network, network.coordinates
        if self._compiled:
            network.compile()

    def compile(self):
        self._compiled = True

    def use_precision(self, precision):
        self._bf16 = precision == "bf16"

    def initial(self, generator):
        return self.network.initial(generator)

    def statistics(self):
        return self.network.statistics()

    def module(self):
        return self.network.module()

    def prepared(self, inputs: torch.Tensor) -> torch.Tensor:
        """Inputs as the model takes them."""
        return inputs

    def _logits(self, parameters, inputs, training):
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=self._bf16):
            return self.network.logits(parameters, self.prepared(inputs), training).float()

    def loss(self, parameters, batch):
        logits = self._logits(parameters, batch["inputs"], True)
        return F.cross_entropy(logits.flatten(0, -2), batch["labels"].flatten())

    def measure(self, parameters, rows):
        loss, correct = 0.0, 0.0
        with torch.no_grad():
            for lo in range(0, rows.count, PIECE):
                part = rows.take(slice(lo, lo + PIECE))
                logits, labels = self._logits(parameters, part["inputs"], False), part["labels"]
                each = labels[0].numel()
                total = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="sum")
                loss += float(total) / each
                correct += int((logits.argmax(dim=-1) == labels).sum()) / each
        return {"loss": loss, "correct": correct, "rows": rows.count}
