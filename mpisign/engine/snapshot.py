"""A Stepper as it was before a step, so that the step can be taken back, and taken again by those who are left."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mpisign.algorithms.slots import State
from mpisign.engine.regroup import debts_of
from mpisign.engine.stepper import Stepper

Shards = list[tuple[int, int, int]]
Unite = Callable[[Tensor], None]  # fills in, on all ranks, what each knows of an array that is zero elsewhere


@dataclass(frozen=True)
class Kept:
    """What one process alone knows of a run: its voters' arrays and its share of what votes keep, by name.

    shards: for each stage, the coordinates of that share; none where every process keeps all of it.
    """

    arrays: State
    shards: list[Shards]


def kept_of(stepper: Stepper) -> Kept:
    """That of this process, as views."""
    shards = [stage.exchange.shards if stage.exchange.sharded else [] for stage in stepper.stages]
    alone = {name: array for name, array in _counted(stepper).items() if any(shards)}
    return Kept(stepper.own() | alone, shards)


class Snapshot:
    """Copies of all arrays of a Stepper, in memory that is taken once, and of its step."""

    def __init__(self, stepper: Stepper):
        self._arrays: State = {name: torch.empty_like(a) for name, a in _arrays(stepper).items()}
        self._before: list[Tensor | None] = [None] * len(stepper.stages)
        self.take(stepper)

    def take(self, stepper: Stepper) -> None:
        """Copies the arrays as they are now."""
        for name, array in _arrays(stepper).items():
            self._arrays[name].copy_(array)
        for k, stage in enumerate(stepper.stages):
            before, kept = stage.exchange.before, self._before[k]
            self._before[k] = before if before is None else before.clone() if kept is None else kept.copy_(before)
        self.t, self.begun = stepper.t, stepper.begun
        self._rank = stepper.world.rank

    def restore(
        self, stepper: Stepper, old: Stepper, unite: Unite, keep_debts: bool = True, adopted: Sequence[Kept] = ()
    ) -> None:
        """Makes a Stepper what `old` was; it may have lost voters since. Collective, where what a vote keeps is spread.

        What the vote kept for coordinates that a lost rank counted is zero from now on, unless it is adopted.
        keep_debts: whether residuals, of which a message now weighs more, are made as much smaller; see regroup.py.
        adopted: what lost processes knew whose voters this one runs now.
        """
        arrays, counted, known = _arrays(stepper), _counted(old), dict(self._arrays)
        for kept in adopted:
            known |= {name: array for name, array in kept.arrays.items() if name not in counted}
        for name in arrays.keys() - counted.keys():
            arrays[name].copy_(known[name])
        for k, (stage, former) in enumerate(zip(stepper.stages, old.stages, strict=True)):
            for name, array in stage.counted().items():
                name = f"{Stepper.prefix(k)}{name}"
                if former.exchange.sharded:
                    length = former.exchange.layout.length
                    whole = torch.zeros(*array.shape[:-1], length, dtype=array.dtype)
                    _place(whole, self._arrays[name].cpu(), former.exchange.shards_of(self._rank), into=True)
                    for kept in adopted:
                        _place(whole, kept.arrays[name], kept.shards[k], into=True)
                    unite(whole)
                else:
                    whole = self._arrays[name].cpu()
                part = torch.empty_like(array, device="cpu")
                _place(whole, part, stage.exchange.shards_of(stepper.world.rank), into=False)
                array.copy_(part)
            before = self._before[k]
            stage.exchange.before = None if before is None else before.clone()  # which a step writes into
        if keep_debts:
            for array in debts_of(stepper):
                array.mul_(stepper.world.n / old.world.n)
        stepper.resume_at(self.t, self.begun)


def _place(whole: Tensor, shards: Tensor, where: Shards, into: bool) -> None:
    """Copies the shards of an array into the whole of it, or out of it."""
    for lo, hi, at in where:
        one, other = whole[..., lo:hi], shards[..., at : at + hi - lo]
        one.copy_(other) if into else other.copy_(one)


def _counted(stepper: Stepper) -> State:
    """What the votes of all stages keep on this rank."""
    pairs = enumerate(stepper.stages)
    return {f"{stepper.prefix(k)}{name}": array for k, stage in pairs for name, array in stage.counted().items()}


def _arrays(stepper: Stepper) -> State:
    return stepper.states() | _counted(stepper)
