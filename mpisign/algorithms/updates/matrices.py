"""Moves matrices along what was decided, its polar factor, or signs of that; all else along signs, at rates of its own.
And moves x along the signs of what cosine coefficients stand for.

x moves once all of a verdict is here, after the last chunk. Every rank works polar factors and transforms out for
itself, from the same verdict to the same bits (see algorithms/polar.py and cosine.py).
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from mpisign import bits
from mpisign.algorithms.cosine import from_coefficients
from mpisign.algorithms.polar import Kind, gain, to_polar, votes_as_matrix
from mpisign.algorithms.slots import Update


class _OfAll(Update):
    """Gathers what was decided about all of x."""

    scratch = ("decided",)

    def apply(self, x, direction, state, step):
        for span, v in direction.floats(step.layout):
            state["decided"][span.coordinates] = v


@dataclass(frozen=True)
class MatrixDescent(_OfAll):
    """x = (1 - lr*weight_decay)*x - rate*D, D what was decided for a matrix, and its sign for all else.

    A matrix's rate is lr times the gain of its shape where they are `scaled`, else lr; that of all else is lr*others.
    """

    weight_decay: float = 0.0
    scaled: bool = True
    others: float = 0.05

    family: ClassVar[Literal["polar", "sign"]] = "polar"  # what D is like, for the gain

    def finish(self, x, state, step, objective):
        d, rates = self.toward(state["decided"], step), self.rates(step)
        decays = step.decays(self.weight_decay)
        for span in step.layout.all_spans:
            decay, rate = float(decays[span.segment]), float(rates[span.segment])
            bits.blend(x[span.coordinates], d[span.coordinates], decay, -rate)

    def toward(self, d, step):
        """D in the place of what was decided."""
        self._sign_others(d, step.layout)
        return d

    def _sign_others(self, d, layout):
        for s in layout.segments:
            if not votes_as_matrix(s):
                d[s.offset : s.end].sign_()

    def rates(self, step):
        """The rate of every segment, float64 (segments,)."""
        factors = [self._gain(s) if votes_as_matrix(s) else self.others for s in step.layout.segments]
        return step.rates * np.array(factors)

    def _gain(self, segment):
        return gain(segment, self.family) if self.scaled else 1.0


@dataclass(frozen=True)
class SignDescent(MatrixDescent):
    """MatrixDescent along a verdict of signs."""

    family = "sign"


@dataclass(frozen=True)
class PolarDescent(MatrixDescent):
    """MatrixDescent along the polar factor of what was decided."""

    kind: Kind = "muon"

    by_matrix = True

    def toward(self, d, step):
        to_polar(d, step.layout, self.kind)
        return super().toward(d, step)


@dataclass(frozen=True)
class PolarSignDescent(PolarDescent):
    """MatrixDescent along the signs of the polar factor of what was decided; where that is 0, x stays."""

    family = "sign"

    def toward(self, d, step):
        return super().toward(d, step).sign_()


@dataclass(frozen=True)
class TrackedPolarDescent(PolarDescent):
    """PolarDescent of a point y that begins as x, and x += mean|y - x| * sign(y - x) for each tensor.

    That is EF21-P on the way down [Gruntkowska et al. 2025]. Kept is y - x, as `ahead`. A tensor whose rate is 0, as in
    the library one without a gradient, stays where it is.
    """

    vectors = ("ahead",)

    def finish(self, x, state, step, objective):
        d, rates = self.toward(state["decided"], step), self.rates(step)
        ahead, decays = state["ahead"], step.decays(self.weight_decay)
        for span in step.layout.all_spans:
            # y = decay*y - rate*d, told by y - x
            left, decay, rate = ahead[span.coordinates], float(decays[span.segment]), float(rates[span.segment])
            bits.blend(left, d[span.coordinates], decay, -rate)
            if decay != 1:
                bits.blend(left, x[span.coordinates], 1.0, decay - 1)
        scales = step.layout.mean_magnitudes(bits.tile_sums(ahead, step.layout.all_tiles))
        for span in step.layout.all_spans:
            if not rates[span.segment]:
                continue
            left, scale = ahead[span.coordinates], float(scales[span.segment])
            signs = left.sign()
            bits.blend(x[span.coordinates], signs, 1.0, scale)
            bits.blend(left, signs, 1.0, -scale)


@dataclass(frozen=True)
class CosineSignDescent(_OfAll):
    """x = (1 - lr*weight_decay)*x - lr*sign(u), u what the coefficients that were decided stand for; sign(0) is 0."""

    weight_decay: float = 0.0
    chunk: int = 64

    by_matrix = True

    def finish(self, x, state, step, objective):
        u, decays = state["decided"], step.decays(self.weight_decay)
        from_coefficients(u, step.layout, self.chunk)
        u.sign_()
        for span in step.layout.all_spans:
            decay, rate = float(decays[span.segment]), step.lr_of(span.segment)
            bits.blend(x[span.coordinates], u[span.coordinates], decay, -rate)
