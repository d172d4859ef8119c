"""Best of grid: a table of methods, from the run files of one or more sweeps.

python analysis/compare.py runs/mnist_methods/*.h5 --target 0.9 --format markdown

Runs that differ in the learning rate and the seed alone are one row: of the rates, the one whose mean is best at the
end of the run, over the seeds that all rates have; then mean +- standard deviation over that rate's seeds, and the
median over them of what it took to reach the target: bytes sent a rank (both ways) and gradient evaluations. A run
that diverged counts as the worst; one that has not ended is left out. --files prints the rows' run files instead.
"""

import argparse
import csv
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mpisign.errors import MpisignError
from mpisign.results import Run
from mpisign.sweep import final

RATE, IGNORED = ("schedule", "lr"), {("run", "seed"), ("run", "file"), ("run", "overwrite"), ("run", "threads")}
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


def cost(run: Run, metric: str, target: float) -> Cost | None:
    evals = run["eval"]
    good = evals[metric] >= target if LARGER_IS_BETTER[metric] else evals[metric] <= target
    if not good.any():
        return None
    first = int(np.argmax(good))
    return Cost(evals["bytes_up"][first] + evals["bytes_down"][first], evals["gradient_evaluations"][first])


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
        "_files": [run.path for run in chosen],
        **{k: settings(chosen[0])[k] for k in differing},
        "rates": len(rates),
        "best rate": f"{best:g}" + (" (edge)" if len(rates) > 2 and best in (rates[0], rates[-1]) else ""),
        "seeds": len(chosen),
        metric: f"{np.mean(values):.4g} +- {np.std(values):.2g}",
        "evaluations": int(last["gradient_evaluations"][-1]),
        "bytes": int(last["bytes_up"][-1] + last["bytes_down"][-1]),
    }
    if target is not None:
        costs = [cost(run, metric, target) for run in chosen]
        reached = [c for c in costs if c]
        found["reached"] = f"{len(reached)}/{len(costs)}"
        found[f"evaluations to {target:g}"] = int(np.median([c.evaluations for c in reached])) if reached else "-"
        found[f"bytes to {target:g}"] = int(np.median([c.bytes for c in reached])) if reached else "-"
    return found | {"_order": sign * np.mean(values)}


def text(rows: list[dict[str, object]]) -> str:
    """Columns in line, for a terminal."""
    cells = [[*rows[0]]] + [[_short(v) for v in r.values()] for r in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells)


def markdown(rows: list[dict[str, object]]) -> str:
    """A table for a README."""
    lines = [" | ".join(rows[0]), " | ".join("---" for _ in rows[0])]
    lines += [" | ".join(_short(v) for v in r.values()) for r in rows]
    return "\n".join(f"| {line} |" for line in lines)


def _short(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN.h5")
    parser.add_argument("--metric", choices=LARGER_IS_BETTER, default="test_accuracy")
    parser.add_argument("--target", type=float, help="of the metric, for the cost to reach it")
    parser.add_argument("--files", action="store_true", help="print the run files of the best rates, for curves.py")
    parser.add_argument("--format", choices=("text", "markdown", "csv"), default="text")
    options = parser.parse_args()
    try:
        runs = [run for run in map(Run, options.runs) if not run.status.startswith("incomplete")]
        rows = table(runs, options.metric, options.target) if runs else parser.error("none of these runs has ended")
    except MpisignError as error:
        parser.error(str(error))
    files = [path for r in rows for path in r["_files"]]
    rows = [{k: v for k, v in r.items() if not k.startswith("_")} for r in rows]
    if options.files:
        print(*files, sep="\n")
    elif options.format == "csv":
        writer = csv.DictWriter(sys.stdout, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    else:
        print(text(rows) if options.format == "text" else markdown(rows))


if __name__ == "__main__":
    main()
