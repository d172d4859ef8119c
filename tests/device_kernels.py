"""The GPU's kernels equal the obvious ones, bit for bit, on the device that the fixture names.

tests/test_triton.py runs all of this on the CPU, under Triton's interpreter, and tests/gpu on a GPU.
"""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mpisign import bits
from mpisign.bits import cuda, reference
from mpisign.bits.rng import Streams
from tests import kernels
from tests.kernels import ballot_box, boxes, counted, cut_up, draws, origins, pieces, planes, vectors

few = settings(deadline=None, max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
rules = st.sampled_from(["coin", "random", "plus", "minus", "abstain"])

# which arguments of reference's functions are tensors; all else stays as it is
TENSORS = {
    "pack": (0, 4), "pack_parts": (0, 5), "pack_scaled_parts": (0, 6), "pack_stochastic": (0, 4),
    "pack_stochastic_parts": (0, 6), "count": (0, 1), "count_weighted": (0, 2), "add": (0, 1),
    "majority": (0, 1, 6), "majority_of_ballots": (0, 4), "codes": (0, 1, 3),
    "randomised_majority": (0, 1, 5), "agreement": (0, 1), "apply": (0, 1), "blend": (0, 1), "add_signed": (0, 1),
    "add_levels": (0, 1), "count_ones": (0,), "spread": (0, 2), "gather": (0, 2), "weighted_majority": (0, 1, 7),
    "pack_quantised": (0, 4), "add_quantised": (0, 1), "pack_two_means": (0, 4), "add_two_means": (0, 1),
    "pack_largest": (0, 5), "add_largest": (0, 1), "clear_largest": (0, 1), "planes_of_largest": (0, 2),
    "pack_largest_means": (0, 2), "add_largest_means": (0, 1),
    "pack_chosen": (0, 5), "add_chosen": (0, 1), "pack_greatest": (0, 2), "pack_drawn": (0, 4), "add_entries": (0, 1),
    "clear_entries": (0, 1), "round_stochastic": (0, 3),
}  # fmt: skip


def to_tensor(array, device):
    if array is None:
        return None
    tensor = torch.from_numpy(array.view(np.int64) if array.dtype == np.uint64 else array)
    # at an odd place of a wider array, as a chunk's shard is
    room = torch.zeros((*tensor.shape[:-1], tensor.shape[-1] + 128), dtype=tensor.dtype, device=device)
    here = room[..., 64 : 64 + tensor.shape[-1]]
    here.copy_(tensor)
    return here


@pytest.fixture
def assert_same(device):
    def on_device(name, *given):
        given = list(given)
        tensors = TENSORS[name]
        if name == "pack_stochastic_parts":
            if given.pop(2):  # whether each coordinate has a radius
                given[1] = to_tensor(given[1], device)
            tensors = (0, 5)
        there = [to_tensor(a, device) if k in tensors else a for k, a in enumerate(given)]
        found = getattr(cuda, name)(*there)
        for k in tensors:
            if given[k] is not None:
                given[k][...] = there[k].cpu().numpy().view(given[k].dtype)
        return found

    return lambda name, *given: kernels.assert_same(name, *given, fast=on_device)


@few
@given(vectors(), origins, draws, rules, pieces)
def test_pack(assert_same, v, at, draw, zeros, some):
    words = planes(2 if zeros == "abstain" else 1, len(v))
    assert_same("pack", v, at, zeros, draw, words)
    assert_same("pack_parts", v, cut_up(at, len(v), some), at, zeros, draw, words)
    scales = np.float32(1e-3) * np.arange(some, dtype=np.float32)
    assert_same("pack_scaled_parts", v, scales, cut_up(at, len(v), some), at, zeros, draw, words)


@few
@given(vectors(), origins, draws, st.sampled_from([0.0, 1e-45, 1.0, 1e38]), st.integers(1, 2), pieces)
def test_pack_stochastic(assert_same, v, at, draw, radius, count, some):
    assert_same("pack_stochastic", v, radius, at, draw, planes(count, len(v)))
    radii, parts = np.full(some, radius, dtype=np.float32), cut_up(at, len(v), some)
    assert_same("pack_stochastic_parts", v, radii, False, parts, at, draw, planes(count, len(v)))
    each = np.abs(v[::-1]).copy() + np.float32(1e-20)
    assert_same("pack_stochastic_parts", v, each, True, parts, at, draw, planes(count, len(v)))


@few
@given(vectors(), st.integers(0, 299), st.sampled_from([np.nan, np.inf, -np.inf]), draws)
def test_packing_tells_what_is_not_finite(assert_same, v, where, value, draw):
    v[where:][:1] = value
    v[where + 70 :][:1] = -np.inf
    for parts in (np.array([[0], [len(v)], [0]]), cut_up(0, len(v), 4)):
        assert_same("pack_parts", v, parts, 0, "coin", draw, planes(1, len(v)))
        assert_same("pack_stochastic_parts", v, np.ones_like(v), True, parts, 0, draw, planes(1, len(v)))
    assert cuda.first_nonfinite(torch.from_numpy(v)) == reference.first_nonfinite(v)


def test_several_programs_at_once(assert_same):
    """More coordinates than one program takes, in parts that programs share."""
    rng, d, draw = np.random.default_rng(5), 13_001, Streams(1).coin("zero", 3, 2)
    v = rng.standard_normal(d).astype(np.float32)
    v[rng.integers(0, d, 999)] = 0
    parts, words = cut_up(640, d, 7), planes(2, d)
    for call in (
        ("pack_parts", v, parts, 640, "abstain", draw, words),
        ("pack_parts", v, parts, 640, "coin", draw, words[:1]),
        ("pack_stochastic_parts", v, np.full(7, 2, np.float32), False, parts, 640, draw, words),
        ("apply", v, words, parts, 640, rng.standard_normal((7, 4)).astype(np.float32), np.full(7, 0.9, np.float32)),
        ("add_signed", v, words, 0.3),
        ("blend", v, v[::-1].copy(), 0.9, 0.1),
        ("round_stochastic", v, 640, draw, np.empty(d, dtype=np.int16)),
    ):
        assert_same(*call)


@pytest.mark.parametrize("zeros", ["coin", "abstain"])
def test_rows_of_several_voters(device, zeros):
    rng, d, draw = np.random.default_rng(2), 5_000, Streams(1).coin("zero", 3, 4)
    v = rng.standard_normal((3, d)).astype(np.float32)
    v[:, ::7] = 0
    parts, two = cut_up(0, d, 3), 2 if zeros == "abstain" else 1
    packed = torch.zeros((two, 3, -(-d // 64)), dtype=torch.int64, device=device)
    stochastic = torch.zeros_like(packed)
    rows = torch.from_numpy(v).to(device)
    count, bad = cuda.pack_parts(rows, parts, 0, zeros, draw, packed)
    radii = np.ones(3, dtype=np.float32)
    clips, _ = cuda.pack_stochastic_parts(rows, radii, parts, 0, draw, stochastic)
    noisy = rows.clone()
    cuda.add_normal(noisy, 0.5, 0, draw)
    counts = np.zeros(2, dtype=int)
    for voter in range(3):
        own = Streams(1).coin("zero", 3, 4 + voter)
        expected = np.zeros((2, two, -(-d // 64)), dtype=np.uint64)
        counts += reference.pack_parts(v[voter], parts, 0, zeros, own, expected[0])[0], 0
        counts += 0, reference.pack_stochastic_parts(v[voter], radii, False, parts, 0, own, expected[1])[0]
        for got, wanted in zip((packed, stochastic), expected, strict=True):
            np.testing.assert_array_equal(got[:, voter].cpu().numpy().view(np.uint64), wanted)
        wanted = v[voter].copy()
        reference.add_normal(wanted, 0.5, 0, own)
        np.testing.assert_allclose(noisy[voter].cpu().numpy(), wanted, rtol=3e-7, atol=3e-7)
    assert (count, clips, bad) == (*counts.tolist(), -1)


@few
@given(boxes, st.booleans(), origins, draws, st.sampled_from(["coin", "random", "plus", "minus", "zero"]))
def test_votes(assert_same, ballots, abstain, at, draw, ties):
    n, words = ballots.shape
    assert_same("count", ballots, planes(n.bit_length(), 64 * words))
    weights = tuple(np.random.default_rng(at).integers(1, 16, n).tolist())
    assert_same("count_weighted", ballots, weights, planes(sum(weights).bit_length(), 64 * words))
    plus, minus = counted(ballots), None
    if abstain:
        present = ballot_box(np.random.default_rng(1), n, words, "random")
        plus, minus = counted(ballots & present), counted(~ballots & present)
    verdict = planes(2 if ties == "zero" else 1, 64 * words)
    assert_same("majority", plus, minus, n, at, ties, draw, verdict)
    if n <= bits.AT_ONCE:
        assert_same("majority_of_ballots", ballots, at, ties, draw, verdict, True)


def test_what_goes_over_the_host(assert_same):
    ballots, draw = ballot_box(np.random.default_rng(1), 5, 9, "random"), Streams(1).draw("server", 3)
    plus, fields = counted(ballots), np.zeros(bits.fields_for(64 * 9, 5), dtype=np.uint64)
    assert_same("count", np.tile(ballots, (60, 1)), planes(9, 64 * 9))
    assert_same("add", plus, plus[:1] & plus[1:2])
    assert_same("codes", plus, None, 5, planes(3, 64 * 9))
    assert_same("agreement", plus, None, 5)
    assert_same("randomised_majority", plus, None, 5, 640, draw, planes(1, 64 * 9))
    rule, score = (False, 4, 40.0, -40.0, 1.0), np.full((5, 64 * 9), 3, dtype=np.float32)
    assert_same("weighted_majority", ballots[None], score, 9.0, rule, 640, "coin", draw, planes(1, 64 * 9))
    assert cuda.count_ones(torch.from_numpy(ballots[0].view(np.int64))) == reference.count_ones(ballots[0])
    expected = fields.copy()
    reference.spread(plus[0], 3, expected)
    got = torch.from_numpy(fields.view(np.int64))
    cuda.spread(torch.from_numpy(plus[0].view(np.int64)), 5, got)
    np.testing.assert_array_equal(got.numpy().view(np.uint64), expected)


def test_messages_that_are_not_planes_go_over_the_host(assert_same):
    rng, d, draw = np.random.default_rng(3), 4096 + 128, Streams(1).draw("sign", 3, 2)
    v, scheme, parts = rng.standard_normal(d).astype(np.float32), bits.Scheme("linear", 3, 512, "l2"), cut_up(0, d, 3)

    def message(words):
        return np.ones(words, dtype=np.uint64)

    assert_same("pack_quantised", v, 0, scheme, draw, message(scheme.words(d)))
    assert_same("add_quantised", v, message(scheme.words(d)), scheme, 0.5)
    assert_same("pack_two_means", v, 0, parts, 512, message(bits.two_means_words(d, 512)))
    assert_same("add_two_means", v, message(bits.two_means_words(d, 512)), 0, parts, 512, 0.5)
    largest, chosen = message(bits.largest_words(41, d, True)), message(bits.chosen_words(41, d))
    assert_same("pack_largest", v, 41, True, 0, draw, largest)
    assert_same("add_largest", v, largest, 41, True, 0.5)
    means = message(bits.largest_means_words(41, d))
    assert_same("pack_largest_means", v, 41, means)
    assert_same("add_largest_means", v, means, 41, 0.5)
    assert_same("clear_largest", v, largest, 41, True)
    assert_same("planes_of_largest", largest, 41, planes(2, d))
    assert_same("pack_chosen", v, 41, True, 0, draw, chosen)
    assert_same("add_chosen", v, chosen, 41, 0, draw, 0.5)
    assert_same("pack_greatest", v, 5, message(9))
    assert_same("pack_drawn", v, 0, 0.1, draw, message(d))
    assert_same("add_entries", v, message(9), 0.5)
    assert_same("clear_entries", v, message(9))


@few
@given(vectors(), origins, st.integers(1, 5), pieces, st.integers(0, 2**32))
def test_apply(assert_same, x, at, count, some, seed):
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 2**64, (count, -(-len(x) // 64)), dtype=np.uint64)
    tables = rng.standard_normal((some, 2**count)).astype(np.float32)
    decays = rng.choice(np.array([1.0, 0.99, 0.5], dtype=np.float32), some)
    assert_same("apply", x, codes, cut_up(at, len(x), some), at, tables, decays)
    assert_same("add_levels", x, codes, rng.standard_normal(2**count).astype(np.float32))


@few
@given(vectors(), st.floats(0, 1, width=32), st.integers(1, 2))
def test_sums_of_floats(assert_same, y, a, count):
    assert_same("blend", y, y[::-1].copy(), a, 1 - a)
    words = np.random.default_rng(len(y)).integers(0, 2**64, (count, -(-len(y) // 64)), dtype=np.uint64)
    assert_same("add_signed", y, words, a)


@few
@given(vectors(), origins, draws)
def test_round_stochastic(assert_same, v, at, draw):
    v[::7][:1] = np.inf
    v[1::7][:1] = np.uint32(0xFF800001).view(np.float32)
    assert_same("round_stochastic", v, at, draw, np.full(len(v), -1, dtype=np.int16))


def test_apply_is_two_roundings_and_no_fused_multiply_add(assert_same):
    rng = np.random.default_rng(3)
    x = rng.standard_normal(20_000).astype(np.float32)
    words = rng.integers(0, 2**64, (1, 313), dtype=np.uint64)
    tables, decays = np.array([[-1e-3, 1e-3]], dtype=np.float32), np.array([0.9999], dtype=np.float32)
    assert_same("apply", x, words, np.array([[0], [len(x)], [0]]), 0, tables, decays)
    assert_same("blend", x, x[::-1].copy(), 0.9, 0.1)


def test_tiles(device):
    rng, d = np.random.default_rng(4), 4096 * 19 + 777
    y, x, factors = *rng.standard_normal((2, d)).astype(np.float32), np.array([0.3, 0.7], dtype=np.float32)
    tiles = np.array([(lo, min(lo + 4096, d), lo // 4096 % 2) for lo in range(0, d, 4096)]).T.copy()
    there, sums = torch.tensor(y, device=device), np.empty(tiles.shape[1])
    for squares in (False, True):
        reference.tile_sums(y, tiles, squares, sums)
        np.testing.assert_array_equal(cuda.tile_sums(there, tiles, squares), sums)
    reference.tile_maxima(y, tiles, sums)
    np.testing.assert_array_equal(cuda.tile_maxima(there, tiles), sums)
    got = cuda.add_and_sum(there, torch.from_numpy(x).to(device), factors, tiles)
    reference.add_and_sum(y, x, factors, tiles, sums)
    np.testing.assert_array_equal(got, sums)
    np.testing.assert_array_equal(there.cpu().numpy(), y)
    assert len(cuda.tile_sums(there, np.zeros((3, 0), dtype=np.int64))) == 0
