"""`mpisign project`: seconds of a step on thousands of nodes, by simulating its messages on a network that you name.

The wire is simulated: the messages of an exchange's own schedule on SimGrid's links. What a rank's core does beside it
is counted: kernels per coordinate, and a part of a microsecond for each message. As in the exchanges, all but one chunk
of the shorter of the two hides behind the longer; the sums of float32 hide nothing, as `mpisign bench peers` has them.

Where there are too many messages to simulate, the shifts of an Alltoall (each sends to the rank so many further) are
sampled: k of the 32 of a batch, evenly spaced, travel at once, with k/32 of the latency, and all take (n - 1)/k times
as long. Batches begin at random.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean, stdev

import numpy as np

from mpisign.algorithms.method import Algorithm
from mpisign.bench import simgrid
from mpisign.bench.simgrid import Part, Traffic
from mpisign.bench.table import Say, Table, link_text
from mpisign.bench.topology import topology
from mpisign.engine.header import numbers_of
from mpisign.errors import UsageError, choices
from mpisign.exchange import REGISTRY, Exchange, candidates, coordinates_of
from mpisign.exchange.costs import Sizes, chunks_of
from mpisign.exchange.schedule import Phase, halving_doubling, ring
from mpisign.layout import Group, Layout

RING, HALVING = "float32 ring", "float32 halving-doubling"
FLOWS = 1 << 11  # messages on their way together that are simulated as they are
FASTER = 8  # the link of another simulation, which tells what no link shortens
COLUMNS = {
    "nodes": ",d", "n": ",d", "exchange": "", "step ms": ",.4g", "+-": ".2g", "wire ms": ",.4g", "core ms": ",.3g",
    "faster than ring": ",.3g", "than halving": ",.3g", "speed-up": ",.4g", "efficiency": ".0%",
    "pays below Gbps": "", "MB": ",.4g", "messages": ",d", "checked": "", "simulated": "", "took s": ".0f",
}  # fmt: skip
CHECKED = {
    "n": "d", "d": ",d", "exchange": "", "wire ms": ".3f", "core ms": ".3f", "projected ms": ".3f",
    "measured ms": ".3f", "error": "+.0%",
}  # fmt: skip


@dataclass(frozen=True)
class Network:
    """bandwidth: of each link and direction, bytes per second. latency: of each link, seconds."""

    topology: str
    bandwidth: float
    latency: float


@dataclass(frozen=True)
class Work:
    """What a rank does beside the wire.

    gradient: seconds. vote, floats: nanoseconds per coordinate, of a vote and of a sum of float32 with its step.
    message: seconds for each message that is sent or received.
    """

    gradient: float = 0.0
    vote: float = 0.0
    floats: float = 0.0
    message: float = 0.0


@dataclass(frozen=True)
class Sampling:
    """shifts: of a sample. samples: simulated one after the other, each from its own draw by the seed."""

    shifts: int = 4
    samples: int = 4
    seed: int = 1


@dataclass(frozen=True)
class Subject:
    """What is projected: a step on so many parameters, and the algorithm that n voters run."""

    layout: Layout
    algorithm: Callable[[int], Algorithm]
    name: str
    chunk: int = 0
    node_size: int = 1

    @property
    def d(self) -> int:
        """Coordinates."""
        return self.layout.size

    def schedule(self, name: str, n: int) -> tuple[list[Phase], int]:
        """The phases of a step by an exchange or a sum of float32, and the number of chunks.

        Raises UsageError for an exchange that can't carry the messages, or does not tell what it sends.
        """
        if name in (RING, HALVING):
            return (ring if name == RING else halving_doubling)(self.d, n), 1
        stage = self.algorithm(n)
        kind = _carrier(name, stage, self.name)
        first, *averaged = self.layout.groups
        sizes = self._sizes(kind, stage.of(first), first, n)
        phases = kind.with_headers(sizes, 8 * numbers_of(stage, self.layout))
        for group in averaged:
            phases += REGISTRY["dense"].schedule(self._sizes(kind, stage.of(group), group, n))
        return phases, len(sizes.chunks)

    def _sizes(self, kind: type[Exchange], slots: Algorithm, group: Group, n: int) -> Sizes:
        up, length = slots.sign.up(), group.layout.length
        chunks = chunks_of(length, coordinates_of(self.chunk, length, up.raw, kind.parts_of(n)), up)
        down = slots.vote.down(up, slots.vote.votes_of(range(n)))
        return Sizes(chunks, up, down, slots.vote, n, self.node_size)

    def left_out(self) -> str:
        """What travels in a step beside messages, verdicts and headers, and is not projected."""
        stage = self.algorithm(2)
        agreeing = [slot for slot in (stage.estimator, stage.sign) if slot.agrees]
        return "; ".join(slot.side_information() for slot in agreeing)


def _carrier(name: str, stage: Algorithm, algorithm: str) -> type[Exchange]:
    able = [each for each in candidates(stage) if each in REGISTRY]
    if not able:
        raise UsageError(
            f"{algorithm} can't be projected: nothing travels beside what its voters agree on; take another --algorithm"
        )
    if stage.sign.up().varies:
        raise UsageError(
            f"{algorithm} can't be projected: how much its voters send is known only in a run; take another --algorithm"
        )
    fitting = [each for each in able if REGISTRY[each].schedule is not Exchange.schedule]
    if name not in able:
        raise UsageError(f"--exchange {name}: can't carry {algorithm}; use one of: {choices(fitting)}")
    if name not in fitting:
        raise UsageError(f"--exchange {name}: does not tell what it sends; use one of: {choices(fitting)}")
    return REGISTRY[name]


@dataclass
class Wire:
    """Seconds on the wire, and their deviation over samples (ddof = 1).

    fast, slow: seconds behind links FASTER times as fast, and as slow.
    """

    seconds: float
    deviation: float
    simulated: str
    fast: float
    slow: float

    def at(self, faster: float) -> float:
        """Seconds behind links that are so many times faster: a part that no link shortens, and one by its rate."""
        other, ratio = (self.fast, FASTER) if faster >= 1 else (self.slow, 1 / FASTER)
        by_rate = (self.seconds - other) / (1 - 1 / ratio)
        return max(0.0, self.seconds + by_rate * (1 / faster - 1))


@dataclass
class Simulator:
    """Has phases simulated. kept: a folder where all traces are left. limit: seconds that one simulation may take."""

    network: Network
    sampling: Sampling
    limit: float
    kept: Path | None = None
    with_goal: bool = False
    dry: bool = False  # whether traces are only written
    said: Say = field(default=lambda text: None)

    def wire(self, label: str, phases: Sequence[Phase], n: int, node_size: int, split: bool = True) -> Wire:
        """Seconds of the phases, one after the other. split: whether to find those of other links, too."""
        phases = [p for p in phases if p.rounds]
        if not phases:
            return Wire(0.0, 0.0, "all", 0.0, 0.0)
        sampled = [p for p in phases if self._sampled(p)]
        whole = [(p, range(p.rounds)) for p in phases if p not in sampled]
        groups = _with_as_many_rounds(sampled)
        drawn = [self._draws(phases) for phases in groups]
        # of phases with few rounds the same samples come again
        draws = [[each[k % len(each)] for each in drawn] for k in range(max(map(len, drawn), default=1))]
        fixed = self._time(label, whole, n, node_size) if whole else 0.0
        times = [fixed + self._samples(f"{label}-{k}", groups, draw, n, node_size) for k, draw in enumerate(draws)]
        seconds, deviation = fmean(times), stdev(times) if len(times) > 1 else 0.0

        def behind(faster: float) -> float:
            """Seconds behind other links, by the first sample."""
            fixed = self._time(f"{label}-by-{faster:g}", whole, n, node_size, faster) if whole else 0.0
            first = self._samples(f"{label}-by-{faster:g}-0", groups, draws[0], n, node_size, faster)
            return (fixed + first) * seconds / times[0]

        fast = behind(FASTER) if split else seconds
        # a straight line, where nothing but links is between ranks
        slow = behind(1 / FASTER) if split and node_size > 1 else seconds + FASTER * (seconds - fast)
        return Wire(seconds, deviation, self._what(groups, drawn), fast, slow)

    def _sampled(self, phase: Phase) -> bool:
        """Whether a part of its rounds is simulated, and stands for all."""
        if phase.same:
            return phase.rounds > self.sampling.shifts
        return phase.alike and phase.members * min(phase.batch, phase.rounds) > FLOWS

    def _draws(self, sampled: Sequence[Phase]) -> list[list[int]]:
        """The rounds of each sample, of phases with as many: one sample does where all rounds are the same."""
        if all(p.same for p in sampled):
            return [list(range(self.sampling.shifts))]
        generator, rounds = np.random.default_rng(self.sampling.seed), sampled[0].rounds
        batch = min(sampled[0].batch, rounds)
        places = np.arange(min(self.sampling.shifts, batch)) * batch // min(self.sampling.shifts, batch)
        starts = generator.choice(rounds, min(self.sampling.samples, rounds), replace=False)
        return [((start + places) % rounds).tolist() for start in starts]

    def _samples(
        self, label: str, groups: list[list[Phase]], draw: Sequence[list[int]], n: int, node_size: int, faster=1.0
    ) -> float:
        """Seconds of all rounds of the sampled phases, by those that were drawn for each group of them."""
        pairs = enumerate(zip(groups, draw, strict=True))
        return sum(self._sample(f"{label}-{k}", phases, rounds, n, node_size, faster) for k, (phases, rounds) in pairs)

    def _sample(
        self, label: str, phases: list[Phase], rounds: list[int], n: int, node_size: int, faster: float
    ) -> float:
        batch, parts = phases[0].batch, [(p, rounds) for p in phases]
        # seconds are to be as many times fewer than those of all rounds as there are fewer rounds
        latency = self.network.latency * min(batch, len(rounds)) / min(batch, phases[0].rounds)
        return self._time(label, parts, n, node_size, faster, latency) * phases[0].rounds / len(rounds)

    def _time(
        self, label: str, parts: list[Part], n: int, node_size: int, faster: float = 1.0, latency: float | None = None
    ) -> float:
        """latency: of a sample, in place of the network's."""
        network, nodes = self.network, -(-n // node_size)
        pairs = max(p.members * min(p.batch, len(rounds)) * len(p.sizes(0, rounds[0])) for p, rounds in parts)
        traffic = Traffic(
            tuple(parts), n, node_size, topology(network.topology, nodes), network.bandwidth * faster,
            network.latency if latency is None else latency, joined=latency is not None or pairs > FLOWS,
        )  # fmt: skip
        self.said(f"{label}: {n:,} ranks on {nodes:,} nodes")
        if self.kept:
            command = simgrid.write(traffic, self.kept / label, self.with_goal)
            return simgrid.run(command, self.kept / label, self.limit) if not self.dry else 1.0
        return simgrid.seconds(traffic, self.limit)

    def _what(self, groups: Sequence[Sequence[Phase]], drawn: Sequence[list]) -> str:
        told = []
        for (first, *_), samples in zip(groups, drawn, strict=True):
            each = "rounds" if first.same else f"shifts, {len(samples)} times"
            told.append(f"{min(self.sampling.shifts, first.rounds)} of {first.rounds:,} {each}")
        return "; ".join(told) or "all"


def _with_as_many_rounds(phases: list[Phase]) -> list[list[Phase]]:
    """Phases by the number of their rounds: the same rounds of them can stand for all."""
    return [[p for p in phases if p.rounds == rounds] for rounds in dict.fromkeys(p.rounds for p in phases)]


@dataclass
class Projection:
    """A step of one exchange: what was simulated, and what its core does."""

    wire: Wire
    core: float
    hidden: int  # chunks, of which all but one hide the shorter of wire and core behind the longer

    def seconds(self, faster: float = 1.0) -> float:
        """Of a step without its gradient, behind links that are so many times faster."""
        wire = self.wire.at(faster)
        return max(wire, self.core) + min(wire, self.core) / self.hidden


def project(
    subject: Subject,
    names: Sequence[str],
    counts: Sequence[int],
    work: Work,
    simulator: Simulator,
    checked: dict[str, str],
) -> Table:
    """A table of steps: each exchange and both sums of float32 on each number of nodes.

    checked: for each exchange, the errors that were found where a run measured it.
    """
    network, sampling = simulator.network, simulator.sampling
    about = {"algorithm": subject.name, "d": subject.d, "topology": network.topology, "node size": subject.node_size}
    about |= {"link Gbit/s": _short(network.bandwidth * 8e-9), "latency us": _short(network.latency * 1e6)}
    about |= _told(work) | ({"left out": left} if (left := subject.left_out()) else {})
    table = Table("projection", COLUMNS, about | {"goodput": simgrid.GOODPUT, "seed": sampling.seed})
    for nodes in counts:
        n = nodes * subject.node_size
        found, took, sent = {}, {}, {}
        for name in dict.fromkeys((*names, RING, HALVING)):
            begin = time.perf_counter()
            phases, chunks = subject.schedule(name, n)
            sent[name] = per_rank(phases)
            label = f"{name.replace(' ', '-')}-{nodes}"
            wire = simulator.wire(label, phases, n, subject.node_size)
            found[name] = Projection(wire, core_seconds(subject.d, name, sent[name][1], work), chunks)
            took[name] = time.perf_counter() - begin
        for name, one in found.items():
            step, floats = one.seconds(), [found[RING], found[HALVING]]
            row = {
                "nodes": nodes,
                "n": n,
                "exchange": name,
                "wire ms": one.wire.seconds * 1e3,
                "core ms": one.core * 1e3,
            }
            row |= {"step ms": (work.gradient + step) * 1e3, "+-": one.wire.deviation * 1e3}
            row |= {"MB": sent[name][0] / 1e6, "messages": sent[name][1], "simulated": one.wire.simulated}
            row |= {"faster than ring": floats[0].seconds() / step, "than halving": floats[1].seconds() / step}
            if work.gradient:
                efficiency = work.gradient / (work.gradient + step)
                row |= {"efficiency": efficiency, "speed-up": n * efficiency}
            if name not in (RING, HALVING):
                row["pays below Gbps"] = link_text(break_even(one, floats) * network.bandwidth)
            table.add(**row, checked=checked.get(name), **{"took s": took[name]})
    return table


def _told(work: Work) -> dict[str, float]:
    return {
        "gradient s": work.gradient,
        "work ns a coordinate": _short(work.vote),
        "of float32": _short(work.floats),
        "ns a message": _short(work.message * 1e9),
    }


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def per_rank(phases: Iterable[Phase]) -> tuple[int, int]:
    """Bytes and messages that a rank sends: of the first two the one with more, since shares may differ by a grain."""
    totals = []
    for rank in (0, 1):
        sizes = [size for p in phases for k in range(p.rounds) for _, size in simgrid.sent(p, rank, [k], False)]
        totals.append((sum(sizes), len(sizes)))
    return max(totals)


def core_seconds(d: int, name: str, messages: int, work: Work) -> float:
    """What a rank's core does in a step beside its gradient: kernels, and as many messages come as go."""
    kernels = (work.floats if name in (RING, HALVING) else work.vote) * 1e-9 * d
    return kernels + 2 * messages * work.message


def break_even(vote: Projection, floats: list[Projection]) -> float:
    """How many times faster links must be for the best sum of float32 to be as fast as the vote.

    Infinite where they never are, 0 where the vote is behind at the slowest.
    """

    def ahead(faster: float) -> bool:
        return vote.seconds(faster) < min(one.seconds(faster) for one in floats)

    low, high = -9.0, 9.0  # powers of ten
    if not ahead(10**low):
        return 0.0
    if ahead(10**high):
        return math.inf
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if ahead(10**middle) else (low, middle)
    return 10**low


# Against what was measured


@dataclass(frozen=True)
class Measured:
    """A row of `mpisign bench exchange`, and what its table says of all rows."""

    n: int
    d: int
    exchange: str
    milliseconds: float
    work: float  # nanoseconds per coordinate
    chunk: int  # bytes of a plane
    node_size: int
    about: dict[str, object]

    @property
    def step(self) -> tuple:
        """What was measured, wherever it was."""
        return self.n, self.d, self.exchange, str(self.about["algorithm"]), self.chunk


def check(
    rows: Sequence[Measured],
    subject_of: Callable[[Measured], Subject],
    network_of: Callable[[Measured], Network],
    work: Work,
    simulator: Simulator,
    free: Mapping[tuple, float],
) -> Table:
    """What would have been projected for each row that was measured, with the kernels' time that was measured there.

    network_of: the links between those ranks. free: milliseconds of each step on links that are no limit, all that its
    cores do; none where that was not measured.
    """
    core = "by runs without a limit of links" if free else "by kernels and messages"
    table = Table("check", CHECKED, {"goodput": simgrid.GOODPUT, "core": core})
    for row in rows:
        subject, here = subject_of(row), replace(simulator, network=network_of(row))
        phases, chunks = subject.schedule(row.exchange, row.n)
        label = f"check-{row.exchange}-n{row.n}-d{row.d}"
        wire = here.wire(label, phases, row.n, subject.node_size, split=False)
        core = core_seconds(row.d, row.exchange, per_rank(phases)[1], replace(work, vote=row.work))
        if free:
            core = free[row.step] / 1e3
        projected = Projection(wire, core, chunks).seconds() * 1e3
        shown = {"n": row.n, "d": row.d, "exchange": row.exchange, "measured ms": row.milliseconds}
        shown |= {"wire ms": wire.seconds * 1e3, "core ms": core * 1e3, "projected ms": projected}
        table.add(**shown, error=projected / row.milliseconds - 1)
    return table


def errors(table: Table) -> dict[str, str]:
    """The errors of each exchange in a table of checks, as a projection shows them."""
    found: dict[str, list[float]] = {}
    for row in table.rows:
        found.setdefault(str(row["exchange"]), []).append(float(row["error"]))  # type: ignore[arg-type]
    return {name: f"{min(some):+.0%} to {max(some):+.0%}" for name, some in found.items()}
