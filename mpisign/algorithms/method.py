"""What an algorithm is: four slots with a name, or stages of such."""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Self

from mpisign.algorithms.growth import Doubling
from mpisign.algorithms.slots import Estimator, SignRule, Update, Vote
from mpisign.algorithms.weights import Weighted, in_lowest_terms
from mpisign.errors import UsageError, choices
from mpisign.layout import Group, Layout


class Method:
    """What x is moved by: an Algorithm, or two of them that take turns."""

    name: str
    keep: tuple[tuple[str, str], ...] = ()  # arrays that go along from stage to stage
    shares: bool = False  # whether all stages work on the arrays of the first
    stages: tuple["Algorithm", ...]

    @property
    def needs(self) -> frozenset[str]:
        """What a problem must offer."""
        raise NotImplementedError

    @property
    def sampling(self) -> str:
        """What batches must be, "reshuffle" or "replacement"; "" for either."""
        raise NotImplementedError

    @property
    def rules(self) -> dict[str, str]:
        """Its rules for sign(0) and for ties, as "zeros" and "ties"; without one that it has no use for."""
        raise NotImplementedError

    def stage(self, age: int) -> int:
        """Which of the stages takes the step of that age; see slots.Step.age."""
        raise NotImplementedError

    def at(self, age: int) -> "Algorithm":
        """The stage that takes the step of that age."""
        return self.stages[self.stage(age)]

    def minibatches(self, steps: int) -> int:
        """Minibatches that a voter has seen after so many steps."""
        raise NotImplementedError

    def check(self, layout: Layout) -> None:
        """Raises UsageError, the same on all ranks, where hyperparameters do not fit the shapes of x."""
        for stage in self.stages:
            stage.estimator.check(layout)

    @property
    def undivided(self) -> str:
        """Why its vectors can't be shared out among several ranks of a voter; "" where they can."""
        return next(filter(None, (stage.undivided for stage in self.stages)), "")

    def named(self, name: str) -> Self:
        raise NotImplementedError

    @property
    def weighable(self) -> bool:
        """Whether voters may have several votes in any of its stages."""
        return any(stage.vote.weighable for stage in self.stages)

    def with_weights(self, weights: tuple[int, ...]) -> Self:
        """The same with so many votes for each voter, in the stages that take a vote by its tally alone."""
        raise NotImplementedError

    def with_rules(self, zeros: str, ties: str, voters: int) -> Self:
        """The same with its rules for sign(0) and for ties filled in.

        "auto" is the mathematics (sign(0) = 0, ties = 0) for one voter, where nothing travels, and a
        fair coin for several, which needs no second plane.
        Raises UsageError where a rule is asked for that there is no use for.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Algorithm(Method):
    """Four slots, and the name they go by."""

    estimator: Estimator
    sign: SignRule
    vote: Vote
    update: Update
    name: str = field(default="", compare=False)
    dense: "Algorithm | None" = field(default=None, repr=False)  # for what does not vote; see dense.py

    @property
    def stages(self):
        return (self,)

    @property
    def needs(self):
        return self.estimator.needs | self.update.needs

    @property
    def sampling(self):
        return self.estimator.sampling

    @property
    def rules(self):
        return self.sign.rules | self.vote.rules

    @property
    def needs_whole(self) -> str:
        """What it needs the whole gradient for before it can send a part of it; "" for nothing."""
        if not self.estimator.streams:
            return f"{type(self.estimator).__name__} asks for gradients itself"
        if self.estimator.agrees:
            return f"{type(self.estimator).__name__} has all voters agree on whole estimates"
        return f"{type(self.sign).__name__} needs {self.sign.needs_whole} first" if self.sign.needs_whole else ""

    @property
    def undivided(self):
        if self.needs:
            return f"it asks a problem for more than a gradient at x: {choices(self.needs)}"
        for slot in (self.estimator, self.update):
            if slot.by_matrix:
                return f"{type(slot).__name__} works on whole matrices"
        up = self.sign.up()
        if up.varies or (up.coded and not up.signs):
            return f"{type(self.sign).__name__} sends codes, which are looked at as a whole before x moves"
        return ""

    def stage(self, age):
        return 0

    def minibatches(self, steps):
        return self.estimator.minibatches_before(steps)

    def of(self, group: Group) -> "Algorithm":
        """The slots that move a group of coordinates: these, or those for what is averaged."""
        return self if group.vote or self.dense is None else self.dense

    def named(self, name):
        return replace(self, name=name)

    def with_weights(self, weights):
        if not self.vote.weighable or len(set(weights)) == 1:
            return self
        return replace(self, vote=Weighted(self.vote, in_lowest_terms(weights)))

    def with_rules(self, zeros, ties, voters):
        for rule, wanted, slot in (("zeros", zeros, self.sign), ("ties", ties, self.vote)):
            if wanted != "auto" and rule not in slot.rules:
                raise UsageError(
                    f"algorithm.{rule} = {wanted!r}: {self.name} has no rule for {rule} "
                    f"({type(slot).__name__} never meets one); leave it out"
                )
        zero, tie = ("abstain", "zero") if voters == 1 else ("coin", "coin")
        sign = self.sign.with_zeros(zero if zeros == "auto" else zeros)
        vote = self.vote.with_ties(tie if ties == "auto" else ties)
        return replace(self, sign=sign, vote=vote)


class _Several(Method):
    """Algorithms that take turns; kept arrays go along with each change.

    keep: (from, to) names of arrays, as Stepper.states() has them, such as ("vote/z", "vote/z").
    """

    def with_stages(self, stages: tuple[Algorithm, ...], name: str) -> Self:
        """The same with other algorithms for its own."""
        raise NotImplementedError

    @property
    def needs(self):
        return frozenset().union(*(stage.needs for stage in self.stages))

    @property
    def sampling(self):
        return next((stage.sampling for stage in self.stages if stage.sampling), "")

    @property
    def rules(self):
        return {rule: chosen for stage in self.stages for rule, chosen in stage.rules.items()}

    def named(self, name):
        return self.with_stages(tuple(stage.named(name) for stage in self.stages), name)

    def with_weights(self, weights):
        return self.with_stages(tuple(stage.with_weights(weights) for stage in self.stages), self.name)

    def with_rules(self, zeros, ties, voters):
        def ruled(stage: Algorithm) -> Algorithm:
            # one stage may have no use for a rule that the other has
            idle = self.rules.keys() - stage.rules.keys()
            return stage.with_rules("auto" if "zeros" in idle else zeros, "auto" if "ties" in idle else ties, voters)

        return self.with_stages(tuple(map(ruled, self.stages)), self.name)


@dataclass(frozen=True)
class _Turns(_Several):
    """Two algorithms that take turns."""

    first: Algorithm
    then: Algorithm
    keep: tuple[tuple[str, str], ...] = ()
    name: str = field(default="", compare=False)

    @property
    def stages(self):
        return (self.first, self.then)

    def with_stages(self, stages, name):
        return replace(self, first=stages[0], then=stages[1], name=name)


@dataclass(frozen=True)
class Stages(_Turns):
    """`first` takes the steps before `until`, `then` all others."""

    until: int = 1

    def stage(self, age):
        return int(age >= self.until)

    def minibatches(self, steps):
        before = min(steps, self.until)
        return self.first.minibatches(before) + self.then.minibatches(steps) - self.then.minibatches(before)


@dataclass(frozen=True)
class Cycle(_Turns):
    """`first` takes the steps 0, every, 2*every, ..., `then` those in between."""

    every: int = 2

    def stage(self, age):
        return int(age % self.every != 0)

    def minibatches(self, steps):
        firsts = -(-steps // self.every)
        return self.first.minibatches(firsts) + self.then.minibatches(steps - firsts)


@dataclass(frozen=True)
class Thinned(_Several):
    """`first` takes the steps at which one of `intervals` begins, `between` those within; from `until` on `then` all.

    `first` and `between` see one minibatch per step.
    """

    first: Algorithm
    between: Algorithm
    then: Algorithm
    intervals: Doubling
    until: int
    keep: tuple[tuple[str, str], ...] = ()
    name: str = field(default="", compare=False)

    @property
    def stages(self):
        return (self.first, self.between, self.then)

    def with_stages(self, stages, name):
        return replace(self, first=stages[0], between=stages[1], then=stages[2], name=name)

    def stage(self, age):
        return 2 if age >= self.until else int(not self.intervals.due(age))

    def minibatches(self, steps):
        before = min(steps, self.until)
        return before + self.then.minibatches(steps) - self.then.minibatches(before)


@dataclass(frozen=True)
class Phases(_Several):
    """One algorithm after the other: the k-th takes the steps before ends[k] that are left, the last all others.

    They differ in hyperparameters alone, and work on the same arrays; their votes keep none.
    """

    algorithms: tuple[Algorithm, ...]
    ends: tuple[int, ...]
    name: str = field(default="", compare=False)

    shares = True

    @property
    def stages(self):
        return self.algorithms

    def with_stages(self, stages, name):
        return replace(self, algorithms=stages, name=name)

    def stage(self, age):
        return bisect_right(self.ends, age)

    def minibatches(self, steps):
        edges = [0, *(min(end, steps) for end in self.ends), steps]
        spans = zip(self.algorithms, pairwise(edges), strict=True)
        return sum(algorithm.minibatches(end) - algorithm.minibatches(begin) for algorithm, (begin, end) in spans)


# What steps cost, for voters with (rows of a minibatch, rows owned) each


Cost = Callable[[Method, list[tuple[int, int]], int], int]


def evaluations_at(algorithm: Method, batches: list[tuple[int, int]], age: int) -> int:
    """Gradients of single rows that all voters take in a step."""
    estimator = algorithm.at(age).estimator
    return sum(estimator.evaluations(batch, rows, age) for batch, rows in batches)


def values_at(algorithm: Method, batches: list[tuple[int, int]], age: int) -> int:
    """Function values of single rows, likewise."""
    slots = algorithm.at(age)
    return sum(slots.estimator.values(batch, rows, age) + slots.update.values(rows, age) for batch, rows in batches)


def per_step(cost: Cost, algorithm: Method, batches: list[tuple[int, int]], steps: int) -> float:
    """Mean of such a cost over the first steps of a run."""
    return sum(cost(algorithm, batches, age) for age in range(steps)) / steps
