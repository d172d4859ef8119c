"""Best of grid: a table of methods, from the run files of one or more sweeps.

python analysis/compare.py runs/mnist_methods --target 0.9 --format markdown --output compare.png

Runs that differ in the learning rate and the seed alone are one row: of the rates, the one whose mean is best at the
end of the run, over the seeds that all rates have; then mean +- standard deviation over that rate's seeds, and the
median over them of what it took to reach the target: bytes sent a rank (both ways) and gradient evaluations. A run
that diverged counts as the worst; one that has not ended is left out. --files prints the rows' run files instead;
--output draws the table: the metric, and the bytes to the target where there is one.
"""

import csv
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import style
from matplotlib.figure import Figure

from mpisign.errors import UsageError
from mpisign.results import Run
from mpisign.sweep import final
from mpisign.words import cell

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
    return run.config["schedule"]["lr"]


@dataclass
class Cost:
    """What it took a run to reach a target; None if it never did."""

    bytes: float
    evaluations: float


def first(run: Run, metric: str, target: float) -> int | None:
    """The row of /eval at which the metric is there, or None."""
    values = run["eval"][metric]
    good = values >= target if LARGER_IS_BETTER[metric] else values <= target
    return int(np.argmax(good)) if good.any() else None


def cost(run: Run, metric: str, target: float) -> Cost | None:
    evals, there = run["eval"], first(run, metric, target)
    if there is None:
        return None
    return Cost(evals["bytes_up"][there] + evals["bytes_down"][there], evals["gradient_evaluations"][there])


def table(runs: list[Run], metric: str, target: float | None) -> list[dict[str, object]]:
    """One row a method and setting, the best first."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(str(sorted(settings(run).items(), key=str)), []).append(run)
    described = [settings(group[0]) for group in groups.values()]
    differing = [
        k for k in described[0] if len({str(d.get(k)) for d in described}) > 1 and not k.startswith("algorithm.")
    ]
    rows = [row(group, metric, target, differing) for group in groups.values()]
    return sorted(rows, key=lambda r: r["_order"])


def row(group: list[Run], metric: str, target: float | None, differing: list[str]) -> dict[str, object]:
    """The best rate of a group by the seeds that every rate has, and its figures over all its seeds."""
    rates = sorted({rate(run) for run in group})
    by_rate = {r: {run.attributes["seed"]: run for run in group if rate(run) == r} for r in rates}
    common = set.intersection(*(set(seeds) for seeds in by_rate.values()))
    sign = -1 if LARGER_IS_BETTER[metric] else 1
    best = min(rates, key=lambda r: np.mean([final(by_rate[r][s], metric) for s in common or by_rate[r]]))
    chosen = list(by_rate[best].values())
    values = [sign * final(run, metric) for run in chosen]
    last = chosen[0]["steps"]
    found = {
        "method": chosen[0].attributes["algorithm"],
        "_runs": chosen,
        "_differing": differing,
        "_mean": np.mean(values),
        "_deviation": np.std(values),
        **{k: settings(chosen[0])[k] for k in differing},
        "rates": len(rates),
        "best rate": f"{best:g}" + (" (edge)" if len(rates) > 2 and best in (rates[0], rates[-1]) else ""),
        "seeds": len(chosen),
        metric: f"{np.mean(values):.4g} +- {np.std(values):.2g}",
        "evaluations": _end(last["gradient_evaluations"]),
        "bytes": _end(last["bytes_up"]) + _end(last["bytes_down"]),
    }
    if target is not None:
        costs = [cost(run, metric, target) for run in chosen]
        reached = [c for c in costs if c]
        found["reached"] = f"{len(reached)}/{len(costs)}"
        found[f"evaluations to {target:g}"] = int(np.median([c.evaluations for c in reached])) if reached else "-"
        found[f"bytes to {target:g}"] = int(np.median([c.bytes for c in reached])) if reached else "-"
    return found | {"_order": sign * np.mean(values)}


def _end(column: np.ndarray) -> int:
    """The last value; 0 of a run that diverged before its first row."""
    return int(column[-1]) if len(column) else 0


def text(rows: list[dict[str, object]]) -> str:
    """Columns in line, for a terminal."""
    cells = [[style.short(name) for name in rows[0]]] + [[style.short(v) for v in r.values()] for r in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells)


def picture(rows: list[dict[str, object]], metric: str, target: float | None) -> Figure:
    """A line a row of the table, the best on top: mean and standard deviation; and the bytes that the target took."""
    reaching = f"bytes to {target:g}" if target is not None else None
    names = [", ".join([r["method"], *(f"{k.rpartition('.')[2]} {r[k]}" for k in r["_differing"])]) for r in rows]
    figure, (panels,) = style.panels(1, 2 if reaching else 1, 4.5, max(0.26 * len(rows), 1.5), sharey=True)
    places = np.arange(len(rows))[::-1]
    for place, r in zip(places, rows, strict=True):
        panels[0].errorbar(r["_mean"], place, xerr=r["_deviation"], fmt="o", color=style.COLOURS[0], capsize=3)
        if reaching and r[reaching] != "-":
            panels[1].plot(r[reaching], place, "D", color=style.COLOURS[1])
    panels[0].set_yticks(places, names)
    panels[0].set_xlabel(NAMES[metric])
    if reaching:
        panels[1].set_xlabel(f"bytes a rank to {target:g}")
        panels[1].set_xscale("log")
    return figure


def main() -> None:
    options = style.parser(__doc__)
    options.add_argument("--metric", choices=LARGER_IS_BETTER, default="test_accuracy")
    options.add_argument("--target", type=float, help="of the metric, for the cost to reach it")
    options.add_argument("--files", action="store_true", help="print the run files of the best rates, for curves.py")
    options.add_argument("--format", choices=("text", "markdown", "csv"), default="text")
    options.add_argument("--output", type=Path, help="a picture of the table: .png, .pdf or .svg")

    def work(runs, arguments):
        ended = [run for run in runs if not run.status.startswith("incomplete")]
        if not ended:
            raise UsageError("none of these runs has ended")
        rows = table(ended, arguments.metric, arguments.target)
        if arguments.output:
            style.save(picture(rows, arguments.metric, arguments.target), arguments.output)
        if arguments.files:
            print(*(run.path for r in rows for run in r["_runs"]), sep="\n")
        else:
            _print([{k: v for k, v in r.items() if not k.startswith("_")} for r in rows], arguments.format)

    style.run(options, work)


def _print(rows: list[dict[str, object]], form: str) -> None:
    if form == "csv":
        writer = csv.DictWriter(sys.stdout, rows[0])
        writer.writeheader()
        writer.writerows({k: cell(v) for k, v in row.items()} for row in rows)
    else:
        print(text(rows) if form == "text" else style.markdown(rows))


if __name__ == "__main__":
    main()
