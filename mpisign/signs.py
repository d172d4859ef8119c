"""What is sent for an estimate v: one bit a coordinate, with or without scales, or raw floats.

sign(0) is a rule of its own (`zeros`): "coin", a fair coin that is negated at the next step; "abstain", a
second plane that says "no vote", the mathematics; "plus", +1, which is biased.
"""

from dataclasses import dataclass, field

import numpy as np
import torch

from mpisign import bits
from mpisign.algorithm import SignRule
from mpisign.messages import RAW, Format


@dataclass(frozen=True)
class Sign(SignRule):
    """sign(v)."""

    zeros: str = "coin"

    def up(self):
        return Format(planes=2 if self.zeros == "abstain" else 1)

    def pack(self, signal, scales, lo, hi, out, state, step):
        coin, zeros = step.coin("zero"), 0
        for span in step.layout.spans(lo, hi):
            words = out[:, span.words(lo)]
            zeros += bits.pack(signal[span.coordinates], span.lo, self.zeros, coin, words)
        return zeros, 0


@dataclass(frozen=True)
class StochasticSign(SignRule):
    """+1 with probability (1 + v/R)/2 [Safaryan & Richtarik 2021 section 3; Jiang et al. 2024].

    radius: R, or 0 for v's own Euclidean norm over the whole vector. A coordinate outside [-R, R] is
    clipped and counted. Where the own norm is 0, v falls to the rule for zeros.
    """

    radius: float = 0.0
    zeros: str = "coin"

    def up(self):
        return Format(planes=2 if self.zeros == "abstain" else 1)

    def begin(self, v, state, step):
        return v, np.float32(self.radius or step.layout.norm(v))

    def pack(self, signal, scales, lo, hi, out, state, step):
        if scales == 0:
            return Sign(self.zeros).pack(signal, None, lo, hi, out, state, step)
        draw, clips = step.draw("sign"), 0
        for span in step.layout.spans(lo, hi):
            words = out[:, span.words(lo)]
            clips += bits.pack_stochastic(signal[span.coordinates], scales, span.lo, draw, words)
        return 0, clips


@dataclass(frozen=True)
class ScaledSign(SignRule):
    """(|v_b|_1 / d_b) * sign(v_b) for each tensor b: one float32 a tensor beside the words."""

    zeros: str = "coin"

    def up(self):
        return Format(planes=2 if self.zeros == "abstain" else 1, scaled=True)

    def begin(self, v, state, step):
        layout = step.layout
        return v, layout.mean_magnitudes(bits.tile_sums(v, layout.tiles(0, layout.length)))

    def pack(self, signal, scales, lo, hi, out, state, step):
        return Sign(self.zeros).pack(signal, None, lo, hi, out, state, step)


@dataclass(frozen=True)
class ErrorFeedback(SignRule):
    """p = lr*v + e; send rule(p); e = p - what was sent.

    The residual e is kept in units of x, so no ratio of learning rates enters [Karimireddy et al. 2019 alg. 1].
    """

    rule: SignRule = field(default_factory=ScaledSign)

    def up(self):
        return self.rule.up()

    def init(self, layout):
        return {"residual": layout.zeros()}

    def begin(self, v, state, step):
        # p = lr*v + e takes the place of e until it is packed
        p = state["residual"]
        for span in step.layout.all_spans:
            bits.blend(p[span.coordinates], v[span.coordinates], 1.0, step.lr_of(span.segment))
        return self.rule.begin(p, {}, step)

    def pack(self, signal, scales, lo, hi, out, state, step):
        counts = self.rule.pack(signal, scales, lo, hi, out, {}, step)
        for span in step.layout.spans(lo, hi):
            bits.add_signed(signal[span.coordinates], out[:, span.words(lo)], -scales[span.segment])
        return counts


@dataclass(frozen=True)
class Raw(SignRule):
    """v itself, as float32: for baselines."""

    def up(self):
        return RAW

    def pack(self, signal, scales, lo, hi, out, state, step):
        torch.mul(signal[lo:hi], step.weight, out=out[0])
        return 0, 0
