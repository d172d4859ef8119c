"""Models that FSDP2's fully_shard has cut: their DTensors as copies of x, and their gradients as an oracle of a shard.

FSDP averages gradients over the ranks of its mesh, and that mean is the voter's gradient. Each rank holds a shard of x
in float32, and parameters, whose pieces lie elsewhere (redistribution.py), are copies of it as those of 16 bits are.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mpisign.algorithms.method import Method
from mpisign.errors import UsageError
from mpisign.layout import LayoutShard
from mpisign.optim import broadcast
from mpisign.optim.copies import TYPES
from mpisign.optim.gradients import Gradients
from mpisign.optim.options import Settings
from mpisign.optim.parameters import Named
from mpisign.optim.redistribution import Redistribution
from mpisign.optim.voters import Voters
from mpisign.parallel.device import broadcast_tensor
from mpisign.parallel.mpi import Ranks

DIVIDE = "fully_shard(model, mesh=mesh['shard']) where SignOptimizer gets voters=mesh"


def is_sharded(tensor: Tensor) -> bool:
    """Whether it is a DTensor, of which each rank holds a piece."""
    return hasattr(tensor, "device_mesh")


def local(tensor: Tensor) -> Tensor:
    """The piece of a DTensor that lies here, in its memory; any other tensor as it is."""
    return tensor._local_tensor if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def locals_of(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The pieces that lie here, by name."""
    return {name: local(t) for name, t in tensors.items()}


def reshard(*models: object) -> None:
    """Has the modules of models hold their shards, which a forward pass without a backward pass may have gathered."""
    from torch.distributed.fsdp import FSDPModule

    for model in models:
        for module in model.modules() if isinstance(model, nn.Module) else ():
            if isinstance(module, FSDPModule):
                module.reshard()


def refuse_undivided(method: Method, settings: Settings) -> None:
    """Raises UsageError for what does not go with voters of several ranks."""
    if why := method.undivided:
        raise UsageError(f"voters: {method.name} can't be shared out among the ranks of a voter: {why}")
    if settings.overlap:
        raise UsageError("overlap=True is not there for voters of several ranks: leave one of the two out")
    if settings.rounding == "stochastic":
        raise UsageError(
            'rounding = "stochastic" is not there for voters of several ranks, of which each holds a shard of x in '
            "float32: leave one of the two out"
        )


def fault_of_sharding(names: Named, voters: Voters) -> UsageError | None:
    """The fault of the first parameter, trained or frozen, that is not cut along the ranks of this rank's voter."""
    for name, p in (names.trained | names.frozen).items():
        if text := _fault_of_cut(p, list(voters.numbers)):
            return UsageError(f"parameter {name!r} {text}")
    return None


def _fault_of_cut(p: Any, ranks: list[int]) -> str:
    if not is_sharded(p):
        return (
            "is not sharded: with voters, call fully_shard() on the model, its root too, before the optimiser is made, "
            "or leave voters out, by which each rank is a voter of its own"
        )
    if any(placement.is_replicate() for placement in p.placements):
        return f"is replicated ({p.placements}), so FSDP would average gradients before anyone votes; call {DIVIDE}"
    (placement, *more) = p.placements
    if more or type(placement).__name__ != "Shard" or placement.dim != 0:
        return f"is cut as {p.placements}; only cuts along the first dimension (Shard(0)) of one mesh are known"
    if (own := p.device_mesh.mesh.tolist()) != ranks:
        return f"is cut among ranks {own}, but the ranks of this rank's voter are {ranks}; call {DIVIDE}"
    return ""


def take_in(names: Named, layout: LayoutShard, voters: Voters, ranks: Ranks) -> Gradients:
    """Has all voters start from the first one's parameters, and from root's buffers. Collective."""
    redistribution, x = Redistribution(layout, voters.inside), layout.zeros()
    redistribution.collect([local(names.trained[s.name]).data for s in layout.segments], x)
    broadcast_tensor(voters.across, x)
    cut = {name: t for name, t in names.others.items() if is_sharded(t)}
    broadcast.from_root(voters.across, locals_of(cut))
    broadcast.from_root(ranks, {name: t for name, t in names.others.items() if name not in cut})
    return ShardedGradients(names, redistribution, x, ranks.root)


class ShardedCopies:
    """Parameters that are copies of x, of which pieces lie here. All calls but fault() are collective in the voter."""

    follow_part = None  # a part of x that has moved here is a part of parameters elsewhere

    def __init__(
        self, parameters: Sequence[Tensor], redistribution: Redistribution, x: Tensor, model: nn.Module | None
    ):
        """parameters: DTensors, in the order of the segments."""
        self._parameters, self._redistribution, self._x, self._model = parameters, redistribution, x, model
        # of the segments whose type can't tell all of x
        self._narrow = {k: p.dtype for k, p in enumerate(parameters) if p.dtype in TYPES}
        self._seen: list[tuple[int, ...]] = []
        self.holds_x = False  # whether the buffers hold x, rather than gradients

    def __bool__(self) -> bool:
        return True

    @property
    def tell_less(self) -> bool:
        """Whether x can't be told from the parameters."""
        return bool(self._narrow)

    def memory(self) -> dict[str, int]:
        """Bytes held beside x, by name."""
        return {"copies": sum(local(p).nbytes for p in self._parameters), "redistribution": self._redistribution.nbytes}

    def follow(self) -> None:
        """Makes all parameters what x is."""
        reshard(self._model)
        self._redistribution.spread(self._x)
        for p, piece in zip(self._parameters, self._redistribution.pieces, strict=True):
            here = local(p).data
            here.copy_(piece.view(here.shape))
        self._note()

    follow_rest = follow

    def take_over(self) -> None:
        """Takes into x what a loop has written into parameters on any rank; what is as x was keeps its lower bits."""
        changed = np.array([self._versions() != self._seen], dtype=np.float64)
        if not self._redistribution.inside.rows(changed).any():
            return
        x = self._redistribution.layout.zeros()
        self._redistribution.collect([local(p).data for p in self._parameters], x)
        for span in self._redistribution.layout.all_spans:
            written, master = x[span.coordinates], self._x[span.coordinates]
            if (narrow := self._narrow.get(span.segment)) is not None:
                written = torch.where(written == master.to(narrow).float(), master, written)
            master.copy_(written)
        self._note()

    def fault(self) -> UsageError | None:
        """What is wrong if a parameter is not what x is, which nobody has noticed; None where x is not known here."""
        if not self.holds_x:
            return None
        segments = self._redistribution.layout.segments
        for segment, p, piece in zip(segments, self._parameters, self._redistribution.pieces, strict=True):
            here = local(p).data
            if not torch.equal(here, piece.view(here.shape).to(here.dtype)):
                return UsageError(
                    f"parameter {segment.name!r} was changed unnoticed, as by p.data, and steps undo "
                    "that, as the optimiser's x is what moves; assign in place (p.copy_(...) under no_grad)"
                )
        return None

    def _note(self) -> None:
        """Notes that parameters are what the redistribution's `pieces` hold."""
        self._seen, self.holds_x = self._versions(), True

    def _versions(self) -> list[tuple[int, ...]]:
        # another tensor may have taken the place of a local one, as after load_state_dict() of uneven pieces
        return [(p._version, local(p)._version) for p in self._parameters]


class ShardedGradients(Gradients):
    """An oracle whose gradients, of this rank's shard, come from the p.grad of all ranks of the voter."""

    copies: ShardedCopies  # type: ignore[assignment]

    def __init__(self, named: Named, redistribution: Redistribution, x: Tensor, warns: bool):
        self._redistribution = redistribution
        super().__init__(named, redistribution.layout, x, warns)

    def _copies_of(self, x: Tensor) -> ShardedCopies:  # type: ignore[override]
        return ShardedCopies(self.parameters, self._redistribution, x, self.model)

    def gradient_in_place(self) -> None:
        """Never: what is packed here lies with other ranks."""

    def gradient(self, x: Tensor, out: Tensor, again: bool = False) -> None:
        """The gradient at x, written to out (shard,). Collective inside the voter."""
        assert not again, "methods that take two gradients are refused"
        self.copies.holds_x = False
        self._redistribution.collect([None] * len(self.grads) if self.fault else self.grads, out)
        if self.scale != 1.0:
            out.mul_(self.scale)

    def _look(self) -> None:
        super()._look()
        self.grads = [None if grad is None else local(grad) for grad in self.grads]

    def _places(self) -> list[int]:
        return []  # copies may lie anywhere

    def _fault_of_gradients(self) -> UsageError | None:
        for segment, p, grad in zip(self.layout.segments, self.parameters, self.grads, strict=True):
            if grad is not None and grad.shape != local(p).shape:
                return UsageError(
                    f"the gradient of parameter {segment.name!r} has shape {list(grad.shape)} on this rank, where its "
                    f"piece has {list(local(p).shape)}; gradients are those that fully_shard's backward leaves"
                )
        return super()._fault_of_gradients()
