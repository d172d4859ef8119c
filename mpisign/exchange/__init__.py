"""How messages travel: one file an exchange, and the choice between them."""

from dataclasses import dataclass

from mpisign.algorithm import Algorithm, Cycle, Stages
from mpisign.errors import UsageError, choices, did_you_mean
from mpisign.exchange.base import Exchange
from mpisign.exchange.costs import SHARDING
from mpisign.exchange.local import Local
from mpisign.layout import Layout
from mpisign.world import Mpi, World

NAMES = ("auto", "sharded", "allgather", "allreduce", "hierarchical", "dense", "dense-mpi")
RAW = ("dense", "dense-mpi")
MANY = 32  # voters up to which n - 1 words a coordinate are fewer than the floats of a verdict
LEAST, MOST = 1 << 16, 1 << 20  # bytes of a plane in a chunk, where nobody says how many


@dataclass(frozen=True)
class Choice:
    """The exchange a run uses, and why.

    open: whether another may be taken, once the machine has been measured. details: what the measurement found.
    """

    name: str
    reason: str
    open: bool = False
    details: str = ""


def choose(name: str, algorithm: Algorithm | Stages | Cycle, voters: int) -> tuple[Choice, ...]:
    """The exchange that carries each stage's messages.

    Raises UsageError where the wanted one can't, naming those that can.
    """
    if name not in NAMES:
        raise UsageError(f"unknown exchange {name!r}{did_you_mean(name, NAMES)}; known: {choices(NAMES)}")
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
        if raw:
            return Choice("dense", "fewest bytes for raw floats")
        # a vote's arrays are spread over the ranks where they count
        free = name == "auto" and not stage.vote.stateful
        if stage.vote.down(stage.sign.up(), voters).raw and voters <= MANY:
            return Choice("allgather", "verdicts are floats, which nobody has to send where everyone counts", open=free)
        return Choice("sharded", "fewest bytes for sign words", open=free)
    if name in ("allreduce", "hierarchical") and (stage.vote.needs_ballots or stage.vote.shares):
        return Choice("sharded", f"{name} counts votes on the way, but {vote} needs single messages")
    if name == "dense-mpi" and stage.vote.needs_ballots:
        return Choice("dense", f"dense-mpi sums floats, but {vote} needs single messages")
    return Choice(name, "as asked for")


def build(
    chosen: tuple[Choice, ...],
    world: World,
    layout: Layout,
    algorithm: Algorithm | Stages | Cycle,
    chunk: int = 0,
    progress: str = "calls",
    backwards: bool = False,
    node_size: int = 0,
    gpu_aware: bool = False,
    staged: bool | None = None,
) -> list[list[Exchange]]:
    """For each stage one exchange a section of the layout; of a section, all cut x into the same chunks.

    chunk: bytes of one plane of a chunk, 0 for the rule of `coordinates_of`. progress: see progress.py. backwards:
    whether the last coordinates of a section travel first. node_size: see nodes.py. gpu_aware: MPI is given memory of
    the GPU, after a test. staged: whether words cross to the host first; by default where they lie on a GPU otherwise.
    """
    together = None
    if isinstance(world, Mpi):
        from mpisign.exchange.progress import LONG_PAUSE, PAUSE, Progress

        if gpu_aware and layout.device.type != "cpu":
            from mpisign.exchange.aware import check_aware

            check_aware(world.comm, layout.device)
        together = Progress(world.comm, progress, LONG_PAUSE if backwards else PAUSE)
    built = []
    for choice, stage in zip(chosen, algorithm.stages, strict=True):
        built.append([])
        for section in layout.sections:
            slots, raw = stage.of(section), any(s.of(section).sign.up().raw for s in algorithm.stages)
            size = coordinates_of(chunk, section.layout.length, raw)
            name = choice.name if slots is stage or choice.name == "local" else "dense"
            given = (world, section.layout, slots.sign.up(), slots.vote, size, backwards, node_size)
            if together:
                kind = _class(name)
                crosses = layout.device.type != "cpu" and not (gpu_aware and kind.anywhere)
                built[-1].append(kind(*given, crosses if staged is None else staged))
            else:
                built[-1].append(Local(*given, imitates=name))
            built[-1][-1].progress = together
    return built


def coordinates_of(chunk: int, length: int, raw: bool) -> int:
    """Coordinates of a chunk of so many bytes a plane.

    By default an eighth of x, so that seven eighths of a rank's work overlap with the wire, but neither so little that
    latency is what counts nor so much that it leaves the cache.
    """
    each = 4.0 if raw else 1 / 8
    return int(chunk / each) or min(max(length // 8, int(LEAST / each)), int(MOST / each))


def _class(name: str) -> type[Exchange]:
    # imported late: a process of one voter, or a reader of results, may have no MPI
    from mpisign.exchange.allgather import Allgather
    from mpisign.exchange.allreduce import Allreduce, DenseMpi
    from mpisign.exchange.hierarchical import Hierarchical
    from mpisign.exchange.sharded import Dense, Sharded

    return {e.name: e for e in (Sharded, Allgather, Allreduce, Hierarchical, Dense, DenseMpi)}[name]


__all__ = ["NAMES", "Choice", "Exchange", "build", "choose"]
