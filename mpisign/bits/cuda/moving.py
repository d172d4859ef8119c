"""What moves x: apply, moving averages, levels and signs added, noise."""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from mpisign.bits.cuda.common import DRAW, WORDS, codes_of, draw_of, geometry, of_words, on, philox, programs, words_of

__all__ = ["add_levels", "add_normal", "add_signed", "apply", "blend", "first_nonfinite", "round_stochastic"]

BLOCK = 4096  # coordinates of a program, where words play no part
UNFUSED = {"enable_fp_fusion": False}


@triton.jit
def _apply(
    x, planes, plane, valid, segments, tables, decays, items, words, PLANES: tl.constexpr, WORDS: tl.constexpr
):  # fmt: skip
    word = tl.program_id(0) * WORDS + tl.arange(0, WORDS)
    inside, i = word < words, word[:, None].to(tl.int64) * 32 + tl.arange(0, 32)[None, :]
    held = of_words(tl.load(valid + word, mask=inside, other=0)) == 1
    segment = tl.load(segments + word, mask=inside, other=0)
    decay = tl.load(decays + segment)[:, None]
    code = codes_of(planes, plane, word, inside, PLANES)
    move = tl.load(tables + (segment[:, None] << PLANES) + code)
    kept = decay * tl.load(x + i, mask=held, other=0.0)
    tl.store(x + i, kept - move, mask=held)


def apply(x: Tensor, planes, parts, at, tables, decays):
    if not len(x) or not parts.shape[1]:
        return
    where, words = geometry(parts, at, x), words_of(planes)
    count = where.valid.shape[0]
    arguments = (x, words, words.stride(0), where.valid, where.segments, on(tables, x), on(decays, x), len(x), count)
    _apply[(programs(count),)](*arguments, PLANES=len(words), WORDS=WORDS.value, **UNFUSED)


@triton.jit(do_not_specialize=("a", "b"))
def _blend(y, x, a, b, items, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    kept, added = a * tl.load(y + i, mask=i < items, other=0.0), b * tl.load(x + i, mask=i < items, other=0.0)
    tl.store(y + i, kept + added, mask=i < items)


def blend(y, x, a, b):
    to, of = y.view(-1), x.view(-1)
    if not len(to):
        return
    _blend[(triton.cdiv(len(to), BLOCK),)](to, of, float(a), float(b), len(to), BLOCK=BLOCK, **UNFUSED)


@triton.jit
def _add_levels(total, planes, plane, table, items, words, PLANES: tl.constexpr, WORDS: tl.constexpr):
    word = tl.program_id(0) * WORDS + tl.arange(0, WORDS)
    inside, i = word < words, word[:, None].to(tl.int64) * 32 + tl.arange(0, 32)[None, :]
    level = tl.load(table + codes_of(planes, plane, word, inside, PLANES))
    before = tl.load(total + i, mask=i < items, other=0.0)
    tl.store(total + i, before + level, mask=i < items)


def add_levels(total, planes, table):
    if not len(total):
        return
    words = words_of(planes)
    count = words.shape[1]
    arguments = (total, words, words.stride(0), on(table, total), len(total), count)
    _add_levels[(programs(count),)](*arguments, PLANES=len(words), WORDS=WORDS.value, **UNFUSED)


@triton.jit(do_not_specialize=("scale",))
def _add_signed(total, planes, plane, scale, items, words, TWO: tl.constexpr, WORDS: tl.constexpr):
    word = tl.program_id(0) * WORDS + tl.arange(0, WORDS)
    inside, i = word < words, word[:, None].to(tl.int64) * 32 + tl.arange(0, 32)[None, :]
    some = i < items
    if TWO:
        some = some & (of_words(tl.load(planes + plane + word, mask=inside, other=0)) == 1)
    up = of_words(tl.load(planes + word, mask=inside, other=0)) == 1
    tl.store(total + i, tl.load(total + i, mask=some, other=0.0) + tl.where(up, scale, -scale), mask=some)


def add_signed(total, planes, scale):
    if not len(total):
        return
    words = words_of(planes)
    count = words.shape[1]
    arguments = (total, words, words.stride(0), float(scale), len(total), count)
    _add_signed[(programs(count),)](*arguments, TWO=len(words) == 2, WORDS=WORDS.value, **UNFUSED)


@triton.jit(do_not_specialize=DRAW)
def _drawn(out, first, blocks, step, voter, stream, k0, k1, BLOCK: tl.constexpr):
    row, number = tl.program_id(1), tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    u0, u1, u2, u3 = philox((first + number).to(tl.uint32), step, voter + row, stream, k0, k1)
    to, inside = out + (row.to(tl.int64) * blocks + number) * 4, number < blocks
    tl.store(to, u0.to(tl.int64), mask=inside)
    tl.store(to + 1, u1.to(tl.int64), mask=inside)
    tl.store(to + 2, u2.to(tl.int64), mask=inside)
    tl.store(to + 3, u3.to(tl.int64), mask=inside)


def add_normal(y, scale, at, draw):
    if not y.numel():
        return
    rows, items = (y.shape[0], y.shape[1]) if y.dim() > 1 else (1, len(y))
    blocks = triton.cdiv(items, 4)
    drawn = torch.empty((rows, blocks, 2, 2), dtype=torch.int64, device=y.device)
    _drawn[triton.cdiv(blocks, 1024), rows](drawn, at // 4, blocks, *draw_of(draw), BLOCK=1024)
    # Box and Muller in float64, as reference.normal
    k, turn = drawn.double().unbind(-1)
    length, angle = torch.sqrt(-2.0 * torch.log((k + 1.0) * 2.0**-32)), (2.0 * math.pi * 2.0**-32) * turn
    pairs = torch.stack([length * torch.cos(angle), length * torch.sin(angle)], dim=-1)
    normal = pairs.view(rows, -1)[:, :items].float()
    # two operations, so that nothing is fused
    y += (normal if y.dim() > 1 else normal[0]) * float(scale)


@triton.jit(do_not_specialize=DRAW)
def _round(v, out, items, first, step, voter, stream, k0, k1, BLOCK: tl.constexpr):
    # a Philox block is for eight coordinates: four outputs of two halves
    number = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    u0, u1, u2, u3 = philox((first + number).to(tl.uint32), step, voter, stream, k0, k1)
    outputs = tl.join(tl.join(u0, u2), tl.join(u1, u3))  # (BLOCK, 2, 2): output 2a + b at [a, b]
    drawn = tl.join(outputs & 0xFFFF, outputs >> 16)
    eight = 4 * tl.arange(0, 2)[:, None, None] + 2 * tl.arange(0, 2)[None, :, None] + tl.arange(0, 2)[None, None, :]
    i = number[:, None, None, None].to(tl.int64) * 8 + eight[None]
    pattern = tl.load(v + i, mask=i < items, other=0.0).to(tl.uint32, bitcast=True)
    size = pattern & 0x7FFFFFFF
    kept = tl.where(size > 0x7F800000, pattern | 0x00400000, pattern)
    rounded = tl.where(size < 0x7F800000, pattern + drawn, kept) >> 16
    tl.store(out + i, rounded.to(tl.uint16).to(tl.int16, bitcast=True), mask=i < items)


def round_stochastic(v, at, draw, out):
    if not len(v):
        return
    blocks = triton.cdiv(len(v), 8)
    _round[(triton.cdiv(blocks, 512),)](v, out, len(v), at // 8, *draw_of(draw), BLOCK=512)


def first_nonfinite(v):
    bad = ~torch.isfinite(v)
    return int(bad.int().argmax()) if bool(bad.any()) else -1
