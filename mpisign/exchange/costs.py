"""Bytes that an exchange sends in a step, by formula: what a simulation counts, since nothing travels in it.

Each function gives the sum over all ranks of the bytes up and down. That they equal what is counted where bytes
are sent is tested for every algorithm and exchange. `of_method` gives what no exchange has a part in: the method's own
bits.
"""

from mpisign import bits
from mpisign.layout import TILE, WORD, Layout
from mpisign.messages import Format
from mpisign.slots import Vote


class Sizes:
    """What the formulas need: the chunks, both formats, the vote, the number of voters and of a node (0: all)."""

    def __init__(
        self, chunks: list[tuple[int, int]], up: Format, down: Format, vote: Vote, voters: int, node_size: int = 0
    ):
        self.chunks, self.coordinates = chunks, [hi - lo for lo, hi in chunks]
        self.up, self.down, self.vote, self.n = up, down, vote, voters
        size = node_size or voters
        self.nodes = [min(size, voters - first) for first in range(0, voters, size)]

    def message(self, form: Format) -> int:
        """Bytes of a whole message."""
        item = 4 if form.raw else 8
        return sum(item * (form.planes or 1) * form.items(c) for c in self.coordinates)


def of_method(layout: Layout, up: Format, down: Format, voters: int) -> tuple[int, int]:
    """Bits of a step's messages and verdicts over all ranks, (up, down), by the definition of the method.

    Every rank sends all but its share of d coordinates up, and its share of the verdict to all others, as `sharded`
    does; a scaled message has one float32 a tensor for every other rank, and a scaled verdict one a tensor in all.
    Headers, pads and the sums of which a verdict's scales are made are left out.
    """
    others, scales = voters - 1, 32 * len(layout.segments)
    a_rank_up = voters * scales if up.scaled else 0
    return others * (up.bits * layout.size + a_rank_up), others * (down.bits * layout.size + down.scaled * scales)


def sharded(s: Sizes) -> tuple[int, int]:
    """Every rank sends all but its share up, and its share of the verdict to all others."""
    return (s.n - 1) * s.message(s.up), (s.n - 1) * s.message(s.down)


def allgather(s: Sizes) -> tuple[int, int]:
    """Every rank sends its message to all others."""
    return s.n * (s.n - 1) * s.message(s.up), 0


def allreduce(s: Sizes) -> tuple[int, int]:
    """A ring of words of w(n)-bit fields, half up, half down."""
    return _ring(s, 8 * s.up.planes * sum(bits.fields_for(c, s.n) for c in s.coordinates))


def hierarchical(s: Sizes) -> tuple[int, int]:
    """Every node sends its counts of all but its share up, and its share of the verdict to all other nodes."""
    up = down = 0
    for k, size in enumerate(s.nodes):
        for lo, hi in s.chunks:
            first, end = cut(lo, hi, grain_of(s.vote), len(s.nodes), k)
            up += planes_of(s.up, size) * (hi - lo - (end - first)) // 8
            down += s.down.planes * (end - first) * (len(s.nodes) - 1) // 8
    return up, down


def dense_mpi(s: Sizes) -> tuple[int, int]:
    """A ring of floats."""
    return _ring(s, s.message(s.up))


def _ring(s: Sizes, size: int) -> tuple[int, int]:
    half = size * (s.n - 1) // s.n
    return s.n * half, s.n * half


def cut(lo: int, hi: int, grain: int, parts: int, part: int) -> tuple[int, int]:
    """The coordinates of [lo, hi) that are the share of one of several, as whole grains."""
    grains = -(-(hi - lo) // grain)
    first, end = (min(lo + grains * k // parts * grain, hi) for k in (part, part + 1))
    return first, end


def grain_of(vote: Vote) -> int:
    """Coordinates that shares are multiples of.

    A vote that shares tile sums needs whole tiles, and so do two whose arrays go from one to the other; for others a
    word is the grain.
    """
    return TILE if vote.shares or vote.stateful else WORD


def planes_of(up: Format, voters: int) -> int:
    """Planes of a count of so many messages: of +1, and where they may abstain of -1 as well."""
    return up.planes * bits.width(voters)


FORMULAS = {
    "sharded": sharded,
    "hierarchical": hierarchical,
    "dense": sharded,
    "allgather": allgather,
    "allreduce": allreduce,
    "dense-mpi": dense_mpi,
    "local": lambda s: (0, 0),
}
SHARDING = ("sharded", "dense")  # those in which a vote's shared values travel
