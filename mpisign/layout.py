"""Where each parameter lies in the flat float32 vector x, and the words for the pieces of x.

    segment   one parameter: coordinates [offset, offset + size) of x
    tile      4096 coordinates that start at a multiple of 4096: the unit of float64 sums
    chunk     what travels at once: each voter sends one message per chunk
    shard     the part of a chunk that one rank counts: whole 64-bit words, or whole tiles where the vote needs sums
    span      the part of a segment that lies in a chunk, or in any other interval [lo, hi)
    group     the segments that travel alike: those that are voted on, or those whose estimates are averaged as floats

Segments start on 64-coordinate boundaries, so that no 64-bit word of signs holds coordinates of two parameters. The
pads between segments belong to no parameter: no kernel touches them, and counts, norms and hashes leave them out.
"""

import hashlib
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from mpisign import bits
from mpisign.errors import UsageError
from mpisign.parallel.inside import Inside

WORD = 64  # coordinates in a word
TILE = 4096  # coordinates in a tile: the unit of float64 sums and of shard borders


@dataclass(frozen=True)
class SegmentOptions:
    """What parameters have in common: a factor on the learning rate, their own weight decay or none, and the vote.

    vote: whether signs of theirs are voted on; otherwise their estimates are averaged as raw floats.
    """

    lr_scale: float = 1.0
    weight_decay: float | None = None
    vote: bool = True


@dataclass(frozen=True)
class Segment:
    """One parameter: coordinates [offset, offset + size) of x."""

    name: str
    shape: tuple[int, ...]
    offset: int
    size: int
    options: SegmentOptions = field(default_factory=SegmentOptions)

    @property
    def end(self) -> int:
        return self.offset + self.size

    @property
    def is_matrix(self) -> bool:
        return len(self.shape) > 1

    @property
    def matrix(self) -> tuple[int, int]:
        """A parameter of two or more dimensions as a matrix: its first dimension, and all others together."""
        rows = self.shape[0]
        return rows, self.size // max(rows, 1)


@dataclass(frozen=True)
class Span:
    """Coordinates [lo, hi) that lie in one segment; lo is a multiple of 64."""

    lo: int
    hi: int
    segment: int

    def words(self, origin: int = 0) -> slice:
        """Its words in a plane that starts at coordinate `origin`."""
        return slice((self.lo - origin) // WORD, -(-(self.hi - origin) // WORD))

    def items(self, origin: int) -> slice:
        """Its place in a vector that starts at coordinate `origin`."""
        return slice(self.lo - origin, self.hi - origin)

    @property
    def coordinates(self) -> slice:
        return slice(self.lo, self.hi)


@dataclass(frozen=True)
class Group:
    """Coordinates [lo, hi) of x that travel alike, with a layout of their own that starts at 0.

    first: the segment that starts at lo. whole: whether it is all of x.
    """

    lo: int
    hi: int
    first: int
    layout: "Layout"
    vote: bool
    whole: bool = False

    @property
    def segments(self) -> slice:
        """Its segments among those of the whole layout."""
        return slice(self.first, self.first + len(self.layout.segments))


class Layout:
    """The segments of x in order; `size` coordinates are parameters, `length` counts the pads too.

    Parameters that do not vote come last.
    """

    number = 0  # of the shard, where this is the layout of one

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        options: Mapping[str, SegmentOptions] | None = None,
        device: torch.device | str = "cpu",
    ):
        """device: on which x and all vectors like it lie."""
        self.device = torch.device(device)
        segments, offset, options = [], 0, options or {}
        for name in sorted(shapes, key=lambda name: not options.get(name, SegmentOptions()).vote):
            shape = shapes[name]
            size = int(np.prod(shape, dtype=np.int64))
            segments.append(Segment(name, tuple(shape), offset, size, options.get(name, SegmentOptions())))
            offset += -(-size // WORD) * WORD
        self.segments = tuple(segments)
        self.length = offset
        self.size = sum(s.size for s in segments)
        self._forget()

    def _forget(self) -> None:
        """Begins without anything that is kept for intervals asked for before."""
        self._spans: dict[tuple[int, int], list[Span]] = {}
        self._tiles: dict[tuple[int, int], np.ndarray] = {}
        self._parts: dict[tuple[int, int], np.ndarray] = {}
        self._present: dict[tuple[int, int], Tensor] = {}
        self._decays: dict[float, np.ndarray] = {}

    @property
    def whole(self) -> "Layout":
        """The layout of all of x: this one, unless it is of a shard."""
        return self

    @property
    def origin(self) -> int:
        """The coordinate of all of x at which this vector starts: 0, unless it is a shard."""
        return 0

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """What is voted on and what is averaged, either of which may be missing."""
        groups, kinds = [], [[s for s in self.segments if s.options.vote is vote] for vote in (True, False)]
        if not all(kinds):
            return (Group(0, self.length, 0, self, bool(kinds[0]) or not kinds[1], whole=True),)
        for segments in kinds:
            own = Layout({s.name: s.shape for s in segments}, {s.name: s.options for s in segments}, self.device)
            lo, first = segments[0].offset, self.segments.index(segments[0])
            groups.append(Group(lo, lo + own.length, first, own, segments[0].options.vote))
        return tuple(groups)

    def part(self, v: Tensor | bits.Scattered, lo: int, hi: int) -> Tensor | bits.Scattered:
        """Coordinates [lo, hi) of a vector like x, or of rows of such: v itself where these are all."""
        return v if hi - lo == self.length else v[..., lo:hi]

    @cached_property
    def _offsets(self) -> list[int]:
        return [s.offset for s in self.segments]

    @cached_property
    def all_spans(self) -> list[Span]:
        """One span per segment."""
        return self.spans(0, self.length)

    def spans(self, lo: int, hi: int) -> list[Span]:
        """The parts of [lo, hi) that hold parameters, in order."""
        if (lo, hi) not in self._spans:
            first, end = max(bisect_right(self._offsets, lo) - 1, 0), bisect_left(self._offsets, hi)
            near = [(max(lo, self.segments[k].offset), min(hi, self.segments[k].end), k) for k in range(first, end)]
            self._spans[lo, hi] = [Span(*span) for span in near if span[0] < span[1]]
        return self._spans[lo, hi]

    def tiles(self, lo: int, hi: int) -> np.ndarray:
        """The spans of [lo, hi), cut at every multiple of 4096: the unit of a float64 sum.

        Returns (3, number of tiles) int64: first coordinate, end, segment.
        """
        if (lo, hi) not in self._tiles:
            cut = [
                (max(s.lo, t), min(s.hi, t + TILE), s.segment)
                for s in self.spans(lo, hi)
                for t in range(s.lo // TILE * TILE, s.hi, TILE)
            ]
            self._tiles[lo, hi] = np.array(cut, dtype=np.int64).reshape(-1, 3).T.copy()
        return self._tiles[lo, hi]

    @cached_property
    def all_tiles(self) -> np.ndarray:
        """The tiles of all of x."""
        return self.tiles(0, self.length)

    def block_sums(self, tile_sums: np.ndarray) -> np.ndarray:
        """Sums of tiles, added in tile order to one float64 per segment.

        tile_sums: float64, one for each of all_tiles.
        """
        sums = np.zeros(len(self.segments))
        np.add.at(sums, self.all_tiles[2], tile_sums)
        return sums

    def norm(self, v: Tensor) -> float:
        """Euclidean norm: float64 sums of squares by tile, then by segment, then over all, each in order."""
        squares = self.block_sums(bits.tile_sums(v, self.all_tiles, squares=True))
        return float(np.sqrt(np.add.accumulate(squares)[-1]))

    def total(self, v: Tensor) -> float:
        """Sum over all coordinates, float64."""
        return float(np.add.accumulate(self.sums(v))[-1])

    def sums(self, v: Tensor) -> np.ndarray:
        """Sum of each segment, float64 (segments,), by tiles: that of the positive values less that of the others."""
        above, below = (self.block_sums(bits.tile_sums(part.relu(), self.all_tiles)) for part in (v, -v))
        return above - below

    def mean_magnitudes(self, tile_sums: np.ndarray) -> np.ndarray:
        """|v_b|_1 / d_b of each segment b, rounded once to float32, from the tile sums of |v|."""
        sizes = np.array([max(s.size, 1) for s in self.segments])
        return (self.block_sums(tile_sums) / sizes).astype(np.float32)

    def largest_magnitudes(self, tile_maxima: np.ndarray) -> np.ndarray:
        """max |v_b| of each segment b, float32, from the tile maxima of |v|."""
        most = np.zeros(len(self.segments))
        np.maximum.at(most, self.all_tiles[2], tile_maxima)
        return most.astype(np.float32)

    def parts(self, lo: int, hi: int) -> np.ndarray:
        """The spans of [lo, hi) for a kernel: (3, spans) int64, as in tiles."""
        if (lo, hi) not in self._parts:
            spans = [(s.lo, s.hi, s.segment) for s in self.spans(lo, hi)]
            self._parts[lo, hi] = np.array(spans, dtype=np.int64).reshape(-1, 3).T.copy()
        return self._parts[lo, hi]

    def each(self, value: float) -> np.ndarray:
        """One value for every segment, float32 (segments,)."""
        return np.full(len(self.segments), value, dtype=np.float32)

    @cached_property
    def _lr_scales(self) -> np.ndarray:
        return np.array([s.options.lr_scale for s in self.segments])

    @cached_property
    def weight_decays(self) -> np.ndarray:
        """The weight decay of every segment's group, float64 (segments,), nan where it has none of its own."""
        return np.array([np.nan if (own := s.options.weight_decay) is None else own for s in self.segments])

    def weight_decays_or(self, default: float) -> np.ndarray:
        """The same with a default in the place of nan."""
        if default not in self._decays:
            self._decays[default] = np.where(np.isnan(self.weight_decays), default, self.weight_decays)
        return self._decays[default]

    def rates(self, lr: float) -> np.ndarray:
        """The learning rate of every segment, float64 (segments,), where the schedule's is lr."""
        return lr * self._lr_scales

    def pads(self, lo: int, hi: int) -> int:
        """Coordinates of [lo, hi) that belong to no parameter."""
        first, end, _ = self.parts(lo, hi)
        return hi - lo - int((end - first).sum())

    def present(self, lo: int, hi: int) -> Tensor:
        """The words of [lo, hi) with a 1 for each coordinate that belongs to a parameter, int64 (words,)."""
        if (lo, hi) not in self._present:
            words = torch.zeros((hi - lo) // WORD, dtype=torch.int64)
            for span in self.spans(lo, hi):
                span_words = words[span.words(lo)]
                span_words.fill_(-1)
                if rest := (span.hi - span.lo) % WORD:
                    span_words[-1] = (1 << rest) - 1
            self._present[lo, hi] = words.to(self.device)
        return self._present[lo, hi]

    def zeros(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """A new vector of `length` zeros."""
        return torch.zeros(self.length, dtype=dtype, device=self.device)

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """Each parameter as a view into a flat vector of `length` coordinates."""
        return {s.name: flat[s.offset : s.end].view(s.shape) for s in self.segments}

    def flatten(self, parameters: Mapping[str, Tensor], dtype: torch.dtype = torch.float32) -> Tensor:
        """A new flat vector that holds the parameters."""
        flat = self.zeros(dtype)
        for name, view in self.views(flat).items():
            view.copy_(parameters[name])
        return flat

    def digest(self, flat: Tensor) -> bytes:
        """16 bytes that differ where two vectors differ in any parameter's bits."""
        state, each = hashlib.blake2b(digest_size=16), flat.element_size()
        host = flat.cpu().view(torch.uint8).numpy()
        for s in self.segments:
            state.update(host[s.offset * each : s.end * each])
        return state.digest()

    def name_of(self, coordinate: int) -> str:
        """The parameter that holds a coordinate, or the one before a pad, with the index inside it."""
        s = self.segments[bisect_right(self._offsets, coordinate) - 1]
        # a pad is told as the last coordinate before it
        index = np.unravel_index(min(coordinate - s.offset, s.size - 1), s.shape or (1,))
        return f"{s.name}[{', '.join(str(i) for i in index)}]"


def shard_borders(length: int, count: int) -> list[tuple[int, int]]:
    """Coordinates [lo, hi) of each of `count` shards of x: whole tiles, as evenly as they go.

    Raises UsageError where there are fewer tiles than shards.
    """
    tiles = -(-length // TILE)
    if tiles < count:
        raise UsageError(
            f"x has {length:,} coordinates, {tiles} tile(s) of {TILE}, which can't be dealt to the {count} ranks of a "
            f"voter; let at most {tiles} rank(s) be one voter"
        )
    edges = [min(k * tiles // count * TILE, length) for k in range(count + 1)]
    return list(pairwise(edges))


class LayoutShard(Layout):
    """The layout of one rank's shard of x, where the ranks of a voter share its vectors out.

    Coordinates count from the shard's start, `origin`. Segments are those of all of x, of which some may not lie here,
    so that rates and scales are as for the whole; and so are `size` and all sums and norms, which are collective among
    the voter's ranks and have the bits of one that holds all of x.
    """

    def __init__(self, whole: Layout, inside: Inside):
        """Raises UsageError where parts of x are not voted on, and where there are fewer tiles than ranks."""
        if len(whole.groups) > 1:
            raise UsageError("parameters that do not vote do not go with voters of several ranks; let all of them vote")
        self._whole, self._inside, self.device = whole, inside, whole.device
        self.borders = shard_borders(whole.length, inside.size)
        self._lo, hi = self.borders[inside.rank]
        self.segments, self.size, self.length = whole.segments, whole.size, hi - self._lo
        self.number = inside.rank
        self._counts = [whole.tiles(lo, hi).shape[1] for lo, hi in self.borders]
        self._forget()

    @property
    def whole(self):
        return self._whole

    @property
    def origin(self):
        return self._lo

    @cached_property
    def groups(self):
        return (Group(0, self.length, 0, self, self._whole.groups[0].vote, whole=True),)

    @cached_property
    def all_spans(self):
        """One span per segment that lies here."""
        return self.spans(0, self.length)

    def spans(self, lo, hi):
        if (lo, hi) not in self._spans:
            here = self._whole.spans(lo + self._lo, hi + self._lo)
            self._spans[lo, hi] = [Span(s.lo - self._lo, s.hi - self._lo, s.segment) for s in here]
        return self._spans[lo, hi]

    def block_sums(self, tile_sums):
        """As of the whole; tile_sums: of the tiles of this shard. Collective among the ranks of the voter."""
        return self._whole.block_sums(self._inside.concatenate(tile_sums, self._counts))

    def largest_magnitudes(self, tile_maxima):
        """As of the whole; tile_maxima: of the tiles of this shard. Collective among the ranks of the voter."""
        return self._inside.rows(super().largest_magnitudes(tile_maxima)).max(axis=0).astype(np.float32)

    def views(self, flat):
        """The part of each parameter that lies here, as a view (coordinates,)."""
        return {self.segments[span.segment].name: flat[span.coordinates] for span in self.all_spans}

    def digest(self, flat):
        state, host = hashlib.blake2b(digest_size=16), flat.cpu().numpy()
        for span in self.all_spans:
            state.update(host[span.coordinates])
        return state.digest()

    def name_of(self, coordinate):
        return self._whole.name_of(coordinate + self._lo)
