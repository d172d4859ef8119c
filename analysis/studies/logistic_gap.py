"""f - f* of logistic-regression runs, f* from scikit-learn for the very same objective.

python analysis/studies/logistic_gap.py runs/logistic-*.h5

The objective is f(x) = mean log(1 + exp(-y <a, x>)) + l2/2 |x|^2 over all rows, without intercept, so runs need
problem.nonconvex = 0, and run.objective = "rows" to report the same f (with "ranks" the means differ where ranks
have different numbers of rows).
"""

import sys
from functools import cache
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression

from mpisign.errors import UsageError
from mpisign.figures import grouping, tables
from mpisign.figures.selection import without
from mpisign.problems.data.readers.libsvm import read_libsvm
from mpisign.storage.reader import Run

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the modules that all scripts share
import script


@cache
def optimum(path: str, l2: float) -> float:
    """f* in float64 by Newton's method with conjugate gradients."""
    (rows,) = read_libsvm([Path(path)])
    inputs, labels = rows["inputs"].astype(np.float64), rows["labels"].astype(np.float64)
    options = {"fit_intercept": False, "solver": "newton-cg", "tol": 1e-12, "max_iter": 1000}
    x = LogisticRegression(C=1 / (len(labels) * l2), **options).fit(inputs, labels).coef_[0]
    return float(np.logaddexp(0, -(inputs @ x) * labels).mean() + l2 / 2 * x @ x)


def row(run: Run) -> dict[str, object]:
    """The cells of a run: f*, the last f, and the smallest f over all evaluations."""
    problem = run.config["problem"]
    if problem["name"] != "logistic" or problem["nonconvex"] or grouping.key(run, "run.objective") != "rows":
        raise UsageError(f"{run.path}: not a logistic run with nonconvex = 0 and objective = 'rows'")
    if reason := grouping.no_evaluations(run):
        raise UsageError(f"{run.path}: {reason}")
    least, steps = optimum(problem["path"], problem["l2"]), int(run["eval"]["step"][-1])
    last, lowest = float(run["eval"]["train_loss"][-1]), float(run["eval"]["train_loss"].min())
    job = {"data": Path(problem["path"]).name, "algorithm": run.attributes["algorithm"], "n": run.attributes["n"]}
    job |= {"partition": run.config["partition"]["kind"], "l2": problem["l2"], "steps": steps}
    values = {"f*": f"{least:.6f}", "f": f"{last:.6f}", "f - f*": f"{last - least:.2e}"}
    return job | values | {"(f - f*)/f*": f"{last / least - 1:.3%}", "best": f"{lowest / least - 1:.3%}"}


def main() -> None:
    with script.reading(script.parser(__doc__)) as (runs, arguments):
        print(tables.columns([row(run) for run in without(runs, row, arguments.skipped)]))


if __name__ == "__main__":
    main()
