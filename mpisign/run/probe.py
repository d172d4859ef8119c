"""What the papers measure, at a step now and then: see /probes in schema.py. Collective; moves no bit of x.

The exact gradient g is taken over all rows of all voters, with the dropout masks of the step. What was sent and what
was decided is seen where it travels, so that lying voters show as such:

    success probability   [Safaryan & Richtarik 2021]    share of coordinates with g_i != 0 where a sign is that of g_i
    rho norm              [the same, section 3]          sum of (2 rho_i - 1)|g_i|, whose unbiased draw is <sign, g>
    density phi           [Bernstein et al. 2018]        |v|_1^2 / (d |v|_2^2); of g, and of the noise by Welford's way
    coordinate smoothness [Bernstein et al. 2018, A2]    measured along the step: the step's signs times its size h, the
                                                         root of the mean square of what x moved
    signal to noise       [Bernstein et al. 2019]        |g_i|/sigma_i; above 2/sqrt(3) it is critical

A probe costs two full gradients, `batches` minibatches of every voter, and memory for four vectors like x.
"""

import math

import numpy as np
import torch
from torch import Tensor

from mpisign import bits
from mpisign.algorithms.messages import Direction
from mpisign.config import Probe as Settings
from mpisign.engine.stepper import Stepper
from mpisign.exchange import Exchange
from mpisign.layout import WORD
from mpisign.run.evaluate import exact_gradients
from mpisign.storage.schema import CRITICAL_SNR, SNR_EDGES

SIGNS = np.array([0, 0, -1, 1], dtype=np.float32)  # what the two planes, sign and presence, of a coordinate mean


class Probe:
    """Measures one step of a Stepper: begin(), the step, end()."""

    def __init__(self, stepper: Stepper, settings: Settings):
        self.stepper, self.settings, self.layout = stepper, settings, stepper.layout
        self.group = self.layout.groups[0]  # what votes, where some does

    def due(self, taken: int) -> bool:
        """Whether the step numbered `taken` is measured: the first, and each `every`-th."""
        every = self.settings.every
        return bool(every) and (taken == 1 or taken % every == 0)

    def begin(self) -> None:
        """Before the step: takes the exact gradient, and looks on from now."""
        stepper, group = self.stepper, self.group.layout
        with stepper.timer("evaluate"):
            self.own, self.mean = exact_gradients(stepper, stepper.world, stepper.x)
            self.x_before = stepper.x.clone()
        self.words = torch.zeros(2, len(stepper.world.local), group.length // WORD, dtype=torch.int64)
        self.decision = torch.zeros(group.length)
        for stage in stepper.stages:
            stage.exchange.probe = self

    def sending(self, exchange: Exchange, c: int) -> None:
        """Keeps the signs of what is about to be sent: of raw floats and of what codes stand for, theirs."""
        lo, hi = exchange.chunks[c]
        for i in range(len(self.stepper.world.local)):
            message, kept = exchange.packed_into(i, c).cpu(), self.words[:, i, lo // WORD : hi // WORD]
            if not exchange.up.counts:
                floats = torch.zeros(hi - lo)
                exchange.up.add(message, floats, lo, self.stepper.at_hand(exchange.layout))
                parts, unused = exchange.layout.parts(lo, hi), self.stepper.streams.draw("probe", 0)
                packed = bits.new_planes(2, (hi - lo) // WORD)
                bits.pack_parts(floats, parts, lo, "abstain", unused, packed.zero_())
                kept.copy_(packed)
            else:
                kept[0] = message[0]
                kept[1] = message[1] if len(message) > 1 else -1

    def decided(self, direction: Direction) -> None:
        """Keeps the signs of what was decided."""
        group = self.group.layout
        if direction.levels is None:
            self.decision[direction.lo : direction.hi] = direction.planes[0].cpu().sign()
        else:
            for span, values in direction.values(group):
                self.decision[span.coordinates] = values.cpu().sign()

    def end(self) -> dict[str, object]:
        """After the step: its row of /probes, without step and epoch."""
        stepper, layout = self.stepper, self.layout
        for stage in stepper.stages:
            stage.exchange.probe = None
        with stepper.timer("evaluate"), stepper.world.uncounted():
            g = self.mean
            norms = {"gradient_l1": layout.total(g.abs()), "gradient_l2": layout.norm(g)}
            row = norms | {"gradient_density": _density(*norms.values(), layout.size)}
            row["dissimilarity"] = self._dissimilarity(norms["gradient_l2"])
            row |= self._successes() | self._noise() | self._smoothness()
        del self.own, self.mean, self.x_before, self.words, self.decision
        return row

    def _dissimilarity(self, norm: float) -> float:
        away = [[self.layout.norm(own.cpu() - self.mean) ** 2] for own in self.own]
        total = np.add.accumulate(self.stepper.world.gather_voters(np.array(away))[:, 0])[-1]
        return math.sqrt(total / self.stepper.world.n) / norm if norm else math.nan

    def _successes(self) -> dict[str, object]:
        """Of every voter and of the vote: how often the sign is right, and its product with g."""
        group, n = self.group.layout, self.stepper.world.n
        g = self.mean[self.group.lo : self.group.hi]
        counted, decided = int((g != 0).sum()), int((self.decision != 0).sum())
        rows = []
        for words in self.words.unbind(1):
            signs = torch.zeros(group.length)
            bits.add_levels(signs, words, SIGNS)
            agreeing = int((signs * self.decision > 0).sum())
            rows.append([int((signs * g > 0).sum()), group.total(signs * g), agreeing])
        right, products, agreeing = self.stepper.world.gather_voters(np.array(rows, dtype=np.float64)).T
        return {
            "gradient_zeros": group.size - counted,
            "success": float(right.sum()) / (n * counted) if counted else math.nan,
            "success_vote": int((self.decision * g > 0).sum()) / counted if counted else math.nan,
            "rho_norm": float(np.add.accumulate(products)[-1]) / n,
            "rho_norm_vote": group.total(self.decision * g),
            "voter_success": right / counted if counted else np.full(n, math.nan),
            "voter_agreement": agreeing / decided if decided else np.full(n, math.nan),
        }

    def _noise(self) -> dict[str, object]:
        """Of a minibatch gradient, by Welford's way over fresh minibatches at the point before the step."""
        layout, g = self.layout, self.mean
        sigma = self.stepper.world.mean([self._variance(k) for k in range(len(self.own))]).cpu().sqrt()
        l1 = layout.total(sigma)
        ratio = (g.abs() / sigma)[(g != 0) | (sigma != 0)].double().numpy()
        return {
            "noise_l1": l1,
            "noise_density": _density(l1, layout.norm(sigma), layout.size),
            "critical": float((ratio > CRITICAL_SNR).mean()) if len(ratio) else math.nan,
            "snr": np.bincount(np.searchsorted(SNR_EDGES, ratio, side="right"), minlength=len(SNR_EDGES) + 1),
        }

    def _variance(self, k: int) -> Tensor:
        """Per-coordinate variance of the k-th local voter's minibatch gradient, unbiased."""
        oracle, batches = self.stepper.oracles[k], self.settings.batches
        sample, mean, squares = (self.layout.zeros() for _ in range(3))
        for b in range(batches):
            oracle.sampled_gradient(self.x_before, sample, (self.stepper.t - 1) * batches + b)
            delta = sample - mean
            mean += delta / (b + 1)
            squares += delta * (sample - mean)
        return squares / (batches - 1)

    def _smoothness(self) -> dict[str, float]:
        move = self.stepper.x - self.x_before
        moved = int((move != 0).sum())
        if not self.settings.smoothness or not moved:
            return {"smoothness_l1": math.nan, "smoothness_density": math.nan}
        h = self.layout.norm(move) / math.sqrt(moved)
        _, moved_gradient = exact_gradients(self.stepper, self.stepper.world, self.x_before + h * move.sign())
        rates = torch.where(move.cpu() != 0, (moved_gradient - self.mean).abs() / h, 0.0)
        l1 = self.layout.total(rates)
        return {"smoothness_l1": l1, "smoothness_density": _density(l1, self.layout.norm(rates), moved)}


def _density(l1: float, l2: float, d: int) -> float:
    return l1**2 / (d * l2**2) if l2 else math.nan
