"""The oracle of a voter that several ranks are: the mean of their gradients, added in the order of the ranks.

Each rank takes its own gradient, at all of x, from its own rows. Where the ranks run, gradients and x lie in memory
that all of them see, and each has its shard of the mean; where they are simulated, one process takes all gradients.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from mpisign.layout import Layout
from mpisign.problems.oracle import Oracle


def at_once() -> None:
    """Waits for nobody: where one process takes all gradients."""


class NodeOracle:
    """A voter's access to a problem through its ranks.

    members: the oracles of its ranks in this process, all or one; without clip, as the voter's gradient is clipped.
    shares: of every rank of the voter, the weight of its gradient in their mean; they add up to the number of ranks.
    gradients: float32 (ranks, length), memory for those at all of x. x: where all of x lies, if the vectors that the
    Stepper has are shards of it. layout: of these. first: the place of the first member among the ranks. wait: until
    all ranks of the voter are here, and what each of them wrote is seen.
    """

    of_ranks = True  # as Oracle.of_ranks

    def __init__(
        self,
        voter: int,
        members: list[Oracle],
        shares: list[float],
        gradients: Tensor,
        layout: Layout,
        *,
        clip: float = 0.0,
        x: Tensor | None = None,
        first: int = 0,
        wait: Callable[[], None] = at_once,
    ):
        self.voter, self.members, self.gradients, self.layout = voter, members, gradients, layout
        self.shares = shares[first : first + len(members)]
        self.clip, self.first, self.wait = clip, first, wait
        self.problem, self.device, self.rows = members[0].problem, layout.device, None
        self.accumulate = len(gradients) * members[0].accumulate  # minibatches averaged into one gradient
        self.clipped = 0  # gradients of the voter that were shortened so far
        # those of each rank, under its number: what checkpoints hold
        self.statistics = {f"{k}/{m.voter}": array for m in members for k, array in m.statistics.items()}
        self._x = x

    @property
    def loss(self) -> float:
        """The weighted mean over the members of their latest batches' losses, added in their order."""
        told = [member.loss * share for member, share in zip(self.members, self.shares, strict=True)]
        return float(np.add.accumulate(told)[-1] / len(told))

    @property
    def evaluations(self) -> int:
        """Rows whose gradient the members took so far."""
        return sum(member.evaluations for member in self.members)

    @property
    def values(self) -> int:
        """Rows whose function value they took so far."""
        return sum(member.values for member in self.members)

    def begin(self, t: int) -> None:
        """Turns to step t."""
        for member in self.members:
            member.begin(t)

    def gradient_in_place(self) -> None:
        """None: a mean lies nowhere yet."""

    def whole(self, x: Tensor) -> Tensor:
        """All of x as it stands, of which x may be a shard. Collective among the voter's ranks."""
        self.wait()  # each of them has moved its own
        return x if self._x is None else self._x

    def gradient(self, x: Tensor, out: Tensor) -> None:
        """The voter's gradient of this step's batches at x, as Oracle.gradient. Collective among its ranks."""
        x = self.whole(x)
        own = self.gradients[self.first :]
        for member, share, row in zip(self.members, self.shares, own, strict=False):
            member.gradient(x, row)
            if share != 1:
                row *= float(np.float32(share))
        self.wait()  # x is read no more, and all gradients are there
        lo, hi = self.layout.origin, self.layout.origin + self.layout.length
        first, *others = self.gradients[:, lo:hi]
        out.copy_(first)
        for other in others:
            out += other
        out /= len(self.gradients)
        if self.clip and (norm := self.layout.norm(out)) > self.clip:
            out *= float(np.float32(self.clip / norm))
            self.clipped += self.first == 0

    def constrain(self, x: Tensor) -> None:
        """Brings all of x back to where the problem allows it. Collective among the voter's ranks, if it does."""
        if not self.problem.constrained:
            return
        whole = self.whole(x)
        if self.first == 0:
            self.members[0].constrain(whole)
        self.wait()

    def memory(self) -> int:
        """Bytes held for gradients, and for all of x where that lies beside them, in memory that all ranks share."""
        return self.gradients.nbytes + (0 if self._x is None else self._x.nbytes)


def members_of(oracles: list[Oracle] | list[NodeOracle]) -> list[Oracle]:
    """The oracles of the ranks behind those of voters: in the order of the ranks."""
    return [member for oracle in oracles for member in oracle.members]


def scratch(ranks: int, layout: Layout) -> Tensor:
    """Memory for the gradients of a voter's ranks, one after the other, in a process that takes all of them."""
    return torch.zeros(ranks, layout.length, device=layout.device)
