"""How far x is out of the span of the gradients, beside training and held-out loss: for runs of problem `wilson`.

python analysis/studies/span.py runs/c13 --output c13.png
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from mpisign.errors import UsageError
from mpisign.figures import style
from mpisign.figures.selection import without
from mpisign.problems.wilson import Wilson
from mpisign.storage.reader import Run

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the modules that all scripts share
import script


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


@style.styled
def picture(runs: list[Run]) -> Figure:
    """Three panels against steps."""
    figure, ((loss, held_out, outside),) = style.panels(1, 3)
    looks = style.looks(run.path.stem for run in runs)
    quantities = {
        "training loss": (loss, lambda run: run["eval"]["train_loss"]),
        "held-out loss": (held_out, lambda run: run["eval"]["test_loss"]),
        "|x out of the span| / |x|": (outside, out_of_span),
    }
    for name, (panel, values) in quantities.items():
        for run in runs:
            panel.plot(run["eval"]["step"], values(run), label=run.path.stem, **looks[run.path.stem])
        panel.set_ylabel(name)
        style.counted(panel, "steps")
    loss.set(yscale="log", ylim=(1e-7, None))
    held_out.set(yscale="log")
    outside.set(ylim=(-0.05, 1.05))
    style.legend(figure, [loss], columns=4)
    return figure


def main() -> None:
    with script.reading(script.parser(__doc__, "span.png")) as (runs, arguments):
        # raises for a run of another problem, which is then named
        print(style.save(picture(without(runs, out_of_span, arguments.skipped)), arguments.output))


if __name__ == "__main__":
    main()
