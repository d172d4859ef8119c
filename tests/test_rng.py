"""Philox against its published known answers, and the independence that the streams promise."""

import numpy as np
import pytest

from mpisign.bits.rng import STREAMS, Streams, philox

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
