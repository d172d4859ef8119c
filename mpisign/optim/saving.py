"""States of a SignOptimizer out and in: one rank's as a dict, all ranks' as a checkpoint."""

import copy
import json
from pathlib import Path
from typing import Any, Protocol

import tomli_w
import torch
from torch import Tensor

from mpisign.engine.rounding import BITS
from mpisign.engine.state import load_state, save_state
from mpisign.engine.stepper import Stepper
from mpisign.errors import UsageError
from mpisign.layout import LayoutShard
from mpisign.optim.agreement import by_value
from mpisign.optim.buffers import described, refuse_unsavable
from mpisign.optim.gradients import Gradients
from mpisign.optim.values import decode, encode, snapshot
from mpisign.optim.warning import warn
from mpisign.parallel.mpi import Ranks
from mpisign.storage.checkpoint import Checkpoint

KEY = "mpisign"  # what older versions wrote stands beside torch's keys, under this one
BUFFERS = "oracle/"  # arrays of a Stepper that are the model's buffers
ROUNDED = "rounded"  # in a state of an x in bfloat16 alone
OF_PARAMETERS = ("params", "param_names")  # what a group holds that is no value of its own

Groups = list[dict[str, Any]]


class Saved(Protocol):
    """What is asked of an optimiser that is saved or loaded."""

    ranks: Ranks
    gradients: Gradients
    stepper: Stepper
    param_groups: Groups

    @property
    def under_way(self) -> bool: ...


def check_between_steps(optimizer: Saved) -> None:
    """Raises UsageError if backward has begun a step by sending gradients: states are then of no step."""
    if optimizer.under_way:
        raise UsageError(
            "a step is under way (overlap: backward has sent gradients); call step() before states are saved or loaded"
        )


# One rank


def entries(stepper: Stepper, with_x: bool) -> dict[str, Tensor]:
    """All that a rank keeps besides x and buffers, which are the model's: named tensors, arrays as views.

    with_x: x too, of which parameters of 16 bits are copies.
    Names begin with the rank: torch.distributed.checkpoint takes what has one name on all ranks to be the same.
    """
    facts = _facts(stepper.t, stepper.begun, stepper.world.n, repr(stepper.algorithm))
    facts |= {ROUNDED: torch.tensor(True)} if stepper.rounding else {}
    return {f"{_place(stepper)}/{name}": tensor for name, tensor in (facts | _arrays(stepper, with_x)).items()}


def _place(stepper: Stepper) -> str:
    """The rank by its name in a state_dict: that of its voter, and its place there where that has several."""
    layout, rank = stepper.layout, f"rank{stepper.world.rank}"
    return f"{rank}-shard{layout.number}of{len(layout.borders)}" if isinstance(layout, LayoutShard) else rank


def _facts(step: int, begun: int, voters: int, definition: str) -> dict[str, Tensor]:
    """What is no array: tensors too, as some savers take nothing else."""
    text = torch.frombuffer(bytearray(definition.encode()), dtype=torch.uint8)
    numbers = {"step": step, "begun": begun, "voters": voters}
    return {name: torch.tensor(value) for name, value in numbers.items()} | {"definition": text}


def state_dict(groups: Groups, stepper: Stepper, with_x: bool) -> dict[str, Any]:
    """torch's form, with all that this rank keeps as the state of the first parameter. groups: as torch packs them."""
    state: dict[int, dict[str, Tensor]] = {k: {} for group in groups for k in group["params"]}
    state[0] = {name: tensor.clone() for name, tensor in entries(stepper, with_x).items()}
    packed = [
        {name: group[name] for name in OF_PARAMETERS if name in group} | snapshot(_values(group), f"param_groups[{k}]")
        for k, group in enumerate(groups)
    ]
    return {"state": state, "param_groups": packed}


def checked(state: dict[str, Any], stepper: Stepper, groups: Groups, with_x: bool) -> dict[str, Tensor]:
    """This rank's tensors in what state_dict() returned. Raises UsageError where they, or the groups, do not fit."""
    saved = _of_this_rank(state, stepper)
    definition = bytes(saved["definition"].tolist()).decode(errors="replace")
    if definition != repr(stepper.algorithm):
        raise UsageError(f"a state_dict of {definition}, but this optimiser is {stepper.algorithm!r}")
    mine = _arrays(stepper, with_x)
    if fault := _fault_of_rounding(ROUNDED in saved, stepper, "a state_dict"):
        raise fault
    if with_x and "x" not in saved:
        raise UsageError(
            "a state_dict of a model in float32, without the float32 x that parameters of 16 bits are copies of; load "
            "the float32 model and its state_dict first, opt.save() it, and opt.load() that into this optimiser"
        )
    if wrong := [name for name, array in mine.items() if name not in saved or saved[name].shape != array.shape]:
        raise UsageError(f"a state_dict of another model: it lacks {wrong[0]} of shape {list(mine[wrong[0]].shape)}")
    if fault := _fault_of_groups(state["param_groups"], groups):
        raise fault
    return saved


def load_state_dict(
    state: dict[str, Any], saved: dict[str, Tensor], stepper: Stepper, groups: Groups, with_x: bool
) -> None:
    """Fills a Stepper with what state_dict() returned, and puts the groups' values back. saved: as checked() has it."""
    for name, array in _arrays(stepper, with_x).items():
        array.copy_(saved[name])
    stepper.resume_at(int(saved["step"]), int(saved["begun"]))
    _put_back(groups, copy.deepcopy([_values(group) for group in state["param_groups"]]))


def _of_this_rank(state: dict[str, Any], stepper: Stepper) -> dict[str, Tensor]:
    """What this rank's entries() were. Raises UsageError if they aren't there."""
    world, saved = stepper.world, {}
    if KEY in state:
        ours = state[KEY]
        facts = _facts(ours["t"], ours["begun"], ours["n"], ours["definition"])
        saved = {f"rank{ours['rank']}/{name}": tensor for name, tensor in (facts | ours["arrays"]).items()}
    for entry in state.get("state", {}).values():
        saved |= {k: v for k, v in entry.items() if isinstance(k, str) and k.startswith("rank")}
    if not saved or "param_groups" not in state:
        raise UsageError("a state_dict without the state of a rank: it is not one of a SignOptimizer")
    first, mine = next(iter(saved)).split("/")[0], f"{_place(stepper)}/"
    own = {name.removeprefix(mine): tensor for name, tensor in saved.items() if name.startswith(mine)}
    voters = int((own or {"voters": saved[f"{first}/voters"]})["voters"])
    if not own or voters != world.n:
        theirs = mine[:-1] if own else first
        raise UsageError(
            f"a state_dict of {theirs} of {voters}, but this is {mine[:-1]} of {world.n}; every "
            "rank has a state of its own: save one file per rank, or use opt.save() and opt.load()"
        )
    return own


def _arrays(stepper: Stepper, with_x: bool) -> dict[str, Tensor]:
    """All named arrays of this rank but those of the model."""
    named = stepper.states().items()
    of_model = {BITS} if with_x else {BITS, "x"}
    return {name: a for name, a in named if name not in of_model and not name.startswith(BUFFERS)}


def _fault_of_rounding(stochastic: bool, stepper: Stepper, what: str) -> UsageError | None:
    """The fault of a state with the other kind of x. stochastic: whether it was saved from an x in bfloat16."""
    if stochastic == bool(stepper.rounding):
        return None
    ours, theirs = (f'rounding = "{"stochastic" if flag else "nearest"}"' for flag in (stepper.rounding, stochastic))
    return UsageError(
        f"{what} of an optimiser with {theirs}, but this one has {ours}, whose x is of another type; make it with "
        f"{theirs}, or take over the model's parameters alone, by its own state_dict"
    )


# All ranks


def save(path: Path, optimizer: Saved, extra: dict[str, Any]) -> None:
    """One checkpoint of all ranks. Collective."""
    ranks, model = optimizer.ranks, optimizer.gradients.model
    with ranks.agreed():
        check_between_steps(optimizer)
        refuse_unsavable(model)
        groups = [_values(group) for group in optimizer.param_groups]
        progress = {
            "groups": [encode(group, f"param_groups[{k}]") for k, group in enumerate(groups)],
            "extra": {name: encode(value, name) for name, value in extra.items()},
            "buffers": described(model),
        }
    if ranks.comm:
        everyone = ranks.allgather([json.dumps(progress["groups"]), json.dumps(progress["buffers"])])
        for what, texts in zip(("parameter groups", "buffers"), zip(*everyone, strict=True), strict=True):
            if len(set(texts)) > 1:
                raise UsageError(f"{what} differ between ranks, so they can't be saved: {by_value(texts)}", agreed=True)
    with ranks.agreed():
        try:
            if ranks.root:
                path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"can't write the checkpoint {path}: {error.strerror}") from error
    config = tomli_w.dumps({"optimizer": {"algorithm": optimizer.stepper.algorithm.name}})
    save_state(path, optimizer.stepper, ranks, config, progress, None)


def load(path: Path, optimizer: Saved) -> dict[str, Any]:
    """What save() wrote, back. Collective; returns the extra values."""
    opened, ranks = None, optimizer.ranks
    with ranks.agreed():
        if ranks.root:
            opened = Checkpoint(path)
            _check(opened, optimizer)
    with ranks.agreed():
        check_between_steps(optimizer)
    optimizer.gradients.keeps_buffers = ranks.share(opened is not None and "buffers" in opened.progress)
    try:
        progress, _ = load_state(opened, optimizer.stepper, ranks)
    finally:
        optimizer.gradients.keeps_buffers = True
    _put_back(optimizer.param_groups, decode(progress["groups"]))
    return decode(progress["extra"])


def _check(opened: Checkpoint, optimizer: Saved) -> None:
    """Raises UsageError, before anything changes, for what else than states does not fit."""
    progress = opened.progress
    if "groups" not in progress:
        raise UsageError(f"{opened.path}: a checkpoint of `mpisign train`, not of a SignOptimizer")
    try:
        groups = decode([progress["groups"], progress["extra"]])[0]
        fault = _fault_of_groups(groups, optimizer.param_groups, f"{opened.path}: ")
    except (ArithmeticError, AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise UsageError(f"{opened.path}: its values can't be read ({error}); it was made by other code") from error
    if fault:
        raise fault
    if fault := _fault_of_rounding(BITS in opened, optimizer.stepper, f"{opened.path}: a checkpoint"):
        raise fault
    ours = described(optimizer.gradients.model)
    if "buffers" not in progress:
        if ours:
            warn(f"{opened.path} was written by an older mpisign, which saved no buffers: they stay as they are")
        return
    if (theirs := progress["buffers"]) != ours:
        # a model that was not given has none that are known here
        different = next(b for b in [*theirs, *ours] if b not in theirs or b not in ours)
        lacks = "this optimiser" if different in theirs else "the file"
        raise UsageError(
            f"{opened.path}: {lacks} lacks buffer {different[0]!r} ({different[1]}, shape {different[2]}); buffers are "
            "those of the model that SignOptimizer was given, as its first argument or as model="
        )


def _values(group: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name not in OF_PARAMETERS}


def _fault_of_groups(saved: Groups, groups: Groups, where: str = "") -> UsageError | None:
    if len(groups) != len(saved):
        return UsageError(f"{where}{len(saved)} parameter groups were saved, but this optimiser has {len(groups)}")
    for k, (before, group) in enumerate(zip(saved, groups, strict=True)):
        if before.get("vote", group["vote"]) != group["vote"]:
            return UsageError(
                f"{where}vote of parameter group {k} was saved as {before['vote']}, but is {group['vote']}"
            )
    return None


def _put_back(groups: Groups, saved: Groups) -> None:
    for group, before in zip(groups, saved, strict=True):
        group.update(before)
