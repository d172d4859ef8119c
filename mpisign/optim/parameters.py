"""What a SignOptimizer is given to move: names, groups, and whether all ranks were given the same."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mpisign.errors import UsageError
from mpisign.layout import Group, Layout
from mpisign.mpi import Ranks
from mpisign.watchdog import WATCH

Given = nn.Module | Iterable[Any]  # parameters, pairs of name and parameter, or groups of these


@dataclass(frozen=True)
class Named:
    """Parameter groups for torch, and the name of every parameter in them, in order."""

    groups: list[dict[str, Any]]
    names: list[str]
    model: nn.Module | None


def named(given: Given, model: nn.Module | None) -> Named:
    """Groups and names of what is given: a model, parameters, named parameters, or groups of either.

    Names come from the model, from pairs (name, parameter), or are numbers. Frozen parameters are left out.
    """
    if isinstance(given, nn.Module):
        model = model or given
        given = given.named_parameters()
    items: list[Any] = list(given)
    if not items:
        raise UsageError("no parameters to optimise; pass a model, or its parameters()")
    groups = [dict(item) for item in items] if isinstance(items[0], dict) else [{"params": items}]
    known = {id(p): name for name, p in model.named_parameters()} if model else {}
    names: list[str] = []
    for group in groups:
        params = group["params"]
        pairs = [p if isinstance(p, tuple) else ("", p) for p in ([params] if isinstance(params, Tensor) else params)]
        pairs = [(name, p) for name, p in pairs if not isinstance(p, Tensor) or p.requires_grad]
        names += [name or known.get(id(p), f"parameter{len(names) + k}") for k, (name, p) in enumerate(pairs)]
        group["params"] = [p for _, p in pairs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"two parameters are called {twice[0]!r}; give them names of their own")
    return Named([group for group in groups if group["params"]], names, model)


def fault_of(parameters: dict[str, Tensor]) -> UsageError | None:
    """What about these parameters can't be optimised here, if anything."""
    if not parameters:
        return UsageError("no parameter requires a gradient, so there is nothing to optimise")
    for name, p in parameters.items():
        if p.dtype != torch.float32:
            return UsageError(
                f"parameter {name!r} is {p.dtype}; mpisign keeps parameters in torch.float32: model.float(), "
                "and torch.autocast for a forward pass in fewer bits"
            )
        if p.device.type not in ("cpu", "cuda"):
            return UsageError(f"parameter {name!r} lies on {p.device}; the CPU and CUDA are known: model.to(...)")
        if p.device != (first := next(iter(parameters.values())).device):
            return UsageError(f"parameter {name!r} lies on {p.device}, others on {first}; a rank has one device")
        if p.device.type == "cuda" and p.device.index != torch.cuda.current_device():
            return UsageError(
                f"parameter {name!r} lies on {p.device}: first call torch.cuda.set_device({p.device.index})"
            )
        if p.layout is not torch.strided:
            return UsageError(f"parameter {name!r} is sparse ({p.layout}); only dense parameters are optimised")
    return None


def check_alike(layout: Layout, settings: str, ranks: Ranks) -> None:
    """Raises UsageError on all ranks, naming the first difference, if they were given different models or settings."""
    mine = [(s.name, list(s.shape), str(s.group)) for s in layout.segments]
    with WATCH("an allgather of settings"):
        everyone = ranks.comm.allgather((mine, settings)) if ranks.comm else []
    for rank, (theirs, other) in enumerate(everyone):
        first, what = everyone[0][0], f"rank {rank} and rank 0 have different"
        if len(theirs) != len(first):
            message = f"{what} models: {len(theirs)} and {len(first)} parameters"
        elif theirs != first:
            k = next(k for k, pair in enumerate(zip(theirs, first, strict=True)) if pair[0] != pair[1])
            message = f"{what} models: parameter {k} is {_told(theirs[k])} and {_told(first[k])}"
        elif other != everyone[0][1]:
            message = f"{what} settings: {other} and {everyone[0][1]}"
        else:
            continue
        raise UsageError(f"{message}; build the same model and optimiser on every rank", agreed=True)


def _told(segment: tuple[str, list[int], str]) -> str:
    name, shape, group = segment
    return f"{name!r} of shape {shape}" + ("" if group == str(Group()) else f" in {group}")
