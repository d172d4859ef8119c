"""What an algorithm is: four slots, the message that goes in and the direction that comes out.

    oracle -> Estimator -> v -> SignRule -> message -> exchange(Vote) -> direction -> Update -> x

Each slot is a frozen dataclass of hyperparameters; its arrays live in a State that `init` makes. So an
algorithm prints as its own definition, is stored in the run file, compares and checkpoints.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Annotated, Any

import numpy as np
from pydantic import Field
from torch import Tensor

from mpisign.errors import UsageError, choices
from mpisign.layout import Layout
from mpisign.messages import Ballots, Direction, Format
from mpisign.rng import NO_VOTER, Draw, Streams
from mpisign.world import World

State = dict[str, Tensor]

# ranges of hyperparameters, for the signatures of the zoo: checked when a job is read
Beta = Annotated[float, Field(ge=0, lt=1)]
Fraction = Annotated[float, Field(gt=0, le=1)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class Step:
    """What a slot may know about the step it works in.

    lr is the schedule's rate; `lr_of` and `decay_of` add what belongs to a segment's group.
    """

    t: int
    lr: float
    streams: Streams
    layout: Layout
    world: World
    voter: int = NO_VOTER
    weight: float = 1.0  # of this voter in a mean of raw floats; the weights of all voters add up to n

    def draw(self, stream: str) -> Draw:
        return self.streams.draw(stream, self.t, self.voter)

    def coin(self, stream: str) -> Draw:
        return self.streams.coin(stream, self.t, self.voter)

    def lr_of(self, segment: int) -> float:
        return self.lr * self.layout.segments[segment].group.lr_scale

    def decay_of(self, segment: int, weight_decay: float) -> float:
        """The factor 1 - lr*weight_decay of decoupled weight decay, rounded once to float32."""
        own = self.layout.segments[segment].group.weight_decay
        return float(np.float32(1 - self.lr_of(segment) * (weight_decay if own is None else own)))


class Estimator:
    """What does this voter believe its gradient is?"""

    def init(self, layout: Layout) -> State:
        return {}

    def estimate(self, oracle, x: Tensor, state: State, step: Step) -> Tensor:
        """v, a flat float32 vector of layout.length; it belongs to the estimator."""
        raise NotImplementedError

    def evaluations(self) -> int:
        """Gradient evaluations for each row of a minibatch, for the dry run."""
        return 1


class SignRule:
    """What is sent for v?"""

    def up(self) -> Format:
        raise NotImplementedError

    def init(self, layout: Layout) -> State:
        return {}

    def begin(self, v: Tensor, state: State, step: Step) -> tuple[Tensor, np.ndarray | None]:
        """What needs the whole vector: the signal to pack and its scales, if any.

        Scales that travel are float32 (segments,); a radius, which stays here, is one float32.
        """
        return v, None

    def pack(
        self,
        signal: Tensor,
        scales: np.ndarray | None,
        lo: int,
        hi: int,
        out: Tensor,
        state: State,
        step: Step,
    ) -> tuple[int, int]:
        """Packs coordinates [lo, hi) into out (planes, words of the chunk); returns (zeros, clips)."""
        raise NotImplementedError


class Vote:
    """What do the messages decide? One call before and one after the shards agree on shared scalars."""

    needs_ballots = False  # single messages, with scales or floats, where a tally is not enough
    shares = False  # whether shared() has anything for the shards to agree on

    def down(self, up: Format, voters: int) -> Format:
        raise NotImplementedError

    def levels(self, up: Format, voters: int) -> np.ndarray | None:
        """What each code of the verdict means, float64 (2**planes,)."""
        return None

    def init(self, layout: Layout, owned: int) -> State:
        """State for the `owned` coordinates that this rank counts."""
        return {}

    def absorb(self, ballots: Ballots, state: State, step: Step) -> None:
        """Takes in the messages for a stretch of coordinates."""

    def shared(self, ballots: Ballots, state: State, step: Step) -> np.ndarray:
        """float64 tile sums of this stretch; those of the whole vector reach scales() on every rank."""
        raise NotImplementedError

    def scales(self, tile_sums: np.ndarray, layout: Layout) -> np.ndarray:
        """The scales (segments,) float32 of the direction, in units of x, from what was shared."""
        raise NotImplementedError

    def verdict(self, ballots: Ballots, scales: np.ndarray | None, state: State, out: Tensor, step: Step) -> None:
        """Decides a stretch: fills out (planes, W) or (1, C)."""
        raise NotImplementedError


class Update:
    """How does x move along the direction?"""

    def init(self, layout: Layout) -> State:
        return {}

    def apply(self, x: Tensor, direction: Direction, state: State, step: Step) -> None:
        """Moves coordinates [direction.lo, direction.hi) of x, in place."""
        raise NotImplementedError


@dataclass(frozen=True)
class Algorithm:
    """Four slots, and the name they go by."""

    estimator: Estimator
    sign: SignRule
    vote: Vote
    update: Update
    name: str = field(default="", compare=False)

    def with_rules(self, zeros: str, ties: str, voters: int) -> "Algorithm":
        """This algorithm with its rules for sign(0) and for ties filled in.

        "auto" is the mathematics (sign(0) = 0, ties = 0) for one voter, where nothing travels, and a
        fair coin for several, which needs no second plane.
        Raises UsageError where a rule is asked for that the algorithm has no use for.
        """
        one = voters == 1
        sign = _with_rule(self.sign, "zeros", zeros, "abstain" if one else "coin", self)
        vote = _with_rule(self.vote, "ties", ties, "zero" if one else "coin", self)
        return replace(self, sign=sign, vote=vote)


def _with_rule(slot: Any, rule: str, wanted: str, automatic: str, algorithm: Algorithm) -> Any:
    if hasattr(slot, rule):
        return replace(slot, **{rule: automatic if wanted == "auto" else wanted})
    inner = next((f.name for f in fields(slot) if is_dataclass(getattr(slot, f.name))), None)
    if inner:
        return replace(slot, **{inner: _with_rule(getattr(slot, inner), rule, wanted, automatic, algorithm)})
    if wanted != "auto":
        raise UsageError(
            f"algorithm.{rule} = {wanted!r}: {algorithm.name} has no rule for {rule} "
            f"({type(slot).__name__} never meets one); leave it out"
        )
    return slot


@dataclass(frozen=True)
class Entry:
    """A row of the zoo: the function that builds the algorithm, its paper, and what it needs."""

    name: str
    make: Callable[..., Algorithm]
    paper: str
    lr: float  # the rate that the built-in job takes where a job gives none
    needs: frozenset[str]

    def build(self, **hyperparameters) -> Algorithm:
        return replace(self.make(**hyperparameters), name=self.name)

    @property
    def summary(self) -> str:
        return (inspect.getdoc(self.make) or "").splitlines()[0]

    @property
    def signature(self) -> str:
        parameters = inspect.signature(self.make).parameters.values()
        return ", ".join(f"{p.name}={p.default!r}" for p in parameters)


REGISTRY: dict[str, Entry] = {}


def algorithm(name: str, *, paper: str, lr: float, needs: tuple[str, ...] = ()):
    """Enters the decorated function into the zoo; its signature is the only list of hyperparameters."""

    def enter(make: Callable[..., Algorithm]) -> Callable[..., Algorithm]:
        if name in REGISTRY:
            raise ValueError(f"algorithm {name!r} is in the zoo already")
        REGISTRY[name] = Entry(name, make, paper, lr, frozenset(needs))
        return make

    return enter


def find(name: str) -> Entry:
    """The zoo's entry of that name; raises UsageError listing the names there are."""
    if name not in REGISTRY:
        raise UsageError(f"unknown algorithm {name!r}; known: {choices(REGISTRY)}")
    return REGISTRY[name]
