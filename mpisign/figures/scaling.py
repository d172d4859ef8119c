"""Strong and weak scaling: speed-up, and where the time of a step goes.

Runs of one job on ever more ranks, a line an algorithm. A step's time is that of its four phases, mean over ranks and
over the rows of /phases but the first.
"""

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mpisign.figures import grouping, style
from mpisign.storage.reader import Run

Lines = dict[str, list["Point"]]  # algorithm -> its points, in the order of n
STEP = ("estimate", "sign", "exchange", "update")
# messages that a rank sends one after another
MESSAGES = {"sharded": lambda n: 2 * (n - 1), "dense": lambda n: 2 * (n - 1), "allgather": lambda n: n - 1}


@dataclass
class Point:
    """One run: ranks, rows of a rank and step, bytes of a rank and step, messages, and seconds of a step by phase."""

    name: str
    n: int
    rows: int
    bytes: float
    messages: int
    exchange: str
    phases: dict[str, float]

    @property
    def seconds(self) -> float:
        return sum(self.phases.values())


def unusable(run: Run) -> str:
    """Why a run tells nothing of scaling; "" if it does."""
    if run.simulated:
        return "a simulation, whose seconds say nothing of scaling; use mpirun or srun"
    if len(run.stretches) > 1:
        return f"its number of voters has changed ({run.voters})"
    rows = len(np.unique(run["phases"]["step"]))
    return f"{rows} rows of /phases are too few; set run.check_every lower" if rows < 3 else grouping.no_steps(run)


def _rows_a_step(run: Run) -> int:
    """Rows of a rank and step: of its minibatch, or all its own where problem.batch_size is 0."""
    size, own = int(grouping.key(run, "problem.batch_size", 0)), run.partition.get("rows")
    if not size and own is not None and len(own):
        size = round(float(np.mean(own)))
    return max(size, 1) * int(grouping.key(run, "algorithm.accumulate", 1))


def point(run: Run) -> Point:
    """What a run that is not unusable tells of a step."""
    phases, n = run["phases"], int(run.attributes["n"])
    steps = np.unique(phases["step"])
    # the first row holds what happens once: first calls, first messages
    later, taken = phases["step"] > steps[0], steps[-1] - steps[0]
    seconds = {p: float(phases[p][later].sum()) / (n * taken) for p in STEP}
    table, exchange = run["steps"], str(run.attributes["exchange"])
    sent = run.wire_bytes("steps")[-1] / table["step"][-1]
    messages = MESSAGES[exchange](n) if exchange in MESSAGES else (n > 1) * 2
    return Point(grouping.algorithm(run), n, _rows_a_step(run), float(sent), messages, exchange, seconds)


def lines(runs: list[Run]) -> Lines:
    """Points by algorithm; several runs at one n by their median."""
    groups = grouping.grouped(sorted(map(point, runs), key=lambda p: p.seconds), lambda p: (p.name, p.n))
    return grouping.grouped((group[len(group) // 2] for _, group in sorted(groups.items())), lambda p: p.name)


def is_strong(points: list[Point]) -> bool:
    """Whether all ranks together take as many rows at every n."""
    return len({p.rows * p.n for p in points}) == 1 and len(points) > 1


def speed_up(points: list[Point]) -> list[float]:
    """Rows a second over those of the smallest n, times that n: n is perfect, strong or weak."""
    first = points[0]
    return [first.n * (p.rows * p.n / p.seconds) / (first.rows * first.n / first.seconds) for p in points]


@style.styled
def picture(lines: Lines) -> Figure:
    """Speed-up, and the phases of a step stacked, one panel an algorithm."""
    figure, (panels,) = style.panels(1, 1 + len(lines), 3.2, 2.8)
    looks = style.looks(lines, marked=True)
    ns = sorted({p.n for points in lines.values() for p in points})
    kind = "strong" if is_strong(next(iter(lines.values()))) else "weak"
    for name, points in lines.items():
        panels[0].plot([p.n for p in points], speed_up(points), label=name, **looks[name])
    panels[0].plot(ns, ns, color="grey", linewidth=0.8, linestyle=":", label="perfect")
    panels[0].set(ylabel=f"{kind} scaling: speed-up", xlabel="ranks", xticks=ns)
    panels[0].legend()
    most = max(p.seconds for points in lines.values() for p in points)
    for panel, (name, points) in zip(panels[1:], lines.items(), strict=True):
        _stack(panel, points)
        panel.set(title=name, ylim=(0, 1050 * most))
    style.legend(figure, panels[1:2])
    return figure


def _stack(panel: Axes, points: list[Point]) -> None:
    places, floor = np.arange(len(points)), np.zeros(len(points))
    look = {"edgecolor": "white", "linewidth": 0}
    for phase, colour, hatch in zip(STEP, style.COLOURS, ("", "///", "...", "xxx"), strict=False):
        heights = np.array([1000 * p.phases[phase] for p in points])
        panel.bar(places, heights, 0.7, floor, label=phase, color=colour, hatch=hatch, **look)
        floor += heights
    panel.set_xticks(places, [p.n for p in points])
    panel.set(xlabel="ranks", ylabel="ms a step")
    panel.grid(axis="x", visible=False)


def rows(lines: Lines) -> list[dict[str, object]]:
    """The numbers of the picture."""
    table = []
    for name, points in lines.items():
        for p, up in zip(points, speed_up(points), strict=True):
            phases = {f"{phase} ms": f"{1000 * p.phases[phase]:.2f}" for phase in STEP}
            cells = {"algorithm": name, "ranks": p.n, "rows a rank": p.rows, "exchange": p.exchange}
            cells |= {"ms a step": f"{1000 * p.seconds:.2f}", "speed-up": f"{up:.2f}", "efficiency": f"{up / p.n:.0%}"}
            table.append(cells | phases | {"kB a step": f"{p.bytes / 1000:.1f}"})
    return table
