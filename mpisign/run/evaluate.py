"""What a run is measured by at a point: the objective, held-out rows, the exact gradient. Collective; moves nothing."""

import math

import torch
from torch import Tensor

from mpisign.algorithms.slots import State
from mpisign.engine.stepper import Stepper
from mpisign.problems import Oracle
from mpisign.problems.data.loader import DeviceLoader


def statistics(stepper: Stepper) -> State:
    """What a model gathered besides its parameters (BatchNorm), averaged over all voters: for measurements."""
    own = [oracle.statistics for oracle in stepper.oracles]
    if not own[0]:
        return {}
    sizes = [array.numel() for array in own[0].values()]
    flat = [torch.cat([array.reshape(-1) for array in arrays.values()]) for arrays in own]
    with stepper.world.uncounted():
        parts = stepper.world.mean(flat).split(sizes)
    return {k: part.view(a.shape).to(a.device) for (k, a), part in zip(own[0].items(), parts, strict=True)}


def measure(stepper: Stepper, test: list[DeviceLoader | None], gathered: State) -> dict[str, float]:
    """train_loss, test_loss and test_accuracy at x; NaN where there are no held-out rows.

    test: the slice of the held-out rows of each local voter. gathered: see statistics().
    """
    pairs = zip(stepper.oracles, test, strict=True)
    total = stepper.world.sums_over_voters([_of_voter(stepper, oracle, rows, gathered) for oracle, rows in pairs])
    rows = total.get("test_rows", 0)
    return {
        "train_loss": total["train"] + stepper.oracles[0].penalty(stepper.x),
        "test_loss": total["test_loss"] / rows if rows else math.nan,
        "test_accuracy": total["test_correct"] / rows if rows and "test_correct" in total else math.nan,
    }


def _of_voter(stepper: Stepper, oracle: Oracle, test: DeviceLoader | None, gathered: State) -> dict[str, float]:
    """Sums over a local voter's rows and its slice of the held-out rows, empty where voters are many."""
    own = oracle.measure(stepper.x, oracle.rows, gathered)
    sums = {"train": float(stepper.weights[oracle.voter]) / stepper.world.n * own["loss"] / own["rows"]}
    if test is None:
        return sums
    nothing = dict.fromkeys(("loss", "correct", "rows"), 0.0)
    held_out = oracle.measure(stepper.x, test, gathered) if test.count else nothing
    return sums | {f"test_{name}": value for name, value in held_out.items()}


def gradient_norms(stepper: Stepper, wanted: bool) -> dict[str, float]:
    """gradient_l1 and gradient_l2 of the objective, over all rows of all voters; NaN unless they are wanted."""
    if not wanted:
        return {"gradient_l1": math.nan, "gradient_l2": math.nan}
    _, mean = exact_gradients(stepper, stepper.x)
    return {"gradient_l1": stepper.layout.total(mean.abs()), "gradient_l2": stepper.layout.norm(mean)}


def exact_gradients(stepper: Stepper, x: Tensor) -> tuple[list[Tensor], Tensor]:
    """The full gradient at x of every local voter, times its weight, and their mean over all voters, on the host."""
    own = [oracle.exact_gradient(x) * float(stepper.weights[oracle.voter]) for oracle in stepper.oracles]
    with stepper.world.uncounted():
        return own, stepper.world.mean(own).cpu()
