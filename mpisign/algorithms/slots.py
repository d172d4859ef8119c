"""The four slots of an algorithm, and what a slot may know about the step it works in.

    oracle -> Estimator -> v -> SignRule -> message -> exchange(Vote) -> direction -> Update -> x

Each slot is a frozen dataclass of hyperparameters; its arrays live in a State that `init` makes. So an
algorithm prints as its own definition, is stored in the run file, compares and checkpoints.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from mpisign import bits
from mpisign.algorithms.formats import Format
from mpisign.algorithms.messages import Ballots, Direction
from mpisign.bits.rng import NO_VOTER, Draw, Streams
from mpisign.layout import Layout
from mpisign.parallel.world import World

State = dict[str, Tensor]
Objective = Callable[[], float]  # f at x as it stands: collective, and counted


@dataclass(frozen=True)
class Step:
    """What a slot may know about the step it works in.

    rates are the learning rates of the segments, float64 (segments,). x_before is the point before the latest step,
    where the estimator asked for it (`two_points`), and x itself at first. The schedule, the batches and the random
    draws go by t, whatever starts from nothing by `age`.
    """

    t: int
    rates: np.ndarray
    streams: Streams
    layout: Layout
    world: World
    voter: int = NO_VOTER
    weight: float = 1.0  # of this voter in a mean of raw floats; the weights of all voters add up to n
    x_before: Tensor | None = None
    begun: int = 0  # the step at which the states were made: 0, unless x came from another run
    own_decays: np.ndarray | None = None  # weight decay of the segments, float64, nan for the update's; or the groups'
    reported: np.ndarray | None = None  # what all estimators told, float64 (n, Estimator.reports); for updates

    @property
    def age(self) -> int:
        """Steps taken with these states; t counts on from another run where x came from one."""
        return self.t - self.begun

    def draw(self, stream: str) -> Draw:
        return self.streams.draw(stream, self.t, self.voter)

    def coin(self, stream: str, rule: str = "coin") -> Draw:
        """The draw for a rule on zeros or ties: "random" is a new coin at every step, "coin" is negated in between."""
        draws = self.streams.draw if rule == "random" else self.streams.coin
        return draws(stream, self.t, self.voter)

    def lr_of(self, segment: int) -> float:
        return float(self.rates[segment])

    def decays(self, weight_decay: float) -> np.ndarray:
        """The factors 1 - lr*weight_decay of decoupled weight decay, rounded once to float32, (segments,).

        weight_decay: of segments whose group has none of its own.
        """
        return (1 - self.rates * self.weight_decays(weight_decay)).astype(np.float32)

    def weight_decays(self, default: float) -> np.ndarray:
        """The weight decay of every segment, float64 (segments,): the group's own, or the update's."""
        if self.own_decays is None:
            return self.layout.weight_decays_or(default)
        return np.where(np.isnan(self.own_decays), default, self.own_decays)


class _Stateful:
    """A slot that may keep arrays from step to step, all zeros before the first one."""

    vectors: ClassVar[tuple[str, ...]] = ()  # names of its float32 arrays of layout.length
    scratch: ClassVar[tuple[str, ...]] = ()  # likewise, of those that hold nothing from step to step: never saved
    numbers: ClassVar[tuple[str, ...]] = ()  # names of its float64 arrays (1,)
    # how a voter's arrays go along where a run goes on with other voters, see engine/regroup.py: a survivor keeps its
    # own and a new voter begins with zeros, except for those named here
    alike: ClassVar[tuple[str, ...]] = ()  # the same for all voters, and for new ones too
    debts: ClassVar[tuple[str, ...]] = ()  # what a voter has not sent yet and still owes to the mean of all messages
    bound: ClassVar[str] = ""  # why its arrays are of no use to other voters: what it keeps; "" where they are

    def init(self, layout: Layout) -> State:
        kept = {name: layout.zeros() for name in (*self.vectors, *self.scratch)}
        return kept | {name: torch.zeros(1, dtype=torch.float64) for name in self.numbers}


class Estimator(_Stateful):
    """What does this voter believe its gradient is?"""

    needs: ClassVar[frozenset[str]] = frozenset()  # what a problem must offer: see problems.Problem.offers
    two_points: ClassVar[bool] = False  # whether it asks for gradients at step.x_before
    reads_x: ClassVar[bool] = False  # whether it computes with x itself, which must then be float32
    elementwise: ClassVar[bool] = False  # whether it also works on rows, one per voter, and a BatchedOracle
    by_matrix: ClassVar[bool] = False  # whether it needs each parameter as a whole, as a matrix
    averages: ClassVar[bool] = True  # whether the mean of v over voters estimates the mean gradient
    # names of its float32 arrays (rows, Problem.outputs), of the rows that this voter owns, zeros before the first step
    tables: ClassVar[tuple[str, ...]] = ()
    sampling: str = ""  # what batches must be, "reshuffle" or "replacement"; "" for either
    minibatches: int = 1  # of a step, where it is not one
    # numbers that travel to the updates of all voters in a step's header: its state holds them as "told", float64
    reports: ClassVar[int] = 0
    # the array that v is, if coordinates [lo, hi) of v need only those of one gradient, g; "" otherwise
    streams: ClassVar[str] = ""

    def init(self, layout: Layout) -> State:
        told = {"told": torch.zeros(self.reports, dtype=torch.float64)} if self.reports else {}
        return super().init(layout) | told

    def check(self, layout: Layout) -> None:
        """Raises UsageError, the same on all ranks, where its hyperparameters do not fit the shapes of x.

        For those who set up a run, before they measure or build anything.
        """

    def estimate(self, oracle, x: Tensor, state: State, step: Step) -> Tensor:
        """v, a flat float32 vector of layout.length; it belongs to the estimator."""
        raise NotImplementedError

    def agree(self, estimates: Sequence[Tensor], states: list[State], step: Step) -> None:
        """What all voters must agree on once they have estimates, through step.world; one call for the local voters.

        estimates: a vector (d,) for each, or rows of one matrix (n, d). It may change them and states in place, but put
        no other tensors in their places. Whoever overrides it needs whole estimates.
        """

    @property
    def agrees(self) -> bool:
        """Whether it has voters agree on anything."""
        return type(self).agree is not Estimator.agree

    def side_information(self) -> str:
        """What voters send one another to agree, for a reader."""
        return ""

    def shared_floats(self, layout: Layout) -> int:
        """Numbers of each voter of which agree() takes means in a step, or on average: for what a run foretells."""
        return 0

    def observe(self, direction: Direction, state: State, step: Step) -> None:
        """Sees what was decided for a chunk, after x moved."""

    def minibatches_before(self, age: int) -> int:
        """Minibatches that a voter has seen before the step of that age."""
        return age * self.minibatches

    def evaluations(self, batch: int, rows: int, age: int) -> int:
        """Gradients of single rows that a voter takes at a step of that age. batch: of one; rows: all its own."""
        return batch

    def values(self, batch: int, rows: int, age: int) -> int:
        """Function values of single rows, likewise."""
        return 0


class Packed(NamedTuple):
    """What packing found: counts of zeros and of clipped values, and the first coordinate whose estimate is not finite.

    bad: -1 if all are finite, None if packing did not look.
    """

    zeros: int = 0
    clips: int = 0
    bad: int | None = None


class SignRule(_Stateful):
    """What is sent for v?"""

    elementwise: ClassVar[bool] = False  # whether pack also works on rows, one per voter, step being the first one's

    @property
    def needs_whole(self) -> str:
        """What it needs all of v for before it can pack a part of it; "" for nothing."""
        return ""

    @property
    def rules(self) -> dict[str, str]:
        """Its rule for sign(0), as "zeros"; nothing if it never meets one."""
        return {}

    def with_zeros(self, rule: str) -> Self:
        """The same by another rule for sign(0), if it has any."""
        return self

    def up(self) -> Format:
        raise NotImplementedError

    def side_information(self) -> str:
        """What is shared beside the messages, for a reader."""
        return ""

    def agree(self, estimates: Sequence[Tensor], states: list[State], step: Step) -> None:
        """What all voters must agree on before they pack, through step.world; one call for the local voters."""

    @property
    def agrees(self) -> bool:
        """Whether it has voters agree on anything."""
        return type(self).agree is not SignRule.agree

    def unit(self, state: State) -> np.ndarray | None:
        """What the direction is in units of, float32 (segments,), where all voters agreed on that; else None."""
        return None

    def begin(self, v: Tensor, state: State, step: Step) -> tuple[Tensor, np.ndarray | None]:
        """What needs the whole vector: the signal to pack and its scales, if any.

        Scales that travel are float32 (segments,); a radius, which stays here, is one float32.
        """
        return v, None

    def begin_residual(self, p: Tensor, v: Tensor, rates: np.ndarray, step: Step) -> tuple[Tensor, np.ndarray | None]:
        """begin(p) after p += rate * v, a float32 rate per segment: the way into error feedback."""
        for span in step.layout.all_spans:
            bits.blend(p[span.coordinates], v[span.coordinates], 1.0, rates[span.segment])
        return self.begin(p, {}, step)

    def pack_residual(self, p: Tensor, scales: np.ndarray, lo: int, hi: int, out: Tensor, step: Step) -> Packed:
        """pack, and take off p what was sent: the way out."""
        counts = self.pack(p, scales, lo, hi, out, {}, step)
        self.add_sent(p, scales, lo, hi, out, step, -1.0)
        return counts

    def add_sent(
        self, y: Tensor, scales: np.ndarray | None, lo: int, hi: int, message: Tensor, step: Step, weight: float
    ) -> None:
        """y += weight * what a message on coordinates [lo, hi), packed with such scales, says. y is like all of x."""
        form = self.up()
        if not form.planes:
            form.add(message, y[lo:hi], lo, step, weight)
            return
        for span in step.layout.spans(lo, hi):
            scale = 1.0 if scales is None else float(scales[span.segment])
            bits.add_signed(y[span.coordinates], message[:, span.words(lo)], weight * scale)

    def pack(
        self, signal: Tensor, scales: np.ndarray | None, lo: int, hi: int, out: Tensor, state: State, step: Step
    ) -> Packed:
        """Packs coordinates [lo, hi) into out (planes, words of the chunk)."""
        raise NotImplementedError


# what a code of a verdict means, by its planes: of two planes, code = sign + 2 * (not zero)
LEVELS = {1: np.array([-1.0, 1.0]), 2: np.array([0.0, 0.0, -1.0, 1.0])}


class Vote:
    """What do the messages decide? One call before and one after the shards agree on shared values."""

    needs_ballots = False  # single messages, with scales or floats, where a tally is not enough
    shares = False  # whether shared() has anything for the shards to agree on
    stateful = False  # whether it keeps arrays for the coordinates that a rank counts
    in_x = False  # whether the scales of its direction are in units of x, the learning rate included
    bound = ""  # why its arrays are of no use to the vote of other voters: what it keeps; "" where they are
    weighable = False  # whether it decides by the tally alone, so that a voter may have several votes

    @property
    def rules(self) -> dict[str, str]:
        """Its rule for ties, as "ties"; nothing if it never meets one."""
        return {}

    def weights_of(self, voters: Sequence[int]) -> tuple[int, ...]:
        """How many votes each of these voters has; () where every voter has one."""
        return ()

    def votes_of(self, voters: Sequence[int]) -> int:
        """How many votes these voters have together."""
        return sum(self.weights_of(voters)) or len(voters)

    def with_ties(self, rule: str) -> Self:
        """The same by another rule for ties, if it has any."""
        return self

    def down(self, up: Format, votes: int) -> Format:
        """What comes down where so many votes are cast, of one voter each if none has several."""
        raise NotImplementedError

    def levels(self, up: Format, votes: int) -> np.ndarray | None:
        """What each code of the verdict means, float64 (2**planes,); None for floats."""
        return LEVELS.get(self.down(up, votes).planes)

    def init(self, layout: Layout, owned: int, voters: int) -> State:
        """State for the `owned` coordinates that this rank counts."""
        return {}

    def absorb(self, ballots: Ballots, state: State, step: Step) -> None:
        """Takes in the messages for a shard of coordinates."""

    def shared(self, ballots: Ballots, state: State, step: Step) -> np.ndarray:
        """float64, one per tile of this shard; those of the whole vector reach scales() on every rank."""
        raise NotImplementedError

    def scales(self, tiles: np.ndarray, layout: Layout) -> np.ndarray:
        """The scales (segments,) float32 of the direction, from what was shared."""
        raise NotImplementedError

    def verdict(self, ballots: Ballots, scales: np.ndarray | None, state: State, out: Tensor, step: Step) -> None:
        """Decides a shard: fills out (planes or 1, items), in the format that comes down."""
        raise NotImplementedError


class Update(_Stateful):
    """How does x move along the direction?"""

    needs: ClassVar[frozenset[str]] = frozenset()  # what a problem must offer: see problems.Problem.offers
    by_matrix: ClassVar[bool] = False  # whether it needs each parameter as a whole, as a matrix

    def begin(self, x: Tensor, state: State, step: Step, objective: Objective) -> None:
        """Once a step: all headers are in, and x has not moved yet."""

    def apply(self, x: Tensor, direction: Direction, state: State, step: Step) -> None:
        """Moves coordinates [direction.lo, direction.hi) of x, in place."""
        raise NotImplementedError

    def finish(self, x: Tensor, state: State, step: Step, objective: Objective) -> None:
        """Once a step: all of x has moved."""

    def values(self, rows: int, age: int) -> int:
        """Function values of single rows that a voter takes at a step of that age. rows: all its own."""
        return 0
