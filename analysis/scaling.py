"""Strong and weak scaling: speed-up, where the time goes, and what latency, bandwidth and compute explain of it.

python analysis/scaling.py runs/weak_scaling --predict 16 64 --interconnect 25gbe --output weak.png

Runs of one job on ever more ranks, a line an algorithm. A step's time is that of its four phases, mean over ranks and
over the rows of /phases but the first. The exchange is fitted by alpha * messages + bytes / beta, all algorithms
together (least squares, neither negative; messages are 2(n-1) where votes are sharded, n-1 where all is gathered),
and the estimate by overhead + rows * time a row. Nothing is said of another network unless you give it: --alpha
(seconds) and --beta (bytes a second), or --interconnect, whose figures are nominal ones. A table is written beside
the picture.
"""

from dataclasses import dataclass

import grouping
import numpy as np
import style
from matplotlib.figure import Figure
from scipy.optimize import nnls

from mpisign.errors import UsageError, choices
from mpisign.storage.reader import Run

Lines = dict[str, list["Point"]]  # algorithm -> its points, in the order of n
STEP = ("estimate", "sign", "exchange", "update")
# messages that a rank sends one after another
MESSAGES = {"sharded": lambda n: 2 * (n - 1), "dense": lambda n: 2 * (n - 1), "allgather": lambda n: n - 1}
INTERCONNECTS = {  # nominal: latency in seconds, bytes a second of one port
    "1gbe": (5e-5, 1.25e8),
    "10gbe": (2e-5, 1.25e9),
    "25gbe": (1e-5, 3.1e9),
    "100gbe": (5e-6, 1.25e10),
    "hdr100": (1.5e-6, 1.25e10),
    "hdr200": (1.5e-6, 2.5e10),
    "ndr400": (1.5e-6, 5e10),
}


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


@dataclass
class Fit:
    """alpha (s), beta (bytes/s; inf if bytes cost nothing), overhead and time a row (s); and how well they explain."""

    alpha: float
    beta: float
    overhead: float
    a_row: float
    error: float  # median of |predicted - measured| / measured of the exchange

    def seconds(self, p: Point, alpha: float, beta: float) -> float:
        """A step of that point on a network."""
        estimate = self.overhead + self.a_row * p.rows
        return estimate + p.phases["sign"] + p.phases["update"] + alpha * p.messages + p.bytes / beta


def fit(lines: Lines) -> Fit:
    """Least squares over all runs, relative to what was measured; of two runs of several ranks, at least."""
    everything = [p for points in lines.values() for p in points]
    several = [p for p in everything if p.n > 1]
    if len(several) < 2:
        raise UsageError("two runs of more than one rank, at least, are needed for a fit")
    took = np.array([p.phases["exchange"] for p in several])
    causes = np.array([[p.messages, p.bytes] for p in several])
    (alpha, slope), _ = nnls(causes / took[:, None], np.ones(len(took)))
    error = float(np.median(np.abs(causes @ [alpha, slope] / took - 1)))
    spent = np.array([p.phases["estimate"] for p in everything])
    rows = np.array([[1.0, p.rows] for p in everything])
    (overhead, a_row), _ = nnls(rows / spent[:, None], np.ones(len(spent)))
    return Fit(alpha, 1 / slope if slope else np.inf, overhead, a_row, error)


def at(p: Point, n: int, strong: bool) -> Point:
    """A point of the same job on n ranks, by the formulas of its exchange."""
    if p.exchange not in MESSAGES or p.n < 2:
        known = choices(MESSAGES)
        raise UsageError(f"predictions are for runs of several ranks by {known}; this one is by {p.exchange}")
    share = (lambda k: k - 1) if p.exchange == "allgather" else (lambda k: (k - 1) / k)
    rows = round(p.rows * p.n / n) if strong else p.rows
    return Point(p.name, n, rows, p.bytes * share(n) / share(p.n), MESSAGES[p.exchange](n), p.exchange, p.phases)


def break_even(lines: Lines, fitted: Fit) -> list[dict[str, object]]:
    """The link below which signs win against float32 at each n: where bytes saved pay for the cores' time."""
    rows = []
    floats = {p.n: p for points in lines.values() for p in points if p.exchange == "dense" and p.n > 1}
    for p in (p for points in lines.values() for p in points if p.n in floats and p.exchange != "dense"):
        other = floats[p.n]
        # what is not on the wire: packing, counting, applying
        own, theirs = (q.seconds - q.phases["estimate"] - q.bytes / fitted.beta for q in (p, other))
        saved, paid = other.bytes - p.bytes, own - theirs
        link = f"below {8e-6 * saved / paid:,.0f} Mbit/s" if paid > 0 else "at every link"
        rows.append({"algorithm": p.name, "against": other.name, "n": p.n, "signs win": link})
    return rows


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


def _stack(panel, points: list[Point]) -> None:
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


def predicted(lines: Lines, fitted: Fit, ns: list[int], alpha: float, beta: float) -> list[dict[str, object]]:
    """Steps on more ranks and a network that the user named."""
    table = []
    for name, points in lines.items():
        for n in ns:
            p = at(points[-1], n, is_strong(points))
            seconds = fitted.seconds(p, alpha, beta)
            table.append({"algorithm": name, "ranks": n, "ms a step": f"{1000 * seconds:.2f}",
                          "of it on the wire": f"{(alpha * p.messages + p.bytes / beta) / seconds:.0%}"})  # fmt: skip
    return table


def text(lines: Lines, options) -> str:
    """All tables, and the fit in words."""
    parts = [style.markdown(rows(lines))]
    if sum(p.n > 1 for points in lines.values() for p in points) < 2:
        return parts[0]
    fitted = fit(lines)
    parts.append(
        f"Fit: alpha {fitted.alpha * 1e6:.0f} us a message, beta {fitted.beta * 8e-6:,.0f} Mbit/s a rank (median error "
        f"of the exchange {fitted.error:.0%}); estimate {fitted.overhead * 1e3:.2f} ms + {fitted.a_row * 1e6:.2f} us a "
        "row."
    )
    if compared := break_even(lines, fitted):
        parts.append(style.markdown(compared))
    if options.predict:
        alpha, beta = _network(options)
        head = f"Predicted for alpha {alpha * 1e6:g} us and beta {beta * 8e-6:,.0f} Mbit/s, compute as measured:"
        parts += [head, style.markdown(predicted(lines, fitted, options.predict, alpha, beta))]
    return "\n\n".join(parts)


def _network(options) -> tuple[float, float]:
    if options.interconnect:
        return INTERCONNECTS[options.interconnect]
    if not (options.alpha and options.beta):
        raise UsageError("--predict needs --alpha and --beta, or --interconnect: mpisign knows no network but yours")
    return options.alpha, options.beta


def main() -> None:
    options = style.parser(__doc__, "scaling.png")
    options.add_argument("--predict", nargs="+", type=int, metavar="N", help="numbers of ranks")
    options.add_argument("--alpha", type=float, help="seconds a message")
    options.add_argument("--beta", type=float, help="bytes a second of a rank's link")
    options.add_argument("--interconnect", choices=INTERCONNECTS, help="nominal alpha and beta")
    with style.reading(options) as (runs, arguments):
        measured = lines(style.without(runs, unusable, arguments.skipped))
        style.save(picture(measured), arguments.output, text(measured, arguments))


if __name__ == "__main__":
    main()
