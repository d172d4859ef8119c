"""The zoo's register: each entry's function, paper, rate, and what is known of it."""

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from mpisign import plugins
from mpisign.algorithms.method import Method
from mpisign.errors import UsageError, choices

# ranges of hyperparameters, for the signatures of the zoo: checked when a job is read
Beta = Annotated[float, Field(ge=0, lt=1)]
Fraction = Annotated[float, Field(gt=0, le=1)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]

# whether f is known to be minimised where voters' rows are unlike: a theorem says so, a theorem or counterexample says
# that it need not be, a paper claims it whose proof was not seen, or nothing is known to us
Heterogeneous = Literal["proved", "refuted", "claimed", "open"]

# how far a row's rule is its source's: as that states it; with departures; seen in other texts in part; or with details
# that were made up for want of the source. Of several the last one holds, and the docstring says what it is about
Sure = Literal["stated", "departs", "second-hand", "reconstructed", "not said"]


@dataclass(frozen=True)
class Entry:
    """A row of the zoo: the function that builds the algorithm, its paper, and what is known of it."""

    name: str
    make: Callable[..., Method]
    paper: str
    lr: float  # the rate that a job takes which gives none
    known: str  # of its convergence, as of the papers' latest versions
    theory: Callable[..., dict[str, Any]] | None = None  # its paper's rate and hyperparameters; see theory.py
    heterogeneous: Heterogeneous = "open"
    sure: Sure = "not said"

    def build(self, **hyperparameters) -> Method:
        return self.make(**hyperparameters).named(self.name)

    @property
    def year(self) -> int:
        """Of its paper, the first one that is named; 0 where none is."""
        found = re.search(r"\b(?:19|20)\d\d\b", self.paper.split("arXiv")[0])
        return int(found[0]) if found else 0

    @property
    def summary(self) -> str:
        return plugins.docstring(self.make).partition("\n")[0]

    @property
    def signature(self) -> str:
        parameters = inspect.signature(self.make).parameters.values()
        return ", ".join(f"{p.name}={p.default!r}" for p in parameters)


REGISTRY: dict[str, Entry] = {}


def algorithm(
    name: str,
    *,
    paper: str,
    lr: float,
    known: str,
    theory=None,
    heterogeneous: Heterogeneous = "open",
    sure: Sure = "not said",
):
    """Enters the decorated function into the zoo; its signature is the only list of hyperparameters."""

    def enter(make: Callable) -> Callable:
        if name in REGISTRY:
            raise ValueError(f"algorithm {name!r} is in the zoo already")
        REGISTRY[name] = Entry(name, make, paper, lr, known, theory, heterogeneous, sure)
        return make

    return enter


def find(name: str) -> Entry:
    """The zoo's entry of that name, another package's too, or module:name, whose module is imported first.

    Raises UsageError listing the names there are.
    """
    return plugins.find("algorithm", name, REGISTRY)


def check_weights(key: str, weights: str | Sequence[int], algorithm: Method, voters: int) -> None:
    """Raises UsageError where voters can't have several votes, and for a list that has not one weight for each.

    key: where the weights stand; weights: a rule by its name, or a list.
    """
    if not algorithm.weighable:
        fitting = choices(e.name for e in entries() if e.build().weighable)
        raise UsageError(
            f"{key} = {weights!r}: what {algorithm.name} decides is no majority or mean of signs, in which a voter "
            f"could have several votes; leave it out, or use one of: {fitting}"
        )
    if not isinstance(weights, str) and len(weights) != voters:
        text = f"{key} = {list(weights)} has {len(weights)} value(s), but there are {voters} voter(s)"
        raise UsageError(f"{text}; give one each")


def entries() -> list[Entry]:
    """All entries, mpisign's own first and in the order of the zoo."""
    plugins.load_all("algorithm")
    return list(REGISTRY.values())
