"""What an algorithm is: four slots with a name, or stages of such; and the zoo's register of them."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Annotated, Any

from pydantic import Field

from mpisign import docstrings, plugins
from mpisign.errors import UsageError
from mpisign.layout import Section
from mpisign.slots import Estimator, SignRule, Update, Vote

# ranges of hyperparameters, for the signatures of the zoo: checked when a job is read
Beta = Annotated[float, Field(ge=0, lt=1)]
Fraction = Annotated[float, Field(gt=0, le=1)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class Algorithm:
    """Four slots, and the name they go by."""

    estimator: Estimator
    sign: SignRule
    vote: Vote
    update: Update
    name: str = field(default="", compare=False)
    dense: "Algorithm | None" = field(default=None, repr=False)  # for what does not vote; see dense.py

    keep = ()

    @property
    def stages(self) -> tuple["Algorithm", ...]:
        """The algorithms that take turns: only this one."""
        return (self,)

    @property
    def needs(self) -> frozenset[str]:
        """What a problem must offer."""
        return self.estimator.needs | self.update.needs

    @property
    def sampling(self) -> str:
        """What batches must be, "reshuffle" or "replacement"; "" for either."""
        return self.estimator.sampling

    @property
    def whole(self) -> str:
        """What it needs the whole gradient for before it can send a part of it; "" for nothing."""
        if not self.estimator.by_parts:
            return f"{type(self.estimator).__name__} asks for gradients itself"
        return f"{type(self.sign).__name__} needs {self.sign.whole} first" if self.sign.whole else ""

    def stage(self, age: int) -> int:
        """Which of the stages takes the step of that age; see slots.Step.age."""
        return 0

    def minibatches(self, steps: int) -> int:
        """Minibatches that a voter has seen after so many steps."""
        return steps * self.estimator.minibatches

    def of(self, section: Section) -> "Algorithm":
        """The slots that move a section of x: these, or those for what is averaged."""
        return self if section.vote or self.dense is None else self.dense

    def named(self, name: str) -> "Algorithm":
        return replace(self, name=name)

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


@dataclass(frozen=True)
class _Turns:
    """Two algorithms that take turns; kept arrays go along with each change.

    keep: (from, to) names of arrays, as Stepper.states() has them, such as ("vote/z", "vote/z").
    """

    first: Algorithm
    then: Algorithm
    keep: tuple[tuple[str, str], ...] = ()
    name: str = field(default="", compare=False)

    @property
    def stages(self) -> tuple[Algorithm, ...]:
        return (self.first, self.then)

    @property
    def needs(self) -> frozenset[str]:
        return self.first.needs | self.then.needs

    @property
    def sampling(self) -> str:
        return self.first.sampling or self.then.sampling

    def named(self, name: str):
        return replace(self, first=self.first.named(name), then=self.then.named(name), name=name)

    def with_rules(self, zeros: str, ties: str, voters: int):
        found = []
        for stage in self.stages:
            # one stage may have no use for a rule that the other has
            others = [s for s in self.stages if s is not stage]
            own_zeros, own_ties = (
                "auto" if not _has_rule(stage, rule) and any(_has_rule(o, rule) for o in others) else wanted
                for rule, wanted in (("zeros", zeros), ("ties", ties))
            )
            found.append(stage.with_rules(own_zeros, own_ties, voters))
        return replace(self, first=found[0], then=found[1])


@dataclass(frozen=True)
class Stages(_Turns):
    """`first` takes the steps before `until`, `then` all others."""

    until: int = 1

    def stage(self, age: int) -> int:
        return int(age >= self.until)

    def minibatches(self, steps: int) -> int:
        before = min(steps, self.until)
        return self.first.minibatches(before) + self.then.minibatches(steps - before)


@dataclass(frozen=True)
class Cycle(_Turns):
    """`first` takes the steps 0, every, 2*every, ..., `then` those in between."""

    every: int = 2

    def stage(self, age: int) -> int:
        return int(age % self.every != 0)

    def minibatches(self, steps: int) -> int:
        firsts = -(-steps // self.every)
        return self.first.minibatches(firsts) + self.then.minibatches(steps - firsts)


def _has_rule(algorithm: Algorithm, rule: str) -> bool:
    return f"{rule}=" in repr((algorithm.sign, algorithm.vote))


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
    """A row of the zoo: the function that builds the algorithm, its paper, and what is known of it."""

    name: str
    make: Callable[..., Algorithm | Stages | Cycle]
    paper: str
    lr: float  # the rate that a job takes which gives none
    known: str  # of its convergence, as of the papers' latest versions
    theory: Callable[..., dict[str, Any]] | None = None  # its paper's rate and hyperparameters; see theory.py

    def build(self, **hyperparameters) -> Algorithm | Stages | Cycle:
        return self.make(**hyperparameters).named(self.name)

    @property
    def summary(self) -> str:
        return docstrings.of(self.make).partition("\n")[0]

    @property
    def signature(self) -> str:
        parameters = inspect.signature(self.make).parameters.values()
        return ", ".join(f"{p.name}={p.default!r}" for p in parameters)


REGISTRY: dict[str, Entry] = {}


def algorithm(name: str, *, paper: str, lr: float, known: str, theory=None):
    """Enters the decorated function into the zoo; its signature is the only list of hyperparameters."""

    def enter(make: Callable) -> Callable:
        if name in REGISTRY:
            raise ValueError(f"algorithm {name!r} is in the zoo already")
        REGISTRY[name] = Entry(name, make, paper, lr, known, theory)
        return make

    return enter


def find(name: str) -> Entry:
    """The zoo's entry of that name, another package's too, or module:name, whose module is imported first.

    Raises UsageError listing the names there are.
    """
    return plugins.find("algorithm", name, REGISTRY)


def entries() -> list[Entry]:
    """All entries, mpisign's own first and in the order of the zoo."""
    plugins.load_all("algorithm")
    return list(REGISTRY.values())
