"""A job resolved against zoo, problems and exchanges, before MPI starts: everything a typing error can break."""

from dataclasses import dataclass
from typing import Any

from mpisign import config as configuration
from mpisign import problems
from mpisign import zoo as _entries  # noqa: F401  its functions enter the registry
from mpisign.algorithm import REGISTRY, Algorithm, Entry, find
from mpisign.config import Config
from mpisign.errors import UsageError, choices
from mpisign.exchange import Choice, choose
from mpisign.problems import Problem


@dataclass(frozen=True)
class Plan:
    """What will run: config with every default, the algorithm, the problem and the exchange."""

    config: Config
    entry: Entry
    algorithm: Algorithm
    problem: Problem
    choice: Choice


def resolve(config: Config, voters: int) -> Plan:
    """The plan of a job for so many voters.

    Raises UsageError for unknown names and keys, values out of range, and parts that do not fit together.
    """
    entry = find(config.algorithm.name)
    hyperparameters = configuration.bind(entry.make, config.algorithm, "algorithm")
    algorithm = entry.build(**hyperparameters).with_rules(config.algorithm.zeros, config.algorithm.ties, voters)
    factory = problems.find(config.problem.name)
    arguments = configuration.bind(factory, config.problem, "problem")
    problem = factory(**arguments)
    _check_needs(entry, problem, config.problem.name)
    choice = choose(config.exchange.name, algorithm, voters)
    full = config.model_copy(
        update={
            "problem": config.problem.model_copy(update=arguments),
            "algorithm": config.algorithm.model_copy(update=hyperparameters | _rules(algorithm)),
            "schedule": config.schedule.model_copy(update={"lr": config.schedule.lr or entry.lr}),
        }
    )
    return Plan(full, entry, algorithm, problem, choice)


def _check_needs(entry: Entry, problem: Problem, name: str) -> None:
    if not isinstance(problem, Problem):
        raise UsageError(f"problem {name!r} made a {type(problem).__name__}, not an mpisign.problems.Problem")
    if missing := entry.needs - problem.offers:
        fitting = [e.name for e in REGISTRY.values() if e.needs <= problem.offers]
        raise UsageError(
            f"algorithm {entry.name} needs {choices(missing)}, which problem {name!r} does not offer "
            f"(it offers: {choices(problem.offers) or 'nothing'}); algorithms that fit: {choices(fitting)}"
        )


def _rules(algorithm: Algorithm) -> dict[str, Any]:
    """The rules for zeros and ties that "auto" came to, for the run file."""
    sign = getattr(algorithm.sign, "rule", algorithm.sign)
    found = {"zeros": getattr(sign, "zeros", None), "ties": getattr(algorithm.vote, "ties", None)}
    return {k: v for k, v in found.items() if v is not None}
