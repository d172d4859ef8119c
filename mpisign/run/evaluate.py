"""What a run is measured by at a point: the objective, held-out rows, the exact gradient. Collective; moves nothing."""

import math

import torch
from torch import Tensor

from mpisign.algorithms.slots import State
from mpisign.engine.stepper import Stepper
from mpisign.parallel.world import World
from mpisign.problems import Oracle
from mpisign.problems.data.loader import DeviceLoader
from mpisign.problems.node import members_of


def statistics(stepper: Stepper, everyone: World) -> State:
    """What a model gathered besides its parameters (BatchNorm), averaged over all ranks: for measurements."""
    own = [oracle.statistics for oracle in members_of(stepper.oracles)]
    if not own[0]:
        return {}
    sizes = [array.numel() for array in own[0].values()]
    flat = [torch.cat([array.reshape(-1) for array in arrays.values()]) for arrays in own]
    with everyone.uncounted():
        parts = everyone.mean(flat).split(sizes)
    return {k: part.view(a.shape).to(a.device) for (k, a), part in zip(own[0].items(), parts, strict=True)}


def measure(
    stepper: Stepper, everyone: World, x: Tensor, test: list[DeviceLoader | None], gathered: State
) -> dict[str, float]:
    """train_loss, test_loss and test_accuracy at x, all of it; NaN where there are no held-out rows.

    everyone: all ranks. test: the slice of the held-out rows of each local one. gathered: see statistics().
    """
    return measure_ranks(members_of(stepper.oracles), weights_of_ranks(stepper), everyone, x, test, gathered)


def measure_ranks(
    members: list[Oracle],
    weights: list[float],
    everyone: World,
    x: Tensor,
    test: list[DeviceLoader | None],
    gathered: State,
) -> dict[str, float]:
    """The same without a Stepper. members, weights: of the local ranks, see weights_of_ranks()."""
    parts = zip(members, weights, test, strict=True)
    total = everyone.sums_over_voters([_of_rank(x, m, w / everyone.n, rows, gathered) for m, w, rows in parts])
    rows = total.get("test_rows", 0)
    return {
        "train_loss": total["train"] + members[0].penalty(x),
        "test_loss": total["test_loss"] / rows if rows else math.nan,
        "test_accuracy": total["test_correct"] / rows if rows and "test_correct" in total else math.nan,
    }


def weights_of_ranks(stepper: Stepper) -> list[float]:
    """Of each local rank in the objective, adding up to the number of ranks over all of them."""
    return [float(stepper.weights[oracle.voter]) * share for oracle in stepper.oracles for share in oracle.shares]


def _of_rank(x: Tensor, oracle: Oracle, weight: float, test: DeviceLoader | None, gathered: State) -> dict[str, float]:
    """Sums over a local rank's rows and its slice of the held-out rows, empty where ranks are many."""
    own = oracle.measure(x, oracle.rows, gathered)
    sums = {"train": weight * own["loss"] / own["rows"]}
    if test is None:
        return sums
    nothing = dict.fromkeys(("loss", "correct", "rows"), 0.0)
    held_out = oracle.measure(x, test, gathered) if test.count else nothing
    return sums | {f"test_{name}": value for name, value in held_out.items()}


def gradient_norms(stepper: Stepper, everyone: World, x: Tensor, wanted: bool) -> dict[str, float]:
    """gradient_l1 and gradient_l2 of the objective, over all rows of all voters; NaN unless they are wanted."""
    if not wanted:
        return {"gradient_l1": math.nan, "gradient_l2": math.nan}
    _, mean = exact_gradients(stepper, everyone, x)
    layout = stepper.layout.whole
    return {"gradient_l1": layout.total(mean.abs()), "gradient_l2": layout.norm(mean)}


def exact_gradients(stepper: Stepper, everyone: World, x: Tensor) -> tuple[list[Tensor], Tensor]:
    """The full gradient at x, all of it, of every local rank, times its weight, and their mean over all ranks, on the
    host."""
    pairs = zip(members_of(stepper.oracles), weights_of_ranks(stepper), strict=True)
    own = [oracle.exact_gradient(x) * weight for oracle, weight in pairs]
    with everyone.uncounted():
        return own, everyone.mean(own).cpu()
