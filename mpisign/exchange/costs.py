"""What the formulas of exchanges have in common. The method's own bits, in which none has a part: formats.of_method.

Each exchange tells by its `cost` what all ranks send in a step. That this equals what is counted where bytes are sent
is tested for every algorithm and exchange.
"""

import math

from mpisign.algorithms.formats import Format
from mpisign.algorithms.slots import Vote
from mpisign.layout import TILE, WORD


class Sizes:
    """What the formulas need: the chunks, both formats, the vote, the number of voters and of a node (0: all)."""

    def __init__(
        self, chunks: list[tuple[int, int]], up: Format, down: Format, vote: Vote, voters: int, node_size: int = 0
    ):
        self.chunks, self.coordinates = chunks, [hi - lo for lo, hi in chunks]
        self.up, self.down, self.vote, self.n = up, down, vote, voters
        size = node_size or voters
        members = [range(first, min(first + size, voters)) for first in range(0, voters, size)]
        self.nodes = [len(node) for node in members]
        self.votes, self.votes_of_nodes = vote.votes_of(range(voters)), [vote.votes_of(node) for node in members]

    def shares(self, parts: int) -> list[list[int]]:
        """Coordinates of each part's share, for every chunk."""
        grain = grain_of(self.vote, self.up, self.down)
        cuts = ((cut(lo, hi, grain, parts, part) for part in range(parts)) for lo, hi in self.chunks)
        return [[end - first for first, end in shares] for shares in cuts]

    def message(self, form: Format) -> int:
        """Bytes of a whole message."""
        return 0 if form.varies else sum(message_bytes(form, c) for c in self.coordinates)

    def ring(self, size: int) -> tuple[int, int]:
        """Bytes over all ranks of a ring's Allreduce of so many bytes, half up, half down."""
        half = size * (self.n - 1) // self.n
        return self.n * half, self.n * half


def message_bytes(form: Format, coordinates: int) -> int:
    """Bytes of a message, or of a verdict, on so many coordinates."""
    return math.prod(form.shape(coordinates=coordinates)) * form.dtype.itemsize


def chunks_of(length: int, size: int, up: Format) -> list[tuple[int, int]]:
    """[lo, hi) of each chunk. size: coordinates of one, rounded up to whole tiles; all where a message can't be cut."""
    size = length if up.varies else max(-(-size // TILE) * TILE, TILE)
    return [(lo, min(lo + size, length)) for lo in range(0, length, size)]


def cut(lo: int, hi: int, grain: int, parts: int, part: int) -> tuple[int, int]:
    """The coordinates of [lo, hi) that are the share of one of several, as whole grains."""
    grains = -(-(hi - lo) // grain)
    first, end = (min(lo + grains * k // parts * grain, hi) for k in (part, part + 1))
    return first, end


def grain_of(vote: Vote, *formats: Format) -> int:
    """Coordinates that shares are multiples of: those at whose multiples messages and verdicts may be cut.

    A vote that shares tile sums needs whole tiles, and so do two whose arrays go from one to the other.
    """
    return max(TILE if vote.shares or vote.stateful else WORD, *(form.grain for form in formats))
