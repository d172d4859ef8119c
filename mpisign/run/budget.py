"""How long a run is, what it costs in gradients, and what each voter weighs: all from the sizes of the shares."""

import math
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate, takewhile

import numpy as np

from mpisign.algorithms.method import Method, evaluations_at, per_step, values_at
from mpisign.algorithms.weights import weights_of
from mpisign.config import Config
from mpisign.engine.stage import Stage
from mpisign.engine.stepper import Stepper
from mpisign.errors import UsageError
from mpisign.problems.data.distribute import LocalData

FORESEEN = 1_000_000  # steps whose costs are worked out one by one


def _batches(config: Config, share: LocalData) -> list[tuple[int, int]]:
    """(rows of a gradient, rows owned) of every rank; one draw each without rows."""
    accumulate, sizes = config.algorithm.accumulate, batch_sizes(config, len(share.rows))
    if not share.rows.any():
        return [(accumulate, 0)] * len(share.rows)
    pairs = zip(sizes, share.rows.tolist(), strict=True)
    return [(min(size or rows, rows) * accumulate, rows) for size, rows in pairs]


def batch_sizes(config: Config, ranks: int) -> list[int]:
    """Rows of a minibatch that each rank asks for; 0 for all that it owns."""
    return config.problem.batch_sizes or [config.problem.batch_size] * ranks


def votes(config: Config, share: LocalData) -> tuple[int, ...]:
    """Votes of each voter, by what the job says: by the rows that it owns, or that its batches have; or as listed.

    Raises UsageError where a problem has no rows to count.
    """
    wanted = config.algorithm.weights
    if isinstance(wanted, list):
        return tuple(wanted)
    if not share.rows.any():
        raise UsageError(
            f'algorithm.weights = "{wanted}": problem {config.problem.name!r} has no rows; list the weights',
            agreed=True,
        )
    sizes = [owned if wanted == "rows" else batch for batch, owned in _batches(config, share)]
    return weights_of(by_voter(config, sizes).sum(axis=1).tolist())


def batches_per_pass(config: Config, share: LocalData) -> int:
    """Minibatches in a pass over the rows of the rank that has most; 1 without rows."""
    return max(-(-rows // batch) if rows else 1 for batch, rows in _batches(config, share))


def length(config: Config, algorithm: Method, share: LocalData) -> tuple[int, int]:
    """Steps of the run, and rows that all ranks see in a minibatch (0 without rows)."""
    rows, run, batches = share.rows, config.run, _batches(config, share)
    a_minibatch = sum(batch for batch, _ in batches) if rows.any() else 0
    if run.steps:
        return run.steps, a_minibatch
    if run.evaluations:
        return _affordable(run.evaluations, algorithm, batches), a_minibatch
    if not a_minibatch:
        raise UsageError(
            f"run.epochs = {run.epochs}: problem {config.problem.name!r} has no rows to pass over; "
            "set run.steps instead",
            agreed=True,
        )
    wanted = math.ceil(run.epochs * rows.sum() / a_minibatch)
    return bisect_left(range(wanted + 1), wanted, key=algorithm.minibatches), a_minibatch


def _affordable(budget: int, algorithm: Method, batches: list[tuple[int, int]]) -> int:
    """The steps whose gradients a budget pays for."""
    key, first, second = f"run.evaluations = {budget}", *(evaluations_at(algorithm, batches, age) for age in range(2))
    if not first and not second:
        raise UsageError(f"{key}: {algorithm.name} takes no gradients; set run.steps instead", agreed=True)
    if first > budget:
        raise UsageError(f"{key}: the first step alone takes {first}; allow more", agreed=True)
    costs = (evaluations_at(algorithm, batches, age) for age in range(FORESEEN))
    steps = sum(1 for _ in takewhile(lambda spent: spent <= budget, accumulate(costs)))
    if steps == FORESEEN:
        raise UsageError(f"{key}: more than {FORESEEN} steps; set run.steps instead", agreed=True)
    return steps


def weights(config: Config, share: LocalData) -> np.ndarray:
    """Of each voter in the objective, adding up to n: all 1, or by rows."""
    rows = by_voter(config, share.rows).sum(axis=1)
    if config.run.objective == "ranks" or not rows.any():
        return np.ones(len(rows))
    return rows / rows.sum() * len(rows)


def shares(config: Config, share: LocalData) -> np.ndarray:
    """Of each rank's gradient in that of its voter, float64 (voters, ranks): all 1, or by rows; a voter's add up to
    its ranks.

    So a voter's function is the mean of its ranks' functions, or the mean over its rows, as the objective is.
    """
    rows = by_voter(config, share.rows)
    if config.run.objective == "ranks" or not rows.any():
        return np.ones(rows.shape)
    return rows / rows.sum(axis=1, keepdims=True) * rows.shape[1]


def by_voter(config: Config, of_ranks: Sequence[int] | np.ndarray) -> np.ndarray:
    """Numbers of ranks as (voters, ranks of each)."""
    return np.asarray(of_ranks).reshape(-1, config.ranks_per_voter)


def foretold(config: Config, stepper: Stepper, share: LocalData) -> dict[str, object]:
    """What a run would cost, by name: numbers, lists of them by stage. Collective. config: with run.steps."""
    batches, steps = _batches(config, share), min(config.run.steps, FORESEEN)
    world, algorithm = stepper.world, stepper.algorithm
    sent = [round(world.sums({"bytes": stage.bytes_a_step()})["bytes"] / world.n) for stage in stepper.stages]
    bits = [_bits_of_all(stage, world.n) for stage in stepper.stages]
    costs: dict[str, object] = {
        "d": stepper.layout.size,
        "bits_per_coordinate": _of_stages([_rounded(b / world.n / stepper.layout.size, 4) for b in bits]),
        "bytes_per_step": _of_stages(sent),
        **_memory(stepper),
        "evaluations_per_step": _rounded(per_step(evaluations_at, algorithm, batches, steps), 10),
    }
    if values := per_step(values_at, algorithm, batches, steps):
        costs["function_evaluations_per_step"] = _rounded(values, 10)
    return costs


def _of_stages(figures: list[float]) -> float | list[float]:
    """A figure of each stage, or that of the only one."""
    return figures if len(figures) > 1 else figures[0]


def _rounded(figure: float, digits: int) -> float:
    """A figure of so many digits, an int where it is whole."""
    rounded = float(f"{figure:.{digits}g}")
    return int(rounded) if rounded.is_integer() else rounded


def _memory(stepper: Stepper) -> dict[str, object]:
    """Bytes that a process holds, and those that the ranks of a voter share, where it is several."""
    whose = "rank" if len(stepper.world.local) == 1 else "process"
    held, first = stepper.memory().total, stepper.oracles[0]
    if not first.of_ranks:
        return {f"memory_per_{whose}": held}
    if stepper.world.shards:  # simulated
        return {f"memory_per_{whose}": held + first.memory(), "ranks_per_voter": stepper.world.each}
    shared = {"shared_memory_per_voter": first.memory(), "ranks_per_voter": stepper.world.each}
    return {f"memory_per_{whose}": held} | shared


def _bits_of_all(stage: Stage, n: int) -> int:
    """Bits of all voters in a step, up and down, by the definition of the method; radii that are shared come on top."""
    floats = stage.algorithm.estimator.shared_floats(stage.layout)
    return sum(sum(channel.exchange.method_bits) for channel in stage.channels) + 64 * (n - 1) * floats
