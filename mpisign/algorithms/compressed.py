"""Sign rules that send codes of floats (see compressors.py), or nothing; and what voters remember of what they sent."""

from dataclasses import dataclass, replace

import torch

from mpisign import bits
from mpisign.algorithms.formats import Agreed, Format
from mpisign.algorithms.slots import Packed, SignRule

UNSEEN = Packed(bad=None)  # a code is not searched for what is not finite while it is packed


@dataclass(frozen=True)
class Compressed(SignRule):
    """The code of v. In a mean it counts alike for each voter, whatever a voter's weight in the objective."""

    form: Format

    @property
    def needs_whole(self):
        return "all of the estimate to choose coordinates from" if self.form.varies else ""

    def up(self):
        return self.form

    def pack(self, signal, scales, lo, hi, out, state, step):
        self.form.encode(signal[lo:hi], lo, step.draw("sign"), out, step)
        return UNSEEN


@dataclass(frozen=True)
class InMeans(SignRule):
    """The code of v in units of the mean of |v| over each tensor, `resolution` of which that mean is.

    The units are each voter's own and do not travel, so that all voters weigh alike; a tensor of zeros stays 0.
    """

    form: Format
    resolution: float = 1.0

    needs_whole, scratch = "a mean per tensor", ("units",)

    def up(self):
        return self.form

    def begin(self, v, state, step):
        units, layout = state["units"], step.layout
        means = layout.mean_magnitudes(bits.tile_sums(v, layout.all_tiles))
        for span in layout.all_spans:
            part, mean = units[span.coordinates], float(means[span.segment])
            torch.div(v[span.coordinates], mean or 1.0, out=part).mul_(self.resolution)
        return units, None

    def pack(self, signal, scales, lo, hi, out, state, step):
        return Compressed(self.form).pack(signal, scales, lo, hi, out, state, step)


@dataclass(frozen=True)
class Memory(SignRule):
    """Sends rule(v - h); h += alpha * what was sent, so that h follows v [Mishchenko et al. 2019 alg. 1, DIANA].

    alpha = 1 for a rule that contracts is EF21 [Richtarik et al. 2021].
    """

    rule: SignRule
    alpha: float = 1.0

    needs_whole, vectors, scratch = "the estimate's difference from its memory", ("memory",), ("difference",)

    @property
    def rules(self):
        return self.rule.rules

    def with_zeros(self, rule):
        return replace(self, rule=self.rule.with_zeros(rule))

    def up(self):
        return self.rule.up()

    def begin(self, v, state, step):
        difference = state["difference"]
        torch.sub(v, state["memory"], out=difference)
        return self.rule.begin(difference, {}, step)

    def pack(self, signal, scales, lo, hi, out, state, step):
        packed = self.rule.pack(signal, scales, lo, hi, out, {}, step)
        self.rule.add_sent(state["memory"], scales, lo, hi, out, step, self.alpha)
        return packed


@dataclass(frozen=True)
class MaskedMomentum(SignRule):
    """u = momentum*u + g; v += u; sends some coordinates of v, and forgets u and v there [Lin et al. 2018 alg. 1, DGC].

    nesterov: u = momentum*(u + g), v += u + g. clip: g is scaled to norm clip/sqrt(n) if it is longer; 0 for never.
    form: a code of the largest coordinates, which can clear those it tells of.
    """

    form: Format
    momentum: float = 0.9
    nesterov: bool = False
    clip: float = 0.0

    needs_whole, vectors, debts = "momentum and estimate added up", ("u", "v"), ("v",)

    def up(self):
        return self.form

    def begin(self, g, state, step):
        u, v, scale = state["u"], state["v"], 1.0
        most = self.clip / step.world.n**0.5
        if most and (norm := step.layout.norm(g)) > most:
            scale = most / norm
        if self.nesterov:
            bits.blend(u, g, self.momentum, self.momentum * scale)
            bits.blend(v, g, 1.0, scale)
        else:
            bits.blend(u, g, self.momentum, scale)
        bits.blend(v, u, 1.0, 1.0)
        return v, None

    def pack(self, signal, scales, lo, hi, out, state, step):
        self.form.encode(signal[lo:hi], lo, step.draw("sign"), out, step)
        for kept in (state["u"], state["v"]):
            self.form.clear(out, kept[lo:hi])
        return UNSEEN


@dataclass(frozen=True)
class Silent(SignRule):
    """Sends nothing: the estimator has had all voters agree on v."""

    def up(self):
        return Agreed()

    def pack(self, signal, scales, lo, hi, out, state, step):
        out[0].copy_(signal[lo:hi])
        return Packed()
