"""Segments, spans and tiles: every parameter on a word of its own, pads left out of everything."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mpisign.layout import Layout

sizes = st.lists(st.integers(0, 9000), min_size=1, max_size=6)


@given(sizes)
def test_segments_start_on_words_and_pads_are_the_rest(numbers):
    layout = Layout({f"p{i}": (n,) for i, n in enumerate(numbers)})
    assert all(s.offset % 64 == 0 for s in layout.segments)
    assert layout.size == sum(numbers)
    assert layout.length == sum(-(-n // 64) * 64 for n in numbers)
    assert layout.pads(0, layout.length) == layout.length - layout.size


@given(sizes, st.integers(0, 5), st.integers(1, 7))
def test_spans_and_tiles_cover_each_coordinate_once(numbers, first, count):
    layout = Layout({f"p{i}": (n,) for i, n in enumerate(numbers)})
    lo, hi = min(4096 * first, layout.length), min(4096 * (first + count), layout.length)
    owner = np.full(layout.length, -1)
    for i, s in enumerate(layout.segments):
        owner[s.offset : s.end] = i
    for pieces in ([(s.lo, s.hi, s.segment) for s in layout.spans(lo, hi)], layout.tiles(lo, hi).T.tolist()):
        seen = np.full(layout.length, -1)
        for a, b, segment in pieces:
            assert (seen[a:b] == -1).all()
            seen[a:b] = segment
        np.testing.assert_array_equal(seen[lo:hi], owner[lo:hi])
    assert all(b - a <= 4096 and a // 4096 == (b - 1) // 4096 for a, b, _ in layout.tiles(lo, hi).T)


def test_norms_and_means_leave_pads_out():
    layout = Layout({"a": (3,), "b": (2, 2)})
    x = torch.full((layout.length,), 7.0)
    for view, value in zip(layout.views(x).values(), (2.0, -1.0), strict=True):
        view.fill_(value)
    from mpisign import bits

    assert layout.norm(x) == pytest.approx((3 * 4 + 4) ** 0.5)
    assert layout.mean_magnitudes(bits.tile_sums(x, layout.tiles(0, layout.length))).tolist() == [2.0, 1.0]


def test_sums_of_tiles_are_added_in_their_order():
    """Float64 sums depend on it: 1 is lost beside 1e20, unless it comes last."""
    layout = Layout({"a": (5,), "b": (3 * 4096,)})
    assert layout.tiles(0, layout.length)[2].tolist() == [0, 1, 1, 1, 1]
    assert layout.block_sums(np.array([7.0, 1e20, -1e20, 1.0, 1.0])).tolist() == [7.0, 2.0]
    assert layout.block_sums(np.array([7.0, 1.0, 1e20, -1e20, 1.0])).tolist() == [7.0, 1.0]


def test_a_digest_sees_every_parameter_and_no_pad():
    layout = Layout({"a": (3,), "b": (5,)})
    x = layout.zeros()
    before = layout.digest(x)
    x[40] = 1.0  # a pad
    assert layout.digest(x) == before
    x[66] = -0.0  # equal as a number, other bits
    assert layout.digest(x) != before


def test_coordinates_have_names():
    layout = Layout({"weight": (2, 3), "bias": ()})
    assert layout.name_of(4) == "weight[1, 1]"
    assert layout.name_of(64) == "bias[0]"
