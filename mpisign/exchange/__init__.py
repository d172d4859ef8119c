"""How messages travel: the exchanges, what they share, and the rules by which one is chosen."""

from dataclasses import dataclass

from mpisign.algorithms.method import Algorithm, Method
from mpisign.errors import UsageError, choices

# in the order in which they are listed and tried
from mpisign.exchange import sharded, allgather, allreduce, hierarchical  # isort: skip
from mpisign.exchange.base import Exchange
from mpisign.exchange.gpu_aware import check_aware
from mpisign.exchange.local import Local
from mpisign.exchange.progress import LONG_PAUSE, PAUSE, ProgressEngine
from mpisign.exchange.registry import REGISTRY, exchange, find, offers
from mpisign.layout import Layout
from mpisign.parallel.world import Mpi, World

_OWN = (sharded, allgather, allreduce, hierarchical)  # their classes are in the registry

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


def choose(name: str, algorithm: Method, voters: int) -> tuple[Choice, ...]:
    """The exchange that carries each stage's messages.

    Raises UsageError where the wanted one can't, naming those that can.
    """
    kinds = [stage.sign.up().raw for stage in algorithm.stages]
    if name != "auto":
        wanted = find(name)
        name = wanted.name
        if wanted.raw not in kinds:
            fitting = [other.name for other in REGISTRY.values() if other.raw in kinds]
            sent = "raw floats" if all(kinds) else "sign words"
            raise UsageError(
                f"exchange {name!r} can't carry {algorithm.name}, which sends {sent}; use one of: {choices(fitting)}, "
                "auto"
            )
    chosen = [_choose(name, stage, voters) for stage in algorithm.stages]
    if voters > 1 and any(target.startswith("vote/") for _, target in algorithm.keep):
        # what a vote keeps from stage to stage must lie with the same ranks
        why = "the vote's arrays stay with the ranks that count, from stage to stage"
        chosen = [c if REGISTRY[c.name].even else Choice("sharded", why) for c in chosen]
    return tuple(chosen)


def _choose(name: str, stage: Algorithm, voters: int) -> Choice:
    raw, vote = stage.sign.up().raw, stage.vote
    if voters == 1:
        return Choice("local", "one voter: nothing travels")
    # a name that is for the other stage's kind of messages leaves this one to the rule
    if name == "auto" or raw != REGISTRY[name].raw:
        if raw:
            return Choice("dense", "fewest bytes for raw floats")
        # a vote's arrays are spread over the ranks where they count
        free = name == "auto" and not vote.stateful
        if vote.down(stage.sign.up(), voters).raw and voters <= MANY:
            return Choice("allgather", "verdicts are floats, which nobody has to send where everyone counts", open=free)
        return Choice("sharded", "fewest bytes for sign words", open=free)
    if REGISTRY[name].needs <= offers(vote):
        return Choice(name, "as asked for")
    adds = "sums floats" if raw else "counts votes on the way"
    return Choice("dense" if raw else "sharded", f"{name} {adds}, but {type(vote).__name__} needs single messages")


def candidates(stage: Algorithm) -> tuple[str, ...]:
    """The exchanges that can carry a stage's messages."""
    raw, offered = stage.sign.up().raw, offers(stage.vote)
    return tuple(name for name, kind in REGISTRY.items() if kind.raw == raw and kind.needs <= offered)


def make_exchanges(
    chosen: tuple[Choice, ...],
    world: World,
    layout: Layout,
    algorithm: Method,
    chunk: int = 0,
    progress: str = "calls",
    reverse: bool = False,
    node_size: int = 0,
    gpu_aware: bool = False,
    staged: bool | None = None,
) -> list[list[Exchange]]:
    """For each stage one exchange per group of the layout; those of one group cut x into the same chunks.

    chunk: bytes of one plane of a chunk, 0 for the rule of `coordinates_of`. progress: see progress.py. reverse:
    whether the last coordinates of a group travel first. node_size: see nodes.py. gpu_aware: MPI is given memory of
    the GPU, after a test. staged: whether words cross to the host first; by default where they lie on a GPU otherwise.
    """
    engine = None
    if isinstance(world, Mpi):
        if gpu_aware and layout.device.type != "cpu":
            check_aware(world.comm, layout.device)
        engine = ProgressEngine(world.comm, progress, LONG_PAUSE if reverse else PAUSE)
    built = []
    for choice, stage in zip(chosen, algorithm.stages, strict=True):
        built.append([])
        for group in layout.groups:
            slots, raw = stage.of(group), any(s.of(group).sign.up().raw for s in algorithm.stages)
            size = coordinates_of(chunk, group.layout.length, raw)
            kind = REGISTRY.get(choice.name if slots is stage or choice.name == "local" else "dense")
            arguments = (world, group.layout, slots.sign.up(), slots.vote, size, reverse, node_size)
            if engine:
                crosses = layout.device.type != "cpu" and not (gpu_aware and kind.gpu_aware)
                built[-1].append(kind(*arguments, crosses if staged is None else staged))
            else:
                built[-1].append(Local(*arguments, imitates=kind))
            built[-1][-1].progress_engine = engine
    return built


def coordinates_of(chunk: int, length: int, raw: bool) -> int:
    """Coordinates of a chunk of so many bytes per plane.

    By default an eighth of x, so that seven eighths of a rank's work overlap with the wire, but neither so little that
    latency is what counts nor so much that it leaves the cache.
    """
    each = 4.0 if raw else 1 / 8
    return int(chunk / each) or min(max(length // 8, int(LEAST / each)), int(MOST / each))


__all__ = ["REGISTRY", "Choice", "Exchange", "candidates", "choose", "exchange", "make_exchanges"]
