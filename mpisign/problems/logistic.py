"""`logistic`: regularised logistic regression on a LIBSVM file: sparse inside, dense gradient."""

from pathlib import Path

import numpy as np
import torch

from mpisign.errors import UsageError
from mpisign.problems.base import LINEAR, Problem, Tables
from mpisign.problems.data.readers.libsvm import read_libsvm


class Logistic(Problem):
    """mean log(1 + exp(-y <a, x>)) + (l2/2) |x|^2 + nonconvex * sum x_i^2 / (1 + x_i^2), y in {-1, +1}.

    The last term is the bounded regulariser under which sign methods are usually compared. No intercept.
    """

    offers = LINEAR
    hints = {"path": "a LIBSVM file, as of mpisign data fetch a9a"}  # noqa: RUF012

    def __init__(self, path: str, test_path: str = "", l2: float = 1e-3, nonconvex: float = 0.0):
        for name, value in (("l2", l2), ("nonconvex", nonconvex)):
            if value < 0:
                raise UsageError(f"problem.{name} = {value}: a regulariser is at least 0")
        self.path, self.test_path, self.l2, self.nonconvex = Path(path), test_path, l2, nonconvex

    def read(self):
        train, *test = read_libsvm([self.path, *([Path(self.test_path)] if self.test_path else [])])
        return Tables(train=train, test=test[0] if test else None, classes=(train["labels"] > 0).astype(np.int64))

    def describe(self, tables):
        return {"features": tables.train["inputs"].shape[1]}

    def adopt(self, sizes):
        self._features = self.coordinates = sizes["features"]

    def initial(self, generator):
        return {"x": torch.zeros(self._features)}

    def loss(self, parameters, batch):
        raise NotImplementedError("the gradient has a formula; see gradient() and measure()")

    def gradient(self, parameters, batch, gradients):
        derivatives, loss = self.derivatives(parameters, batch)
        self.combine(batch, derivatives / batch.count, gradients)
        self.penalise(parameters, gradients)
        return loss

    def derivatives(self, parameters, batch):
        labels = batch["labels"].numpy()
        margins = batch["inputs"] @ parameters["x"].numpy() * labels
        # the logistic function as a tanh, which overflows nowhere
        pull = (np.tanh(margins / 2) - 1) / 2 * labels
        loss = float(np.logaddexp(0, -margins).mean(dtype=np.float64)) + self.penalty(parameters)
        return torch.from_numpy(pull.astype(np.float32))[:, None], loss

    def combine(self, batch, weights, gradients):
        gradients["x"] += torch.from_numpy(batch["inputs"].T @ weights[:, 0].numpy())

    def penalise(self, parameters, gradients):
        x = parameters["x"].numpy()
        gradients["x"] += torch.from_numpy(self.l2 * x)
        if self.nonconvex:
            gradients["x"] += torch.from_numpy(self.nonconvex * 2 * x / (1 + x * x) ** 2)

    def value(self, parameters, batch):
        return self.measure(parameters, batch)["loss"] / batch.count + self.penalty(parameters)

    def measure(self, parameters, rows):
        margins = rows["inputs"] @ parameters["x"].numpy() * rows["labels"].numpy()
        loss = np.logaddexp(0, -margins.astype(np.float64)).sum()
        return {"loss": float(loss), "correct": int((margins > 0).sum()), "rows": rows.count}

    def penalty(self, parameters):
        x = parameters["x"].numpy().astype(np.float64)
        squares = x * x
        return float(self.l2 / 2 * squares.sum() + self.nonconvex * (squares / (1 + squares)).sum())
