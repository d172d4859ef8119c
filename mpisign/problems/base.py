"""What a problem is: data, a starting point, a loss and its gradient.

A problem of your own is a subclass; a job names it as `name = "package.module:factory"`, and every other
key of [problem] becomes a keyword argument of the factory.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mpisign.bits.rng import Draw
from mpisign.errors import UsageError

Parameters = Mapping[str, Tensor]

# what problems offer: see Problem
VALUES = frozenset({"two points", "function values"})
FINITE_SUM, EXACT = VALUES | {"finite sum"}, VALUES | {"exact gradient"}
LINEAR = FINITE_SUM | {"linear"}


class Rows:
    """Rows of data: named arrays (numpy or scipy CSR) that agree in their first dimension."""

    def __init__(self, **arrays):
        self.arrays = arrays
        lengths = {a.shape[0] for a in arrays.values()}
        if len(lengths) != 1:
            raise ValueError(f"arrays of different lengths: { {k: a.shape for k, a in arrays.items()} }")
        self.count = lengths.pop()

    def __getitem__(self, name: str):
        return self.arrays[name]

    def take(self, rows) -> "Rows":
        """The rows of these numbers, or of a slice."""
        return Rows(**{name: array[rows] for name, array in self.arrays.items()})

    def flat(self) -> dict[str, np.ndarray]:
        """Plain arrays from which `unflatten` makes the rows again, to be sent to another rank."""
        plain = {}
        for name, array in self.arrays.items():
            if isinstance(array, np.ndarray):
                plain[name] = np.ascontiguousarray(array)
            else:
                parts = {"data": array.data, "indices": array.indices, "indptr": array.indptr}
                plain |= {f"{name}.{k}": v for k, v in parts.items()}
                plain[f"{name}.shape"] = np.array(array.shape)
        return plain

    @staticmethod
    def unflatten(plain: dict[str, np.ndarray]) -> "Rows":
        sparse = {key.removesuffix(".shape") for key in plain if key.endswith(".shape")}
        arrays = {key: array for key, array in plain.items() if key.split(".")[0] not in sparse}
        for name in sparse:
            from scipy.sparse import csr_matrix

            parts = tuple(plain[f"{name}.{k}"] for k in ("data", "indices", "indptr"))
            arrays[name] = csr_matrix(parts, shape=tuple(plain[f"{name}.shape"]))
        return Rows(**arrays)

    def tensors(self) -> "Rows":
        """The same rows with numpy arrays as torch tensors that share their memory."""
        return Rows(**{n: torch.from_numpy(a) if isinstance(a, np.ndarray) else a for n, a in self.arrays.items()})

    def to(self, device: torch.device) -> "Rows":
        """Rows of tensors on a device."""
        return Rows(**{name: a.to(device, non_blocking=True) for name, a in self.arrays.items()})


@dataclass
class Tables:
    """What a problem reads: rows to train on, held-out rows, and the class of each training row."""

    train: Rows
    test: Rows | None = None
    classes: np.ndarray | None = None  # integers (train rows,), for partitions by label


class Problem:
    """Base class of all problems.

    `offers` says what algorithms may rely on: "finite sum" (rows that can be asked for one by one),
    "two points" (the gradient of one and the same batch at two points), "function values", "linear" (the loss of a row
    is a function of its linear forms, besides a regulariser; see `derivatives`), and for problems without rows "exact
    gradient".
    """

    offers: frozenset[str] = VALUES
    outputs: int = 1  # of a linear problem, the linear forms of a row: one, or one per class
    constrained: bool = False  # whether x is kept where constrain() allows it
    # whether draw() and gradient() also work for many voters at once: draw(draw, voters) gives one row per voter,
    # gradient() gets batches and gradients with a leading dimension and gives one loss per voter, or one for all
    elementwise: bool = False
    # whether read() only looks, on every rank, and each then takes its own rows from the file itself
    everywhere: bool = False
    devices: tuple[str, ...] = ("cpu",)  # on which rows and parameters may lie
    augments: bool = False  # whether training rows are varied by augment()
    # of arguments without a default, what they are: for the message that one is missing
    hints: Mapping[str, str] = {}
    # of x, where that is known before it is made: too many for this machine are then refused in time
    coordinates: int | None = None

    def read(self) -> Tables | None:
        """Reads the data, on one rank per node; None for a problem without rows.

        Raises UsageError for missing or damaged files.
        """
        return None

    def describe(self, tables: Tables) -> dict[str, Any]:
        """Sizes that ranks without the data need, such as the number of features; see `adopt`."""
        return {}

    def adopt(self, sizes: dict[str, Any]) -> None:
        """Takes the sizes that `describe` found, on every rank, before anything else is asked."""

    def initial(self, generator: np.random.Generator) -> dict[str, Tensor]:
        """The starting point: float32 tensors by name, in the order in which they lie in x."""
        raise NotImplementedError

    def draw(self, draw: Draw):
        """The randomness of one estimate, for a problem without rows; reaches `gradient` as its batch.

        draw: what it may depend on; `draw.generator()` is a numpy generator, `bits.normals(count, draw)` is faster.
        """
        return None

    def augment(self, batch: Rows, draw: Draw, first: int) -> Rows:
        """A batch of training rows as this step shall see them, by draws from block `first` on, one or more per row."""
        raise NotImplementedError

    def use_precision(self, precision: str) -> None:
        """From now on forward passes are made in "float32" or under autocast to "bf16"; x stays float32."""
        if precision != "float32":
            raise UsageError(f'run.precision = "{precision}": this problem has no model for autocast; use "float32"')

    def compile(self) -> None:
        """From now on what is called most is made by torch.compile. Raises UsageError where nothing is."""
        raise UsageError("run.compile: this problem has no model for torch.compile; leave it out")

    def loss(self, parameters: Parameters, batch) -> Tensor:
        """Mean loss over a batch (Rows of tensors, or what `draw` made), a scalar that autograd can follow."""
        raise NotImplementedError

    def gradient(self, parameters: Parameters, batch, gradients: Parameters) -> float:
        """Adds the gradient of `loss` to gradients, in place, and returns the loss.

        The default lets autograd do it; override it where there is a formula.
        """
        for name, gradient in gradients.items():
            parameters[name].requires_grad_(True)
            parameters[name].grad = gradient
        loss = self.loss(parameters, batch)
        loss.backward()
        return float(loss.detach())

    def exact_gradient(self, parameters: Parameters, gradients: Parameters) -> None:
        """Adds the gradient without noise, of a problem without rows that offers it; for measurements."""
        raise NotImplementedError

    def derivatives(self, parameters: Parameters, batch: Rows) -> tuple[Tensor, float]:
        """The derivative of each row's loss by each of its linear forms, of a problem that offers "linear".

        Returns them, float32 (rows, outputs), and the mean loss with its regulariser.
        """
        raise NotImplementedError

    def combine(self, batch: Rows, weights: Tensor, gradients: Parameters) -> None:
        """Adds the sum over rows of the gradients of their linear forms, weighted, to gradients, in place.

        weights: float32 (rows, outputs). With `derivatives` as weights this is the gradient of the rows' summed loss.
        """
        raise NotImplementedError

    def penalise(self, parameters: Parameters, gradients: Parameters) -> None:
        """Adds the gradient of `penalty` to gradients, in place; of a problem that offers "linear"."""

    def value(self, parameters: Parameters, batch) -> float:
        """The mean loss over a batch, for methods that see no gradient; its gradient is what `gradient` adds."""
        with torch.no_grad():
            return float(self.loss(parameters, batch))

    def statistics(self) -> dict[str, Tensor]:
        """What a model gathers besides its parameters, such as BatchNorm's running statistics, as it starts.

        Every voter has its own, beside the parameters of `loss` and `measure`; `loss` moves them in place. They are not
        voted on. Names differ from those of parameters.
        """
        return {}

    def module(self) -> nn.Module:
        """The model as a torch module of its own: rows' inputs in, logits out, parameters named as in `initial`.

        Raises UsageError where there is none.
        """
        raise UsageError(f"problem {type(self).__name__} has no torch module; results.load_parameters has its arrays")

    def constrain(self, parameters: Parameters) -> None:
        """Projects the parameters, in place, onto where they must lie; called after every step if `constrained`."""

    def measure(self, parameters: Parameters, rows: Rows | None) -> dict[str, float]:
        """Sums over rows: "loss", "rows", and "correct" for classifiers. Without rows: the loss itself, rows 1."""
        raise NotImplementedError

    def penalty(self, parameters: Parameters) -> float:
        """What `loss` adds to the mean over rows: a regulariser."""
        return 0.0
