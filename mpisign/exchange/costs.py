"""Bytes that an exchange sends in a step, by formula: what a simulation counts, since nothing travels in it.

Each function gives the sum over all ranks of the bytes up and down. That they equal what is counted where bytes
are sent is tested for every algorithm and exchange.
"""

from mpisign import bits
from mpisign.messages import Format


class Sizes:
    """What the formulas need: the chunks' coordinates, both formats, the number of voters."""

    def __init__(self, chunks: list[tuple[int, int]], up: Format, down: Format, voters: int):
        self.coordinates = [hi - lo for lo, hi in chunks]
        self.up, self.down, self.n = up, down, voters

    def message(self, form: Format) -> int:
        """Bytes of a whole message."""
        item = 4 if form.raw else 8
        return sum(item * (form.planes or 1) * form.items(c) for c in self.coordinates)


def sharded(s: Sizes) -> tuple[int, int]:
    """Every rank sends all but its share up, and its share of the verdict to all others."""
    return (s.n - 1) * s.message(s.up), (s.n - 1) * s.message(s.down)


def allgather(s: Sizes) -> tuple[int, int]:
    """Every rank sends its message to all others."""
    return s.n * (s.n - 1) * s.message(s.up), 0


def allreduce(s: Sizes) -> tuple[int, int]:
    """A ring of words of w(n)-bit fields, half up, half down."""
    return _ring(s, 8 * s.up.planes * sum(bits.fields_for(c, s.n) for c in s.coordinates))


def dense_mpi(s: Sizes) -> tuple[int, int]:
    """A ring of floats."""
    return _ring(s, s.message(s.up))


def _ring(s: Sizes, size: int) -> tuple[int, int]:
    half = size * (s.n - 1) // s.n
    return s.n * half, s.n * half


FORMULAS = {
    "sharded": sharded,
    "dense": sharded,
    "allgather": allgather,
    "allreduce": allreduce,
    "dense-mpi": dense_mpi,
    "local": lambda s: (0, 0),
}
SHARDING = ("sharded", "dense")  # those in which a vote's shared values travel
