"""What is minimised: one file per problem. A user's own is named "package.module:factory"."""

from collections.abc import Callable

import torch

from mpisign import plugins
from mpisign.errors import UsageError, choices, did_you_mean
from mpisign.parallel.device import select_device
from mpisign.parallel.mpi import Ranks
from mpisign.problems.base import Problem, Rows, Tables
from mpisign.problems.batched import BatchedOracle, batch_oracles
from mpisign.problems.cifar import Cifar10, Cifar100
from mpisign.problems.counterexamples import MatrixLinear, Reflections
from mpisign.problems.digits import Digits
from mpisign.problems.hdf5 import Hdf5
from mpisign.problems.logistic import Logistic
from mpisign.problems.mnist import Mnist
from mpisign.problems.oracle import OFFERS, Oracle
from mpisign.problems.synthetic import Quadratic, Rosenbrock
from mpisign.problems.text import Text
from mpisign.problems.toys import Linear, Targets, TwoPlanes
from mpisign.problems.wilson import Wilson

PROBLEMS: dict[str, Callable[..., Problem]] = {
    "cifar10": Cifar10,
    "cifar100": Cifar100,
    "digits": Digits,
    "hdf5": Hdf5,
    "linear": Linear,
    "logistic": Logistic,
    "matrix-linear": MatrixLinear,
    "mnist": Mnist,
    "quadratic": Quadratic,
    "reflections": Reflections,
    "rosenbrock": Rosenbrock,
    "targets": Targets,
    "text": Text,
    "two-planes": TwoPlanes,
    "wilson": Wilson,
}


def find(name: str) -> Callable[..., Problem]:
    """The factory of that name: ours, another package's by its entry point, or, with a colon, any importable one.

    Raises UsageError if there is none.
    """
    if name in PROBLEMS:
        return PROBLEMS[name]
    if ":" not in name and name not in plugins.problems():
        known = [*PROBLEMS, *plugins.problems()]
        raise UsageError(
            f"unknown problem {name!r}{did_you_mean(name, known)}; known: {choices(known)}, or package.module:factory"
        )
    module, _, attribute = name.partition(":")
    if factory := plugins.problem(name):
        return factory
    loaded = plugins.load_module(module, f"problem {name!r}")
    if not hasattr(loaded, attribute):
        factories = [known for known, value in vars(loaded).items() if callable(value) and not known.startswith("_")]
        near = did_you_mean(attribute, factories)
        raise UsageError(f"problem {name!r}: module {module!r} has no attribute {attribute!r}{near}")
    return getattr(loaded, attribute)


def device_for(problem: Problem, wanted: str, ranks: Ranks) -> torch.device:
    """The device for this rank's rows and parameters; see select_device.

    Collective; raises UsageError on all ranks.
    """
    with ranks.agreed():
        if "cuda" in problem.devices:
            return select_device(wanted, ranks.local_rank)
        if wanted == "cuda":
            name = type(problem).__name__
            raise UsageError(f'run.device = "cuda": the problem {name} works on the CPU only; use "cpu" or "auto"')
        return torch.device("cpu")


__all__ = [
    "OFFERS",
    "PROBLEMS",
    "BatchedOracle",
    "Oracle",
    "Problem",
    "Rows",
    "Tables",
    "batch_oracles",
    "device_for",
    "find",
]
