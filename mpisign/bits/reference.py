"""The kernels as obvious numpy: one bit at a time where it is clearer. Slow; the definition of the fast ones.

Arrays: v float32 (d,); a plane is uint64 (ceil(d/64),), little-endian, bit 1 is +1; `at` is the
coordinate of v[0], a multiple of 64.
"""

import math

import numpy as np

from mpisign.rng import Draw

WORD = 64


def to_words(bits: np.ndarray) -> np.ndarray:
    """Booleans (d,) as words (ceil(d/64),), the last one filled up with zeros."""
    padded = np.zeros(-(-len(bits) // WORD) * WORD, dtype=np.uint8)
    padded[: len(bits)] = bits
    return np.packbits(padded, bitorder="little").view("<u8")


def to_bits(words: np.ndarray, count: int) -> np.ndarray:
    """The first `count` bits of words as booleans."""
    return np.unpackbits(words.view(np.uint8), bitorder="little")[:count].astype(bool)


def coin(draw: Draw, at: int, count: int) -> np.ndarray:
    """One 64-bit word of coins for 64 coordinates: outputs 0 (low half) and 1 of the block of that word."""
    blocks = draw.blocks(at // WORD, -(-count // WORD)).astype(np.uint64)
    words = blocks[:, 0] | blocks[:, 1] << np.uint64(32)
    return to_bits(~words if draw.negate else words, count)


def uniform(draw: Draw, at: int, count: int) -> np.ndarray:
    """u = ((2k + 1) - 2**24) / 2**24 for the upper 24 bits k of one output a coordinate, float32 in (-1, 1)."""
    k = draw.blocks(at // 4, -(-count // 4)).reshape(-1)[:count] >> np.uint32(8)
    return ((2 * k.astype(np.int64) + 1 - 2**24) / 2**24).astype(np.float32)


def normal(draw: Draw, at: int, count: int) -> np.ndarray:
    """N(0, 1) a coordinate, float32: Box and Muller in float64 on the two halves of a Philox block."""
    found = []
    for block in draw.blocks(at // 4, -(-count // 4)).tolist():
        for k, turn in (block[:2], block[2:]):
            length = math.sqrt(-2.0 * math.log((k + 1.0) * 2.0**-32))
            angle = (2.0 * math.pi * 2.0**-32) * turn
            found += [length * math.cos(angle), length * math.sin(angle)]
    return np.array(found[:count], dtype=np.float32)


def pack(v, at, zeros, draw, planes):
    """The signs of v.

    zeros: "coin" or "random", which differ in the draw; "plus"; or "abstain" (planes[1] is then 0 where v is 0).
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


def _of_parts(parts, at, items):
    """(items, words, first coordinate, segment) of each part that lies in a vector which starts at `at`."""
    for first, end, segment in parts.T:
        lo, hi = max(first - at, 0), min(end - at, items)
        if lo < hi:
            yield slice(lo, hi), slice(lo // WORD, -(-hi // WORD)), at + lo, segment


def _joined(found):
    """(start, (count, first bad index in there or -1)) of each part, as one."""
    bad = [start + index for start, (_, index) in found if index >= 0]
    return sum(count for _, (count, _) in found), min(bad, default=-1)


def pack_parts(v, parts, at, zeros, draw, planes):
    """pack of each part."""
    return _joined([(i.start, pack(v[i], c, zeros, draw, planes[:, w])) for i, w, c, _ in _of_parts(parts, at, len(v))])


def pack_stochastic_parts(v, radii, each, parts, at, draw, planes):
    """pack_stochastic of each part. radii: float32, one a coordinate of v if `each`, else one a segment."""
    pieces = _of_parts(parts, at, len(v))
    of = lambda i, segment: radii[i] if each else radii[segment]  # noqa: E731
    return _joined([(i.start, pack_stochastic(v[i], of(i, s), c, draw, planes[:, w])) for i, w, c, s in pieces])


def pack_scaled_parts(v, scales, parts, at, zeros, draw, planes):
    """pack_parts, and then v -= scale * sign, where a vote was cast: what stays behind. scales: one a segment."""
    found = pack_parts(v, parts, at, zeros, draw, planes)
    for i, w, _, segment in _of_parts(parts, at, len(v)):
        add_signed(v[i], planes[:, w], -scales[segment])
    return found


def count(ballots, planes):
    """How many of ballots (n, W) have each bit set, as a binary number in planes (w, W), lowest first."""
    total = np.array([to_bits(b, ballots.shape[1] * WORD) for b in ballots]).sum(axis=0)
    for k, plane in enumerate(planes):
        plane[:] = to_words(total >> k & 1 == 1)


def numbers(planes, count):
    """The binary numbers in planes (w, W) as integers (count,)."""
    return sum(to_bits(p, count).astype(np.int64) << k for k, p in enumerate(planes))


def tally(plus, minus, voters, count):
    """Sum of the votes a coordinate; minus is None where every voter voted."""
    p = numbers(plus, count)
    return 2 * p - voters if minus is None else p - numbers(minus, count)


def majority(plus, minus, voters, at, ties, draw, verdict):
    """The sign of the tally; returns agreement(plus, minus, voters).

    ties: "coin" or "random", which differ in the draw; "plus"; or "zero" (verdict[1] is then 0 at a tie).
    """
    d = verdict.shape[1] * WORD
    t = tally(plus, minus, voters, d)
    bits = t > 0
    if ties in ("coin", "random"):
        bits |= (t == 0) & coin(draw, at, d)
    elif ties == "plus":
        bits |= t == 0
    verdict[0] = to_words(bits)
    if ties == "zero":
        verdict[1] = to_words(t != 0)
    return agreement(plus, minus, voters)


def randomised_majority(plus, minus, voters, at, draw, verdict):
    """+1 with probability (1 + tally / voters) / 2: tally / voters > u, compared as integers."""
    d = verdict.shape[1] * WORD
    k = draw.blocks(at // 4, d // 4).reshape(-1)[:d].astype(np.int64) >> 8
    verdict[0] = to_words(tally(plus, minus, voters, d) * 2**24 > voters * (2 * k + 1 - 2**24))


def codes(plus, minus, voters, verdict):
    """The tally as a binary number: plus itself, or with abstentions tally + (2**w - 1) in w + 1 planes."""
    d = verdict.shape[1] * WORD
    code = numbers(plus, d) if minus is None else tally(plus, minus, voters, d) + 2 ** len(plus) - 1
    for k, plane in enumerate(verdict):
        plane[:] = to_words(code >> k & 1 == 1)


def weighted_majority(ballots, score, rounds, rule, at, ties, draw, verdict):
    """The sign of the sum of weight * vote, and the score of each voter brought up to date.

    ballots (1 or 2, n, W); score float32 (n, d): how often a voter agreed so far with what was decided, forgotten
    by a factor `forget` a round, of `rounds` rounds counted alike. rule: (plain, resolution, limit, least, forget);
    plain: all weights 1. The weight is round(resolution * log(p / (1 - p))), p = score / rounds, in [least, limit].
    A voter that abstains counts as half an agreement. ties as in majority.
    """
    plain, resolution, limit, least, forget = rule
    present = np.ones(score.shape, dtype=bool)
    if len(ballots) == 2:
        present = np.array([to_bits(b, score.shape[1]) for b in ballots[1]])
    plus = np.array([to_bits(b, score.shape[1]) for b in ballots[0]])
    votes = np.where(present, np.where(plus, 1, -1), 0)
    verdict[:] = 0
    for i in range(score.shape[1]):
        total = 0
        for voter in range(len(score)):
            s, weight = float(score[voter, i]), 1.0
            if not plain:
                weight = limit if s >= rounds else least if s <= 0 else round(resolution * math.log(s / (rounds - s)))
                weight = min(max(weight, least), limit)
            total += int(weight) * int(votes[voter, i])
        fair = ties in ("coin", "random") and coin(draw, at, score.shape[1])[i]
        tie = total == 0 and (fair or ties == "plus")
        _set_bit(verdict[0], i, total > 0 or tie)
        if ties == "zero":
            _set_bit(verdict[1], i, total != 0)
        for voter in range(len(score)):
            agrees = plus[voter, i] == (total > 0 or tie)
            gain = np.float32(0.5 if not present[voter, i] or (total == 0 and ties == "zero") else agrees)
            score[voter, i] = np.float32(forget) * score[voter, i] + gain


def _set_bit(plane, i, value):
    one = np.uint64(1) << np.uint64(i % WORD)
    plane[i // WORD] = plane[i // WORD] | one if value else plane[i // WORD] & ~one


def agreement(plus, minus, voters):
    """Sum over all coordinates of |tally|, and the number of ties."""
    t = tally(plus, minus, voters, plus.shape[1] * WORD)
    return int(np.abs(t).sum()), int((t == 0).sum())


def apply(x, planes, parts, at, tables, decays):
    """x = fl(fl(decay * x) - table[code]) in each part, code being the binary number in planes (P, W).

    tables: float32 (segments, 2**P). decays: float32 (segments,).
    """
    for i, w, _, segment in _of_parts(parts, at, len(x)):
        x[i] = decays[segment] * x[i] - tables[segment][numbers(planes[:, w], i.stop - i.start)]


def blend(y, x, a, b):
    """y = fl(fl(a * y) + fl(b * x))."""
    with np.errstate(over="ignore"):
        y[:] = np.float32(a) * y + np.float32(b) * x


def add_signed(total, planes, scale):
    """total += scale * sign, nothing where the second plane, if any, is 0."""
    signs = np.where(to_bits(planes[0], len(total)), np.float32(scale), -np.float32(scale))
    present = to_bits(planes[1], len(total)) if len(planes) == 2 else True
    total[:] = np.where(present, total + signs, total)


def add_and_sum(y, x, factors, tiles, sums):
    """y = fl(y + fl(factor * x)), a factor a segment; then tile_sums of |y|."""
    for lo, hi, segment in tiles.T:
        blend(y[lo:hi], x[lo:hi], 1.0, factors[segment])
    tile_sums(y, tiles, False, sums)


def add_levels(total, planes, table):
    """total += table[code], code being the binary number in planes (P, W)."""
    total += table[numbers(planes, len(total))]


def add_normal(y, scale, at, draw):
    """y = fl(y + fl(scale * xi)), xi from N(0, 1)."""
    y += np.float32(scale) * normal(draw, at, len(y))


def tile_maxima(v, tiles, maxima):
    """The largest |v| in each tile (3, T), as float64."""
    for t, (lo, hi, _) in enumerate(tiles.T):
        maxima[t] = np.abs(v[lo:hi]).max(initial=0.0)


def tile_sums(v, tiles, squares, sums):
    """float64 sum of |v| or v*v in each tile (3, T): 16 lanes, each added up in order, then lane by lane."""
    for t, (lo, hi, _) in enumerate(tiles.T):
        values = v[lo:hi].astype(np.float64)
        values = values * values if squares else np.abs(values)
        rows = np.zeros((-(-len(values) // 16), 16))
        rows.reshape(-1)[: len(values)] = values
        lanes = np.zeros(16)
        for row in rows:
            lanes += row
        sums[t] = 0.0
        for lane in lanes:
            sums[t] += lane


def first_nonfinite(v):
    """Index of the first infinite or NaN value, or -1."""
    found = np.flatnonzero(~np.isfinite(v))
    return int(found[0]) if len(found) else -1


def differing(a, b):
    """The number of bits in which two planes differ."""
    return int(np.unpackbits((a ^ b).view(np.uint8)).sum())


def spread(plane, width, fields):
    """Each bit as a field of `width` bits, 64 // width of them in a word of fields."""
    bits = to_bits(plane, len(plane) * WORD).astype(np.uint64)
    per = WORD // width
    padded = np.zeros(len(fields) * per, dtype=np.uint64)
    padded[: len(bits)] = bits
    shifts = np.arange(per, dtype=np.uint64) * np.uint64(width)
    fields[:] = (padded.reshape(-1, per) << shifts).sum(axis=1, dtype=np.uint64)


def gather(fields, width, planes):
    """The fields of `width` bits as planes (width, W): the inverse of spread, after fields were added up."""
    per = WORD // width
    shifts = np.arange(per, dtype=np.uint64) * np.uint64(width)
    values = (fields[:, None] >> shifts & np.uint64(2**width - 1)).reshape(-1)
    for k, plane in enumerate(planes):
        plane[:] = to_words(values[: len(plane) * WORD] >> np.uint64(k) & np.uint64(1) == 1)
