"""Best of grid: a table of methods, from the run files of one or more sweeps.

python analysis/compare.py runs/mnist_methods --target 0.9 --format markdown --output compare.png

Runs that differ in the learning rate and the seed alone are one row: of the rates, the one whose mean is best at the
end of the run, over the seeds that all rates have; then mean +- standard deviation (ddof = 1) over that rate's seeds,
and the median over them of what it took to reach the target: bytes of a rank by the method (both ways, whatever the
exchange sent) and gradient evaluations. A run that diverged counts as the worst; one that has not ended is left out,
and so is one that never had the metric. --files prints the rows' run files instead; --output draws the table: the
metric, and the bytes to the target where there is one. In CSV every cell is one number, or one word.
"""

import csv
import sys
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import style
from matplotlib.figure import Figure

from mpisign.results import Run
from mpisign.show import cell
from mpisign.sweep import final

RATE, IGNORED = ("schedule", "lr"), {("run", "seed"), ("run", "file"), ("run", "overwrite"), ("run", "threads")}
NAMES = {"test_accuracy": "held-out accuracy", "train_loss": "training loss", "test_loss": "held-out loss"}
LARGER_IS_BETTER = {"test_accuracy": True, "train_loss": False, "test_loss": False}


def settings(run: Run) -> dict[str, object]:
    """The job as "table.key" -> value, without what tells points of one row apart."""
    flat = {(t, k): v for t, keys in run.config.items() for k, v in keys.items()}
    if ("run", "steps") in flat and flat.keys() & {("run", "evaluations"), ("run", "epochs")}:
        del flat["run", "steps"]  # follows from the other
    return {f"{t}.{k}": v for (t, k), v in flat.items() if (t, k) != RATE and (t, k) not in IGNORED}


def rate(run: Run) -> float:
    return float(style.key(run, "schedule.lr", 0.0))


def unusable(run: Run, metric: str) -> str:
    """Why a run can't be compared by a metric; "" if it can. One that diverged at once has no row of /eval."""
    lr = style.key(run, "schedule.lr", None)
    if isinstance(lr, bool) or not isinstance(lr, int | float):
        return "its job has no schedule.lr"
    values = style.column(run, "eval", metric)
    if len(values) and not np.isfinite(values).any() and np.isfinite(run["eval"]["train_loss"][0]):
        return f"it has no {NAMES[metric]}; choose another --metric"
    return ""


@dataclass
class Cost:
    """What it took a run to reach a target; None if it never did."""

    bytes: float  # by the method; NaN where an older mpisign did not tell
    evaluations: float


def first(run: Run, metric: str, target: float) -> int | None:
    """The row of /eval at which the metric is there, or None."""
    values = style.column(run, "eval", metric)
    good = values >= target if LARGER_IS_BETTER[metric] else values <= target
    return int(np.argmax(good)) if good.any() else None


def cost(run: Run, metric: str, target: float) -> Cost | None:
    evals, there = run["eval"], first(run, metric, target)
    if there is None:
        return None
    return Cost(float(run.method_bytes("eval")[there]), float(evals["gradient_evaluations"][there]))


def table(runs: list[Run], metric: str, target: float | None) -> list[dict[str, object]]:
    """One row a method and setting, the best first; keys that begin with _ are for pictures."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(str(sorted(settings(run).items(), key=str)), []).append(run)
    described = [settings(group[0]) for group in groups.values()]
    told = [style.telling(job, described) for job in described]
    # a method's own hyperparameters stand behind its name; what else differs has a column of its own
    differing = [k for k in dict.fromkeys(chain(*told)) if not k.startswith("algorithm.")]
    rows = []
    for group, job, keys in zip(groups.values(), described, told, strict=True):
        own = [k for k in keys if k.startswith("algorithm.") and k != "algorithm.name"]
        method = ", ".join([style.algorithm(group[0]), *(f"{k.partition('.')[2]} {style.said(job[k])}" for k in own)])
        rows.append(row(group, method, metric, target, differing))
    return sorted(rows, key=lambda r: r["_order"])


def row(group: list[Run], method: str, metric: str, target: float | None, differing: list[str]) -> dict[str, object]:
    """The best rate of a group by the seeds that every rate has, and its figures over all its seeds."""
    rates = sorted({rate(run) for run in group})
    by_rate = {r: {run.attributes["seed"]: run for run in group if rate(run) == r} for r in rates}
    common = set.intersection(*(set(seeds) for seeds in by_rate.values()))
    sign = -1 if LARGER_IS_BETTER[metric] else 1
    best = min(rates, key=lambda r: np.mean([final(by_rate[r][s], metric) for s in common or by_rate[r]]))
    chosen = list(by_rate[best].values())
    values = [sign * final(run, metric) for run in chosen]
    mean = float(np.mean(values))
    found = {
        "method": method,
        "_runs": chosen,
        "_differing": differing,
        **{k: settings(chosen[0]).get(k, "") for k in differing},
        "rates": len(rates),
        "best rate": best,
        "edge": len(rates) > 2 and best in (rates[0], rates[-1]),
        "seeds": len(chosen),
        metric: mean,
        "deviation": style.deviation(values),
        "evaluations": _end(chosen[0]["steps"], "gradient_evaluations"),
        "bytes": _whole(chosen[0].method_bytes("steps")[-1:]),
    }
    if target is not None:
        reached = [c for run in chosen if (c := cost(run, metric, target))]
        found["reached"] = len(reached)
        found[f"evaluations to {target:g}"] = _whole([c.evaluations for c in reached])
        found[f"bytes to {target:g}"] = _whole([c.bytes for c in reached])
    return found | {"_order": sign * mean}


def _end(table: dict[str, np.ndarray], name: str) -> int:
    """The last value; 0 of a run that diverged before its first row."""
    return int(table[name][-1]) if len(table[name]) else 0


def _whole(values) -> int | str:
    """The median of values, whole; "" where there are none, or one is not known."""
    values = np.asarray(values, dtype=float)
    return int(np.median(values)) if len(values) and np.isfinite(values).all() else ""


def shown(rows: list[dict[str, object]], metric: str) -> list[dict[str, object]]:
    """The rows for a reader: mean and deviation in one cell, the edge of a grid beside its rate."""
    found = []
    for r in rows:
        cells = {k: v for k, v in r.items() if not k.startswith("_") and k not in ("edge", "deviation")}
        cells["best rate"] = f"{r['best rate']:g}" + (" (edge)" if r["edge"] else "")
        told = style.with_deviation(r[metric], r["deviation"])
        cells[metric] = told if np.isfinite(r[metric]) else "diverged"
        if "reached" in r:
            cells["reached"] = f"{r['reached']}/{r['seeds']}"
        found.append({k: "-" if v == "" else v for k, v in cells.items()})
    return found


def text(rows: list[dict[str, object]]) -> str:
    """Columns in line, for a terminal."""
    cells = [[style.short(name) for name in rows[0]]] + [[style.short(v) for v in r.values()] for r in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells)


def picture(rows: list[dict[str, object]], metric: str, target: float | None) -> Figure:
    """A line a row of the table, the best on top: mean and standard deviation; and the bytes that the target took."""
    reaching = f"bytes to {target:g}" if target is not None else None
    names = []
    for r in rows:
        own = (f"{style.named(k)} {style.said(r[k])}" for k in r["_differing"] if r[k] != "")
        names.append(", ".join([r["method"], *own]))
    columns = 2 if reaching else 1
    width = 3.2 + (1.2 + 0.06 * max(map(len, names))) / columns
    figure, (panels,) = style.panels(1, columns, width, max(0.26 * len(rows), 1.5), sharey=True)
    places = np.arange(len(rows))[::-1]
    for place, r in zip(places, rows, strict=True):
        if np.isfinite(r[metric]):
            spread = np.nan_to_num(r["deviation"])
            panels[0].errorbar(r[metric], place, xerr=spread, fmt="o", color=style.COLOURS[0], capsize=3)
        if reaching and r[reaching] != "":
            panels[1].plot(r[reaching], place, "D", color=style.COLOURS[1])
    panels[0].set_yticks(places, names)
    panels[0].set_ylim(-0.6, len(rows) - 0.4)
    panels[0].set_xlabel(NAMES[metric])
    if reaching:
        panels[1].set_xlabel(f"bytes per rank to {target:g}\n(by the method)")
        panels[1].set_xscale("log")
    style.title(figure, f"mean and {style.DEVIATION}")
    return figure


def main() -> None:
    options = style.parser(__doc__)
    options.add_argument("--metric", choices=LARGER_IS_BETTER, default="test_accuracy")
    options.add_argument("--target", type=float, help="of the metric, for the cost to reach it")
    options.add_argument("--files", action="store_true", help="print the run files of the best rates, for curves.py")
    options.add_argument("--format", choices=("text", "markdown", "csv"), default="text")
    options.add_argument("--output", type=Path, help="a picture of the table: .png, .pdf or .svg")

    def work(runs, arguments):
        ended = style.without(runs, not_ended)
        usable = style.without(ended, lambda run: unusable(run, arguments.metric), arguments.skipped)
        rows = table(usable, arguments.metric, arguments.target)
        if arguments.output:
            style.save(picture(rows, arguments.metric, arguments.target), arguments.output)
        if arguments.files:
            print(*(run.path for r in rows for run in r["_runs"]), sep="\n")
        else:
            _print(rows, arguments.metric, arguments.format)

    style.run(options, work)


def not_ended(run: Run) -> str:
    """Why a run is no figure of its job yet; "" once it has ended, well or not."""
    return run.status if run.status.startswith("incomplete") else ""


def _print(rows: list[dict[str, object]], metric: str, form: str) -> None:
    if form == "csv":
        plain = [{k: v for k, v in r.items() if not k.startswith("_")} for r in rows]
        writer = csv.DictWriter(sys.stdout, plain[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: cell(v) for k, v in row.items()} for row in plain)
        return
    told = shown(rows, metric)
    print(text(told) if form == "text" else style.markdown(told))
    print(f"\n{metric}: mean +- {style.DEVIATION}; bytes: of a rank, by the method")


if __name__ == "__main__":
    main()
