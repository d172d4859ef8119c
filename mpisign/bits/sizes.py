"""Sizes of messages that are not planes: how many words a number of coordinates takes.

Such a message is cut into tiles of 4096 coordinates, of which the last may be shorter; the messages of the tiles
follow one another. Coordinates are a multiple of 64.
"""

from typing import NamedTuple

TILE = 4096  # coordinates of a tile
WORD = 64  # coordinates of a word
AT_ONCE = 16  # voters whose ballots a kernel of the CPU counts and decides in one pass
PLACE = 12  # bits of a coordinate's place in its tile


class Scheme(NamedTuple):
    """How pack_quantised rounds: between which levels, and what they are relative to.

    spacing: "linear", l/levels of the bucket's norm (QSGD: Alistarh et al. 2017, arXiv:1610.02132, eq. 3.1), "powers",
    2**(l - levels) of it (natural dithering: Horvath et al. 2019, arXiv:1905.10988), "exponents", the powers of two
    themselves, without a norm (natural compression, of the same paper; levels 255, bucket 4096), or "whole", the whole
    numbers up to levels, without a norm either (bucket 4096).
    levels: s, the largest l; level 0 is 0.
    bucket: coordinates that share a norm, 64, 128, ... or 4096.
    norm: "l2", or "max", the largest |v|.
    """

    spacing: str
    levels: int
    bucket: int
    norm: str

    @property
    def planes(self) -> int:
        """Bits of a code, which is one of 2*levels + 1."""
        return (2 * self.levels).bit_length()

    def norms(self, coordinates: int) -> int:
        """How many norms a tile of so many coordinates has."""
        return 0 if self.spacing in ("exponents", "whole") else -(-coordinates // self.bucket)

    def words(self, coordinates: int) -> int:
        """64-bit words of a message: two norms to a word, then the planes."""
        return sum(-(-self.norms(tile) // 2) + self.planes * tile // WORD for tile in _tiles(coordinates))


def two_means_words(coordinates: int, bucket: int) -> int:
    """64-bit words of a message of pack_two_means."""
    return sum(-(-tile // bucket) + tile // WORD for tile in _tiles(coordinates))


def kept(k: int, coordinates: int) -> int:
    """How many coordinates of a tile are sent: k of a whole one, the same share of a shorter one, at least one."""
    return max(1, -(-k * coordinates // TILE))


def largest_words(k: int, coordinates: int, signs: bool) -> int:
    """64-bit words of a message of pack_largest."""
    counts = [kept(k, tile) for tile in _tiles(coordinates)]
    return sum(-(-PLACE * count // WORD) + -(-count // (WORD if signs else 2)) for count in counts)


def largest_means_words(k: int, coordinates: int) -> int:
    """64-bit words of a message of pack_largest_means."""
    counts = [kept(k, tile) for tile in _tiles(coordinates)]
    return sum(-(-PLACE * count // WORD) + 1 + 2 * -(-count // WORD) for count in counts)


def chosen_words(k: int, coordinates: int) -> int:
    """64-bit words of a message of pack_chosen."""
    return sum(-(-kept(k, tile) // 2) for tile in _tiles(coordinates))


def _tiles(coordinates: int) -> list[int]:
    """The sizes of the tiles of so many coordinates."""
    rest = coordinates % TILE
    return [TILE] * (coordinates // TILE) + [rest] * (rest > 0)
