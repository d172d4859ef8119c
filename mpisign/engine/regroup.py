"""A checkpoint of n voters, taken up by m: what goes along, and which methods keep what can't.

Voters go by their numbers: those below n and m survive, those from m on leave, those from n on are new. Where voters
were lost before the checkpoint was written, those who would leave take their places, and else new ones do. x, the
arrays of updates and those of votes, which lie in coordinate order, are nobody's own, and go along. Of a voter's
arrays,

    most            stay with it: momentum, an estimate, radii of its own; a new voter begins with zeros
    `alike`         are the same for all voters: a new one takes them over
    `debts`         are the residuals of error feedback, of which see below
    statistics      are a model's own (BatchNorm's): a new voter begins with their mean over the voters so far

as the slots say it (slots.py). What is `bound` to the voters of then goes nowhere: such a method is refused.

Residuals. Voter i keeps e_i, which it has not sent yet, and whose messages weigh 1/n in the direction: x lacks
sum_i e_i / n of what was computed. Error feedback converges because x less that sum, the error-corrected iterate, moves
along gradients alone [Karimireddy et al. 2019, arXiv:1901.09847, section 4; for several workers Zheng et al. 2019,
arXiv:1905.10936, section 4]. So that it does not jump when a message comes to weigh 1/m, with s survivors

    e'_i = m/n * (e_i + 1/s * sum of the e_j of those who leave),    0 for a new voter,

and sum_i e'_i / m = sum_i e_i / n: each debt is paid as it would have been, a leaver's by the survivors in equal parts.
(n are those whose residuals there are.) With `keep_debts` = False survivors keep their e_i as they are, and what
leavers owe is lost. The residual that a vote keeps is in units of the direction itself, and stays as it is.
"""

import re
from itertools import chain
from types import TracebackType

import numpy as np
from torch import Tensor

from mpisign.algorithms.method import Algorithm, Method
from mpisign.algorithms.slots import Vote
from mpisign.engine.stepper import Stepper
from mpisign.layout import TILE, Layout
from mpisign.storage.checkpoint import Checkpoint

WEIGHED = re.compile(r"Weighted\(vote=(.+?), weights=\([\d, ]+\)\)")  # in a definition
OF_VOTER = re.compile(
    r"(?P<stage>(?:stage(?P<number>\d+)/)?)(?P<slot>estimator|sign|oracle)/(?P<name>.+)/(?P<voter>\d+)"
)


def bound(algorithm: Method, before: int, now: int) -> str:
    """Why an algorithm can't go on with `now` voters after `before`: the slot, and what it keeps. "" if it can."""
    both = chain.from_iterable((stage, stage.dense) for stage in algorithm.stages)
    reasons = (_bound(slots, before, now) for slots in both if slots)
    return next(filter(None, reasons), "")


def owes(algorithm: Method) -> bool:
    """Whether voters keep residuals, which they still owe to the mean."""
    return any(stage.sign.debts or stage.estimator.debts for stage in algorithm.stages)


def debts_of(stepper: Stepper) -> list[Tensor]:
    """The residuals of the local voters."""
    named = ((OF_VOTER.fullmatch(name), array) for name, array in stepper.own().items())
    return [array for of, array in named if of and of["name"] in _debts(stepper.algorithm, of)]


def _debts(algorithm: Method, of: re.Match) -> tuple[str, ...]:
    return getattr(getattr(algorithm.stages[int(of["number"] or 0)], of["slot"], None), "debts", ())


def _bound(slots: Algorithm, before: int, now: int) -> str:
    for slot in (slots.estimator, slots.sign, slots.vote, slots.update):
        if slot.bound:
            return f"{type(slot).__name__} keeps {slot.bound}"
    if slots.estimator.tables:
        return f"{type(slots.estimator).__name__} keeps a number for each of a voter's own rows, which are dealt anew"
    # what another package's vote does not say itself, the shapes of its arrays do
    if odd := [name for name, shape in _shapes(slots.vote, before).items() if shape != _shapes(slots.vote, now)[name]]:
        return f"{type(slots.vote).__name__} keeps {odd[0]!r}, whose shape is a matter of how many voters there are"
    return ""


def _shapes(vote: Vote, voters: int) -> dict[str, tuple[int, ...]]:
    return {name: tuple(a.shape) for name, a in vote.init(Layout({"x": (TILE,)}), TILE, voters).items()}


def places(before: list[int], now: int) -> dict[int, int]:
    """By number of a voter among `now`, which of those before it goes on as; who is not in it is new."""
    taken = {voter: voter for voter in before if voter < now}
    leavers = [voter for voter in before if voter >= now]
    free = [place for place in range(now) if place not in taken]
    return taken | dict(zip(free, leavers, strict=False))


class Regrouped:
    """A checkpoint as other voters read it: state.load_state() takes one for the other.

    opened: of other voters, by an algorithm that is not bound() to them. keep_debts: whether the mean residual stays
    what it was.
    """

    def __init__(self, opened: Checkpoint, stepper: Stepper, keep_debts: bool = True):
        self.path, self.layout, self.config, self.progress = opened.path, opened.layout, opened.config, opened.progress
        self._before, self.n = opened.voters, stepper.world.n
        self._places = places(self._before, self.n)
        definition, own = opened.attributes["definition"], repr(stepper.algorithm)
        # votes of each voter are those of the rows, batches or list of now
        if WEIGHED.sub(r"\1", definition) == WEIGHED.sub(r"\1", own):
            definition = own
        self.attributes = opened.attributes | {"n": self.n, "definition": definition}
        self._opened, self._stages, self._keep_debts = opened, stepper.algorithm.stages, keep_debts
        self._shares: dict[str, np.ndarray] = {}  # of what leavers owe, a survivor's part

    def __contains__(self, name: str) -> bool:
        return self._source(name) in self._opened

    def __getitem__(self, name: str) -> np.ndarray:
        of = OF_VOTER.fullmatch(name)
        if of is None or (of["slot"] != "oracle" and of["name"] in self._slot(of).alike):
            return self._opened[self._source(name)]
        new, own = int(of["voter"]) not in self._places, self._opened[self._source(name)]
        if of["slot"] == "oracle":
            return self._mean(self._base(of)) if new else own
        if new:
            return np.zeros_like(own)
        return self._debt(of, own) if self._keep_debts and of["name"] in self._slot(of).debts else own

    def names(self) -> list[str]:
        """All arrays of the checkpoint, as its own voters named them."""
        return self._opened.names()

    def kind(self, name: str) -> tuple[tuple[int, ...], np.dtype] | None:
        """Shape and type of an array, or None if there is none of that name."""
        return self._opened.kind(self._source(name))

    def part(self, name: str, lo: int, hi: int) -> np.ndarray:
        """Coordinates [lo, hi) of what a vote keeps."""
        return self._opened.part(name, lo, hi)

    def _source(self, name: str) -> str:
        """The array that one is made from: of a new voter, that of the first one there is."""
        of = OF_VOTER.fullmatch(name)
        return f"{self._base(of)}/{self._places.get(int(of['voter']), self._before[0])}" if of else name

    @staticmethod
    def _base(of: re.Match) -> str:
        return f"{of['stage']}{of['slot']}/{of['name']}"

    def _slot(self, of: re.Match):
        return getattr(self._stages[int(of["number"] or 0)], of["slot"])

    def _debt(self, of: re.Match, own: np.ndarray) -> np.ndarray:
        """A survivor's residual: float64 sums in the order of voters, rounded once."""
        base = self._base(of)
        if base not in self._shares:
            owed = np.zeros(own.shape)
            leavers = [voter for voter in self._before if voter not in self._places.values()]
            for voter in leavers:
                owed += self._opened[f"{base}/{voter}"]
            self._shares[base] = owed / (len(self._before) - len(leavers))
        return (self.n / len(self._before) * (own + self._shares[base])).astype(own.dtype)

    def _mean(self, base: str) -> np.ndarray:
        """Over the voters of the checkpoint, in their order; rounded where whole numbers are counted."""
        arrays = [self._opened[f"{base}/{voter}"] for voter in self._before]
        mean = np.sum([a.astype(np.float64) for a in arrays], axis=0) / len(arrays)
        return (np.rint(mean) if arrays[0].dtype.kind in "iu" else mean).astype(arrays[0].dtype)

    def __enter__(self) -> "Regrouped":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._opened.close()
