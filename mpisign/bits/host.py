"""The kernels for tensors of the CPU: slices for several threads over those in cpu/, with its names and arguments."""

from functools import partial

import numpy as np
import torch
from torch import Tensor

from mpisign.bits import cpu
from mpisign.bits.scattered import Scattered
from mpisign.bits.sizes import chosen_words, largest_means_words, largest_words, two_means_words
from mpisign.bits.threads import in_slices


def _words(planes):
    return planes.numpy().view(np.uint64)


def _joined(items, work):
    """What the slices of a vector found, as one."""
    total, first = 0, -1
    for lo, (count, bad) in in_slices(items, lambda lo, hi: (lo, work(lo, hi))):
        total += count
        if first < 0 <= bad:
            first = lo + bad
    return total, first


def _within(lo, hi):
    """The words of coordinates lo to hi - 1; lo is a multiple of 64."""
    return slice(lo // 64, -(-hi // 64))


def pack(v, at, zeros, draw, planes):
    values, words = v.numpy(), _words(planes)
    return _joined(len(v), lambda lo, hi: cpu.pack(values[lo:hi], at + lo, zeros, draw, words[:, _within(lo, hi)]))


def pack_parts(v, parts, at, zeros, draw, planes):
    if isinstance(v, Scattered):
        return _pack_scattered(v, parts, at, zeros, draw, _words(planes))
    values, words = v.numpy(), _words(planes)
    if values.ndim > 1:
        return cpu.pack_rows(values, parts, at, zeros, draw, words)

    def work(lo, hi):
        return cpu.pack_parts(values[lo:hi], parts, at + lo, zeros, draw, words[:, _within(lo, hi)])

    return _joined(len(values), work)


def _pack_scattered(v, parts, at, zeros, draw, words):
    def work(lo, hi):
        planes = words[:, _within(lo, hi)]
        return cpu.pack_scattered(v.places, v.lo + lo, hi - lo, parts, at + lo, zeros, draw, planes)

    return _joined(len(v), work)


def pack_scaled_parts(v, scales, parts, at, zeros, draw, planes):
    values, words = v.numpy(), _words(planes)

    def work(lo, hi):
        return cpu.pack_scaled_parts(values[lo:hi], scales, parts, at + lo, zeros, draw, words[:, _within(lo, hi)])

    return _joined(len(values), work)


def pack_stochastic(v, radius, at, draw, planes):
    values, words = v.numpy(), _words(planes)
    return _joined(
        len(v), lambda lo, hi: cpu.pack_stochastic(values[lo:hi], radius, at + lo, draw, words[:, _within(lo, hi)])
    )


def pack_stochastic_parts(v, radii, parts, at, draw, planes):
    each = isinstance(radii, Tensor)
    values, limits, words = v.numpy(), radii.numpy() if each else radii, _words(planes)
    if values.ndim > 1:
        return cpu.pack_stochastic_rows(values, limits, each, parts, at, draw, words)

    def work(lo, hi):
        own = limits[lo:hi] if each else limits
        return cpu.pack_stochastic_parts(values[lo:hi], own, each, parts, at + lo, draw, words[:, _within(lo, hi)])

    return _joined(len(values), work)


def count(ballots, planes):
    votes, counts = _words(ballots), _words(planes)
    in_slices(votes.shape[1], lambda lo, hi: cpu.count(votes[:, lo:hi], counts[:, lo:hi]), each=64)


def count_weighted(ballots, weights, planes):
    votes, counts = _words(ballots), _words(planes)
    in_slices(votes.shape[1], lambda lo, hi: cpu.count_weighted(votes[:, lo:hi], weights, counts[:, lo:hi]), each=64)


def add(planes, more):
    to, of = _words(planes), _words(more)
    in_slices(to.shape[1], lambda lo, hi: cpu.add(to[:, lo:hi], of[:, lo:hi]), each=64)


def majority(plus, minus, voters, at, ties, draw, verdict: Tensor):
    p, q, out = _words(plus), _optional(minus), _words(verdict)

    def work(lo, hi):
        absent = None if q is None else q[:, lo:hi]
        return cpu.majority(p[:, lo:hi], absent, voters, at + 64 * lo, ties, draw, out[:, lo:hi])

    sums = in_slices(out.shape[1], work, each=64)
    return sum(agreement for agreement, _ in sums), sum(ties for _, ties in sums)


def majority_of_ballots(ballots, at, ties, draw, verdict, counting):
    votes, out = _words(ballots), _words(verdict)

    def work(lo, hi):
        return cpu.majority_of_ballots(votes[:, lo:hi], at + 64 * lo, ties, draw, out[:, lo:hi], counting)

    sums = in_slices(out.shape[1], work, each=64)
    return sum(agreement for agreement, _ in sums), sum(ties for _, ties in sums)


def randomised_majority(plus, minus, voters, at, draw, verdict):
    cpu.randomised_majority(_words(plus), _optional(minus), voters, at, draw, _words(verdict))


def weighted_majority(ballots, score, rounds, rule, at, ties, draw, verdict: Tensor):
    cpu.weighted_majority(_words(ballots), score.numpy(), rounds, rule, at, ties, draw, _words(verdict))


def codes(plus, minus, voters, verdict):
    cpu.codes(_words(plus), _optional(minus), voters, _words(verdict))


def agreement(plus, minus, voters):
    return cpu.agreement(_words(plus), _optional(minus), voters)


def apply(x, planes, parts, at, tables, decays):
    values, words = x.numpy(), _words(planes)

    def work(lo, hi):
        cpu.apply(values[lo:hi], words[:, _within(lo, hi)], parts, at + lo, tables, decays)

    in_slices(len(values), work)


def blend(y, x, a, b):
    to, of = y.view(-1).numpy(), x.view(-1).numpy()
    in_slices(len(to), lambda lo, hi: cpu.blend(to[lo:hi], of[lo:hi], a, b))


def add_signed(total, planes, scale):
    values, words = total.numpy(), _words(planes)
    in_slices(len(total), lambda lo, hi: cpu.add_signed(values[lo:hi], words[:, _within(lo, hi)], scale))


def add_levels(total, planes, table):
    values, words = total.numpy(), _words(planes)
    in_slices(len(total), lambda lo, hi: cpu.add_levels(values[lo:hi], words[:, _within(lo, hi)], table))


def add_normal(y, scale, at, draw):
    values = y.numpy()
    if y.dim() > 1:
        cpu.add_normal_rows(values, scale, at, draw)
    else:
        in_slices(len(y), lambda lo, hi: cpu.add_normal(values[lo:hi], scale, at + lo, draw))


def round_stochastic(v, at, draw, out):
    values, rounded = v.numpy(), out.numpy()
    in_slices(len(v), lambda lo, hi: cpu.round_stochastic(values[lo:hi], at + lo, draw, rounded[lo:hi]))


def uniforms(count, draw, voters: int | None = None):
    drawn = torch.empty(voters or 1, count)
    cpu.uniform_rows(drawn.numpy(), draw)
    return drawn[0] if voters is None else drawn


def tile_maxima(v, tiles):
    maxima, values = np.empty(tiles.shape[1]), v.numpy()
    in_slices(len(maxima), lambda lo, hi: cpu.tile_maxima(values, tiles[:, lo:hi], maxima[lo:hi]), each=4096)
    return maxima


def tile_sums(v, tiles, squares=False):
    sums, values = np.empty(tiles.shape[1]), v.numpy()
    in_slices(len(sums), lambda lo, hi: cpu.tile_sums(values, tiles[:, lo:hi], squares, sums[lo:hi]), each=4096)
    return sums


def add_and_sum(y, x, factors, tiles):
    sums, to, of = np.empty(tiles.shape[1]), y.numpy(), x.numpy()
    in_slices(len(sums), lambda lo, hi: cpu.add_and_sum(to, of, factors, tiles[:, lo:hi], sums[lo:hi]), each=4096)
    return sums


def first_nonfinite(v):
    values = None if isinstance(v, Scattered) else v.numpy()

    def work(lo, hi):
        if values is None:
            index = cpu.first_nonfinite_scattered(v.places, v.lo + lo, hi - lo)
        else:
            index = cpu.first_nonfinite(values[lo:hi])
        return index + lo if index >= 0 else -1

    return next((index for index in in_slices(len(v), work) if index >= 0), -1)


def count_ones(plane):
    return cpu.count_ones(_words(plane))


def differing_parts(a, b, parts, at):
    return cpu.differing_parts(_words(a), _words(b), parts, at)


def spread(plane, voters, fields):
    cpu.spread(_words(plane), voters.bit_length(), _words(fields))


def gather(fields, voters, planes):
    cpu.gather(_words(fields), voters.bit_length(), _words(planes))


def pack_quantised(v, at, scheme, draw, message):
    values, words = v.numpy(), _words(message)

    def work(lo, hi):
        cpu.pack_quantised(values[lo:hi], at + lo, scheme, draw, _of_tiles(words, lo, hi, scheme.words))

    in_slices(len(values), work)


def add_quantised(total, message, scheme, weight):
    values, words = total.numpy(), _words(message)

    def work(lo, hi):
        cpu.add_quantised(values[lo:hi], _of_tiles(words, lo, hi, scheme.words), scheme, weight)

    in_slices(len(values), work)


def pack_two_means(v, at, parts, bucket, message):
    values, words = v.numpy(), _words(message)
    size = partial(two_means_words, bucket=bucket)

    def work(lo, hi):
        cpu.pack_two_means(values[lo:hi], at + lo, parts, bucket, _of_tiles(words, lo, hi, size))

    in_slices(len(values), work)


def add_two_means(total, message, at, parts, bucket, weight):
    values, words = total.numpy(), _words(message)
    size = partial(two_means_words, bucket=bucket)

    def work(lo, hi):
        cpu.add_two_means(values[lo:hi], _of_tiles(words, lo, hi, size), at + lo, parts, bucket, weight)

    in_slices(len(values), work)


def pack_largest(v, k, signs, at, draw, message):
    values, words = v.numpy(), _words(message)
    size = partial(largest_words, k, signs=signs)

    def work(lo, hi):
        cpu.pack_largest(values[lo:hi], k, signs, at + lo, draw, _of_tiles(words, lo, hi, size))

    in_slices(len(values), work)


def add_largest(total, message, k, signs, weight):
    values, words = total.numpy(), _words(message)
    size = partial(largest_words, k, signs=signs)

    def work(lo, hi):
        cpu.add_largest(values[lo:hi], _of_tiles(words, lo, hi, size), k, signs, weight)

    in_slices(len(values), work)


def pack_largest_means(v, k, message):
    values, words = v.numpy(), _words(message)
    size = partial(largest_means_words, k)
    in_slices(len(values), lambda lo, hi: cpu.pack_largest_means(values[lo:hi], k, _of_tiles(words, lo, hi, size)))


def add_largest_means(total, message, k, weight):
    values, words = total.numpy(), _words(message)
    size = partial(largest_means_words, k)

    def work(lo, hi):
        cpu.add_largest_means(values[lo:hi], _of_tiles(words, lo, hi, size), k, weight)

    in_slices(len(values), work)


def clear_largest(y, message, k, signs):
    cpu.clear_largest(y.numpy(), _words(message), k, signs)


def planes_of_largest(message, k, planes):
    cpu.planes_of_largest(_words(message), k, _words(planes))


def pack_chosen(v, k, unbiased, at, draw, message):
    values, words = v.numpy(), _words(message)
    size = partial(chosen_words, k)

    def work(lo, hi):
        cpu.pack_chosen(values[lo:hi], k, unbiased, at + lo, draw, _of_tiles(words, lo, hi, size))

    in_slices(len(values), work)


def add_chosen(total, message, k, at, draw, weight):
    values, words = total.numpy(), _words(message)
    size = partial(chosen_words, k)

    def work(lo, hi):
        cpu.add_chosen(values[lo:hi], _of_tiles(words, lo, hi, size), k, at + lo, draw, weight)

    in_slices(len(values), work)


def pack_greatest(v, k, message):
    cpu.pack_greatest(v.numpy(), k, _words(message))


def pack_drawn(v, at, c, draw, message):
    return cpu.pack_drawn(v.numpy(), at, c, draw, _words(message))


def add_entries(total, message, weight):
    cpu.add_entries(total.numpy(), _words(message), weight)


def clear_entries(y, message):
    cpu.clear_entries(y.numpy(), _words(message))


def _of_tiles(message, lo, hi, words_of):
    """The words of coordinates lo to hi - 1 of a message that is cut into tiles; lo is a multiple of 4096."""
    return message[words_of(lo) : words_of(hi)]


def _optional(planes):
    return None if planes is None else _words(planes)
