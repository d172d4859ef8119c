"""Voters that lie: they change their packed messages just before these are sent, with MPI and in simulations alike.

All else that they do is honest: their losses, the radii and snapshots that methods share, and their own residuals.

    kind        one bit per coordinate                         raw floats, and the floats that a code stands for
    invert      the negated sign                               -factor * v
    random      a fair coin                                    factor * N(0, 1)
    constant    +1                                             factor
    colluding   against the majority of the honest, whose      -factor * mean of the honest
                messages are seen first; a coin if those tie
    scale       the honest sign                                factor * v

Scales beside the signs are multiplied by `factor` whatever the kind. invert and random are the blind adversaries of
Bernstein et al. 2019, whose code has the first voters lie and send N(0, 1); colluding is the strongest against a
majority: whatever k voters can turn, it turns.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mpisign import bits
from mpisign.algorithms.messages import Ballots
from mpisign.engine.stepper import Stepper
from mpisign.exchange import Exchange
from mpisign.layout import WORD, Layout
from mpisign.parallel.world import ordered_sum


@dataclass
class Adversary:
    """The first `voters` voters of a Stepper lie, all in the same way."""

    voters: int
    kind: str
    factor: float
    stepper: Stepper

    @property
    def _liars(self) -> list[tuple[int, int]]:
        """(place among the local voters, voter) of each that lies here."""
        return [(i, v) for i, v in enumerate(self.stepper.world.local) if v < self.voters]

    def tamper(self, exchange: Exchange, c: int) -> None:
        """Changes what lying local voters packed for chunk c. Collective where they collude."""
        lie = self._change_words if exchange.up.counts else self._change_floats
        honest = self._honest(exchange, c) if self.kind == "colluding" else None
        for i, voter in self._liars:
            message = exchange.packed_into(i, c)
            floats = self._decoded(exchange, c, message)
            lie(message if floats is None else floats, honest, exchange.layout, *exchange.chunks[c], voter)
            if floats is not None:
                # by draws of its own: those of the lie would go along with it
                step = self.stepper.at_hand(exchange.layout)
                draw = self.stepper.streams.draw("retelling", self.stepper.t, voter)
                exchange.up.encode_decoded(floats[0], exchange.chunks[c][0], draw, message, step)

    def inflate(self, scales: list[np.ndarray]) -> list[np.ndarray]:
        """The scales that local voters announce, float32 (segments,), given the honest ones."""
        inflated = list(scales)
        for i, _ in self._liars:
            inflated[i] = inflated[i] * np.float32(self.factor)
        return inflated

    def _honest(self, exchange: Exchange, c: int) -> Tensor:
        """The messages (honest, planes, items) for a chunk; of codes, the floats that they stand for."""
        packed = [exchange.packed_into(i, c) for i in range(len(self.stepper.world.local))]
        told = [message if (floats := self._decoded(exchange, c, message)) is None else floats for message in packed]
        return self.stepper.world.everyone(told)[self.voters :]

    def _decoded(self, exchange: Exchange, c: int, message: Tensor) -> Tensor | None:
        """What a message says, as raw floats (1, C), where it is a code."""
        if not exchange.up.coded:
            return None
        lo, hi = exchange.chunks[c]
        floats = torch.zeros(1, hi - lo, device=message.device)
        exchange.up.add(message, floats[0], lo, self.stepper.at_hand(exchange.layout))
        return floats

    def _draw(self, *voter: int):
        return self.stepper.streams.draw("attack", self.stepper.t, *voter)

    def _change_words(self, message: Tensor, honest: Tensor | None, layout: Layout, lo: int, hi: int, voter: int):
        """message: (planes, W), the signs and, where voters may abstain, who does not."""
        present, signs = layout.present(lo, hi).to(message.device), message[0]
        match self.kind:
            case "invert":
                signs ^= present
            case "random":
                nothing = torch.zeros(hi - lo, device=message.device)
                bits.pack_parts(nothing, layout.parts(lo, hi), lo, "random", self._draw(voter), message[:1])
            case "constant":
                signs.copy_(present)
            case "colluding":
                signs.copy_(self._majority(honest, lo).to(message.device) ^ present).bitwise_and_(present)
        if self.kind in ("random", "constant", "colluding"):
            message[1:] = present

    def _majority(self, honest: Tensor, lo: int) -> Tensor:
        count, _, words = honest.shape
        weights = self.stepper.exchange.vote.weights_of(range(self.voters, self.voters + count))
        planes = honest.transpose(0, 1).contiguous()
        tally = Ballots(lo, lo + WORD * words, 0, count, planes=planes, weights=weights).tally
        verdict = bits.new_planes(1, words)
        bits.majority(tally.plus, tally.minus, tally.votes, lo, "random", self._draw(), verdict)
        return verdict[0]

    def _change_floats(self, message: Tensor, honest: Tensor | None, layout: Layout, lo: int, hi: int, voter: int):
        """message: (1, C)."""
        v = message[0]
        match self.kind:
            case "invert":
                v.mul_(-self.factor)
            case "random":
                bits.add_normal(v.zero_(), self.factor, lo, self._draw(voter))
            case "constant":
                v.fill_(self.factor)
            case "colluding":
                mean = ordered_sum(honest[:, 0]) / len(honest)
                v.copy_(mean).mul_(-self.factor)
            case "scale":
                v.mul_(self.factor)
