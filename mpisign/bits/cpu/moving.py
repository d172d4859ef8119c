"""Float vectors: apply a verdict, moving averages, residuals, sums by tile, the search for NaN."""

import numpy as np
from numba import njit, uint32, uint64

from mpisign.bits.cpu.cache import cached_njit
from mpisign.bits.cpu.common import ALL, counter_of, normal_pair, philox_block, piece, striped, within
from mpisign.bits.cpu.vectors import add_plane, largest_of_rows, round_word, sum_of_tile, unfit

__all__ = [
    "add_and_sum", "add_levels", "add_normal", "add_normal_rows", "add_signed", "apply", "blend", "first_nonfinite",
    "first_nonfinite_scattered", "round_stochastic", "tile_maxima", "tile_sums", "uniform_rows",
]  # fmt: skip


@cached_njit
def _apply_signs(x, plane, minus, plus, decay):
    whole = len(x) // 64
    for k in range(whole):
        w = striped(k, whole)
        bits, here = plane[w], x[w * 64 : w * 64 + 64]
        for j in range(64):
            here[j] = decay * here[j] - (plus if (bits >> uint64(j)) & uint64(1) else minus)
    for i in range(whole * 64, len(x)):
        x[i] = decay * x[i] - (plus if (plane[i >> 6] >> uint64(i & 63)) & uint64(1) else minus)


@cached_njit
def _apply_signs_or_zero(x, signs, present, table, decay):
    absent_minus, absent_plus, minus, plus = table[0], table[1], table[2], table[3]
    whole = len(x) // 64
    for k in range(whole):
        w = striped(k, whole)
        bits, voting, here = signs[w], present[w], x[w * 64 : w * 64 + 64]
        if voting == ALL:  # as nearly everywhere
            for j in range(64):
                here[j] = decay * here[j] - (plus if (bits >> uint64(j)) & uint64(1) else minus)
            continue
        for j in range(64):
            sign = (bits >> uint64(j)) & uint64(1)
            voted = plus if sign else minus
            absent = absent_plus if sign else absent_minus
            here[j] = decay * here[j] - (voted if (voting >> uint64(j)) & uint64(1) else absent)
    for i in range(whole * 64, len(x)):
        code = (signs[i >> 6] >> uint64(i & 63)) & uint64(1)
        code |= ((present[i >> 6] >> uint64(i & 63)) & uint64(1)) << uint64(1)
        x[i] = decay * x[i] - table[code]


@njit(inline="always")
def _read(planes, w, codes):
    """The numbers of 64 coordinates from planes, lowest first."""
    codes[:] = 0
    for k in range(planes.shape[0]):
        add_plane(codes.ctypes.data, planes[k, w], uint32(k))


@cached_njit
def _apply_levels(x, planes, table, decay):
    codes, moves = np.empty(64, dtype=np.int32), np.empty(64, dtype=np.float32)
    for w in range(planes.shape[1]):
        _read(planes, w, codes)
        for j in range(64):
            moves[j] = table[codes[j]]
        part = x[w * 64 : w * 64 + 64]
        for j in range(len(part)):
            part[j] = decay * part[j] - moves[j]


@cached_njit
def apply(x, planes, parts, at, tables, decays):
    for k in range(parts.shape[1]):
        lo, hi = within(parts, k, at, len(x))
        if lo < hi:
            here, words = x[lo:hi], planes[:, lo // 64 : (hi + 63) // 64]
            table, decay = tables[parts[2, k]], decays[parts[2, k]]
            if len(words) == 1:
                _apply_signs(here, words[0], table[0], table[1], decay)
            elif len(words) == 2:
                _apply_signs_or_zero(here, words[0], words[1], table, decay)
            else:
                _apply_levels(here, words, table, decay)


@cached_njit
def _blend(y, x, a, b):
    for i in range(len(y)):
        y[i] = a * y[i] + b * x[i]


def blend(y, x, a, b):
    _blend(y, x, np.float32(a), np.float32(b))


def add_levels(total, planes, table):
    _apply_levels(total, planes, -table, np.float32(1.0))


@cached_njit
def _add_present(total, signs, present, scale):
    for w in range(len(signs)):
        bits, here, lo = signs[w], present[w], w * 64
        for j in range(min(64, len(total) - lo)):
            value = total[lo + j]
            moved = value + (scale if (bits >> uint64(j)) & uint64(1) else -scale)
            total[lo + j] = moved if (here >> uint64(j)) & uint64(1) else value


@cached_njit
def add_signs(total, planes, scale):
    if planes.shape[0] == 1:
        _apply_signs(total, planes[0], scale, -scale, np.float32(1.0))
    else:
        # what is absent adds nothing, and never turns -0 into 0
        _add_present(total, planes[0], planes[1], scale)


def add_signed(total, planes, scale):
    add_signs(total, planes, np.float32(scale))


@cached_njit
def _add_normal(y, scale, at, counter):
    for lo in range(0, len(y), 4):
        draws = philox_block((at + lo) // 4, counter)
        for half in range(0, min(4, len(y) - lo), 2):
            first, second = normal_pair(draws[half], draws[half + 1])
            y[lo + half] += scale * first
            if lo + half + 1 < len(y):
                y[lo + half + 1] += scale * second


def add_normal(y, scale, at, draw):
    _add_normal(y, np.float32(scale), at, counter_of(draw)[0])


@cached_njit
def _add_normal_rows(y, scale, at, counter):
    own = counter.copy()
    for r in range(y.shape[0]):
        own[1] = counter[1] + uint32(r)
        _add_normal(y[r], scale, at, own)


def add_normal_rows(y, scale, at, draw):
    _add_normal_rows(y, np.float32(scale), at, counter_of(draw)[0])


@cached_njit
def _uniform_rows(u, counter):
    own = counter.copy()
    for r in range(u.shape[0]):
        own[1] = counter[1] + uint32(r)
        for lo in range(0, u.shape[1], 4):
            draws = philox_block(lo // 4, own)
            for j in range(min(4, u.shape[1] - lo)):
                odd = 2 * np.int64(draws[j] >> uint64(8)) + 1 - 2**24
                u[r, lo + j] = np.float32(odd) * np.float32(2.0**-24)


def uniform_rows(u, draw):
    _uniform_rows(u, counter_of(draw)[0])


@cached_njit
def _round_stochastic(v, at, counter, out):
    first, whole = uint32(at // 8), len(v) // 64
    step, voter, stream, k0, k1 = counter[0], counter[1], counter[2], counter[3], counter[4]
    for w in range(whole):
        block = first + uint32(8 * w)
        round_word(v.ctypes.data + 256 * w, out.ctypes.data + 128 * w, block, step, voter, stream, k0, k1)
    left = len(v) - 64 * whole
    if left:
        rest, rounded = np.zeros(64, dtype=np.float32), np.empty(64, dtype=np.int16)
        rest[:left] = v[64 * whole :]
        block = first + uint32(8 * whole)
        round_word(rest.ctypes.data, rounded.ctypes.data, block, step, voter, stream, k0, k1)
        out[64 * whole :] = rounded[:left]


def round_stochastic(v, at, draw, out):
    _round_stochastic(v, at, counter_of(draw)[0], out)


@cached_njit
def tile_maxima(v, tiles, maxima):
    for t in range(tiles.shape[1]):
        lo, hi = tiles[0, t], tiles[1, t]
        rows = (hi - lo) // 16
        most = largest_of_rows(v.ctypes.data + 4 * lo, uint64(rows))
        for i in range(lo + 16 * rows, hi):
            most = max(most, abs(v[i]))
        maxima[t] = most


@cached_njit
def tile_sums(v, tiles, squares, sums):
    rest = np.zeros(16, dtype=np.float32)
    for t in range(tiles.shape[1]):
        lo, hi = tiles[0, t], tiles[1, t]
        sums[t] = sum_of_tile(v.ctypes.data + 4 * lo, uint64(hi - lo), rest.ctypes.data, squares)


@cached_njit
def add_and_sum(y, x, factors, tiles, sums):
    one, rest = np.float32(1.0), np.zeros(16, dtype=np.float32)
    for t in range(tiles.shape[1]):
        lo, hi = tiles[0, t], tiles[1, t]
        _blend(y[lo:hi], x[lo:hi], one, factors[tiles[2, t]])
        sums[t] = sum_of_tile(y.ctypes.data + 4 * lo, uint64(hi - lo), rest.ctypes.data, False)


@cached_njit
def find_nonfinite(v):
    address, whole, bad = v.ctypes.data, len(v) // 64, uint64(0)
    for k in range(whole):
        bad |= unfit(address + 256 * striped(k, whole))
    return _search(v, 0 if bad else 64 * whole, len(v))


@cached_njit
def _search(v, lo, hi):
    for i in range(lo, hi):
        if not np.isfinite(v[i]):
            return i
    return -1


def first_nonfinite(v):
    return int(find_nonfinite(v))


@cached_njit
def _find_scattered(places, start, length):
    for k in range(places.shape[1]):
        lo, hi = within(places, k, start, length)
        if lo < hi:
            found = find_nonfinite(piece(places, k, start + lo, start + hi))
            if found >= 0:
                return lo + found
    return -1


def first_nonfinite_scattered(places, start, length):
    return int(_find_scattered(places, start, length))
