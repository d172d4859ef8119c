"""What tests of kernels share: inputs of all kinds, and the comparison with reference, bit for bit."""

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mpisign.bits import reference
from mpisign.bits.rng import Streams

EXTREMES = [0.0, -0.0, 1e-45, -1e-45, 1.1754942e-38, 3.4028235e38, -3.4028235e38, 1.0, -1.0, 0.5]


def vectors(max_size=300):
    """Float32 vectors of any length from 0 up, full of zeros, negative zeros, denormals and extremes."""
    elements = st.one_of(
        st.sampled_from([np.float32(e) for e in EXTREMES]),
        st.floats(width=32, allow_nan=False, allow_infinity=False),
    )
    return hnp.arrays(np.float32, st.integers(0, max_size), elements=elements)


origins = st.integers(0, 2**27).map(lambda w: 64 * w)
draws = st.builds(
    lambda seed, step, voter: Streams(seed).coin("zero", step, voter),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
)
voters = st.integers(1, 70)


def cut_up(at, d, pieces, seed=0):
    """Parts of a vector of d coordinates that starts at `at`: gaps between them, the first and last beyond its ends."""
    rng, found, lo = np.random.default_rng(seed), [], at - 64 * (at > 0)
    for segment in range(pieces):
        hi = lo + int(rng.integers(1, max(2 * d // pieces, 2)))
        found.append((lo, hi, segment))
        lo = -(-hi // 64) * 64
    return np.array(found, dtype=np.int64).reshape(-1, 3).T.copy()


pieces = st.integers(0, 5)


def planes(count, d):
    return np.full((count, -(-d // 64)), 0xDEADBEEF, dtype=np.uint64)


def both(name, *arguments, fast):
    """Calls the kernel and its definition on copies; returns both sets of arguments and results."""
    sides = []
    for call in (lambda *given: getattr(reference, given[0])(*given[1:]), fast):
        copies = [a.copy() if isinstance(a, np.ndarray) else a for a in arguments]
        sides.append((call(name, *copies), copies))
    return sides


def assert_same(name, *arguments, fast):
    (expected, left), (got, right) = both(name, *arguments, fast=fast)
    assert expected == got
    for a, b in zip(left, right, strict=True):
        if isinstance(a, np.ndarray):
            np.testing.assert_array_equal(a.view(np.uint8), b.view(np.uint8))


def ballot_box(rng, n, words, kind):
    """Random ballots; "tied" ones split evenly wherever n is even."""
    ballots = rng.integers(0, 2**64, (n, words), dtype=np.uint64)
    if kind == "tied":
        ballots[n // 2 : n // 2 * 2] = ~ballots[: n // 2]
    if kind == "unanimous":
        ballots[:] = ballots[0]
    return ballots


boxes = st.builds(
    lambda seed, n, words, kind: ballot_box(np.random.default_rng(seed), n, words, kind),
    st.integers(0, 2**32),
    voters,
    st.integers(0, 9),
    st.sampled_from(["random", "tied", "unanimous"]),
)


def counted(ballots):
    """The ballots of one plane as a tally, with some voters abstaining from some coordinates if asked."""
    n = len(ballots)
    plus = planes(n.bit_length(), 64 * ballots.shape[1])
    reference.count(ballots, plus)
    return plus
