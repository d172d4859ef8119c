"""`mpisign bench compare`: which ratios of two files of `mpisign bench ratios` differ by more than the noise.

A run counts as one number per ratio, its median over repeats: what makes whole runs differ (where memory lies, what
else the machine does) is common to all repeats of a run, so repeats would make the noise look smaller than it is. Two
files are compared by the exact two-sided rank test of Mann and Whitney, and Holm's rule holds the probability that
anything at all is called moved by chance below LEVEL, however many ratios there are.
"""

from collections import defaultdict
from functools import cache
from math import ceil, comb
from pathlib import Path
from statistics import median

import numpy as np

from mpisign.bench.table import Table, Value, load
from mpisign.errors import UsageError

TITLE = "ratios"  # of the table of measurements
COLUMNS = {"ratio": "", "old": ".3f", "new": ".3f", "change": "+.1%", "noise": ".1%", "p": ".4f", "moved": ""}
LEVEL = 0.05

Runs = dict[str, list[float]]  # the median of each run, by ratio


def compare(old: Path, new: Path, least: float) -> Table:
    """Compares two files ratio by ratio, as compare_runs() does. Raises UsageError where no ratio is in both."""
    before, after = (medians(load(path, TITLE)) for path in (old, new))
    if not before.keys() & after.keys():
        raise UsageError(f"{old} and {new}: no ratio is in both")
    return compare_runs(before, after, least)


def compare_runs(before: Runs, after: Runs, least: float) -> Table:
    """Which ratios moved, a row for each; a change by less than the share `least` is never called a move.

    noise: half the range of the runs before, over their median. p: of the rank test, for this ratio alone.
    """
    names = [name for name in before if name in after]
    chances = [rank_test(before[name], after[name]) for name in names]
    table = Table("compared", COLUMNS, _about(before, after, names, least))
    for name, p, counts in zip(names, chances, holm(chances), strict=True):
        was, now = median(before[name]), median(after[name])
        change, noise = now / was - 1, (max(before[name]) - min(before[name])) / 2 / was
        verdict = ("slower" if change > 0 else "faster") if counts and abs(change) >= least else ""
        table.add(ratio=name, old=was, new=now, change=change, noise=noise, p=p, moved=verdict)
    for name in sorted(before.keys() ^ after.keys()):
        table.add(ratio=name, moved="only in old" if name in before else "only in new")
    return table


def _about(before: Runs, after: Runs, names: list[str], least: float) -> dict[str, Value]:
    old, new = (len(runs[names[0]]) for runs in (before, after))
    lacking = too_few(old, new, len(names))
    about = {"runs": f"{old} and {new}", "together called moved by chance": f"at most {LEVEL:.0%}"}
    return about | {"least change": f"{least:.0%}"} | ({"but": lacking} if lacking else {})


def medians(table: Table) -> Runs:
    """For each ratio, run by run, the median over repeats of the quotients of what was measured in one turn."""
    quotients: dict = defaultdict(lambda: defaultdict(list))
    for row in table.rows:
        quotients[row["ratio"]][row["run"]].append(row["ms"] / row["reference ms"])
    return {name: [median(values) for values in runs.values()] for name, runs in quotients.items()}


def rank_test(a: list[float], b: list[float]) -> float:
    """The exact p-value, for both sides, of numbers of one distribution being as far apart in order as these."""
    wins = sum((x > y) + (x == y) / 2 for x in a for y in b)
    nearer = ceil(min(wins, len(a) * len(b) - wins))
    return min(1.0, 2 * sum(_orders(len(a), len(b))[: nearer + 1]) / comb(len(a) + len(b), len(a)))


@cache
def _orders(a: int, b: int) -> tuple[int, ...]:
    """In how many orders of a and b numbers the first ones win 0, 1, ..., a*b of the pairs: the last is of either."""
    if not a or not b:
        return (1,)
    counts = [0] * (a * b + 1)
    for beaten, orders in ((b, _orders(a - 1, b)), (0, _orders(a, b - 1))):
        for wins, count in enumerate(orders):
            counts[wins + beaten] += count
    return tuple(counts)


def holm(chances: list[float]) -> list[bool]:
    """Which of these p-values count at LEVEL for all of them together (Holm 1979)."""
    order, counts = np.argsort(chances), [False] * len(chances)
    for k, i in enumerate(order):
        if chances[i] > LEVEL / (len(chances) - k):
            break
        counts[i] = True
    return counts


def too_few(old: int, new: int, ratios: int) -> str:
    """What is wrong with so many runs, if no order of theirs can count; else ""."""
    if 2 / comb(old + new, old) <= LEVEL / ratios:
        return ""
    runs = next(n for n in range(2, 99) if 2 / comb(2 * n, n) <= LEVEL / ratios)
    return f"nothing can count as moved with so few runs; {runs} in each file can tell"
