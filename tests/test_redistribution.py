"""Pieces of parameters as torch cuts them, and what a voter of several ranks asks of all."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mpisign.layout import Layout
from mpisign.optim.collective import INTERRUPT
from mpisign.optim.redistribution import pieces_of
from mpisign.optim.requests import DIFFERING, FAULT, of_voter

SHAPES = st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple), min_size=1, max_size=5)


@given(shapes=SHAPES, ranks=st.integers(1, 5))
def test_pieces_are_those_of_torch_chunk(shapes, ranks):
    layout = Layout({str(k): shape for k, shape in enumerate(shapes)})
    x = torch.arange(float(layout.length))
    views = layout.views(x)
    for rank in range(ranks):
        for view, (lo, hi) in zip(views.values(), pieces_of(layout, rank, ranks), strict=True):
            chunks = torch.chunk(view, ranks, dim=0)
            expected = chunks[rank].flatten() if rank < len(chunks) else torch.empty(0)
            assert torch.equal(x[lo:hi], expected)


@pytest.mark.parametrize(
    ("requests", "expected"),
    [
        ([5, 5], 5),
        ([5, 7], DIFFERING),
        ([5, FAULT], FAULT),
        ([5, 5 + INTERRUPT], 5 + INTERRUPT),
        ([FAULT + INTERRUPT, 9], FAULT + INTERRUPT),
        ([3, 9 + INTERRUPT], DIFFERING + INTERRUPT),
    ],
)
def test_a_voters_request_is_that_of_its_ranks(requests, expected):
    found = of_voter(np.array(requests, dtype=np.float64))
    assert found == expected
    assert int(float(found)) == found  # it travels as float64
