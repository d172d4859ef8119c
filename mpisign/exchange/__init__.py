"""How messages travel: one file an exchange, and the choice between them."""

from dataclasses import dataclass

from mpisign.algorithm import Algorithm, Vote
from mpisign.errors import UsageError, choices
from mpisign.exchange.base import Exchange
from mpisign.exchange.local import Local
from mpisign.layout import Layout
from mpisign.world import Mpi, World

NAMES = ("auto", "sharded", "allgather", "allreduce", "dense", "dense-mpi")
RAW = ("dense", "dense-mpi")


@dataclass(frozen=True)
class Choice:
    """The exchange a run uses, and why."""

    name: str
    reason: str


def choose(name: str, algorithm: Algorithm, voters: int) -> Choice:
    """The exchange that carries an algorithm's messages.

    Raises UsageError where the wanted one can't, naming those that can.
    """
    if name not in NAMES:
        raise UsageError(f"unknown exchange {name!r}; known: {choices(NAMES)}")
    raw = algorithm.sign.up().raw
    if name != "auto" and raw != (name in RAW):
        fitting = [n for n in NAMES[1:] if (n in RAW) == raw]
        kind = "raw floats" if raw else "sign words"
        raise UsageError(
            f"exchange {name!r} can't carry {algorithm.name}, which sends {kind}; use one of: {choices(fitting)}, auto"
        )
    if voters == 1:
        return Choice("local", "one voter: nothing travels")
    if name == "auto":
        chosen = "dense" if raw else "sharded"
        return Choice(chosen, "fewest bytes for raw floats" if raw else "fewest bytes for sign words")
    if name == "allreduce" and not _tally_is_enough(algorithm.vote):
        return Choice("sharded", f"allreduce sums votes, but {type(algorithm.vote).__name__} needs single messages")
    return Choice(name, "as asked for")


def _tally_is_enough(vote: Vote) -> bool:
    return not (vote.needs_ballots or vote.shares)


def build(choice: Choice, world: World, layout: Layout, algorithm: Algorithm, chunk: int) -> Exchange:
    """The exchange of that name for this run. chunk: bytes of one plane of a chunk."""
    up = algorithm.sign.up()
    per_byte = 0.25 if up.raw else 8
    make = _class(choice.name) if isinstance(world, Mpi) else Local
    return make(world, layout, up, algorithm.vote, int(chunk * per_byte))


def _class(name: str) -> type[Exchange]:
    # imported late: a process of one voter, or a reader of results, may have no MPI
    from mpisign.exchange.allgather import Allgather
    from mpisign.exchange.allreduce import Allreduce, DenseMpi
    from mpisign.exchange.sharded import Dense, Sharded

    return {e.name: e for e in (Sharded, Allgather, Allreduce, Dense, DenseMpi, Local)}[name]


__all__ = ["NAMES", "Choice", "Exchange", "build", "choose"]
