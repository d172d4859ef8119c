"""What is sent for an estimate v: one bit per coordinate, with or without scales, or raw floats.

sign(0) is a rule of its own (`zeros`): "coin", a fair coin that is negated at the next step; "random", a new coin
at every step; "abstain", a second plane that says "no vote", the mathematics; "plus", +1, and "minus", -1, which
are biased.
"""

from dataclasses import dataclass, field, replace

import numpy as np
import torch

from mpisign import bits
from mpisign.algorithms.formats import RAW, Planes
from mpisign.algorithms.slots import Packed, SignRule


def _from(lo: int, bad: int | None) -> int | None:
    """The coordinate of the first bad value of a chunk that starts at lo; -1 and None as they are."""
    return bad if bad is None or bad < 0 else lo + bad


class Signs(SignRule):
    """Sends a sign per coordinate, and where the rule for zeros is "abstain" whether there is one."""

    zeros: str

    @property
    def rules(self):
        return {"zeros": self.zeros}

    def with_zeros(self, rule):
        return replace(self, zeros=rule)

    def up(self):
        return Planes(planes=2 if self.zeros == "abstain" else 1)


@dataclass(frozen=True)
class Sign(Signs):
    """sign(v)."""

    zeros: str = "coin"

    elementwise = True

    def pack(self, signal, scales, lo, hi, out, state, step):
        coin, parts = step.coin("zero", self.zeros), step.layout.parts(lo, hi)
        zeros, bad = bits.pack_parts(step.layout.part(signal, lo, hi), parts, lo, self.zeros, coin, out)
        return Packed(zeros=zeros, bad=_from(lo, bad))


@dataclass(frozen=True)
class NoisySign(Signs):
    """sign(v + s*xi), xi from N(0, 1) in each coordinate: +1 with probability Phi(v/s); s = scale/(t + 1)^decay."""

    scale: float = 1.0
    decay: float = 0.0
    zeros: str = "coin"

    elementwise, scratch = True, ("noisy",)

    def pack(self, signal, scales, lo, hi, out, state, step):
        noisy = state["noisy"]
        noisy[..., lo:hi] = signal[..., lo:hi]
        if self.scale:
            scale = self.scale / (step.age + 1) ** self.decay
            bits.add_normal(noisy[..., lo:hi], scale, lo, step.draw("dither"))
        return Sign(self.zeros).pack(noisy, None, lo, hi, out, {}, step)._replace(bad=None)


FLOOR = 1e-20  # least radius of a coordinate: where v is 0 there, the draw is a fair coin


@dataclass(frozen=True)
class StochasticSign(Signs):
    """+1 with probability (1 + v/R)/2 [Safaryan & Richtarik 2021 section 3; Jiang et al. 2024].

    radius: R, one for all coordinates, or
        "norm"     v's own Euclidean norm over the whole vector; where it is 0, v falls to the rule for zeros
        "max"      per coordinate, the largest |v| of any voter; shared every `refresh` steps as raw floats
        "running"  per coordinate, the largest |v| this voter has seen; nothing is shared
    A coordinate outside [-R, R] is clipped and counted.
    """

    radius: float | str = "norm"
    refresh: int = 1
    zeros: str = "coin"

    @property
    def elementwise(self):
        return self.radius != "norm"

    @property
    def alike(self):
        return ("radii",) if self.radius == "max" else ()

    @property
    def needs_whole(self):
        return {"norm": "its own norm", "max": "the radii that all voters share"}.get(self.radius, "")

    def side_information(self):
        each = f"every {self.refresh} steps" if self.refresh > 1 else "every step"
        return f"64(n-1)/n bits per coordinate {each} for the shared radii" if self.radius == "max" else ""

    def init(self, layout):
        return {"radii": layout.zeros()} if self.radius in ("max", "running") else {}

    def agree(self, estimates, states, step):
        if self.radius == "max" and step.age % self.refresh == 0:
            most = step.world.max([v.abs() for v in estimates], step.layout.size).clamp_(min=FLOOR)
            for state in states:
                state["radii"].copy_(most)

    def begin(self, v, state, step):
        return v, np.float32(step.layout.norm(v)) if self.radius == "norm" else None

    def pack(self, signal, scales, lo, hi, out, state, step):
        if scales == 0:
            return Sign(self.zeros).pack(signal, None, lo, hi, out, state, step)
        if "radii" in state:
            radii = state["radii"][..., lo:hi]
            if self.radius == "running":
                torch.maximum(radii, signal[..., lo:hi].abs(), out=radii).clamp_(min=FLOOR)
        else:
            radii = step.layout.each(self.radius if scales is None else scales)
        parts = step.layout.parts(lo, hi)
        clips, bad = bits.pack_stochastic_parts(signal[..., lo:hi], radii, parts, lo, step.draw("sign"), out)
        return Packed(clips=clips, bad=_from(lo, bad))


@dataclass(frozen=True)
class ScaledStochasticSign(SignRule):
    """R_b * (+1 with probability (1 + v/R_b)/2, else -1), R_b = max |v_b| of each tensor b: unbiased for v.

    One float32 per tensor beside the words; a tensor of zeros is sent as zero.
    """

    needs_whole = "a scale per tensor"

    def up(self):
        return Planes(planes=1, scaled=True)

    def begin(self, v, state, step):
        return v, step.layout.largest_magnitudes(bits.tile_maxima(v, step.layout.all_tiles))

    def pack(self, signal, scales, lo, hi, out, state, step):
        bits.pack_stochastic_parts(signal[lo:hi], scales, step.layout.parts(lo, hi), lo, step.draw("sign"), out)
        return Packed()


@dataclass(frozen=True)
class ScaledSign(Signs):
    """(|v_b|_1 / d_b) * sign(v_b) for each tensor b: one float32 per tensor beside the words."""

    zeros: str = "coin"

    needs_whole = "a scale per tensor"

    def up(self):
        return replace(super().up(), scaled=True)

    def begin(self, v, state, step):
        return v, step.layout.mean_magnitudes(bits.tile_sums(v, step.layout.all_tiles))

    def begin_residual(self, p, v, rates, step):
        return p, step.layout.mean_magnitudes(bits.add_and_sum(p, v, rates, step.layout.all_tiles))

    def pack(self, signal, scales, lo, hi, out, state, step):
        return Sign(self.zeros).pack(signal, None, lo, hi, out, state, step)

    def pack_residual(self, p, scales, lo, hi, out, step):
        coin, parts = step.coin("zero", self.zeros), step.layout.parts(lo, hi)
        return Packed(zeros=bits.pack_scaled_parts(p[lo:hi], scales, parts, lo, self.zeros, coin, out)[0])


@dataclass(frozen=True)
class Ternary(SignRule):
    """sign(v) with probability |v|/S_b, else no vote; S_b the largest |v| of each tensor b over all voters [Wen et al.
    2017 eq. 3]: S_b times it is unbiased for v.

    clip: v is clipped to so many of its deviations from 0 (the root of its mean square) in each tensor first; 0 for
    never. From their mean the paper's would be, which is 0 for a tensor of one coordinate and would halt it. S is
    shared, float32.
    """

    clip: float = 2.5

    needs_whole, scratch = "the largest value of each tensor over all voters", ("clipped", "odds")

    def up(self):
        return Planes(2)

    def side_information(self):
        return "the largest value of each tensor, a float32 up and down"

    def init(self, layout):
        return super().init(layout) | {"radii": torch.zeros(len(layout.segments))}

    def agree(self, estimates, states, step):
        layout, most = step.layout, []
        for v, state in zip(estimates, states, strict=True):
            clipped = state["clipped"].copy_(v)
            for span, limit in zip(layout.all_spans, self._limits(v, layout), strict=True):
                clipped[span.coordinates].clamp_(-limit, limit)
            most.append(torch.from_numpy(layout.largest_magnitudes(bits.tile_maxima(clipped, layout.all_tiles))))
        shared = step.world.max(most)
        for state in states:
            state["radii"].copy_(shared)

    def _limits(self, v, layout):
        """clip deviations from 0 of each tensor, float32."""
        if not self.clip:
            return [float("inf")] * len(layout.all_spans)
        sizes = np.array([max(s.size, 1) for s in layout.segments])
        deviations = np.sqrt(layout.block_sums(bits.tile_sums(v, layout.all_tiles, squares=True)) / sizes)
        return [float(np.float32(self.clip * deviations[span.segment])) for span in layout.all_spans]

    def unit(self, state):
        return state["radii"].numpy()

    def begin(self, v, state, step):
        # P(+1) of a stochastic sign of 2|v| - S with radius S is |v|/S
        odds, radii = torch.mul(state["clipped"].abs(), 2, out=state["odds"]), state["radii"].numpy()
        for span in step.layout.all_spans:
            odds[span.coordinates].sub_(float(radii[span.segment]))
        return odds, radii

    def pack(self, signal, scales, lo, hi, out, state, step):
        parts = step.layout.parts(lo, hi)
        bits.pack_parts(state["clipped"][lo:hi], parts, lo, "plus", step.draw("zero"), out[:1])
        bits.pack_stochastic_parts(signal[lo:hi], scales, parts, lo, step.draw("sign"), out[1:])
        out[0] &= out[1]
        return Packed(bad=None)


@dataclass(frozen=True)
class ThresholdSign(SignRule):
    """threshold * sign(v) where |v| > threshold, else no vote [Strom 2015]: two planes, and nothing beside them."""

    threshold: float = 1e-3

    def up(self):
        return Planes(2)

    def begin(self, v, state, step):
        return v, step.layout.each(self.threshold)

    def pack(self, signal, scales, lo, hi, out, state, step):
        above = torch.nn.functional.hardshrink(signal[lo:hi], self.threshold)
        silent, bad = bits.pack_parts(above, step.layout.parts(lo, hi), lo, "abstain", step.draw("zero"), out)
        return Packed(zeros=silent, bad=_from(lo, bad))


@dataclass(frozen=True)
class ConfidentSign(SignRule):
    """sign(v) where |v| > threshold * the mean of |v| over its tensor, else no vote: two planes."""

    threshold: float = 0.5

    needs_whole, scratch = "a mean per tensor", ("sure",)

    def up(self):
        return Planes(2)

    def begin(self, v, state, step):
        means = step.layout.mean_magnitudes(bits.tile_sums(v, step.layout.all_tiles))
        return v, np.float32(self.threshold) * means

    def pack(self, signal, scales, lo, hi, out, state, step):
        sure = state["sure"][lo:hi]
        for span in step.layout.spans(lo, hi):
            v = signal[span.coordinates]
            torch.mul(v, v.abs() > float(scales[span.segment]), out=sure[span.items(lo)])
        silent, _ = bits.pack_parts(sure, step.layout.parts(lo, hi), lo, "abstain", step.draw("zero"), out)
        return Packed(zeros=silent, bad=None)


@dataclass(frozen=True)
class Silenced(SignRule):
    """What `rule` says of a coordinate with probability 1 - silence, else no vote: two planes."""

    rule: SignRule
    silence: float = 0.5

    @property
    def needs_whole(self):
        return self.rule.needs_whole

    @property
    def alike(self):
        return self.rule.alike

    @property
    def scratch(self):
        return (*self.rule.scratch, "odds")

    @property
    def rules(self):
        return self.rule.rules

    @property
    def agrees(self):
        return self.rule.agrees

    def with_zeros(self, rule):
        return replace(self, rule=self.rule.with_zeros(rule))

    def up(self):
        return Planes(2)

    def side_information(self):
        return self.rule.side_information()

    def init(self, layout):
        return self.rule.init(layout) | {"odds": layout.zeros()}

    def agree(self, estimates, states, step):
        self.rule.agree(estimates, states, step)

    def begin(self, v, state, step):
        return self.rule.begin(v, state, step)

    def pack(self, signal, scales, lo, hi, out, state, step):
        planes = self.rule.up().planes
        packed = self.rule.pack(signal, scales, lo, hi, out[:planes], state, step)
        # P(+1) of a stochastic sign of 1 - 2*silence with radius 1 is 1 - silence
        odds, speaking = state["odds"][lo:hi].fill_(1 - 2 * self.silence), out[1:]
        if planes == 2:
            speaking = torch.empty_like(speaking)
        parts = step.layout.parts(lo, hi)
        bits.pack_stochastic_parts(odds, step.layout.each(1.0), parts, lo, step.draw("silence"), speaking)
        if planes == 2:
            out[1] &= speaking[0]
        out[0] &= out[1]
        return packed


@dataclass(frozen=True)
class ErrorFeedback(SignRule):
    """p = lr*v + e; send rule(p); e = p - what was sent.

    The residual e is kept in units of x, so no ratio of learning rates enters [Karimireddy et al. 2019 alg. 1].
    in_x = False: p = v + e, for a v that is not multiplied by the learning rate before it is sent. decay: on e first.
    """

    rule: SignRule = field(default_factory=ScaledSign)
    in_x: bool = True
    decay: float = 1.0

    needs_whole, vectors, debts = "residual and estimate added up", ("residual",), ("residual",)

    @property
    def rules(self):
        return self.rule.rules

    def with_zeros(self, rule):
        return replace(self, rule=self.rule.with_zeros(rule))

    def up(self):
        return self.rule.up()

    def begin(self, v, state, step):
        if self.decay != 1:
            state["residual"].mul_(self.decay)
        # p = lr*v + e takes the place of e until it is packed
        rates = step.rates.astype(np.float32) if self.in_x else step.layout.each(1.0)
        return self.rule.begin_residual(state["residual"], v, rates, step)

    def pack(self, signal, scales, lo, hi, out, state, step):
        return self.rule.pack_residual(signal, scales, lo, hi, out, step)


@dataclass(frozen=True)
class Raw(SignRule):
    """v itself as float32, with noise of deviation `noise` if there is any: no sign, 32 bits per coordinate.

    weighted: whether a voter's weight in the objective multiplies its v, for means.
    """

    weighted: bool = True
    noise: float = 0.0

    def up(self):
        return RAW

    def pack(self, signal, scales, lo, hi, out, state, step):
        torch.mul(signal[lo:hi], step.weight if self.weighted else 1.0, out=out[0])
        if self.noise:
            bits.add_normal(out[0], self.noise, lo, step.draw("dither"))
        return Packed()
