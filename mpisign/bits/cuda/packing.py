"""Estimates -> words: signs, scaled signs with what stays behind, stochastic signs."""

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from mpisign.bits.cuda.common import (
    COINS,
    DRAW,
    NONE,
    RULES,
    WORDS,
    as_words,
    coin_words,
    draw_of,
    geometry,
    of_words,
    on,
    ones,
    philox,
    programs,
    whole,
    words_of,
)

__all__ = ["pack", "pack_parts", "pack_scaled_parts", "pack_stochastic", "pack_stochastic_parts"]


@triton.jit
def _note(noted, counted, bad):
    """Adds to the count of all programs, and lowers the first bad index."""
    if counted > 0:
        tl.atomic_add(noted, counted.to(tl.int64))
    if bad < 1 << 62:
        tl.atomic_min(noted + 1, bad)


@triton.jit(do_not_specialize=DRAW)
def _signs(
    v, v_row, planes, plane, plane_row, valid, segments, scales, noted, items, words, first,
    step, voter, stream, k0, k1,
    RULE: tl.constexpr, NEGATE: tl.constexpr, SCALED: tl.constexpr, WORDS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(1)
    word = tl.program_id(0) * WORDS + tl.arange(0, WORDS)
    inside, i = word < words, word[:, None].to(tl.int64) * 32 + tl.arange(0, 32)[None, :]
    x = tl.load(v + row * v_row + i, mask=i < items, other=0.0)
    held = tl.load(valid + word, mask=inside, other=0)
    zero, bits = as_words(x == 0) & held, as_words(x > 0)
    if RULE == 0:
        bits |= zero & coin_words(first + word, step, voter + row, stream, k0, k1, NEGATE)
    if RULE == 1:
        bits |= zero
    cast = held
    if RULE == 2:
        cast = held & ~zero
        tl.store(planes + plane + row * plane_row + word, cast, mask=held != 0)
    bits &= held
    # words that hold no coordinate stay as they are
    tl.store(planes + row * plane_row + word, bits, mask=held != 0)
    if SCALED:
        scale = tl.load(scales + tl.load(segments + word, mask=inside, other=0))[:, None]
        sent = tl.where(of_words(bits) == 1, -scale, scale)
        tl.store(v + i, x + sent, mask=(i < items) & (of_words(cast) == 1))
    bad = tl.where((x - x != 0) & (of_words(held) == 1), i, 1 << 62)
    _note(noted, tl.sum(ones(zero)), tl.min(bad))


@triton.jit(do_not_specialize=DRAW)
def _stochastic(
    v, v_row, planes, plane, plane_row, valid, segments, radii, noted, items, words, first,
    step, voter, stream, k0, k1,
    EACH: tl.constexpr, TWO: tl.constexpr, WORDS: tl.constexpr,
):  # fmt: skip
    # a Philox block is for four coordinates, and eight of them make a word
    row, number = tl.program_id(1), tl.program_id(0) * WORDS * 8 + tl.arange(0, WORDS * 8)
    pair = 2 * tl.arange(0, 2)[None, :, None] + tl.arange(0, 2)[None, None, :]
    i = number[:, None, None].to(tl.int64) * 4 + pair
    x = tl.load(v + row * v_row + i, mask=i < items, other=0.0)
    if EACH:
        radius = tl.load(radii + row * v_row + i, mask=i < items, other=0.0)
    else:
        segment = tl.load(segments + number // 8, mask=number // 8 < words, other=0)
        radius = tl.load(radii + segment)[:, None, None] + tl.zeros_like(x)
    block = (first + number).to(tl.uint32)
    u0, u1, u2, u3 = philox(block, step, voter + row, stream, k0, k1)
    (even, odd), (r_even, r_odd) = tl.split(x), tl.split(radius)
    (x0, x2), (x1, x3) = tl.split(even), tl.split(odd)
    (r0, r2), (r1, r3) = tl.split(r_even), tl.split(r_odd)
    four = (_above(x0, r0, u0)) + (_above(x1, r1, u1) << 1) + (_above(x2, r2, u2) << 2) + (_above(x3, r3, u3) << 3)
    bits = tl.sum(tl.reshape(four << (4 * (number % 8)), (WORDS, 8)), axis=1)
    word = tl.program_id(0) * WORDS + tl.arange(0, WORDS)
    held = tl.load(valid + word, mask=word < words, other=0)
    tl.store(planes + row * plane_row + word, bits & held, mask=held != 0)
    if TWO:
        tl.store(planes + plane + row * plane_row + word, held, mask=held != 0)
    own = tl.load(valid + number // 8, mask=number // 8 < words, other=0) >> (4 * (number % 8))
    real = ((own[:, None, None] >> pair) & 1) == 1
    outside, bad = (tl.abs(x) > radius) & real, tl.where((x - x != 0) & real, i, 1 << 62)
    _note(noted, tl.sum(outside.to(tl.int32)), tl.min(bad))


@triton.jit
def _above(x, radius, drawn):
    """1 where x > fl(radius * u), u in (-1, 1) by the upper 24 bits that were drawn."""
    u = (2 * (drawn >> 8).to(tl.int32) + 1 - (1 << 24)).to(tl.float32) * (1.0 / (1 << 24))
    return (x > radius * u).to(tl.int32)


def _launch(kernel, v, planes, parts, at, each, draw, **constants):
    """Packs v (d,) or (n, d), and returns (count, first bad index); each: radii, scales or nothing."""
    if not v.shape[-1] or not parts.shape[1]:
        return 0, -1
    where, words, rows = geometry(parts, at, v), words_of(planes), v.shape[0] if v.dim() > 1 else 1
    count = words.shape[-1]
    noted = torch.tensor([0, NONE], device=v.device)
    # a plane's rows follow one another, one a voter
    strides = (words.stride(0), words.stride(1) if v.dim() > 1 else 0)
    row = v.stride(0) if v.dim() > 1 else 0
    arguments = (v, row, words, *strides, where.valid, where.segments, v if each is None else each, noted, v.shape[-1])
    constants |= {"WORDS": WORDS.value, "enable_fp_fusion": False}
    kernel[programs(count), rows](*arguments, count, constants.pop("first"), *draw_of(draw), **constants)
    total, bad = noted.tolist()
    if rows > 1:
        return total, -1 if bad == NONE else None
    return total, -1 if bad == NONE else bad


def pack(v: Tensor, at, zeros, draw, planes):
    return pack_parts(v, whole(at, v), at, zeros, draw, planes)


def pack_parts(v, parts, at, zeros, draw, planes, scales=None):
    negate = zeros in COINS and draw.negate
    constants = {"RULE": RULES[zeros], "NEGATE": negate, "SCALED": scales is not None, "first": at // 32}
    return _launch(_signs, v, planes, parts, at, scales, draw, **constants)


def pack_scaled_parts(v, scales, parts, at, zeros, draw, planes):
    return pack_parts(v, parts, at, zeros, draw, planes, on(scales, v))


def pack_stochastic(v, radius, at, draw, planes):
    radii = np.array([radius], dtype=np.float32)
    return pack_stochastic_parts(v, radii, whole(at, v), at, draw, planes)


def pack_stochastic_parts(v, radii, parts, at, draw, planes):
    each = isinstance(radii, Tensor)
    constants = {"EACH": each, "TWO": len(planes) == 2, "first": at // 4}
    return _launch(_stochastic, v, planes, parts, at, radii if each else on(radii, v), draw, **constants)
