"""The parameters of a SignOptimizer: their names and groups, and whether all ranks have the same ones."""

from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, Set
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from mpisign.errors import UsageError
from mpisign.layout import Layout, SegmentOptions
from mpisign.optim.agreement import by_value
from mpisign.optim.broadcast import fault_of_kind
from mpisign.optim.copies import TYPES
from mpisign.optim.storage import dispatches, repeats, sharing
from mpisign.parallel.mpi import Ranks

Parameters = nn.Module | Iterable[Any]  # parameters, pairs of name and parameter, or groups of these


@dataclass(frozen=True)
class Named:
    """The tensors of a SignOptimizer and its model, by name.

    groups: for torch, with frozen parameters in their places. trained: parameters that lie in x, in order. frozen:
    parameters that do not. others: all tensors outside of x that must be alike on all ranks: frozen parameters, and the
    other parameters and the buffers of the model.
    """

    groups: list[dict[str, Any]]
    trained: dict[str, nn.Parameter]
    frozen: dict[str, Tensor]
    others: dict[str, Tensor]
    model: nn.Module | None


def named(params: Parameters, model: nn.Module | None, include_frozen: bool = False) -> Named:
    """Names a model, parameters, named parameters, or groups of either.

    Names come from the model, from pairs (name, parameter), or are numbers. include_frozen: parameters that require no
    gradient now are to be trained too. Raises UsageError for what has no order, is given twice, or is no parameter.
    """
    if model is not None and not isinstance(model, nn.Module):
        raise UsageError(f"model: a {type(model).__name__}; pass the torch.nn.Module that holds the parameters")
    if isinstance(params, nn.Module):
        model = model or params
        params = params.named_parameters()
    groups = _groups_of(params)
    known = {id(p): name for name, p in model.named_parameters()} if model else {}
    trained: dict[str, nn.Parameter] = {}
    frozen: dict[str, Tensor] = {}
    met: dict[int, tuple[str, int]] = {}  # the name of a parameter, and the number of its group
    for number, group in enumerate(groups):
        pairs, group["params"] = group["params"], [p for _, p in group["params"]]
        for name, p in pairs:
            if id(p) in met:
                raise _twice(*met[id(p)], number)
            mine, kind = (trained, "parameter") if p.requires_grad or include_frozen else (frozen, "frozen")
            name = name or known.get(id(p), f"{kind}{len(mine)}")
            if name in trained or name in frozen:
                raise UsageError(f"two parameters are called {name!r}; give them names of their own")
            mine[name], met[id(p)] = p, (name, number)
    return Named(groups, trained, frozen, _others(trained, frozen, model), model)


def refuse_wrapped(params: Parameters, model: nn.Module | None, ranks: Ranks) -> None:
    """Raises UsageError for a model that DDP wraps for the ranks of a process group that are to vote."""
    voters = getattr(ranks.comm, "members", None)
    wrapped = [one for one in (params, model) if isinstance(one, nn.parallel.DistributedDataParallel)]
    for one in wrapped if voters else ():
        if sorted(torch.distributed.get_process_group_ranks(one.process_group)) == voters:
            raise UsageError(
                "the model is wrapped in DDP, which averages gradients before anyone votes; pass the model that it "
                "wraps, and call that one in the loop"
            )


def _twice(name: str, first: int, second: int) -> UsageError:
    if first != second:
        return UsageError(f"parameter {name!r} is in groups {first} and {second}; one of them can move it")
    return UsageError(f"parameter {name!r} is given twice; pass the model, or list(dict.fromkeys(parameters))")


def _groups_of(iterable: Iterable[Any]) -> list[dict[str, Any]]:
    """Copies of the groups, whose "params" are pairs of name (empty if it has none) and parameter."""
    items = _listed(iterable, "params")
    if not items:
        raise UsageError("no parameters to optimise; pass a model, or its parameters()")
    if not any(isinstance(item, dict) for item in items):
        return [{"params": [_pair(item) for item in items]}]
    groups = []
    for number, item in enumerate(items):
        if not isinstance(item, dict) or "params" not in item:
            what = "lacks the key 'params'" if isinstance(item, dict) else f"is a {type(item).__name__}"
            raise UsageError(f"group {number} {what}; groups are dicts: {{'params': parameters, 'lr': 0.1}}")
        params = item["params"]
        if isinstance(params, (Tensor, nn.Module)):
            params = [params] if isinstance(params, Tensor) else params.parameters()
        groups.append(item | {"params": [_pair(p) for p in _listed(params, f"params of group {number}")]})
    return groups


def _listed(params: Any, what: str) -> list[Any]:
    """The items of an iterable, which must have the same order on every rank."""
    if isinstance(params, Mapping):
        raise UsageError(
            f"{what}: a {type(params).__name__}; pass its items(), or a list of groups: [{{'params': ...}}]"
        )
    if isinstance(params, WeakSet) or (isinstance(params, Set) and not isinstance(params, (KeysView, ItemsView))):
        raise UsageError(f"{what}: a {type(params).__name__} has another order on every rank; pass a list or the model")
    if isinstance(params, Tensor) or not isinstance(params, Iterable):
        raise UsageError(f"{what}: a {type(params).__name__}; pass a model, or a list of parameters")
    items = list(params)
    if not items and isinstance(params, Iterator):
        raise UsageError(
            f"{what}: no parameters; an iterator, such as model.parameters(), can be used once only: "
            "pass list(model.parameters())"
        )
    return items


def _pair(item: Any) -> tuple[str, nn.Parameter]:
    """The name and the tensor of one parameter."""
    name, p = item if isinstance(item, tuple) and len(item) == 2 else ("", item)
    if not isinstance(p, Tensor) or not isinstance(name, str):
        raise UsageError(
            f"params: {str(item)[:60]!r} is a {type(item).__name__}; parameters are tensors, or pairs (name, tensor), "
            "as model.named_parameters() gives them"
        )
    if not p.is_leaf:
        raise UsageError(
            f"parameter {name or '(no name)'!r} of shape {list(p.shape)} is computed from other tensors; give those "
            "that it comes from, or p.detach().requires_grad_()"
        )
    return name, p  # type: ignore[return-value]  # a leaf will do


def _others(trained: dict[str, nn.Parameter], frozen: dict[str, Tensor], model: nn.Module | None) -> dict[str, Tensor]:
    """All tensors of the model and the user but the trained parameters, each once."""
    everything = [*frozen.items()]
    if model:
        everything += [*model.named_parameters(), *model.named_buffers()]
    seen, others = {id(p) for p in trained.values()}, {}
    for name, t in everything:
        if id(t) not in seen:
            seen.add(id(t))
            others[f"{name} of the model" if name in others or name in trained else name] = t
    return others


def refuse_nothing(parameters: Mapping[str, Tensor]) -> None:
    """Raises UsageError where there is nothing to optimise."""
    if not parameters:
        raise UsageError("no parameter requires a gradient, so there is nothing to optimise")
    if not any(is_lazy(p) or p.numel() for p in parameters.values()):
        raise UsageError("no parameter has any element, so there is nothing to optimise")


def fault_of(parameters: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> UsageError | None:
    """The first fault by which these parameters, or the other tensors of the model, can't be optimised; or None."""
    if fault := fault_of_kind(parameters) or fault_of_kind(others):
        return fault
    first = next(iter(parameters.values())).device
    for name, p in parameters.items():
        if text := _fault_of_place(p, first) or _fault_of_numbers(p):
            return UsageError(f"parameter {name!r} {text}")
    if shared := sharing(parameters, others):
        a, b = shared
        return UsageError(
            f"parameter {a!r} and {b!r} share memory, which they no longer would in x: tie modules by one parameter "
            "(decoder.weight = encoder.weight), or clone one of the two"
        )
    return None


def _fault_of_place(p: Tensor, first: torch.device) -> str:
    """What is wrong with where a parameter lies. first: the device of the first one."""
    if p.device.type == "meta":
        return "lies on meta, without values: model.to_empty(device='cpu') and its initialisation come before"
    if p.device.type not in ("cpu", "cuda"):
        return f"lies on {p.device}; the CPU and CUDA are known: model.to(...)"
    if p.device != first:
        return f"lies on {p.device}, others on {first}; a rank has one device"
    if p.device.type == "cuda" and p.device.index != torch.cuda.current_device():
        return f"lies on {p.device}: first call torch.cuda.set_device({p.device.index})"
    if dispatches(p):
        return f"is a {type(p).__name__}, which wraps other tensors; only plain tensors lie in the flat vector x"
    if p.layout is not torch.strided or p.is_nested:
        return f"is {'nested' if p.is_nested else f'sparse ({p.layout})'}; only dense parameters are optimised"
    if p.device.type == "cpu" and p.is_shared():
        return (
            "lies in memory that other processes share (share_memory_(), torch.multiprocessing), which would not see "
            "it move: parameters get places in the optimiser's own vector x; give a copy.deepcopy(model)"
        )
    return ""


def _fault_of_numbers(p: Tensor) -> str:
    """What is wrong with the numbers of a parameter."""
    if p.dtype.is_complex:
        return f"is {p.dtype}; only real numbers have signs: make torch.view_as_real(p) the parameter"
    if p.dtype != torch.float32 and p.dtype not in TYPES:
        return (
            f"is {p.dtype}; x is kept in torch.float32, and parameters are that or copies of it in 16 bits: "
            "model.float(), model.bfloat16() or model.half()"
        )
    if p.is_inference():
        return "was made in torch.inference_mode(), and can't be trained: make the model outside of it"
    if repeats(p):
        return f"of shape {list(p.shape)} has elements that share memory (expand()); clone() it"
    return ""


def check_alike(layout: Layout, others: list[str], settings: dict[str, object], ranks: Ranks) -> None:
    """Raises UsageError on all ranks, naming the first difference, if they were given different models or settings.

    others: a line for each buffer and frozen parameter.
    """
    mine = [(s.name, list(s.shape), str(s.options)) for s in layout.segments]
    everyone = ranks.allgather((mine, others, settings), "models and settings")
    for rank, (theirs, lines, other) in enumerate(everyone):
        first, what = everyone[0][0], f"rank {rank} and rank 0 have different"
        if len(theirs) != len(first):
            message = f"{what} models: {len(theirs)} and {len(first)} parameters"
        elif theirs != first:
            k = next(k for k, pair in enumerate(zip(theirs, first, strict=True)) if pair[0] != pair[1])
            message = f"{what} models: parameter {k} is {_described(theirs[k])} and {_described(first[k])}"
        elif lines != everyone[0][1]:
            pair = next(pair for pair in zip_longest(lines, everyone[0][1], fillvalue="none") if pair[0] != pair[1])
            message = f"{what} buffers or frozen parameters: {pair[0]} and {pair[1]}"
        elif other != everyone[0][2]:
            key = next(key for key in other if other[key] != everyone[0][2][key])
            message = f"different settings: {key} is {by_value([values[key] for _, _, values in everyone])}"
        else:
            continue
        raise UsageError(f"{message}; build the same model and optimiser on every rank", agreed=True)


def _described(segment: tuple[str, list[int], str]) -> str:
    name, shape, group = segment
    return f"{name!r} of shape {shape}" + ("" if group == str(SegmentOptions()) else f" in {group}")
