"""Beyond 2**31 coordinates, by arithmetic alone: no vector of that length is made."""

from math import prod
from types import SimpleNamespace

import numpy as np
import pytest

from mpisign import exchange
from mpisign.algorithms.formats import RAW, Planes
from mpisign.algorithms.votes import Majority
from mpisign.bits import fields_for, width
from mpisign.exchange.butterfly import Butterfly, path_of, radices_of
from mpisign.exchange.costs import Sizes, cut
from mpisign.layout import Layout

LARGE = [2**31 - 1, 2**31, 2**31 + 1, 2**33 + 12345]
INT = 2**31 - 1  # what an MPI count holds


def chunks_of(length, raw, parts=1):
    size = -(-exchange.coordinates_of(0, length, raw, parts) // 4096) * 4096
    return [(lo, min(lo + size, length)) for lo in range(0, length, size)]


@pytest.mark.parametrize("d", LARGE)
@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 1000, 10_000])
def test_shares_cover_everything_once(d, n):
    from mpisign.exchange.sharded import Sharded

    layout = Layout({"a": (63,), "x": (d,)})
    form = Planes(1)
    fake = SimpleNamespace(vote=Majority(), up=form, down=form, world=SimpleNamespace(n=n))
    chunks = chunks_of(layout.length, raw=False, parts=n)
    for lo, hi in (chunks[0], chunks[len(chunks) // 2], chunks[-1]):
        at = lo
        for rank in range(n):
            start, end = Sharded.shard_of(fake, rank, lo, hi)
            assert start == at <= end
            assert start % 64 == 0
            at = end
        assert at == hi
        assert form.items(hi - lo) <= INT  # words that an Alltoallv moves
    lo, hi = chunks_of(layout.length, raw=False)[0]
    assert form.items(hi - lo) * n <= INT  # words that an Allgather moves
    assert chunks[-1][1] == layout.length


@pytest.mark.parametrize("d", LARGE)
def test_layout_finds_its_places(d):
    layout = Layout({"a": (63,), "x": (d,), "b": (5,)})
    assert layout.size == d + 68
    assert layout.length % 64 == 0
    last = layout.spans(layout.length - 128, layout.length)
    assert [layout.segments[s.segment].name for s in last][-1] == "b"
    assert last[-1].words().stop == layout.length // 64
    assert layout.name_of(d + 63).startswith("x")
    assert layout.pads(0, layout.length) == layout.length - layout.size


@pytest.mark.parametrize("d", LARGE)
@pytest.mark.parametrize("name", ["sharded", "allgather", "allreduce", "hierarchical", "butterfly", "dense"])
def test_bytes_are_exact(d, name):
    raw, n = name == "dense", 7
    length = Layout({"x": (d,)}).length
    form = RAW if raw else Planes(1)
    sizes = Sizes(chunks_of(length, raw), form, form, Majority(), n, node_size=2)
    up, down = exchange.REGISTRY[name].cost(sizes)
    if name == "hierarchical":
        # of 7 ranks, nodes of 2, 2, 2 and 1: two planes of counts, or one, of what is not the node's share
        assert down == 3 * length // 8
        shares = [sum(end - lo for lo, end in (cut(*c, 64, 4, k) for c in chunks_of(length, raw))) for k in range(4)]
        assert up == sum(planes * (length - own) // 8 for planes, own in zip((2, 2, 2, 1), shares, strict=True))
        return
    each = {"sharded": length // 8, "butterfly": length // 8, "allgather": length // 8 * n, "dense": 4 * length}
    if name == "allreduce":
        words = sum(fields_for(hi - lo, n) for lo, hi in chunks_of(length, raw))
        assert up == down == n * (8 * words * (n - 1) // n)
        assert 64 // width(n) * words >= length
    else:
        assert up == (n - 1) * each[name]
        assert down == (0 if name == "allgather" else up)


def test_the_largest_chunk_fits_a_count():
    for raw, item in ((False, 64), (True, 1)):
        size = exchange.coordinates_of(1 << 30, 2**40, raw) // item
        assert size <= INT


def test_parts_of_a_chunk_do_not_become_small_with_many_ranks():
    for n in (8, 64, 1024, 10_000):
        (lo, hi), *_ = chunks_of(2**37, False, parts=n)
        assert (hi - lo) / 8 / n >= 1 << 14
    # as before where ranks are few
    assert [chunks_of(d, False, parts=4) == chunks_of(d, False) for d in (10**5, 10**7, 10**9)] == [True] * 3


def test_kernels_know_where_they_are():
    """Coins and draws at coordinates beyond 2**31 are those of these coordinates."""
    from mpisign.bits import cpu, reference
    from mpisign.bits.rng import Streams

    v, streams = np.zeros(640, dtype=np.float32), Streams(3)
    seen = set()
    for at in (0, 2**31, 2**32, 2**33 - 640):
        for name, draw in (("pack", streams.coin("zero", 1, 0)), ("pack_stochastic", streams.draw("sign", 1, 0))):
            words = [np.zeros((1, 10), dtype=np.uint64) for _ in range(2)]
            for module, out in zip((reference, cpu), words, strict=True):
                rest = (at, "coin", draw, out) if name == "pack" else (1.0, at, draw, out)
                getattr(module, name)(v, *rest)
            np.testing.assert_array_equal(*words)
            seen.add(words[0].tobytes())
    assert len(seen) == 8


@pytest.mark.parametrize("n", [1, 2, 7, 16, 97, 256, 1000, 4096, 10_000, 2**20])
def test_the_levels_of_a_butterfly_multiply_to_the_ranks(n):
    radices = radices_of(n)
    assert prod(radices) == n
    assert list(radices) == sorted(radices, reverse=True)
    if n in (256, 4096, 2**20):
        assert set(radices) == {16}


@pytest.mark.parametrize("n", [4, 6, 7, 12, 30, 128])
def test_the_ranks_of_a_butterfly_send_what_it_costs(n):
    """Each rank's own cuts against the formula over all of them; and their parts cover each chunk once."""
    form, chunks = Planes(2), [(0, 81_920), (81_920, 86_016), (86_016, 86_720)]
    up = down = 0
    for lo, hi in chunks:
        ends = []
        for rank in range(n):
            held, counted = hi - lo, 1
            for part, radix in zip(path_of(rank, (lo, hi), 64, radices_of(n)), radices_of(n), strict=True):
                own = part[1] - part[0]
                up += 2 * (width(counted) if counted > 1 else 1) * (held - own) // 8
                down += own * (radix - 1) // 8
                held, counted = own, counted * radix
            ends.append(part)
        assert sum(end - start for start, end in ends) == hi - lo
        assert sorted(ends)[0][0] == lo
    assert Butterfly.cost(Sizes(chunks, form, Planes(1), Majority(), n)) == (up, down)
