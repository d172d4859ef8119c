"""`wilson`: data on which methods that leave the span of gradients fit the training rows and nothing else."""

import numpy as np
import torch

from mpisign.errors import UsageError
from mpisign.problems.base import FINITE_SUM, Problem, Rows, Tables


class Wilson(Problem):
    """Least squares on labels of +-1 in 12*count dimensions, from 0, with as many held-out rows as training rows.

    Of a row's features the first is its label and the next two are 1; of five more that no other row has, one is 1
    where the label is +1 and all are where it is -1 [Wilson et al. 2017; Karimireddy et al. 2019, section on
    generalisation]. number: which of the random data sets.
    """

    offers = FINITE_SUM

    def __init__(self, count: int = 100, number: int = 0):
        if count < 1 or number < 0:
            raise UsageError(f"problem: count {count} >= 1 and number {number} >= 0 are needed")
        self.count, self.number, self.coordinates = count, number, 12 * count

    def read(self):
        labels = np.random.default_rng(self.number).choice([-1.0, 1.0], 2 * self.count).astype(np.float32)
        inputs = np.zeros((2 * self.count, self.coordinates), dtype=np.float32)
        inputs[:, 0], inputs[:, 1:3] = labels, 1
        for row, label in enumerate(labels):
            first = 3 + 5 * row
            inputs[row, first : first + (1 if label > 0 else 5)] = 1
        parts = [Rows(inputs=inputs[h], labels=labels[h]) for h in (slice(self.count), slice(self.count, None))]
        return Tables(*parts, classes=(parts[0]["labels"] > 0).astype(int))

    def initial(self, generator):
        return {"x": torch.zeros(self.coordinates)}

    def loss(self, parameters, batch):
        return 0.5 * ((batch["inputs"] @ parameters["x"] - batch["labels"]) ** 2).mean()

    def measure(self, parameters, rows):
        predictions = rows["inputs"] @ parameters["x"]
        squares = (predictions - rows["labels"]).double() ** 2
        correct = int((predictions * rows["labels"] > 0).sum())
        return {"loss": float(0.5 * squares.sum()), "correct": correct, "rows": rows.count}
