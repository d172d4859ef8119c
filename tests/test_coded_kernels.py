"""Messages that are not planes: the CPU kernels equal the obvious ones bit for bit, and mean what they claim."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mpisign import bits
from mpisign.bits import cpu, reference
from mpisign.bits.rng import Streams
from mpisign.bits.threads import LEAST
from tests import kernels
from tests.kernels import EXTREMES, cut_up, draws, pieces

few = settings(deadline=None, max_examples=40)

VALUES = {
    "any": [*EXTREMES, 1e-3, -0.3, 1.5e38, -2.5, 7e-41],
    "ties": [0.0, -0.0, 1.0, -1.0],
    "zeros": [0.0, -0.0],
    "bad": [*EXTREMES, np.nan, np.inf, -np.inf],
}


def vector(words, kind, seed):
    """float32 (64 * words,): normal draws, or values of a kind, most of the time in stretches of one bucket or more."""
    rng = np.random.default_rng(seed)
    v = rng.standard_normal(64 * words).astype(np.float32) * np.float32(10.0 ** rng.integers(-3, 4))
    if kind in VALUES:
        there = rng.random(v.shape) < rng.choice([0.01, 0.5, 1.0])
        v = np.where(there, rng.choice(np.array(VALUES[kind], dtype=np.float32), v.shape), v)
    return v


seeds = st.integers(0, 2**32)
lengths = st.sampled_from([0, 1, 2, 3, 37, 63, 64, 65, 100, 128, 131])
vectors = st.builds(vector, lengths, st.sampled_from(["normal", *VALUES]), seeds)
origins = st.integers(0, 2**20).map(lambda tile: 4096 * tile)
buckets = st.sampled_from([64, 128, 512, 2048, 4096])
counts = st.sampled_from([1, 2, 5, 41, 63, 64, 65, 1000, 4095, 4096])
weights = st.sampled_from([1.0, -1.0, 0.1, 0.0, 3e30])
norms = st.sampled_from(["l2", "max"])
schemes = st.one_of(
    st.builds(bits.Scheme, st.just("linear"), st.sampled_from([1, 3, 7, 16, 255]), buckets, norms),
    st.builds(bits.Scheme, st.just("powers"), st.sampled_from([1, 3, 7, 30, 127]), buckets, norms),
    st.just(bits.Scheme("exponents", 255, 4096, "max")),
    st.builds(bits.Scheme, st.just("whole"), st.sampled_from([1, 3, 7, 16, 255]), st.just(4096), st.just("max")),
)


def assert_same(name, *arguments):
    kernels.assert_same(name, *arguments, fast=lambda name, *given: getattr(cpu, name)(*given))


def dirty(words):
    """A message that still holds something else."""
    return np.full(words, 0xDEADBEEF_DEADBEEF, dtype=np.uint64)


def random_words(words, seed):
    return np.random.default_rng(seed).integers(0, 2**64, words, dtype=np.uint64)


def packed(name, *arguments, words):
    """What the kernel makes of them, the message being their last one."""
    message = dirty(words)
    getattr(cpu, name)(*arguments, message)
    return message


@few
@given(vectors, origins, schemes, draws)
def test_pack_quantised(v, at, scheme, draw):
    assert_same("pack_quantised", v, at, scheme, draw, dirty(scheme.words(len(v))))


@few
@given(vectors, origins, schemes, draws, weights, seeds)
def test_add_quantised(v, at, scheme, draw, weight, seed):
    """Of a message as it is packed, and of one that is noise."""
    total, words = vector(len(v) // 64, "any", seed), scheme.words(len(v))
    assert_same("add_quantised", total, packed("pack_quantised", v, at, scheme, draw, words=words), scheme, weight)
    assert_same("add_quantised", total, random_words(words, seed), scheme, weight)


@few
@given(vectors, origins, pieces, buckets, weights, seeds)
def test_two_means(v, at, some, bucket, weight, seed):
    parts, words = cut_up(at, len(v), some, seed), bits.two_means_words(len(v), bucket)
    total = vector(len(v) // 64, "any", seed)
    assert_same("pack_two_means", v, at, parts, bucket, dirty(words))
    for message in (packed("pack_two_means", v, at, parts, bucket, words=words), finite_pairs(words, seed)):
        assert_same("add_two_means", total, message, at, parts, bucket, weight)


def finite_pairs(words, seed):
    return np.random.default_rng(seed).standard_normal(2 * words).astype(np.float32).view(np.uint64)


@few
@given(vectors, counts, st.booleans(), origins, draws, weights, seeds)
def test_largest(v, k, signs, at, draw, weight, seed):
    words, total = bits.largest_words(k, len(v), signs), vector(len(v) // 64, "any", seed)
    assert_same("pack_largest", v, k, signs, at, draw, dirty(words))
    noise = random_words(words, seed) if signs else finite_pairs(words, seed)
    for message in (packed("pack_largest", v, k, signs, at, draw, words=words), noise):
        assert_same("add_largest", total, message, k, signs, weight)
        assert_same("clear_largest", total, message, k, signs)
        if signs:
            assert_same("planes_of_largest", message, k, dirty(2 * len(v) // 64).reshape(2, -1))


@few
@given(vectors, counts, weights, seeds)
def test_largest_means(v, k, weight, seed):
    words, total = bits.largest_means_words(k, len(v)), vector(len(v) // 64, "any", seed)
    assert_same("pack_largest_means", v, k, dirty(words))
    for message in (packed("pack_largest_means", v, k, words=words), finite_pairs(words, seed)):
        assert_same("add_largest_means", total, message, k, weight)


@few
@given(vectors, counts, st.booleans(), origins, draws, weights, seeds)
def test_chosen(v, k, unbiased, at, draw, weight, seed):
    words, total = bits.chosen_words(k, len(v)), vector(len(v) // 64, "any", seed)
    assert_same("pack_chosen", v, k, unbiased, at, draw, dirty(words))
    message = packed("pack_chosen", v, k, unbiased, at, draw, words=words)
    assert_same("add_chosen", total, message, k, at, draw, weight)


@few
@given(vectors, st.floats(0, 1), st.integers(0, 3), weights, seeds)
def test_greatest(v, share, spare, weight, seed):
    k, total = round(share * len(v)), vector(len(v) // 64, "any", seed)
    assert_same("pack_greatest", v, k, dirty(1 + k + spare))
    message = packed("pack_greatest", v, k, words=1 + k + spare)
    assert_same("add_entries", total, message, weight)
    assert_same("clear_entries", total, message)


@few
@given(vectors, origins, st.sampled_from([0.0, 1e-4, 0.3, 1.0, 1e30]), st.integers(1, 9000), draws, weights, seeds)
def test_drawn(v, at, c, room, draw, weight, seed):
    assert_same("pack_drawn", v, at, c, draw, dirty(room))
    message = packed("pack_drawn", v, at, c, draw, words=room)
    assert_same("add_entries", vector(len(v) // 64, "any", seed), message, weight)


@few
@given(vectors, st.integers(1, 9), st.integers(-2, 11), seeds)
def test_entries_that_are_wrong(total, room, count, seed):
    """Numbers of entries that do not fit, places that are far away."""
    message = random_words(room, seed)
    message[0] = np.int64(count).view(np.uint64)
    message[1::2] &= np.uint64(0x3F8000000000007F)
    assert_same("clear_entries", total, message)
    values = message[1:].view(np.float32)[1::2]
    values[~np.isfinite(values)] = 1
    assert_same("add_entries", total, message, 1.0)


@pytest.mark.parametrize("scheme", [("linear", 1, 512, "max"), ("linear", 7, 512, "l2"), ("powers", 7, 512, "l2")])
def test_levels_are_unbiased(scheme):
    """Over 4000 steps the mean of each coordinate is v, within six standard deviations of the coarsest rounding."""
    scheme, steps = bits.Scheme(*scheme), 4000
    v, total = vector(1, "normal", 3), np.zeros(64, dtype=np.float32)
    v /= np.abs(v).max()
    message = dirty(scheme.words(64))
    for step in range(steps):
        cpu.pack_quantised(v, 0, scheme, Streams(1).draw("sign", step, 0), message)
        cpu.add_quantised(total, message, scheme, 1 / steps)
    norm = np.linalg.norm(v) if scheme.norm == "l2" else 1.0
    assert np.abs(total - v).max() < 6 * 0.5 * norm / np.sqrt(steps)


def test_powers_of_two_survive_and_others_go_to_a_neighbour():
    scheme, draw = bits.Scheme("exponents", 255, 4096, "max"), Streams(1).draw("sign", 3, 0)
    v = np.ldexp(np.float32(1), np.arange(-60, 68)).astype(np.float32)
    v[::3] *= -1
    for factor in (1.0, 1.25):
        total = np.zeros_like(v)
        cpu.add_quantised(
            total, packed("pack_quantised", v * factor, 0, scheme, draw, words=scheme.words(128)), scheme, 1
        )
        assert set(np.unique(total / v)) == ({1.0} if factor == 1 else {1.0, 2.0})


@pytest.mark.parametrize("levels", [1, 3, 4, 31, 255])
def test_whole_numbers_arrive_as_they_are(levels):
    """All of them, in as many bits as 2*levels + 1 of them take; sums are exact, and what is beyond is cut off."""
    scheme, draw = bits.Scheme("whole", levels, 4096, "max"), Streams(1).draw("sign", 3, 0)
    v = np.arange(4160, dtype=np.float32) % (2 * levels + 1) - levels
    words = scheme.words(len(v))
    assert words == 65 * int(np.ceil(np.log2(2 * levels + 1)))
    total = np.zeros_like(v)
    for _ in range(3):
        cpu.add_quantised(total, packed("pack_quantised", v, 0, scheme, draw, words=words), scheme, 1.0)
    np.testing.assert_array_equal(total, 3 * v)
    total[:] = 0
    cpu.add_quantised(total, packed("pack_quantised", 1000 * v, 0, scheme, draw, words=words), scheme, 1.0)
    np.testing.assert_array_equal(total, np.clip(1000 * v, -levels, levels))


def test_what_is_not_finite_is_read_as_nan():
    """A bucket for levels and means of a side; only the coordinate itself where none is."""
    v, draw, parts = np.ones(256, dtype=np.float32), Streams(1).draw("sign", 3, 0), np.array([[0], [256], [0]])
    v[70] = np.inf
    for scheme in (bits.Scheme("linear", 7, 64, "max"), bits.Scheme("powers", 7, 64, "l2")):
        total = np.zeros_like(v)
        message = packed("pack_quantised", v, 0, scheme, draw, words=scheme.words(256))
        cpu.add_quantised(total, message, scheme, 1.0)
        assert np.isnan(total[64:128]).all()
        assert np.isfinite(np.delete(total, slice(64, 128))).all()
    v[70] = np.nan
    for scheme in (bits.Scheme("exponents", 255, 4096, "max"), bits.Scheme("whole", 3, 4096, "max")):
        total = np.zeros_like(v)
        message = packed("pack_quantised", v, 0, scheme, draw, words=scheme.words(256))
        cpu.add_quantised(total, message, scheme, 1.0)
        assert np.flatnonzero(np.isnan(total)).tolist() == [70]
    total[:] = 0
    message = packed("pack_two_means", v, 0, parts, 64, words=bits.two_means_words(256, 64))
    cpu.add_two_means(total, message, 0, parts, 64, 1.0)
    assert np.flatnonzero(np.isnan(total)).tolist() == [70]


def test_two_bits_say_a_sign_and_the_mean_of_a_half():
    v = np.zeros(4096, dtype=np.float32)
    v[[3, 70, 900, 4000]] = 8.0, -7.0, 1.0, -2.0
    message, total = packed("pack_largest_means", v, 4, words=bits.largest_means_words(4, 4096)), np.zeros_like(v)
    assert len(message) == 1 + 1 + 2
    cpu.add_largest_means(total, message, 4, 1.0)
    assert np.flatnonzero(total).tolist() == [3, 70, 900, 4000]
    assert total[[3, 70, 900, 4000]].tolist() == [7.5, -7.5, 1.5, -1.5]
    v[5] = np.nan
    cpu.add_largest_means(total, packed("pack_largest_means", v, 4, words=4), 4, 1.0)
    assert np.isnan(total).any()


def test_largest_are_the_largest():
    """Against numpy's own partition, where no two sizes are equal."""
    v = vector(128, "normal", 5)
    message, total = packed("pack_largest", v, 41, False, 0, None, words=bits.largest_words(41, 8192, False)), 0 * v
    cpu.add_largest(total, message, 41, False, 1.0)
    for tile, sparse in zip(v.reshape(2, -1), total.reshape(2, -1), strict=True):
        kept = np.argpartition(-np.abs(tile), 41)[:41]
        np.testing.assert_array_equal(sparse[kept], tile[kept])
        assert np.count_nonzero(sparse) == 41


def test_chosen_are_unbiased():
    """v times how often each coordinate was chosen, within six standard deviations of 64/k draws."""
    steps, v, total = 4000, np.ones(64, dtype=np.float32), np.zeros(64, dtype=np.float32)
    for step in range(steps):
        draw = Streams(1).draw("sign", step)
        cpu.add_chosen(total, packed("pack_chosen", v, 640, True, 0, draw, words=5), 640, 0, draw, 1 / steps)
    assert bits.kept(640, 64) == 10
    assert np.abs(total - 1).max() < 6 * np.sqrt((6.4 - 1) / steps)


def test_drawn_are_unbiased():
    steps, v, total = 4000, np.full(64, -0.3, dtype=np.float32), np.zeros(64, dtype=np.float32)
    for step in range(steps):
        message = packed("pack_drawn", v, 0, 1.0, Streams(1).draw("sign", step, 0), words=65)
        cpu.add_entries(total, message, 1 / steps)
    assert np.abs(total + 0.3).max() < 6 * np.sqrt(0.3 * 0.7 / steps)


@pytest.fixture
def three_threads():
    bits.use_threads(3)
    yield
    bits.use_threads(1)


def test_threads_change_no_bit(three_threads):
    """Each kernel in three slices equals itself in one, which equals its definition."""
    d, draw = 3 * LEAST + 4096 + 640, Streams(1).draw("sign", 3, 2)
    v, total, parts = vector(d // 64, "ties", 1), vector(d // 64, "any", 2), cut_up(8192, d, 7)
    scheme = bits.Scheme("linear", 7, 512, "l2")
    for name, words, pack, add in (
        ("quantised", scheme.words(d), (8192, scheme, draw), (scheme, 0.3)),
        ("two_means", bits.two_means_words(d, 512), (8192, parts, 512), (8192, parts, 512, 0.3)),
        ("largest", bits.largest_words(41, d, False), (41, False, 8192, draw), (41, False, 0.3)),
        ("largest", bits.largest_words(41, d, True), (41, True, 8192, draw), (41, True, 0.3)),
        ("chosen", bits.chosen_words(41, d), (41, True, 8192, draw), (41, 8192, draw, 0.3)),
    ):
        message, moved = torch.from_numpy(dirty(words).view(np.int64)), torch.from_numpy(total.copy())
        getattr(bits, f"pack_{name}")(torch.from_numpy(v), *pack, message)
        getattr(bits, f"add_{name}")(moved, message, *add)
        expected, alone = packed(f"pack_{name}", v, *pack, words=words), total.copy()
        getattr(cpu, f"add_{name}")(alone, expected, *add)
        np.testing.assert_array_equal(message.numpy().view(np.uint64), expected)
        np.testing.assert_array_equal(moved.numpy().view(np.uint32), alone.view(np.uint32))


def test_sizes():
    assert [bits.Scheme("linear", s, 512, "l2").planes for s in (1, 3, 7, 15)] == [2, 3, 4, 5]
    assert bits.Scheme("linear", 7, 512, "l2").words(4096 + 576) == (4 + 4 * 64) + (1 + 4 * 9)
    assert bits.Scheme("exponents", 255, 4096, "max").words(8192) == 2 * 9 * 64
    assert bits.two_means_words(4096 + 576, 512) == (8 + 64) + (2 + 9)
    assert [bits.kept(41, size) for size in (4096, 64, 640)] == [41, 1, 7]
    assert bits.largest_words(41, 4096 + 64, False) == (8 + 21) + (1 + 1)
    assert bits.largest_words(41, 4096 + 64, True) == (8 + 1) + (1 + 1)
    assert bits.chosen_words(41, 4096 + 64) == 21 + 1


def test_reference_has_all_of_the_kernels():
    named = {*reference.quantised.__all__, *reference.sparse.__all__}
    assert named == {*cpu.quantised.__all__, *cpu.sparse.__all__}
    assert all(hasattr(bits, name) for name in named)
