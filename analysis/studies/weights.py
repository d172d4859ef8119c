"""Votes weighed by rows against votes that all count alike, from the runs of jobs/studies/weights.toml.

python analysis/studies/weights.py runs/weights
"""

import argparse
from pathlib import Path
from statistics import mean, stdev

from mpisign.storage.reader import Run, read_all

METRICS = {"test_accuracy": "held-out accuracy", "train_loss": "training loss"}
Method = tuple[str, bool]  # the algorithm's name, and whether voters are weighed by rows


def method_of(run: Run) -> Method:
    """Of an average of floats it is the objective that weighs."""
    algorithm = run.config["algorithm"]
    by_rows = algorithm.get("weights") == "rows" or (
        algorithm["name"] == "sgd" and run.config["run"]["objective"] == "rows"
    )
    return algorithm["name"], by_rows


def of_seeds(runs: list[Run], metric: str) -> dict[Method, dict[int, float]]:
    """The metric at the end of each run, by method and seed."""
    found: dict[Method, dict[int, float]] = {}
    for run in runs:
        value = run.score(metric)
        found.setdefault(method_of(run), {})[run.config["run"]["seed"]] = -value if metric == "test_accuracy" else value
    return found


def spread(values: list[float], form: str) -> str:
    return f"{mean(values):{form}} +- {stdev(values):.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    runs, _ = read_all(parser.parse_args().files)
    owned = {run.config["run"]["seed"]: sorted(run.partition["rows"].tolist()) for run in runs}
    print("| seed | rows of each voter |\n|---|---|")
    for seed, rows in sorted(owned.items()):
        print(f"| {seed} | {', '.join(map(str, rows))} |")
    for metric, name in METRICS.items():
        found = of_seeds(runs, metric)
        seeds = sorted(owned)
        print(f"\n| {name} | voters | {' | '.join(f'seed {s}' for s in seeds)} | mean | by rows less alike |")
        print("|---" * (len(seeds) + 4) + "|")
        for method, values in sorted(found.items()):
            algorithm, by_rows = method
            cells = [f"{values[s]:.3f}" for s in seeds]
            alike = found[algorithm, False]
            apart = spread([values[s] - alike[s] for s in seeds], "+.3f") if by_rows else ""
            voters = "by rows" if by_rows else "alike"
            print(f"| `{algorithm}` | {voters} | {' | '.join(cells)} | {spread([*values.values()], '.3f')} | {apart} |")


if __name__ == "__main__":
    main()
