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

import numpy as np
import script
from scipy.optimize import nnls

from mpisign.errors import UsageError, choices
from mpisign.figures import style, tables
from mpisign.figures.scaling import MESSAGES, Lines, Point, is_strong, lines, picture, rows, unusable
from mpisign.figures.selection import without

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
    parts = [tables.markdown(rows(lines))]
    if sum(p.n > 1 for points in lines.values() for p in points) < 2:
        return parts[0]
    fitted = fit(lines)
    parts.append(
        f"Fit: alpha {fitted.alpha * 1e6:.0f} us a message, beta {fitted.beta * 8e-6:,.0f} Mbit/s a rank (median error "
        f"of the exchange {fitted.error:.0%}); estimate {fitted.overhead * 1e3:.2f} ms + {fitted.a_row * 1e6:.2f} us a "
        "row."
    )
    if compared := break_even(lines, fitted):
        parts.append(tables.markdown(compared))
    if options.predict:
        alpha, beta = _network(options)
        head = f"Predicted for alpha {alpha * 1e6:g} us and beta {beta * 8e-6:,.0f} Mbit/s, compute as measured:"
        parts += [head, tables.markdown(predicted(lines, fitted, options.predict, alpha, beta))]
    return "\n\n".join(parts)


def _network(options) -> tuple[float, float]:
    if options.interconnect:
        return INTERCONNECTS[options.interconnect]
    if not (options.alpha and options.beta):
        raise UsageError("--predict needs --alpha and --beta, or --interconnect: mpisign knows no network but yours")
    return options.alpha, options.beta


def main() -> None:
    options = script.parser(__doc__, "scaling.png")
    options.add_argument("--predict", nargs="+", type=int, metavar="N", help="numbers of ranks")
    options.add_argument("--alpha", type=float, help="seconds a message")
    options.add_argument("--beta", type=float, help="bytes a second of a rank's link")
    options.add_argument("--interconnect", choices=INTERCONNECTS, help="nominal alpha and beta")
    with script.reading(options) as (runs, arguments):
        measured = lines(without(runs, unusable, arguments.skipped))
        print(style.save(picture(measured), arguments.output, text(measured, arguments)))


if __name__ == "__main__":
    main()
