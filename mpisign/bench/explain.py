"""`mpisign bench explain`: how `auto` chooses here, and the link below which a method pays against float32.

A link is looked for at each number of coordinates, from the predictions alone: on another link than that of these ranks
a step differs by what its bytes take there, while latency, calls and kernels stay what they are here.
"""

import math
import time
from collections.abc import Sequence

import torch

from mpisign import bits
from mpisign.algorithms.method import Algorithm
from mpisign.bench.table import Say, Table, link_text, machine
from mpisign.bench.timing import alone
from mpisign.engine.autotune import (
    RATE,
    DryStepper,
    Prediction,
    against_floats,
    fastest,
    measure_link,
    predict,
    predict_floats,
)
from mpisign.exchange import Choice
from mpisign.parallel.mpi import Ranks
from mpisign.parallel.world import Local

SAMPLE = 1 << 20  # coordinates on which the kernels are timed
BELOW = "pays below Gbit/s"


def explain(algorithm: Algorithm, sizes: tuple[int, ...], ranks: Ranks, say: Say, **kwargs) -> Table:
    """Predictions for each exchange and size, the choice, and what it rests on."""
    n, link = ranks.size, measure_link(ranks.comm)
    nanoseconds = work(algorithm, n)
    predictions = predict(algorithm, ranks.comm, max(sizes), link, **kwargs)
    floats = predict_floats(ranks.comm, max(sizes), link)
    every = [*predictions, floats]
    columns = {"d": ",d"} | {f"{p.choice.name} ms": ".3f" for p in every} | {"choice": "", "faster": "", BELOW: ""}
    about = {"algorithm": algorithm.name, "n": n, "link": str(link), "work ns a coordinate": round(nanoseconds, 3)}
    table = Table("explain", columns, about | machine())
    for d in sizes:
        best, below = fastest(predictions, d), pays_below(predictions, floats, d)
        shown = {f"{p.choice.name} ms": p.at(d) * 1e3 for p in every}
        faster = algorithm.name if best.at(d) <= floats.at(d) else "float32"
        table.add(d=d, choice=best.choice.name, faster=faster, **shown, **{BELOW: below and link_text(below)})
        say(f"d = {d:,}: {best.choice.name}, {best.at(d) * 1e3:.3g} ms per step{against_floats(best, floats, d)}")
        say(f"d = {d:,}: {parts(best, nanoseconds, d)}; {algorithm.name} {verdict(below)}")
    for p in every:
        tried = ", ".join(f"{t * 1e3:.3g} ms at {d:,}" for d, t in zip(p.sizes, p.seconds, strict=True))
        say(f"{p.choice.name}: tried {tried}")
    say(f"link: {link}, by an Alltoall of all ranks at once")
    return table


def pays_below(predictions: Sequence[Prediction], floats: Prediction, d: int) -> float | None:
    """Bytes per second and rank of the fastest link on which some exchange takes no longer than floats, at d.

    Infinite where one is ahead even if bytes take no time; None where none sends fewer bytes than floats.
    """
    found = [_break_even(p, floats, d) for p in predictions if p.bytes < floats.bytes]
    return max(found, default=None)


def _break_even(vote: Prediction, floats: Prediction, d: int) -> float:
    behind = (vote.at(d) - floats.at(d)) / ((floats.bytes - vote.bytes) * d)  # seconds per byte that is saved
    seconds = 1 / vote.link.bandwidth + behind
    return 1 / seconds if seconds > 0 else math.inf


def verdict(below: float | None) -> str:
    """What pays_below() found, in words."""
    if below is None:
        return "sends no fewer bytes than float32: what is faster is no matter of the link"
    if math.isinf(below):
        return "pays against float32 on links of any speed"
    return f"pays against float32 on links below {link_text(below)} Gbit/s per rank, if all else is as here"


def parts(best: Prediction, nanoseconds: float, d: int) -> str:
    """Where the time of the best exchange goes, and whether calls and latency are most of it.

    nanoseconds: of kernels, per coordinate.
    """
    kernels, wire = nanoseconds * 1e-9 * d, best.bytes * d / best.link.bandwidth
    rest = max(best.at(d) - kernels - wire, 0.0)
    text = f"kernels {kernels * 1e3:.3g} ms, bytes {wire * 1e3:.3g}, calls and latency {rest * 1e3:.3g}"
    return text + ", which decide at this size" * (rest > best.at(d) / 2)


def work(algorithm: Algorithm, n: int) -> float:
    """Nanoseconds per coordinate for one rank of n to pack, count its share and apply; nothing is sent."""
    trial = DryStepper.of(Choice("local", ""), algorithm, Local(1), SAMPLE)
    counting = 0.0
    # codes are added up in the trial itself
    if algorithm.sign.up().planes:
        votes, counts = bits.new_planes(n, SAMPLE // n // 64), bits.new_planes(bits.width(n), SAMPLE // n // 64)
        counting = alone(lambda: bits.count(votes, counts), clock=time.thread_time)
    return (alone(trial.once, clock=time.thread_time) + counting) / SAMPLE * 1e9


def float_work() -> float:
    """Nanoseconds per coordinate for one rank to add what another sent, and to take a step of plain SGD."""
    x, gradient, total = (torch.zeros(SAMPLE) for _ in range(3))

    def once():
        total.add_(gradient)
        x.add_(total, alpha=-RATE)

    return alone(once, clock=time.thread_time) / SAMPLE * 1e9
