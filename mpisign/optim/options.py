"""The arguments of a SignOptimizer, checked: algorithm, hyperparameters, rates and the settings of its messages."""

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import numpy as np
import pydantic
import torch
from pydantic import Field
from torch import Tensor

from mpisign import config as configuration
from mpisign.algorithms import zoo
from mpisign.algorithms.method import Method
from mpisign.algorithms.registry import check_weights, entries, find
from mpisign.algorithms.weights import MOST
from mpisign.engine.rounding import unfit
from mpisign.errors import UsageError, choices
from mpisign.optim.values import at_least_zero, flag, number

assert zoo  # its entries are in the registry

OFFERED = frozenset({"two points"})  # what a training loop with a closure can give


class Settings(pydantic.BaseModel):
    """The arguments of a SignOptimizer but parameters, rates and hyperparameters; alike on all ranks."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True)

    seed: int = Field(ge=0, lt=2**64)
    exchange: str
    chunk: Literal[0] | Annotated[int, Field(ge=512, le=1 << 30)]
    progress: Literal["", "calls", "thread"]
    overlap: bool
    dense_steps: int = Field(ge=0, le=10**15)
    check_every: int = Field(ge=0)
    statistics_every: int = Field(ge=0)
    weights: tuple[Annotated[int, Field(ge=1, le=MOST)], ...] = ()
    rounding: Literal["nearest", "stochastic"] = "nearest"


def settings_of(**kwargs: Any) -> Settings:
    """Checks the settings; raises UsageError naming the first that is wrong."""
    values = {
        name: tuple(map(number, value)) if isinstance(value, (list, tuple, np.ndarray)) else number(value)
        for name, value in kwargs.items()
    }
    return configuration.validate(Settings, values, "")


def algorithm_of(
    algorithm: str | Method, zeros: str, ties: str, voters: int, hyperparameters: dict[str, Any]
) -> tuple[Method, float]:
    """The algorithm with its rules filled in, and the rate that it takes by default."""
    if not isinstance(algorithm, str):
        if hyperparameters:
            raise UsageError(f"{choices(hyperparameters)}: an algorithm that is built already takes no hyperparameters")
        return algorithm.with_rules(zeros, ties, voters), 1e-3
    entry = find(algorithm)
    hyperparameters = {name: number(value) for name, value in _own_spelling(entry.make, hyperparameters).items()}
    table = configuration.validate(
        configuration.Algorithm, {"name": algorithm, "zeros": zeros, "ties": ties, **hyperparameters}, ""
    )
    built = entry.build(**configuration.bind(entry.make, table, "algorithm"))
    if missing := built.needs - OFFERED:
        fitting = [e.name for e in entries() if e.build().needs <= OFFERED]
        raise UsageError(
            f"algorithm {algorithm} needs {choices(missing)}, which a training loop of one's own does not offer; train "
            f"with `mpisign train`, or use one of: {choices(fitting)}"
        )
    return built.with_rules(zeros, ties, voters), entry.lr


def weighted(algorithm: Method, weights: tuple[int, ...], voters: int) -> Method:
    """The algorithm with so many votes for each voter; () for one each. Raises UsageError where it can't have them."""
    if not weights:
        return algorithm
    check_weights("weights", weights, algorithm, voters)
    return algorithm.with_weights(weights)


def refuse_unrounded(method: Method, parameters: Mapping[str, Tensor]) -> None:
    """Raises UsageError for what does not go with rounding = "stochastic"."""
    for name, p in parameters.items():
        if p.dtype != torch.bfloat16:
            raise UsageError(
                f'rounding = "stochastic": parameter {name!r} is {p.dtype}, but all lie in an x of torch.bfloat16; '
                'call model.bfloat16(), or leave rounding at "nearest", by which x is float32, whatever their types'
            )
    if why := unfit(method):
        raise UsageError(
            f'rounding = "stochastic": {method.name} needs x in float32, as {why}; leave rounding at "nearest", or '
            "take a method that moves x chunk by chunk, from gradients at x"
        )


def _own_spelling(make: Callable[..., Any], hyperparameters: dict[str, Any]) -> dict[str, Any]:
    """Hyperparameters with torch's betas as beta1 and beta2, and its eps as epsilon, where an entry has those."""
    own, taken = inspect.signature(make).parameters, dict(hyperparameters)
    for spelled, names in (("betas", ("beta1", "beta2")), ("eps", ("epsilon",))):
        if spelled not in taken or spelled in own or not all(name in own for name in names):
            continue
        value = taken.pop(spelled)
        several = isinstance(value, (tuple, list, Tensor, np.ndarray))
        parts = [value] if len(names) == 1 else list(value) if several else []
        if len(parts) != len(names):
            raise UsageError(f"{spelled} = {value!r}: it stands for ({', '.join(names)}), two numbers")
        if twice := [name for name in names if name in taken]:
            raise UsageError(f"{spelled} and {twice[0]} are both given; give one of them")
        taken |= dict(zip(names, parts, strict=True))
    return taken


def rate_of(name: str, value: Any) -> float:
    return at_least_zero(name, value, "a learning rate")


def decay_of(name: str, value: Any) -> float:
    return at_least_zero(name, value, "a weight decay")


def numbers_of(groups: list[dict[str, Any]]) -> np.ndarray:
    """Learning rates and weight decays of parameter groups, float64 (2, groups); raises UsageError as rate_of does."""
    return np.array([[_of_group(group, k, name) for k, group in enumerate(groups)] for name in ("lr", "weight_decay")])


def _of_group(group: dict[str, Any], place: int, name: str) -> float:
    value = group[name]
    if type(value) is float and 0 <= value < math.inf:  # as nearly always, at every step
        return value
    return (rate_of if name == "lr" else decay_of)(f"{name} of parameter group {place}", value)


def check_group(group: dict[str, Any], place: int) -> None:
    """Checks the values of a group and makes its vote a bool; raises UsageError. place: its number among the groups."""
    for name in ("lr", "weight_decay"):
        _of_group(group, place, name)
    group["vote"] = flag(f"vote of parameter group {place}", group["vote"])
