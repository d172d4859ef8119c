"""`mpisign bench explain`: how `auto` chooses here, and the link below which a method pays against float32."""

import time

import torch

from mpisign import bits
from mpisign.algorithms.method import Algorithm
from mpisign.bench.table import Say, Table, machine
from mpisign.bench.timing import alone
from mpisign.engine.autotune import (
    RATE,
    DryStepper,
    against_floats,
    fastest,
    measure_link,
    predict,
    predict_floats,
)
from mpisign.exchange import Choice
from mpisign.exchange.costs import of_method
from mpisign.layout import Layout
from mpisign.parallel.mpi import Ranks
from mpisign.parallel.world import Local

SAMPLE = 1 << 20  # coordinates on which the kernels are timed


def explain(algorithm: Algorithm, sizes: tuple[int, ...], ranks: Ranks, say: Say, **kwargs) -> Table:
    """Predictions for each exchange and size, the choice, and what it rests on."""
    n, link = ranks.size, measure_link(ranks.comm)
    nanoseconds, saved = work(algorithm, n), 64 * (n - 1) / n - method_bits(algorithm, n)
    gigabits = saved / nanoseconds
    predictions = predict(algorithm, ranks.comm, max(sizes), link, **kwargs)
    floats = predict_floats(ranks.comm, max(sizes), link)
    every = [*predictions, floats]
    columns = {"d": ",d"} | {f"{p.choice.name} ms": ".3f" for p in every} | {"choice": "", "faster": ""}
    about = {"algorithm": algorithm.name, "n": n, "link": str(link), "work ns a coordinate": round(nanoseconds, 3)}
    table = Table("explain", columns, about | {"pays below Gbit/s": round(gigabits, 1)} | machine())
    for d in sizes:
        best = fastest(predictions, d)
        shown = {f"{p.choice.name} ms": p.at(d) * 1e3 for p in every}
        faster = algorithm.name if best.at(d) <= floats.at(d) else "float32"
        table.add(d=d, choice=best.choice.name, faster=faster, **shown)
        say(f"d = {d:,}: {best.choice.name}, {best.at(d) * 1e3:.3g} ms per step{against_floats(best, floats, d)}")
    for p in every:
        tried = ", ".join(f"{t * 1e3:.3g} ms at {d:,}" for d, t in zip(p.sizes, p.seconds, strict=True))
        say(f"{p.choice.name}: tried {tried}")
    say(f"link: {link}, by an Alltoall of all ranks at once")
    say(
        f"{algorithm.name} pays against float32 on links below {gigabits:.1f} Gbit/s per rank: {saved:.4g} bits per "
        f"coordinate less on the wire for {nanoseconds:.2f} ns per coordinate of work"
    )
    return table


def method_bits(algorithm: Algorithm, n: int) -> float:
    """Bits per coordinate and rank, up and down, by the definition of the method."""
    layout = Layout({"x": (SAMPLE,)})
    up, votes = algorithm.sign.up(), algorithm.vote.votes_of(range(n))
    return sum(of_method(layout, up, algorithm.vote.down(up, votes), n)) / n / SAMPLE


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
