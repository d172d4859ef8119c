"""Estimates -> words, one coordinate after the other."""

import numpy as np

from mpisign.bits.reference.common import coin, first_nonfinite, of_parts, to_words, uniform
from mpisign.bits.reference.moving import add_signed

__all__ = ["pack", "pack_parts", "pack_scaled_parts", "pack_stochastic", "pack_stochastic_parts"]


def pack(v, at, zeros, draw, planes):
    """The signs of v.

    zeros: "coin" or "random", which differ in the draw; "plus"; "minus"; or "abstain" (planes[1] is then 0 where v is
    0).
    Returns the number of zeros, and the index of the first value that is not finite or -1.
    """
    zero = v == 0
    bits = v > 0
    if zeros in ("coin", "random"):
        bits |= zero & coin(draw, at, len(v))
    elif zeros == "plus":
        bits |= zero
    planes[0] = to_words(bits)
    if zeros == "abstain":
        planes[1] = to_words(~zero)
    return int(zero.sum()), first_nonfinite(v)


def pack_stochastic(v, radius, at, draw, planes):
    """Bit 1 where v > fl(radius * u): P(+1) = (1 + v / radius) / 2 for |v| <= radius.

    radius: one for all, or float32 (d,). Returns the number of coordinates outside [-radius, radius], whose bit
    is then certain, and the index of the first value that is not finite or -1.
    """
    planes[0] = to_words(v > np.float32(radius) * uniform(draw, at, len(v)))
    if len(planes) == 2:
        planes[1] = to_words(np.ones(len(v), dtype=bool))
    return int((np.abs(v) > np.float32(radius)).sum()), first_nonfinite(v)


def _joined(packed):
    """(start, (count, first bad index in there or -1)) of each part, as one."""
    bad = [start + index for start, (_, index) in packed if index >= 0]
    return sum(count for _, (count, _) in packed), min(bad, default=-1)


def pack_parts(v, parts, at, zeros, draw, planes):
    """pack of each part."""
    return _joined([(i.start, pack(v[i], c, zeros, draw, planes[:, w])) for i, w, c, _ in of_parts(parts, at, len(v))])


def pack_stochastic_parts(v, radii, each, parts, at, draw, planes):
    """pack_stochastic of each part. radii: float32, one per coordinate of v if `each`, else one per segment."""
    pieces = of_parts(parts, at, len(v))
    of = lambda i, segment: radii[i] if each else radii[segment]  # noqa: E731
    return _joined([(i.start, pack_stochastic(v[i], of(i, s), c, draw, planes[:, w])) for i, w, c, s in pieces])


def pack_scaled_parts(v, scales, parts, at, zeros, draw, planes):
    """pack_parts, and then v -= scale * sign, where a vote was cast: what stays behind. scales: one per segment."""
    packed = pack_parts(v, parts, at, zeros, draw, planes)
    for i, w, _, segment in of_parts(parts, at, len(v)):
        add_signed(v[i], planes[:, w], -scales[segment])
    return packed
