"""What each rank hands over to a checkpoint, and where in the checkpoint's arrays it belongs.

A checkpoint is of voters and knows nothing of ranks. A rank hands over the arrays of its own voters and what it counts
alone; the first voter also what is the same for all. Where voters have several ranks, each hands over its shard of what
is as long as x, and the first one the rest. Only a model's buffers are each rank's own then: those of the first rank
are the voter's, and "shard1/oracle/..." are those of the second one; unless an oracle names them by rank itself.
"""

from dataclasses import dataclass

import numpy as np
import torch

from mpisign.algorithms.slots import State
from mpisign.engine.stepper import Stepper
from mpisign.exchange import Exchange
from mpisign.layout import WORD

Arrays = dict[str, np.ndarray]
BUFFERS = "oracle/"


@dataclass(frozen=True)
class Cut:
    """Where a rank's part of an array lies in it: `length` is that of the whole one's last dimension.

    parts: (lo, hi, at): coordinates [lo, hi) of the whole are those from `at` on of the rank's.
    """

    length: int
    parts: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Kind:
    """An array by its shape and type on one rank.

    optional: whether a checkpoint may lack it. instead: the name of what is taken then, if anything.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    cut: Cut | None
    optional: bool = False
    instead: str = ""

    @property
    def whole(self) -> tuple[tuple[int, ...], np.dtype]:
        """Shape and type in a checkpoint."""
        return (*self.shape[:-1], self.cut.length) if self.cut else self.shape, self.dtype


def arrays_of(stepper: Stepper) -> Arrays:
    """What this rank hands over, by its name in a checkpoint."""
    verdicts = {name: exchange.before for name, exchange in _verdicts(stepper) if exchange.before is not None}
    named = _named(stepper) | (verdicts if stepper.world.rank == 0 else {})
    return {_told(stepper, name): a.cpu().numpy() for name, a in named.items() if _hands_over(stepper, name, a.shape)}


def cuts_of(stepper: Stepper, arrays: Arrays) -> dict[str, Cut]:
    """Where those of them belong that are parts."""
    found = {name: _cut(stepper, name, array.shape) for name, array in arrays.items()}
    return {name: cut for name, cut in found.items() if cut}


def kinds_of(stepper: Stepper) -> dict[str, Kind]:
    """What this rank takes from a checkpoint."""
    found = {name: (tuple(a.shape), a.cpu().numpy().dtype) for name, a in _named(stepper).items()}
    if stepper.world.rank == 0:
        found |= {name: ((e.layout.length // WORD,), np.dtype(np.int64)) for name, e in _verdicts(stepper)}
    verdicts, kinds = {name for name, _ in _verdicts(stepper)}, {}
    for name, (shape, dtype) in found.items():
        told = _told(stepper, name)
        # all ranks of a voter begin with the buffers of its first one, where that was alone
        how = {"optional": name in verdicts or told != name, "instead": name if told != name else ""}
        kinds[told] = Kind(shape, dtype, _cut(stepper, name, shape), **how)
    return kinds


def take(stepper: Stepper, arrays: Arrays) -> None:
    """Fills a Stepper with what it takes from a checkpoint, by name there."""
    own = stepper.states()
    for name, exchange in _verdicts(stepper) if stepper.world.rank == 0 else ():
        found = arrays.pop(name, None)
        exchange.before = None if found is None else torch.from_numpy(found).to(exchange.device)
    for name, array in arrays.items():
        own[name.removeprefix(_prefix(stepper))].copy_(torch.from_numpy(array))


def _named(stepper: Stepper) -> State:
    first = stepper.world.rank == 0
    named: State = (stepper.common() if first else {}) | stepper.own()
    for k, stage in enumerate(stepper.stages):
        if stage.exchange.sharded or first:
            named |= {stepper.prefix(k) + name: array for name, array in stage.counted().items()}
    return named


def _verdicts(stepper: Stepper) -> list[tuple[str, Exchange]]:
    return [(f"{stepper.prefix(k)}verdict", stage.exchange) for k, stage in enumerate(stepper.stages)]


def _prefix(stepper: Stepper) -> str:
    named = stepper.oracles[0].of_ranks
    return f"shard{stepper.layout.number}/" if stepper.layout.number and not named else ""


def _told(stepper: Stepper, name: str) -> str:
    """The name of an array in a checkpoint."""
    return (_prefix(stepper) if name.startswith(BUFFERS) else "") + name


def _hands_over(stepper: Stepper, name: str, shape: tuple[int, ...]) -> bool:
    return not stepper.layout.number or name.startswith(BUFFERS) or _cut(stepper, name, shape) is not None


def _cut(stepper: Stepper, name: str, shape: tuple[int, ...]) -> Cut | None:
    """Where a rank's array belongs; None for one that is whole."""
    layout = stepper.layout
    for k, stage in enumerate(stepper.stages):
        of_votes = stage.exchange.layout  # of the coordinates that vote
        at, whole = of_votes.origin, of_votes.whole.length
        if name.startswith(f"{stepper.prefix(k)}vote/"):
            shards = stage.exchange.shards_of(stepper.world.rank)
            return Cut(whole, tuple((lo + at, hi + at, place) for lo, hi, place in shards))
        if name == f"{stepper.prefix(k)}verdict" and of_votes.whole is not of_votes:
            words = of_votes.length // WORD
            return Cut(whole // WORD, ((at // WORD, at // WORD + words, 0),))
    if layout.whole is layout or name.startswith(BUFFERS) or tuple(shape[-1:]) != (layout.length,):
        return None
    return Cut(layout.whole.length, ((layout.origin, layout.origin + layout.length, 0),))
