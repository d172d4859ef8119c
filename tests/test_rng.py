"""Philox against its published known answers, and the independence that the streams promise."""

from statistics import NormalDist
from types import SimpleNamespace

import numpy as np
import pytest

from mpisign import bits
from mpisign.bits import gaussian
from mpisign.bits.rng import NO_VOTER, STREAMS, Streams, philox
from tests.reference.arithmetic import Randomness

# philox4x32-10 of the kat_vectors file that comes with Random123 (Salmon et al. 2011)
KNOWN_ANSWERS = [
    ([0, 0, 0, 0], [0, 0], [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_philox_known_answers(counter, key, expected):
    assert philox(np.array(counter), tuple(key)).tolist() == expected


def test_blocks_do_not_depend_on_where_a_chunk_starts():
    draw = Streams(2**63 + 5).draw("sign", 7, 3)
    np.testing.assert_array_equal(draw.blocks(0, 20)[13:], draw.blocks(13, 7))


def test_seed_step_voter_and_stream_all_matter():
    base = Streams(1).draw("sign", 2, 3)
    others = [
        Streams(2).draw("sign", 2, 3),
        Streams(1 + 2**32).draw("sign", 2, 3),
        Streams(1).draw("sign", 3, 3),
        Streams(1).draw("sign", 2, 4),
        Streams(1).draw("sign", 2),
        Streams(1).draw("noise", 2, 3),
    ]
    assert len({base.blocks(0, 1).tobytes()} | {o.blocks(0, 1).tobytes() for o in others}) == 7


def test_streams_have_numbers_of_their_own():
    assert len(set(STREAMS.values())) == len(STREAMS)


def test_common_normals_are_the_inverse_of_the_distribution():
    draw = Streams(5).draw("direction", 3)
    z = bits.common_normals(20_001, draw).numpy()
    p = (draw.blocks(0, 5001).reshape(-1)[: len(z)] + 0.5) / 2.0**32
    np.testing.assert_allclose(z, [NormalDist().inv_cdf(float(each)) for each in p], rtol=1.2e-7)
    # the far ends too, which few draws reach
    ends = np.array([0, 1, 2**20, 2**31, 2**32 - 1], dtype=np.uint32)
    far = gaussian.normals(len(ends), SimpleNamespace(blocks=lambda first, count: np.resize(ends, (count, 4))))
    wanted = [NormalDist().inv_cdf((float(end) + 0.5) / 2.0**32) for end in ends]
    np.testing.assert_allclose(far, wanted, rtol=1.2e-7)


def test_common_normals_are_those_of_slow_floats():
    run = Randomness(7)
    z = bits.common_normals(3000, Streams(7).draw("low rank", 2))
    assert z.tolist() == [run.common_normal(i, 2, NO_VOTER, "low rank") for i in range(3000)]
