"""Small problems for tests, as a user would write them: named "tests.problems:Factory"."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import torch

from mpisign.problems import Problem, Rows, Tables


class LeastSquares(Problem):
    """Half the mean square of <a, x> - b over rows, x being all parameters one behind the other: linear.

    rows, sides: the names of the arrays a and b; b is 0 where it has no name.
    """

    offers = frozenset({"finite sum", "two points", "function values", "linear"})
    rows, sides = "a", ""

    def residuals(self, parameters, batch):
        x = torch.cat([p.reshape(-1) for p in parameters.values()])
        along = batch[self.rows] @ x
        return along - batch[self.sides] if self.sides else along

    def derivatives(self, parameters, batch):
        residuals = self.residuals(parameters, batch).detach()
        return residuals[:, None], float(0.5 * (residuals**2).mean())

    def combine(self, batch, weights, gradients):
        flat, lo = batch[self.rows].T @ weights[:, 0], 0
        for gradient in gradients.values():
            gradient += flat[lo : lo + gradient.numel()].view(gradient.shape)
            lo += gradient.numel()

    def loss(self, parameters, batch):
        return 0.5 * (self.residuals(parameters, batch) ** 2).mean()

    def measure(self, parameters, rows):
        with torch.no_grad():
            return {"loss": float(self.loss(parameters, rows)) * rows.count, "rows": rows.count}


class Awkward(LeastSquares):
    """Least squares on four tensors of sizes that fit no word, with coordinates that never see a gradient.

    Tensors: 70 (of which 6 dead), 1, 4100 (more than a tile) and 64 coordinates.
    """

    rows = "inputs"
    shapes = {"a": (7, 10), "b": (), "c": (4100,), "d": (64,)}  # noqa: RUF012

    def __init__(self, size: int = 4100, rows: int = 40):
        self.shapes = self.shapes | {"c": (size,)}
        self.size = sum(int(np.prod(s)) for s in self.shapes.values())
        self.count = rows

    def read(self):
        rng = np.random.default_rng(5)
        inputs = rng.standard_normal((self.count, self.size)).astype(np.float32)
        inputs[:, :6] = 0  # dead coordinates
        return Tables(train=Rows(inputs=inputs), classes=np.arange(self.count) % 4)

    def initial(self, generator):
        start = {k: generator.standard_normal(shape) / 30 for k, shape in self.shapes.items()}
        return {k: torch.tensor(values, dtype=torch.float32) for k, values in start.items()}


class Layered(Awkward):
    """Least squares on a layer, its bias, a convolution, and a matrix too small for factors of rank 2."""

    def __init__(self):
        super().__init__()
        self.shapes = {"layer": (70, 90), "bias": (70,), "convolution": (16, 3, 5, 5), "small": (2, 50)}
        self.size = sum(int(np.prod(s)) for s in self.shapes.values())


class Plain(Problem):
    """Least squares as somebody writes it first: rows without classes, of whatever type, sizes looked up in read().

    kind: of the rows, as numpy names it.
    """

    def __init__(self, path: Path = Path("data.npz"), kind: str = "float32", start: tuple[float, ...] = (0.0, 0.0)):
        self.kind, self.start = kind, start

    def read(self):
        a = np.arange(24).reshape(12, 2) % 5
        self.size = a.shape[1]
        return Tables(train=Rows(a=a.astype(self.kind), b=a.sum(axis=1).astype(np.float32)))

    def initial(self, generator):
        return {"x": torch.full((self.size,), self.start[0])}

    def loss(self, parameters, batch):
        return ((batch["a"] @ parameters["x"] - batch["b"]) ** 2).mean() / 2

    def measure(self, parameters, rows):
        return {"loss": float(self.loss(parameters, rows)) * rows.count, "rows": rows.count}


class Rowless(Problem):
    """Noise around a slope that nobody knows a formula for."""

    def initial(self, generator):
        return {"x": torch.zeros(3)}

    def measure(self, parameters, rows):
        return {"loss": 0.0, "rows": 1}


class Faulty(Awkward):
    """Something happens on one rank at one gradient: poison (NaN), raise, kill, stall, or signals usr1, term, both.

    marker: a file that is made then; where it is there already, nothing happens. every_rank: it happens on all.
    """

    def __init__(self, fault: str = "poison", at: int = 5, on: int = 1, marker: str = "", every_rank: bool = False):
        super().__init__(size=10)
        self.fault, self.at, self.on, self.marker = fault, at, on, marker
        self.every_rank, self.calls = every_rank, 0

    def gradient(self, parameters, batch, gradients):
        from mpisign.parallel import mpi

        loss = super().gradient(parameters, batch, gradients)
        self.calls += 1
        here = self.every_rank or mpi.launch().rank == self.on
        if self.calls >= self.at and here and (self.marker or self.calls == self.at):
            self._strike(gradients)
        return loss

    def _strike(self, gradients):
        if self.marker and os.path.exists(self.marker):
            return
        if self.marker:
            open(self.marker, "x").close()
        if self.fault == "poison":
            gradients["d"][3] = float("nan")
        elif self.fault == "raise":
            raise RuntimeError("the coordinator of rows is on fire")
        elif self.fault == "stall":
            time.sleep(600)
        numbers = {"kill": [signal.SIGKILL], "usr1": [signal.SIGUSR1], "term": [signal.SIGTERM]}
        numbers["both"] = [signal.SIGUSR1, signal.SIGTERM]
        for number in numbers.get(self.fault, ()):
            os.kill(os.getpid(), number)


class OnePoint(Awkward):
    """Offers no second gradient on the same batch."""

    offers = frozenset({"finite sum"})


class Drifting(Awkward):
    """Changes x behind everybody's back on one rank."""

    def __init__(self):
        super().__init__(size=10)
        self.calls = 0

    def gradient(self, parameters, batch, gradients):
        from mpisign.parallel import mpi

        loss = super().gradient(parameters, batch, gradients)
        self.calls += 1
        if self.calls == 7 and mpi.launch().rank == 1:
            with torch.no_grad():
                parameters["b"] += 1e-3
        return loss


class Regression(LeastSquares):
    """Least squares in 20 dimensions, two tensors, 120 rows with some noise: a claim is made about f - f*."""

    sides = "b"

    def __init__(self, noise: float = 0.1):
        rng = np.random.default_rng(11)
        self.a = rng.standard_normal((120, 20)).astype(np.float32)
        truth = rng.standard_normal(20).astype(np.float32)
        self.b = self.a @ truth + noise * rng.standard_normal(120).astype(np.float32)

    def read(self):
        return Tables(train=Rows(a=self.a, b=self.b), classes=(self.b > 0).astype(int))

    def initial(self, generator):
        return {"u": torch.zeros(12), "w": torch.zeros(2, 4)}

    def gap(self, x) -> float:
        """(f(x) - f*) / (f(0) - f*) over all rows, x (20,) in float64."""
        a, b = self.a.astype(float), self.b.astype(float)
        best = np.linalg.lstsq(a, b, rcond=None)[0]
        f = lambda point: 0.5 * ((a @ point - b) ** 2).mean()  # noqa: E731
        return (f(x) - f(best)) / (f(np.zeros(20)) - f(best))


class Slow(Awkward):
    """Takes its time over every gradient and every evaluation, so that a run can be met in its middle.

    reading: seconds that reading takes. marker: a file that holds the process number of who reads.
    """

    def __init__(self, seconds: float = 0.02, evaluation: float = 0.0, reading: float = 0.0, marker: str = ""):
        super().__init__(size=300)
        self.seconds, self.evaluation, self.reading, self.marker = seconds, evaluation, reading, marker

    def read(self):
        if self.marker:
            with open(f"{self.marker}.tmp", "w") as file:
                file.write(str(os.getpid()))
            os.rename(f"{self.marker}.tmp", self.marker)
        time.sleep(self.reading)
        return super().read()

    def gradient(self, parameters, batch, gradients):
        time.sleep(self.seconds)
        return super().gradient(parameters, batch, gradients)

    def measure(self, parameters, rows):
        time.sleep(self.evaluation)
        return super().measure(parameters, rows)


class Leaving(Awkward):
    """One rank leaves: see tests.ways_out.leave; at its `at`-th call of read, gradient or measure."""

    def __init__(self, how: str, during: str = "gradient", at: int = 5, on: int = 1):
        super().__init__(size=10)
        self.how, self.during, self.left, self.on = how, during, at, on

    def _pass(self, where: str) -> None:
        from mpisign.parallel import mpi
        from tests.ways_out import leave

        self.left -= where == self.during
        if where == self.during and self.left == 0 and mpi.launch().rank == self.on:
            leave(self.how)

    def read(self):
        self._pass("read")
        return super().read()

    def gradient(self, parameters, batch, gradients):
        self._pass("gradient")
        return super().gradient(parameters, batch, gradients)

    def measure(self, parameters, rows):
        self._pass("measure")
        return super().measure(parameters, rows)
