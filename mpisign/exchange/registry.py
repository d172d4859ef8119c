"""Which exchanges there are: the classes that the decorator entered, mpisign's own and those of other packages."""

from collections.abc import Callable

from mpisign import plugins
from mpisign.algorithms.formats import Format
from mpisign.algorithms.slots import Vote
from mpisign.exchange.base import Exchange

REGISTRY: dict[str, type[Exchange]] = {}
NEEDS = frozenset({"counts", "pieces"})


def exchange(name: str) -> Callable[[type[Exchange]], type[Exchange]]:
    """Enters the decorated class under a name, by which jobs ask for it; what it can carry it declares itself.

    A class of another package takes MPI from mpisign.exchange.late, so that a job is planned before MPI starts.
    """

    def enter(kind: type[Exchange]) -> type[Exchange]:
        if name in REGISTRY or name in ("auto", "local"):
            raise ValueError(f"exchange {name!r} is taken already")
        if unknown := kind.needs - NEEDS:
            raise ValueError(f"exchange {name!r} needs {sorted(unknown)}; known: {sorted(NEEDS)}")
        kind.name = name
        REGISTRY[name] = kind
        return kind

    return enter


def find(name: str) -> type[Exchange]:
    """The exchange of that name, another package's too, or module:name, whose module is imported first.

    Raises UsageError listing the names there are.
    """
    return plugins.find("exchange", name, REGISTRY, ("auto",))


def offers(up: Format, vote: Vote | None = None) -> frozenset[str]:
    """What messages offer an exchange: "counts", if they add up and the vote is content with their sum; "pieces".

    vote: None for what the format alone offers.
    """
    content = vote is None or not (vote.needs_ballots or vote.shares)
    able = {"counts": (up.counts or up.raw) and content, "pieces": not up.varies}
    return frozenset(need for need, offered in able.items() if offered)
