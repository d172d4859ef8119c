"""What the GPU kernels share: Philox, coins, counting bits, and where the parts of a chunk lie.

Kernels see words as int32: 32 coordinates each, two to a 64-bit word, low half first.
"""

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

RULES = {"coin": 0, "random": 0, "plus": 1, "abstain": 2, "zero": 2, "minus": 3}
COINS = ("coin", "random")
WORDS = tl.constexpr(128)  # 32-bit words of a program: 4096 coordinates
NONE = 1 << 62  # larger than any index
DRAW = ("step", "voter", "stream", "k0", "k1")  # arguments whose values are no reason to compile anew


@triton.jit
def philox(block, step, voter, stream, k0, k1):
    """The four outputs of Philox 4x32-10 for blocks uint32, a voter a block or one for all."""
    nothing = block ^ block
    c1, c2, c3 = nothing + step.to(tl.uint32), nothing + voter.to(tl.uint32), nothing + stream.to(tl.uint32)
    return tl.random.philox_impl(block, c1, c2, c3, nothing + k0.to(tl.uint32), nothing + k1.to(tl.uint32), 10)


@triton.jit
def coin_words(word, step, voter, stream, k0, k1, NEGATE: tl.constexpr):
    """Coins for 32-bit words, by their numbers from coordinate 0 on."""
    low, high, _, _ = philox((word // 2).to(tl.uint32), step, voter, stream, k0, k1)
    drawn = tl.where(word % 2 == 0, low, high).to(tl.int32, bitcast=True)
    return ~drawn if NEGATE else drawn


@triton.jit
def ones(x):
    """How many bits of int32 words are set."""
    x = x - ((x >> 1) & 0x55555555)
    x = (x & 0x33333333) + ((x >> 2) & 0x33333333)
    x = (x + (x >> 4)) & 0x0F0F0F0F
    x = x + (x >> 8)
    return (x + (x >> 16)) & 0x3F


@triton.jit
def as_words(flags):
    """Booleans (WORDS, 32) as int32 words."""
    return tl.sum(flags.to(tl.int32) << tl.arange(0, 32)[None, :], axis=1)


@triton.jit
def of_words(words):
    """int32 words as 0 or 1 (WORDS, 32)."""
    return (words[:, None] >> tl.arange(0, 32)[None, :]) & 1


@triton.jit
def codes_of(planes, stride, word, inside, PLANES: tl.constexpr):
    """The binary number of each coordinate (WORDS, 32) in planes whose rows are `stride` words apart."""
    code = of_words(tl.load(planes + word, mask=inside, other=0))
    for k in tl.static_range(1, PLANES):
        code += of_words(tl.load(planes + k * stride + word, mask=inside, other=0)) << k
    return code


def words_of(planes: Tensor) -> Tensor:
    """Planes (..., W) int64 as int32 (..., 2W)."""
    return planes.view(torch.int32)


def draw_of(draw) -> tuple[int, int, int, int, int]:
    """A draw as arguments of a kernel."""
    return draw.step, draw.voter, draw.stream, *draw.key


def on(array: np.ndarray, like: Tensor) -> Tensor:
    """A small array on a tensor's device."""
    return torch.from_numpy(np.ascontiguousarray(array)).to(like.device, non_blocking=True)


class Geometry:
    """Of each 32-bit word of a vector, the segment it lies in and which of its bits are coordinates."""

    def __init__(self, parts: np.ndarray, at: int, items: int, device: torch.device):
        count = -(-items // 64)
        segments, valid = np.zeros(count, dtype=np.int32), np.zeros(count, dtype=np.uint64)
        for first, end, segment in parts.T.tolist():
            lo, hi = max(first - at, 0), min(end - at, items)
            if lo < hi:
                within = slice(lo // 64, -(-hi // 64))
                segments[within], valid[within] = segment, ~np.uint64(0)
                if hi % 64:
                    valid[hi // 64] = (1 << hi % 64) - 1
        self.parts = parts  # kept alive, since the cache goes by its identity
        self.segments = torch.from_numpy(np.repeat(segments, 2)).to(device)
        self.valid = words_of(torch.from_numpy(valid.view(np.int64))).to(device)


_known: dict[tuple, Geometry] = {}
MOST = 4096  # geometries that are kept


def geometry(parts: np.ndarray, at: int, v: Tensor) -> Geometry:
    """That of a vector v (..., d) that starts at coordinate `at`."""
    key = id(parts), at, v.shape[-1], v.device
    if key not in _known:
        if len(_known) >= MOST:
            _known.clear()
        _known[key] = Geometry(parts, at, v.shape[-1], v.device)
    return _known[key]


def whole(at: int, v: Tensor) -> np.ndarray:
    """A vector as a single part of segment 0."""
    return np.array([[at], [at + v.shape[-1]], [0]])


def programs(words: int) -> int:
    """How many programs it takes for so many 32-bit words."""
    return triton.cdiv(words, WORDS.value)
