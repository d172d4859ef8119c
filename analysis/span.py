"""How far x is out of the span of the gradients, beside training and held-out loss: for runs of problem `wilson`.

python analysis/span.py runs/c13/*.h5 --output c13.png
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from mpisign.errors import MpisignError, UsageError
from mpisign.problems.wilson import Wilson
from mpisign.results import Run


def out_of_span(run: Run) -> np.ndarray:
    """|x - its projection onto the span of the training rows| / |x| at each evaluation; 0 where x is 0."""
    if run.attributes["problem"] != "wilson" or not len(run["trace"]["step"]):
        raise UsageError(f"{run.path}: a run of problem wilson with run.trace = true is needed")
    problem = run.config["problem"]
    rows = Wilson(problem["count"], problem["number"]).read().train["inputs"].astype(float)
    # in least squares every gradient is a sum of rows
    basis = np.linalg.svd(rows, full_matrices=False)[2][: np.linalg.matrix_rank(rows)]
    x = run["trace"]["x"].astype(float)
    outside = np.linalg.norm(x - (x @ basis.T) @ basis, axis=1)
    return outside / np.maximum(np.linalg.norm(x, axis=1), 1e-30)


def draw(runs: list[Run], output: Path) -> None:
    """Three panels against steps."""
    figure, panels = plt.subplots(ncols=3, figsize=(10, 3.2), layout="constrained")
    for k, run in enumerate(runs):
        evals = run["eval"]
        for panel, values in zip(panels, (evals["train_loss"], evals["test_loss"], out_of_span(run)), strict=True):
            panel.plot(evals["step"], values, label=run.path.stem, linestyle=("-", "--", "-", ":")[k % 4])
    for panel, title in zip(panels, ("training loss", "held-out loss", "|x out of the span| / |x|"), strict=True):
        panel.set_title(title, fontsize=10)
        panel.set_xlabel("steps")
        panel.grid(alpha=0.3)
    panels[0].set_yscale("log")
    panels[0].set_ylim(bottom=1e-7)
    panels[1].set_yscale("log")
    panels[2].set_ylim(-0.05, 1.05)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN.h5")
    parser.add_argument("--output", type=Path, default=Path("span.png"), help="a .png, .pdf or .svg")
    options = parser.parse_args()
    try:
        draw([Run(path) for path in options.runs], options.output)
    except MpisignError as error:
        parser.error(str(error))
    print(f"picture: {options.output}")


if __name__ == "__main__":
    main()
