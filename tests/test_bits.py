"""The CPU kernels equal the obvious ones, bit for bit, on whatever hypothesis thinks of."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mpisign import bits
from mpisign.bits import cpu, reference
from mpisign.bits.cpu.common import LONG
from mpisign.bits.rng import Streams
from mpisign.bits.threads import LEAST
from tests import kernels
from tests.cover import rest_is_slow
from tests.kernels import ballot_box, boxes, counted, cut_up, draws, origins, pieces, planes, vectors

settings.register_profile("kernels", deadline=None, max_examples=60)
settings.load_profile("kernels")


def kernel(name, *arguments):
    return getattr(cpu, name)(*arguments)


def assert_same(name, *arguments, fast=kernel):
    kernels.assert_same(name, *arguments, fast=fast)


@given(vectors(), origins, draws, st.sampled_from(["coin", "random", "plus", "minus", "abstain"]))
def test_pack(v, at, draw, zeros):
    assert_same("pack", v, at, zeros, draw, planes(2 if zeros == "abstain" else 1, len(v)))


@given(vectors(), origins, draws, st.sampled_from(["coin", "random", "plus", "minus", "abstain"]), pieces)
def test_pack_parts(v, at, draw, zeros, count):
    parts = cut_up(at, len(v), count)
    assert_same("pack_parts", v, parts, at, zeros, draw, planes(2 if zeros == "abstain" else 1, len(v)))


def lying_apart(v, count, seed):
    """v (d,) with gaps, as a vector and as tensors that lie apart, of any alignment; and the tensors' bounds."""
    bounds = np.minimum(cut_up(0, len(v), count, seed)[:2], len(v))
    tensors = [torch.from_numpy(np.r_[np.float32(1), v[lo:hi]])[1:] for lo, hi in bounds.T]
    flat = np.zeros_like(v)
    for lo, hi in bounds.T:
        flat[lo:hi] = v[lo:hi]
    return flat, bits.Scattered(tensors, bounds, len(v)), bounds


@given(
    vectors(), origins, draws, st.sampled_from(["coin", "random", "plus", "minus", "abstain"]), pieces,
    st.integers(0, 2**32), st.sampled_from([0.0, np.nan, -np.inf]), st.integers(0, 4), st.integers(0, 299),
)  # fmt: skip
def test_what_lies_apart_is_packed_as_a_vector(v, at, draw, zeros, count, seed, odd, word, end):
    v[seed % 300 :][:1] = odd
    flat, apart, bounds = lying_apart(v, count, seed)
    lo, hi = 64 * word, max(min(end, len(v)), min(64 * word, len(v)))
    for some, part in ((flat, apart), (flat[lo:hi], apart[lo:hi]), (flat[lo:hi][:64], apart[..., lo:hi][:64])):
        where = at + (0 if some is flat else lo)
        parts = np.vstack([at + bounds, np.arange(bounds.shape[1])])
        wanted = planes(2 if zeros == "abstain" else 1, len(some))
        packed = torch.from_numpy(wanted.copy().view(np.int64))
        expected = reference.pack_parts(some, parts, where, zeros, draw, wanted)
        assert bits.pack_parts(part, parts, where, zeros, draw, packed) == expected
        np.testing.assert_array_equal(packed.numpy().view(np.uint64), wanted)
        assert bits.first_nonfinite(part) == reference.first_nonfinite(some)
        for i in range(len(some)):
            assert np.float32(part[i]).tobytes() == some[i].tobytes()


@given(vectors(), origins, draws, st.sampled_from([0.0, 1e-45, 1.0, 1e38]), st.integers(1, 2), pieces)
def test_pack_stochastic(v, at, draw, radius, count, some):
    assert_same("pack_stochastic", v, radius, at, draw, planes(count, len(v)))
    radii = np.full(some, radius, dtype=np.float32)
    assert_same("pack_stochastic_parts", v, radii, False, cut_up(at, len(v), some), at, draw, planes(count, len(v)))


@given(boxes)
def test_count(ballots):
    assert_same("count", ballots, planes(len(ballots).bit_length(), 64 * ballots.shape[1]))


@given(boxes, st.integers(1, 300), st.integers(0, 2**32))
def test_count_weighted(ballots, most, seed):
    """A voter of weight w counts as w voters do."""
    weights = tuple(np.random.default_rng(seed).integers(1, most, len(ballots), endpoint=True).tolist())
    assert_same("count_weighted", ballots, weights, planes(sum(weights).bit_length(), 64 * ballots.shape[1]))


@given(boxes, st.integers(1, 40), st.integers(0, 2**32))
def test_add(ballots, others, seed):
    """A count of so many others, in as many planes as it needs, is added to a count."""
    n, words = ballots.shape
    more = counted(ballot_box(np.random.default_rng(seed), others, words, "random"))
    total = planes((n + others).bit_length(), 64 * words)
    total[:] = 0
    total[: n.bit_length()] = counted(ballots)
    assert_same("add", total, more)


def test_count_of_more_words_than_a_block():
    ballots = ballot_box(np.random.default_rng(0), 5, 1300, "random")
    assert_same("count", ballots, planes(3, 64 * 1300))
    assert_same("count_weighted", ballots, (15, 1, 7, 8, 2), planes(6, 64 * 1300))


@given(boxes, st.booleans(), origins, draws, st.sampled_from(["coin", "random", "plus", "minus", "zero"]))
def test_majority(ballots, abstain, at, draw, ties):
    n, words = ballots.shape
    plus, minus = counted(ballots), None
    if abstain:
        present = ballot_box(np.random.default_rng(1), n, words, "random")
        plus, minus = counted(ballots & present), counted(~ballots & present)
    verdict = planes(2 if ties == "zero" else 1, 64 * words)
    assert_same("majority", plus, minus, n, at, ties, draw, verdict)
    for counting in (True, False) if n <= bits.AT_ONCE else ():
        assert_same("majority_of_ballots", ballots, at, ties, draw, verdict, counting)
    assert_same("randomised_majority", plus, minus, n, at, draw, planes(1, 64 * words))
    assert_same("agreement", plus, minus, n)
    assert_same("codes", plus, minus, n, planes(len(plus) + abstain, 64 * words))


@given(vectors(), origins, st.integers(1, 5), pieces, st.integers(0, 2**32))
def test_apply(x, at, count, some, seed):
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 2**64, (count, -(-len(x) // 64)), dtype=np.uint64)
    tables = rng.standard_normal((some, 2**count)).astype(np.float32)
    decays = rng.choice(np.array([1.0, 0.99, 0.5], dtype=np.float32), some)
    assert_same("apply", x, codes, cut_up(at, len(x), some), at, tables, decays)


def test_apply_is_two_roundings_and_no_fused_multiply_add():
    rng = np.random.default_rng(3)
    x = rng.standard_normal(100_000).astype(np.float32)
    words = rng.integers(0, 2**64, (1, 1563), dtype=np.uint64)
    tables, decays = np.array([[-1e-3, 1e-3]], dtype=np.float32), np.array([0.9999], dtype=np.float32)
    assert_same("apply", x, words, np.array([[0], [len(x)], [0]]), 0, tables, decays)
    assert_same("blend", x, x[::-1].copy(), 0.9, 0.1)


@pytest.mark.parametrize("d", [64 * LONG - 1, 64 * LONG, 64 * LONG + 300, 64 * (LONG + 3) + 5])
def test_long_vectors_are_seen_in_another_order(d):
    rng, whole = np.random.default_rng(d), np.array([[0], [d], [0]])
    v = rng.standard_normal(d).astype(np.float32)
    v[rng.integers(0, d, 100)] = 0.0
    draw = Streams(7).coin("zero", 3, 1)
    for zeros in ("coin", "plus", "minus", "abstain"):
        assert_same("pack_parts", v, whole, 64, zeros, draw, planes(2 if zeros == "abstain" else 1, d))
    for count in (1, 2):
        codes = rng.integers(0, 2**64, (count, -(-d // 64)), dtype=np.uint64)
        table = rng.standard_normal((1, 2**count)).astype(np.float32)
        assert_same("apply", v.copy(), codes, whole, 0, table, np.array([0.99], dtype=np.float32))
    for bad in (d - 1, 3 * d // 4, d // 4, 17):  # the first in the vector, not the first that is seen
        v[bad] = np.nan
        assert_same("first_nonfinite", v)
        assert cpu.pack(v, 0, "plus", draw, planes(1, d))[1] == bad


@given(vectors(), st.floats(0, 1, width=32), st.floats(0, 1, width=32))
def test_blend(y, a, b):
    assert_same("blend", y, y[::-1].copy(), a, b)


@given(vectors(), st.integers(1, 2), st.sampled_from([0.0, 1e-3, 1e30]))
def test_add_signed(total, count, scale):
    words = np.random.default_rng(len(total)).integers(0, 2**64, (count, -(-len(total) // 64)), dtype=np.uint64)
    assert_same("add_signed", total, words, scale)


scale_choices = st.sampled_from([0.0, 1e-3, 1e30])


@given(vectors(), origins, draws, st.sampled_from(["coin", "plus", "minus", "abstain"]), scale_choices, pieces)
def test_pack_scaled(v, at, draw, zeros, scale, some):
    words = planes(2 if zeros == "abstain" else 1, len(v))
    scales, parts = np.float32(scale) * np.arange(some, dtype=np.float32), cut_up(at, len(v), some)
    assert_same("pack_scaled_parts", v, scales, parts, at, zeros, draw, words)


@given(vectors(), st.integers(0, 299), st.sampled_from([np.nan, np.inf, -np.inf]), draws)
def test_packing_tells_what_is_not_finite(v, where, value, draw):
    v[where:][:1] = value
    v[where + 70 :][:1] = -np.inf
    assert_same("pack", v, 0, "coin", draw, planes(1, len(v)))
    assert_same("pack_stochastic", v, 1.0, 0, draw, planes(1, len(v)))
    for parts in (np.array([[0], [len(v)], [0]]), cut_up(0, len(v), 4)):
        assert_same("pack_parts", v, parts, 0, "coin", draw, planes(1, len(v)))
        assert_same("pack_stochastic_parts", v, np.ones_like(v), True, parts, 0, draw, planes(1, len(v)))
        scales = np.full(4, 0.5, dtype=np.float32)
        found = cpu.pack_scaled_parts(v.copy(), scales, parts, 0, "coin", draw, planes(1, len(v)))
        assert found == reference.pack_parts(v, parts, 0, "coin", draw, planes(1, len(v)))


@given(vectors(), st.integers(0, 100), st.lists(st.floats(0, 1, width=32), min_size=2, max_size=2))
def test_add_and_sum(y, cut, factors):
    cut = min(cut, len(y))
    tiles = np.array([[0, cut], [cut, len(y)], [0, 1]])
    assert_same("add_and_sum", y, y[::-1].copy(), np.array(factors, dtype=np.float32), tiles, np.empty(2))


@pytest.mark.parametrize("voters", rest_is_slow([1, 2, 7, 15, 16, 17, 31, 100], [1, 7, 17]))
def test_long_counts(voters):
    """Whole blocks, a rest, and groups of voters; as a part of wider planes."""
    words = np.random.default_rng(voters).integers(0, 2**64, (voters, 2100), dtype=np.uint64)
    for some in (words, words[:, 5:1040], words[:, :3]):
        assert_same("count", some, np.empty((voters.bit_length(), some.shape[1]), dtype=np.uint64))


@pytest.fixture
def three_threads():
    bits.use_threads(3)
    yield
    bits.use_threads(1)


def test_threads_change_no_bit(three_threads):
    """Each kernel in three slices equals its definition on the whole."""
    rng, d, draw = np.random.default_rng(5), 3 * LEAST + 12345, Streams(1).draw("sign", 3, 2)
    v = rng.standard_normal(d).astype(np.float32)
    v[rng.integers(0, d, 1000)] = 0
    tiles = np.array([[lo, min(lo + 4096, d), 0] for lo in range(0, d, 4096)]).T.copy()
    words, coin = planes(1, d), Streams(1).coin("zero", 3, 2)
    votes = rng.integers(0, 2**64, (5, 3 * 8192 + 100), dtype=np.uint64)
    counted, table = np.empty((3, votes.shape[1]), dtype=np.uint64), np.array([-0.1, 0.1], dtype=np.float32)
    parts, one = cut_up(640, d, 7), np.ones(7, dtype=np.float32)
    for call in (
        ("pack", v, 640, "coin", coin, words),
        ("pack_parts", v, parts, 640, "coin", coin, words),
        ("pack_scaled_parts", v, one, parts, 640, "coin", coin, words),
        ("pack_stochastic", v, 2.0, 640, draw, words),
        ("pack_stochastic_parts", v, one * 2, False, parts, 640, draw, words),
        ("pack_stochastic_parts", v, np.abs(v), True, parts, 640, draw, words),
        ("count", votes, counted),
        ("count_weighted", votes, (1, 3, 1, 1, 1), counted),
        ("majority_of_ballots", votes, 640, "coin", coin, planes(1, 64 * votes.shape[1]), True),
        ("majority", counted, None, 5, 640, "coin", coin, planes(1, 64 * votes.shape[1])),
        ("apply", v, words, parts, 640, np.tile(table, (7, 1)), one * np.float32(0.9)),
        ("blend", v, v[::-1].copy(), 0.9, 0.1),
        ("add_signed", v, words, 0.3),
        ("add_levels", v, words, table),
        ("round_stochastic", v, 640, draw, np.empty(d, dtype=np.int16)),
    ):
        assert_same(*call, fast=on_tensors)
    bounds = np.array([[0, LEAST + 64], [LEAST + 8, d]])
    apart = bits.Scattered([torch.from_numpy(v[lo:hi]) for lo, hi in bounds.T], bounds, d)
    parts, packed = np.vstack([640 + bounds, [0, 1]]), torch.zeros((1, len(words[0])), dtype=torch.int64)
    found = reference.pack_parts(v, parts, 640, "coin", coin, words)
    assert bits.pack_parts(apart, parts, 640, "coin", coin, packed) == found
    np.testing.assert_array_equal(packed.numpy().view(np.uint64), words)
    assert bits.first_nonfinite(torch.from_numpy(v)) == bits.first_nonfinite(apart) == -1
    v[[d - 1, LEAST + 73, LEAST + 71]] = np.nan
    assert bits.first_nonfinite(torch.from_numpy(v)) == bits.first_nonfinite(apart) == LEAST + 71
    sums = np.empty(tiles.shape[1])
    reference.tile_sums(v[:40960], tiles[:, :10], True, sums)
    np.testing.assert_array_equal(bits.tile_sums(torch.from_numpy(v), tiles, squares=True)[:10], sums[:10])


def on_tensors(name, *arguments):
    """The function of the API, on tensors over the same memory; what is short or no vector of x stays an array."""
    as_tensors = [a if isinstance(a, np.ndarray) and is_small(a) else to_tensor(a) for a in arguments]
    return getattr(bits, name)(
        *[a for a in as_tensors if not (name == "pack_stochastic_parts" and isinstance(a, bool))]
    )


def is_small(array):
    return array.size < 100


def to_tensor(argument):
    if not isinstance(argument, np.ndarray):
        return argument
    return torch.from_numpy(argument.view(np.int64) if argument.dtype == np.uint64 else argument)


@given(vectors(), st.booleans(), st.integers(0, 100))
def test_tile_sums(v, squares, cut):
    cut = min(cut, len(v))
    tiles = np.array([[0, cut], [cut, len(v)], [0, 1]])
    assert_same("tile_sums", v, tiles, squares, np.empty(2))


@given(vectors(), st.integers(0, 100))
def test_tile_maxima(v, cut):
    cut = min(cut, len(v))
    assert_same("tile_maxima", v, np.array([[0, cut], [cut, len(v)], [0, 1]]), np.empty(2))


@given(vectors(), st.integers(1, 4), st.integers(0, 2**32))
def test_add_levels(total, count, seed):
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 2**64, (count, -(-len(total) // 64)), dtype=np.uint64)
    assert_same("add_levels", total, codes, rng.standard_normal(2**count).astype(np.float32))


@given(vectors(), st.sampled_from([0.0, 1e-3, 5.0]), origins, draws)
def test_add_normal(y, scale, at, draw):
    assert_same("add_normal", y, scale, at, draw)


@given(hnp.arrays(np.float32, st.integers(0, 300), elements=st.floats(width=32)), origins, draws)
def test_round_stochastic(v, at, draw):
    """What is not finite too: an infinity stays one, and so does NaN, whatever bits it has."""
    v[::9][:1] = np.uint32(0x7F800001).view(np.float32)
    assert_same("round_stochastic", v, at, draw, np.full(len(v), -1, dtype=np.int16))
    rounded = np.empty(len(v), dtype=np.int16)
    cpu.round_stochastic(v, at, draw, rounded)
    wide = (rounded.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(np.isnan(wide), np.isnan(v))
    np.testing.assert_array_equal(wide[np.isinf(v)], v[np.isinf(v)])
    near = np.isfinite(v) & np.isfinite(wide)
    ulp = np.spacing(np.abs(v[near]).astype(np.float64).astype(np.float32)).astype(np.float64) * 2**16
    assert (np.abs(wide[near].astype(np.float64) - v[near]) < ulp).all()


def test_stochastic_rounding_is_exact_where_it_can_be_and_else_right_on_average():
    """Of N roundings k go up, binomial with p = low16/65536: within five standard deviations."""
    count, draws_of = 200_000, Streams(4)
    for step, low in enumerate((0, 1, 0x4000, 0x8000, 0xFFFF)):
        for sign in (0, 0x80000000):
            v = np.full(count, sign | 0x3F830000 | low, dtype=np.uint32).view(np.float32)
            rounded = np.empty(count, dtype=np.int16)
            cpu.round_stochastic(v, 64 * step, draws_of.draw("rounding", step), rounded)
            up = rounded.view(np.uint16).astype(np.int64) - ((sign | 0x3F830000) >> 16)
            assert set(up.tolist()) <= {0, 1}
            p = low / 2**16
            assert abs(up.sum() - count * p) <= 5 * math.sqrt(count * p * (1 - p))


def test_normals_are_normal():
    # 4e5 draws: mean within 5/sqrt(4e5), variance within 5*sqrt(2/4e5), Kolmogorov's distance within 2/sqrt(4e5)
    y = np.zeros(400_000, dtype=np.float32)
    cpu.add_normal(y, 1.0, 0, Streams(2).draw("dither", 0, 0))
    assert abs(y.mean()) < 8e-3
    assert abs(y.var() - 1) < 1.2e-2
    exact = np.array([0.5 * (1 + math.erf(v / math.sqrt(2))) for v in np.sort(y)[::400]])
    assert np.abs(exact - np.arange(0, 1, 1e-3)).max() < 3.2e-3


@given(
    boxes, st.booleans(), st.booleans(), st.booleans(), st.sampled_from([1.0, 0.5]), origins, draws,
    st.sampled_from(["coin", "random", "plus", "minus", "zero"]), st.integers(0, 63),
)  # fmt: skip
def test_weighted_majority(ballots, abstain, plain, negative, forget, at, draw, ties, less):
    n, words = ballots.shape
    rng = np.random.default_rng(n + words)
    rounds = 9.0
    score = rng.integers(0, 10, (n, max(64 * words - less, 0))).astype(np.float32)
    box = np.stack([ballots, ballot_box(rng, n, words, "random")]) if abstain else ballots[None]
    rule = (plain, 4, 40.0, -40.0 if negative else 0.0, forget)
    out = planes(2 if ties == "zero" else 1, 64 * words)
    assert_same("weighted_majority", box, score, rounds, rule, at, ties, draw, out)


@given(vectors(), origins, draws, pieces)
def test_pack_stochastic_with_a_radius_each(v, at, draw, some):
    radii = np.abs(v[::-1]).copy() + np.float32(1e-20)
    assert_same("pack_stochastic_parts", v, radii, True, cut_up(at, len(v), some), at, draw, planes(1, len(v)))


@given(hnp.arrays(np.float32, st.integers(0, 300), elements=st.floats(width=32)))
def test_first_nonfinite(v):
    assert_same("first_nonfinite", v)


def test_first_nonfinite_beyond_a_block():
    v = np.ones(10_000, dtype=np.float32)
    v[9_001] = np.nan
    assert cpu.first_nonfinite(v) == 9_001


@given(boxes)
def test_count_ones(ballots):
    assert_same("count_ones", ballots[0])


@given(boxes, origins, pieces)
def test_differing_parts(ballots, at, count):
    a, b = ballots[0], ballots[-1]
    assert_same("differing_parts", a, b, cut_up(at, 64 * len(a), count), at)


@given(boxes)
def test_sums_of_fields_are_counts(ballots):
    n, words = ballots.shape
    width = n.bit_length()
    fields = np.zeros((n, -(-64 * words // (64 // width))), dtype=np.uint64)
    for ballot, row in zip(ballots, fields, strict=True):
        assert_same("spread", ballot, width, row)
        cpu.spread(ballot, width, row)
    total = fields.sum(axis=0, dtype=np.uint64)
    got = planes(width, 64 * words)
    assert_same("gather", total, width, got)
    cpu.gather(total, width, got)
    np.testing.assert_array_equal(got, counted(ballots))


@pytest.mark.parametrize("zeros", ["coin", "plus"])
def test_negative_zero_is_zero(zeros):
    v = np.array([0.0, -0.0] * 32, dtype=np.float32)
    out = planes(1, 64)
    assert cpu.pack(v, 0, zeros, Streams(1).coin("zero", 0), out) == (64, -1)


def test_a_coordinate_of_coins_is_back_after_two_steps():
    v = np.zeros(1000, dtype=np.float32)
    even, odd = planes(1, 1000), planes(1, 1000)
    cpu.pack(v, 0, "coin", Streams(5).coin("zero", 6, 2), even)
    cpu.pack(v, 0, "coin", Streams(5).coin("zero", 7, 2), odd)
    bits = reference.to_bits(even[0], 1000)
    np.testing.assert_array_equal(bits, ~reference.to_bits(odd[0], 1000))
    assert 400 < bits.sum() < 600


def test_stochastic_sign_is_unbiased():
    # mean of 4e5 draws of +-1: standard deviation below 1.6e-3, so five of them
    v = np.full(400_000, 0.3, dtype=np.float32)
    out = planes(1, len(v))
    cpu.pack_stochastic(v, 1.0, 0, Streams(9).draw("sign", 0, 0), out)
    assert abs(2 * reference.to_bits(out[0], len(v)).mean() - 1 - 0.3) < 8e-3


@pytest.mark.slow
def test_kernels_are_compiled_once_and_found_again():
    """A process that needs kernels which another one compiled adds nothing to numba's cache."""
    folder = Path(cpu.__file__).parent / "__pycache__"
    code = "from mpisign.bits.precompile import compile_ahead; compile_ahead(11)"
    found = []
    for _ in range(2):
        subprocess.run([sys.executable, "-c", code], check=True, timeout=100)
        found.append({file.name for file in folder.glob("*.nb?")})
    assert found[0] == found[1]
