"""What a SignOptimizer was asked for, by name or as an object: the algorithm and its rate."""

import math
from typing import Any, TypeAlias

from torch import Tensor

from mpisign import config as configuration
from mpisign import zoo
from mpisign.algorithm import Algorithm, Cycle, Stages, entries, find
from mpisign.errors import UsageError, choices

assert zoo  # its entries are in the registry

Turns: TypeAlias = Algorithm | Stages | Cycle
OFFERED = frozenset({"two points"})  # what a training loop with a closure can give


def algorithm_of(
    given: str | Turns, zeros: str, ties: str, voters: int, hyperparameters: dict[str, Any]
) -> tuple[Turns, float]:
    """The algorithm with its rules filled in, and the rate that it takes by default."""
    if not isinstance(given, str):
        if hyperparameters:
            raise UsageError(f"{choices(hyperparameters)}: an algorithm that is built already takes no hyperparameters")
        return given.with_rules(zeros, ties, voters), 1e-3
    entry = find(given)
    table = configuration.validate(
        configuration.Algorithm, {"name": given, "zeros": zeros, "ties": ties, **hyperparameters}, ""
    )
    built = entry.build(**configuration.bind(entry.make, table, "algorithm"))
    if missing := built.needs - OFFERED:
        fitting = [e.name for e in entries() if e.build().needs <= OFFERED]
        raise UsageError(
            f"algorithm {given} needs {choices(missing)}, which a training loop of one's own does not offer; train "
            f"with `mpisign train`, or use one of: {choices(fitting)}"
        )
    return built.with_rules(zeros, ties, voters), entry.lr


def rate_of(name: str, value: Any) -> float:
    if isinstance(value, Tensor):
        value = float(value)
    if not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise UsageError(f"{name} = {value!r}: a learning rate is a finite number, 0 or above")
    return float(value)
