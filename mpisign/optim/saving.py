"""States of a SignOptimizer out and in: one rank's as a dict, all ranks' as a checkpoint."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w

from mpisign import restart
from mpisign.checkpoint import Checkpoint
from mpisign.errors import MpisignError, UsageError
from mpisign.stepper import Stepper

if TYPE_CHECKING:
    from mpisign.optim.optimizer import SignOptimizer

KEY = "mpisign"  # of what is ours in a state_dict


def state_dict(of_torch: dict[str, Any], stepper: Stepper) -> dict[str, Any]:
    """torch's dict with this rank's step and arrays in it."""
    world = stepper.world
    facts = {
        "t": stepper.t,
        "begun": stepper.begun,
        "rank": world.rank,
        "n": world.n,
        "definition": repr(stepper.turns),
    }
    arrays = {name: array.clone() for name, array in _arrays(stepper).items()}
    return {"state": {}, "param_groups": of_torch["param_groups"], KEY: facts | {"arrays": arrays}}


def load_state_dict(given: dict[str, Any], stepper: Stepper, groups: list[dict[str, Any]]) -> None:
    """Fills a Stepper with what state_dict() returned, and puts the groups' rates back."""
    world, ours = stepper.world, given.get(KEY)
    if ours is None:
        raise UsageError(f"a state_dict without the key {KEY!r}: it is not one of a SignOptimizer")
    if (ours["rank"], ours["n"]) != (world.rank, world.n):
        raise UsageError(
            f"a state_dict of rank {ours['rank']} of {ours['n']}, but this is rank {world.rank} of {world.n}; every "
            "rank has a state of its own: save one file a rank, or use opt.save() and opt.load()"
        )
    if ours["definition"] != repr(stepper.turns):
        raise UsageError(f"a state_dict of {ours['definition']}, but this optimiser is {stepper.turns!r}")
    mine = _arrays(stepper)
    if wrong := [name for name, array in mine.items() if _shape(ours["arrays"], name) != array.shape]:
        raise UsageError(f"a state_dict of another model: it lacks {wrong[0]} of shape {list(mine[wrong[0]].shape)}")
    for name, array in mine.items():
        array.copy_(ours["arrays"][name])
    stepper.restart(ours["t"], ours["begun"])
    _put_back(groups, given["param_groups"])


def _shape(arrays: dict[str, Any], name: str) -> Any:
    return arrays[name].shape if name in arrays else None


def _arrays(stepper: Stepper) -> dict[str, Any]:
    """All named arrays of this rank but x, which is the model's."""
    return {name: array for name, array in stepper.states().items() if name != "x"}


def save(path: Path, optimizer: "SignOptimizer", extra: dict[str, Any]) -> None:
    """One checkpoint of all ranks. Collective."""
    groups = [{k: v for k, v in group.items() if _plain(v)} for group in optimizer.param_groups]
    config = tomli_w.dumps({"optimizer": {"algorithm": optimizer.stepper.turns.name}})
    error = None
    if optimizer.ranks.root:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as found:
            error = UsageError(f"can't write the checkpoint {path}: {found.strerror}")
    optimizer.ranks.agree(error)
    restart.save(path, optimizer.stepper, optimizer.ranks, config, {"groups": groups, "extra": extra}, None)


def _plain(value: Any) -> bool:
    return isinstance(value, (int, float, str, bool))


def load(path: Path, optimizer: "SignOptimizer") -> dict[str, Any]:
    """What save() wrote, back. Collective; returns the extra values."""
    opened, error, ranks = None, None, optimizer.ranks
    if ranks.root:
        try:
            opened = Checkpoint(path)
        except MpisignError as found:
            error = found
    ranks.agree(error)
    progress, _ = restart.restore(opened, optimizer.stepper, ranks)
    _put_back(optimizer.param_groups, progress["groups"])
    return progress["extra"]


def _put_back(groups: list[dict[str, Any]], saved: list[dict[str, Any]]) -> None:
    if len(groups) != len(saved):
        raise UsageError(f"{len(saved)} parameter groups were saved, but this optimiser has {len(groups)}", agreed=True)
    for group, before in zip(groups, saved, strict=True):
        group.update({k: v for k, v in before.items() if k not in ("params", "param_names")})
