"""How messages travel: one file an exchange, and the choice between them."""

from dataclasses import dataclass

from mpisign.algorithm import Algorithm, Cycle, Stages
from mpisign.errors import UsageError, choices
from mpisign.exchange.base import Exchange
from mpisign.exchange.costs import SHARDING
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


def choose(name: str, algorithm: Algorithm | Stages | Cycle, voters: int) -> tuple[Choice, ...]:
    """The exchange that carries each stage's messages.

    Raises UsageError where the wanted one can't, naming those that can.
    """
    if name not in NAMES:
        raise UsageError(f"unknown exchange {name!r}; known: {choices(NAMES)}")
    kinds = [stage.sign.up().raw for stage in algorithm.stages]
    if name != "auto" and (name in RAW) not in kinds:
        fitting = [n for n in NAMES[1:] if (n in RAW) in kinds]
        sent = "raw floats" if all(kinds) else "sign words"
        raise UsageError(
            f"exchange {name!r} can't carry {algorithm.name}, which sends {sent}; use one of: {choices(fitting)}, auto"
        )
    found = [_choose(name, stage, voters) for stage in algorithm.stages]
    if voters > 1 and any(target.startswith("vote/") for _, target in algorithm.keep):
        # what a vote keeps from stage to stage must lie with the same ranks
        why = "the vote's arrays stay with the ranks that count, from stage to stage"
        found = [c if c.name in SHARDING else Choice("sharded", why) for c in found]
    return tuple(found)


def _choose(name: str, stage: Algorithm, voters: int) -> Choice:
    raw, vote = stage.sign.up().raw, type(stage.vote).__name__
    if voters == 1:
        return Choice("local", "one voter: nothing travels")
    # a name that is for the other stage's kind of messages leaves this one to the rule
    if name == "auto" or raw != (name in RAW):
        return (
            Choice("dense", "fewest bytes for raw floats") if raw else Choice("sharded", "fewest bytes for sign words")
        )
    if name == "allreduce" and (stage.vote.needs_ballots or stage.vote.shares):
        return Choice("sharded", f"allreduce sums votes, but {vote} needs single messages")
    if name == "dense-mpi" and stage.vote.needs_ballots:
        return Choice("dense", f"dense-mpi sums floats, but {vote} needs single messages")
    return Choice(name, "as asked for")


def build(
    choice: Choice, world: World, layout: Layout, algorithm: Algorithm, chunk: int, raw: bool | None = None
) -> Exchange:
    """The exchange of that name for this run. chunk: bytes of one plane of a chunk.

    raw: whether chunks are those of raw floats, where stages must cut x alike; by default the algorithm's own.
    """
    up = algorithm.sign.up()
    coordinates = int(chunk * (0.25 if (up.raw if raw is None else raw) else 8))
    if isinstance(world, Mpi):
        return _class(choice.name)(world, layout, up, algorithm.vote, coordinates)
    return Local(world, layout, up, algorithm.vote, coordinates, imitates=choice.name)


def build_all(
    chosen: tuple[Choice, ...], world: World, layout: Layout, algorithm: Algorithm | Stages | Cycle, chunk: int
) -> list[Exchange]:
    """One exchange a stage, all of which cut x into the same chunks."""
    raw = any(stage.sign.up().raw for stage in algorithm.stages)
    pairs = zip(chosen, algorithm.stages, strict=True)
    return [build(choice, world, layout, stage, chunk, raw) for choice, stage in pairs]


def _class(name: str) -> type[Exchange]:
    # imported late: a process of one voter, or a reader of results, may have no MPI
    from mpisign.exchange.allgather import Allgather
    from mpisign.exchange.allreduce import Allreduce, DenseMpi
    from mpisign.exchange.sharded import Dense, Sharded

    return {e.name: e for e in (Sharded, Allgather, Allreduce, Dense, DenseMpi)}[name]


__all__ = ["NAMES", "Choice", "Exchange", "build", "build_all", "choose"]
