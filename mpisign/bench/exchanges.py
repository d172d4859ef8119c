"""`mpisign bench exchange`: whole exchanges (sign, pack, wire, count, apply) over sizes, beside what was predicted."""

import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from statistics import median

from mpisign.algorithms.method import Algorithm
from mpisign.bench.table import Say, Table, machine
from mpisign.bench.timing import Times, hosts, in_turns, resident
from mpisign.engine.autotune import DryStepper, autotune, measure_link, predict
from mpisign.exchange import Choice, candidates, choose
from mpisign.exchange.nodes import nodes_of
from mpisign.parallel.mpi import Ranks
from mpisign.parallel.world import Mpi

COLUMNS = {
    "n": "d", "d": ",d", "exchange": "", "chunk": ",d", "ms": ".3f", "predicted ms": ".3f", "error": "+.0%",
    "ideal ms": ".3f", "bits": ".4f", "bits by the OS": ".4f", "bits a host": ".4f", "work ns": ".3f",
    "bytes a coordinate": ".3f", "auto": "",
}  # fmt: skip
PHASES = {"phase": "", "ms": ".3f", "share": ".0%"}


def exchanges(
    algorithm: Algorithm, names: tuple[str, ...], sizes: tuple[int, ...], repeats: int, ranks: Ranks, say: Say, **kwargs
) -> Table:
    """Medians of steps without their gradient, each lasting until the last rank is done.

    predicted ms: by the probe that `auto` makes. ideal ms: bytes by formula over the link's bandwidth. bits a host: by
    the OS, over each host's link. work ns: of the kernels, per coordinate and rank. bytes a coordinate: memory of the
    exchange's buffers on this rank. chunk: bytes of a plane in each but the last. kwargs: of the trial.
    """
    link = measure_link(ranks.comm)
    about = {"algorithm": algorithm.name, "median of": repeats, "mpi": ranks.library, "hosts": ranks.hosts}
    about |= {"link": str(link)} | kwargs
    about["node_size"] = max(map(len, nodes_of(ranks.comm, kwargs.get("node_size", 0)).members))  # as it was found
    table = Table("exchanges", COLUMNS, about | machine())
    for d in sizes:
        auto = autotune(choose("auto", algorithm, ranks.size), (algorithm,), ranks.comm, d, **kwargs)[0].name
        fitting = [name for name in names or candidates(algorithm) if name in candidates(algorithm)]
        guesses = {p.choice.name: p.at(d) for p in predict(algorithm, ranks.comm, d, link, names=fitting, **kwargs)}
        # slots are watched, so each trial gets its own
        trials = {
            name: Watched.of(Choice(name, ""), deepcopy(algorithm), Mpi(ranks.comm), d, **kwargs) for name in fitting
        }
        times = in_turns({name: trial.once for name, trial in trials.items()}, repeats, ranks, say)
        for name, trial in trials.items():
            row = _row(trial, times[name], repeats, ranks, d)
            row |= {"predicted ms": guesses[name] * 1e3, "error": guesses[name] / times[name].median - 1}
            row["ideal ms"] = row["bits"] / 8 * d / link.bandwidth * 1e3
            table.add(n=ranks.size, d=d, exchange=name, auto="*" if name == auto else "", **row)
    return table


def _row(trial: "Watched", times: Times, repeats: int, ranks: Ranks, d: int) -> dict[str, float | None]:
    """The measured columns of one exchange, averaged over ranks."""
    sent, work = trial.world.traffic.up + trial.world.traffic.down, median(trial.work)
    counted, work = (ranks.comm.allreduce(value) / ranks.size for value in (sent / (repeats + 1), work))
    by_system = times.sent if times.sent and times.sent > counted / 2 else None
    lo, hi = trial.exchange.chunks[0]
    return {
        "chunk": (hi - lo) * (32 if trial.exchange.raw else 1) // 8,
        "ms": times.median * 1e3,
        "bits": counted * 8 / d,
        "bits by the OS": by_system and by_system * 8 / d,
        "bits a host": by_system and by_system * 8 / d * ranks.size / hosts(ranks),
        "work ns": work / d * 1e9,
        "bytes a coordinate": trial.exchange.memory() / d,
    }


class Stopwatch:
    """Seconds spent inside some methods."""

    def __init__(self, clock: Callable[[], float]):
        """clock: time.perf_counter, or time.thread_time, which leaves out what other processes took."""
        self.seconds, self._clock = 0.0, clock

    def watch(self, holder: object, name: str) -> None:
        """Replaces a method by one whose time counts."""
        method = getattr(holder, name)

        def timed(*args, **kwargs):
            begin = self._clock()
            try:
                return method(*args, **kwargs)
            finally:
                self.seconds += self._clock() - begin

        object.__setattr__(holder, name, timed)  # slots are frozen


class Watched(DryStepper):
    """A trial that records the seconds of this thread in each step's kernels."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._kernels, slots, self.work = Stopwatch(time.thread_time), self.stage.algorithm, []
        for holder, method in (
            (self.stage.channels[0], "search"),
            (slots.sign, "begin"),
            (slots.sign, "pack"),
            (slots.vote, "absorb"),
            (slots.vote, "verdict"),
            (slots.update, "apply"),
        ):
            self._kernels.watch(holder, method)

    def once(self):
        before = self._kernels.seconds
        super().once()
        self.work.append(self._kernels.seconds - before)


def profile(algorithm: Algorithm, name: str, d: int, repeats: int, ranks: Ranks, say: Say, **kwargs) -> Table:
    """Milliseconds of each phase of a step, averaged over ranks and repeats."""
    trial = DryStepper.of(Choice(name, ""), deepcopy(algorithm), Mpi(ranks.comm), d, **kwargs)
    before = resident()
    trial.once()
    spent = dict(_spans(trial))
    times = in_turns({name: trial.once}, repeats, ranks, say)[name]
    average = {phase: ranks.comm.allreduce(s.seconds) / ranks.size / (repeats + 1) for phase, s in spent.items()}
    total = sum(times.seconds) / repeats
    about = {"algorithm": algorithm.name, "exchange": name, "n": ranks.size, "d": d, "mean of": repeats} | kwargs
    about["memory of buffers, bytes a coordinate"] = round(trial.exchange.memory() / d, 4)
    about["memory grown in the steps, bytes a coordinate"] = round((resident() - before) / d, 4)
    table = Table("profile", PHASES, about | machine())
    for phase, seconds in (*average.items(), ("all else: Python, MPI's calls", total - sum(average.values()))):
        table.add(phase=phase, ms=seconds * 1e3, share=seconds / total)
    table.add(phase="whole step", ms=total * 1e3, share=1.0)
    return table


def _spans(trial: DryStepper) -> Iterator[tuple[str, Stopwatch]]:
    slots, exchange = trial.stage.algorithm, trial.exchange
    agreeing = (("agree by means", slots.estimator, "agree"),) if slots.estimator.agrees else ()
    for phase, holder, method in (
        *agreeing,
        ("search for NaN", trial.stage.channels[0], "search"),
        ("pack", slots.sign, "pack"),
        ("post messages", exchange, "send"),
        ("wait for headers", trial.stage.carrier, "finish_header"),
        ("wait for messages", exchange, "receive"),
        ("count and decide", slots.vote, "verdict"),
        ("post verdicts", exchange, "publish"),
        ("wait for verdicts", exchange, "collect"),
        ("apply", slots.update, "apply"),
    ):
        span = Stopwatch(time.perf_counter)
        span.watch(holder, method)
        yield phase, span
