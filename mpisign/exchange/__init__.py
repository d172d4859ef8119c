"""How messages travel: the exchanges, what they share, and the rules by which one is chosen."""

from collections.abc import Sequence
from dataclasses import dataclass

from mpisign.algorithms.formats import Format
from mpisign.algorithms.method import Algorithm, Method
from mpisign.algorithms.slots import Vote
from mpisign.errors import UsageError, choices

# in the order in which they are listed and tried
from mpisign.exchange import sharded, allgather, allreduce, hierarchical, butterfly  # isort: skip
from mpisign.exchange.adopted import Adopted
from mpisign.exchange.base import Exchange
from mpisign.exchange.costs import chunks_of
from mpisign.exchange.gpu_aware import check_aware
from mpisign.exchange.local import Local
from mpisign.exchange.progress import LONG_PAUSE, PAUSE, engine_of
from mpisign.exchange.registry import REGISTRY, exchange, find, offers
from mpisign.layout import Layout
from mpisign.parallel.process_group import GroupComm
from mpisign.parallel.world import Adopting, Mpi, World

_OWN = (sharded, allgather, allreduce, hierarchical, butterfly)  # their classes are in the registry

# bytes of a plane where nobody says how many: in a chunk, and in what one rank of many gets of a chunk
LEAST, MOST, PART = 1 << 17, 1 << 20, 1 << 14


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
    if name != "auto":
        wanted = find(name)
        name = wanted.name
        formats = [stage.sign.up() for stage in algorithm.stages]
        if not any(_carries(wanted, up) for up in formats):
            fitting = [other.name for other in REGISTRY.values() if any(_carries(other, up) for up in formats)]
            sent = " and ".join(dict.fromkeys(map(_kind, formats)))
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
    up, vote = stage.sign.up(), stage.vote
    if voters == 1:
        return Choice("local", "one voter: nothing travels")
    if not up.bits:
        return Choice("local", "all voters have agreed on their estimates: nothing more travels")
    # a name that is for the other stage's kind of messages leaves this one to the rule
    if name == "auto" or not _carries(REGISTRY[name], up):
        return _by_rule(up, vote, voters, name == "auto")
    if REGISTRY[name].needs <= offers(up, vote):
        return Choice(name, "as asked for")
    adds = "sums floats" if up.raw else "counts votes on the way"
    return Choice("dense" if up.raw else "sharded", f"{name} {adds}, but {type(vote).__name__} needs single messages")


def _by_rule(up: Format, vote: Vote, voters: int, free: bool) -> Choice:
    """The exchange that sends least. free: whether another may be taken once the machine has been measured."""
    if up.raw:
        return Choice("dense", "fewest bytes for raw floats")
    if up.varies:
        return Choice("allgather", "how much a voter sends is known only when it is sent")
    down = vote.down(up, vote.votes_of(range(voters)))
    # a vote's arrays are spread over the ranks where they count
    free = free and not vote.stateful
    if (down.raw or (up.coded and not down.coded)) and (voters - 1) * up.bits < down.bits:
        what = "are floats" if down.raw else "take more bits than all messages"
        return Choice("allgather", f"verdicts {what}, which nobody has to send where everyone counts", open=free)
    return Choice("sharded", "fewest bytes for sign words" if up.planes else "fewest bytes for codes", open=free)


def _carries(kind: type[Exchange], up: Format) -> bool:
    """Whether an exchange can carry messages of that format, whatever the vote makes of them."""
    return kind.raw == up.raw and kind.needs <= offers(up)


def _kind(up: Format) -> str:
    """What messages are, for an error."""
    if up.raw:
        return "raw floats" if up.bits else "nothing beside what its voters agree on"
    if up.planes:
        return "sign words"
    return "entries whose number varies" if up.varies else "codes that do not add up on their way"


def candidates(stage: Algorithm) -> tuple[str, ...]:
    """The exchanges that can carry a stage's messages."""
    up = stage.sign.up()
    if not up.bits:
        return ("local",)
    offered = offers(up, stage.vote)
    return tuple(name for name, kind in REGISTRY.items() if kind.raw == up.raw and kind.needs <= offered)


def useful(stage: Algorithm, comm, node_size: int) -> tuple[str, ...]:
    """Those that "auto" should try on these ranks. Collective."""
    names, on_group = candidates(stage), isinstance(comm, GroupComm)
    return tuple(n for n in names if (REGISTRY[n].on_groups if on_group else REGISTRY[n].useful(comm, node_size)))


def refuse_on_group(chosen: tuple[Choice, ...]) -> None:
    """Raises UsageError where an exchange needs MPI, but torch.distributed carries messages."""
    for choice in chosen:
        wanted = REGISTRY.get(choice.name)
        if wanted and not wanted.on_groups:
            able = choices(name for name, kind in REGISTRY.items() if kind.on_groups and kind.raw == wanted.raw)
            raise UsageError(
                f"exchange {choice.name!r} needs MPI, and these ranks talk by torch.distributed; start them by mpirun, "
                f"or use one of: {able}, auto",
                agreed=True,
            )


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
    headers: Sequence[int] = (),
) -> list[list[Exchange]]:
    """For each stage one exchange per group of the layout; those of one group cut x into the same chunks.

    Raises UsageError, on all ranks, for what these ranks can't do.

    chunk: bytes of one plane of a chunk, 0 for the rule of `coordinates_of`. progress: see progress.py. reverse:
    whether the last coordinates of a group travel first. node_size: see nodes.py. gpu_aware: MPI is given memory of
    the GPU, after a test. staged: whether words cross to the host first; by default where they lie on a GPU otherwise.
    headers: for each stage, float64 numbers of a header, which its first exchange takes along if it can.
    """
    engine = None
    if isinstance(world, Mpi):
        if isinstance(world.comm, GroupComm):
            refuse_on_group(chosen)
            # two groups of NCCL at once, as for verdicts while backward runs, may wait for each other
            gpu_aware = world.comm.takes(layout.device) and not reverse
        elif gpu_aware and layout.device.type != "cpu":
            check_aware(world.comm, layout.device)
        engine = engine_of(world.comm, progress, LONG_PAUSE if reverse else PAUSE) if world.n > 1 else None
    built = []
    if world.n == 1:  # nothing travels, so nothing is gained by parts
        chunk = chunk or MOST
    parts = min((REGISTRY[c.name].parts_of(world.n) for c in chosen if c.name != "local"), default=1)
    for choice, stage, numbers in zip(chosen, algorithm.stages, headers or [0] * len(chosen), strict=True):
        built.append([])
        for group in layout.groups:
            header = 0 if built[-1] else numbers
            slots, raw = stage.of(group), any(s.of(group).sign.up().raw for s in algorithm.stages)
            size = coordinates_of(chunk, group.layout.length, raw, parts)
            local = choice.name == "local" and (slots is stage or not engine)
            kind = None if local else REGISTRY[choice.name if slots is stage else "dense"]
            arguments = (world, group.layout, slots.sign.up(), slots.vote, size, reverse, node_size)
            if isinstance(world, Adopting) and not local:
                built[-1].append(Adopted(*arguments))
            elif engine and kind:
                crosses = layout.device.type != "cpu" and not (gpu_aware and kind.gpu_aware)
                built[-1].append(kind(*arguments, crosses if staged is None else staged, header))
            else:
                sizes = [(each, coordinates_of(chunk, each, raw, parts)) for each in world.shards]
                shards = [chunks_of(each, of, slots.sign.up()) for each, of in sizes]
                built[-1].append(Local(*arguments, header=header, imitates=kind, shards=shards))
            built[-1][-1].progress_engine = engine
    return built


def coordinates_of(chunk: int, length: int, raw: bool, parts: int = 1) -> int:
    """Coordinates of a chunk of so many bytes per plane, of which each of `parts` ranks gets its part.

    By default a quarter of x, so that three quarters of a rank's work overlap with the wire, but neither so little that
    calls and latency are what counts nor so much that it leaves the cache; and with many ranks at least 16 KiB for
    each, since the n - 1 messages of a chunk must not cost more by their number than by their bytes.
    """
    each = 4.0 if raw else 1 / 8
    usual = min(max(length // 4, int(LEAST / each)), int(MOST / each))
    return int(chunk / each) or max(usual, int(PART * parts / each))


__all__ = ["REGISTRY", "Choice", "Exchange", "candidates", "choose", "exchange", "make_exchanges", "useful"]
