"""Loss and accuracy of one or more runs against steps, epochs, gradient evaluations, seconds and bytes.

python analysis/curves.py runs/a.h5 runs/b.h5 --output curves.png
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import EngFormatter, MaxNLocator

from mpisign.errors import MpisignError
from mpisign.results import Run

HIDDEN = {
    ("run", "seed"),
    ("run", "file"),
    ("run", "overwrite"),
    ("run", "threads"),
    ("schedule", "lr"),
    ("run", "steps"),
}
AXES = {
    "step": "steps",
    "epoch": "epochs",
    "gradient_evaluations": "gradient evaluations",
    "function_evaluations": "function evaluations",
    "seconds": "seconds",
    "bytes": "bytes sent a rank",
}


def labels(runs: list[Run]) -> list[str]:
    """What tells runs apart: the algorithm and whatever of the job differs, but for the seed, the rate and files."""
    flat = [{(t, k): str(v) for t, table in run.config.items() for k, v in table.items()} for run in runs]
    keys = dict.fromkeys(key for job in flat for key in job)
    names = [{k: job[k] for k in keys if k in job and k not in HIDDEN} for job in flat]
    found = []
    for run, own in zip(runs, names, strict=True):
        # among runs of the same algorithm; others differ in hyperparameters that mean nothing to this one
        alike = [n for r, n in zip(runs, names, strict=True) if _algorithm(r) == _algorithm(run)]
        differing = [k for k, v in own.items() if any(n.get(k) != v for n in alike)]
        found.append(", ".join([_algorithm(run)] + [f"{k[1]}={own[k]}" for k in differing]))
    return found


def _algorithm(run: Run) -> str:
    return run.attributes["algorithm"]


def against(run: Run, axis: str) -> np.ndarray:
    """An axis of the rows of /eval."""
    evals = run["eval"]
    if axis not in evals and axis != "bytes":  # a run of an older mpisign
        return np.zeros(len(evals["step"]))
    return evals["bytes_up"] + evals["bytes_down"] if axis == "bytes" else evals[axis]


def title(run: Run) -> str:
    """The problem, the voters and how rows are dealt."""
    return f"{run.attributes['problem']}, n = {run.attributes['n']}, {run.config['partition']['kind']}"


def draw(runs: list[Run], output: Path) -> None:
    """One column an axis; loss above, held-out accuracy below where there is any. Seeds share a colour."""
    has_accuracy = any(np.isfinite(run["eval"]["test_accuracy"]).any() for run in runs)
    axes = [a for a in AXES if any(against(run, a).any() for run in runs)] or ["step"]
    rows = ["train_loss", "test_accuracy"] if has_accuracy else ["train_loss"]
    shape = {"nrows": len(rows), "ncols": len(axes), "sharex": "col", "sharey": "row", "squeeze": False}
    named = labels(runs)
    colours = {name: f"C{k % 10}" for k, name in enumerate(dict.fromkeys(named))}
    width = 1.4 if len(colours) == len(runs) else 0.9
    figure, panels = plt.subplots(**shape, figsize=(3.2 * len(axes), 2.6 * len(rows) + 0.8), layout="constrained")
    for row, line in zip(rows, panels, strict=True):
        for axis, panel in zip(axes, line, strict=True):
            for run, name in zip(runs, named, strict=True):
                panel.plot(against(run, axis), run["eval"][row], label=name, color=colours[name], linewidth=width)
            panel.grid(alpha=0.3)
            if row == "train_loss" and all((run["eval"][row] > 0).all() for run in runs):
                panel.set_yscale("log")
        line[0].set_ylabel({"train_loss": "training loss", "test_accuracy": "held-out accuracy"}[row])
    for axis, panel in zip(axes, panels[-1], strict=True):
        panel.set_xlabel(AXES[axis])
        panel.xaxis.set_major_locator(MaxNLocator(4))
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))
        # methods that send bits and methods that send floats fit on one axis only if it is logarithmic
        if len(runs) > 1 and axis == "bytes" and min(against(run, axis)[-1] for run in runs) > 0:
            panel.set_xscale("log", nonpositive="mask")
    figure.suptitle(", ".join(dict.fromkeys(map(title, runs))), x=0.01, ha="left", fontsize=11)
    handles = dict(zip(named, panels[0, 0].get_lines(), strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, frameon=False)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN.h5")
    parser.add_argument("--output", type=Path, help="a .png, .pdf or .svg; the first run's name with .png by default")
    options = parser.parse_args()
    output = options.output or options.runs[0].with_suffix(".png")
    try:
        draw([Run(path) for path in options.runs], output)
    except MpisignError as error:
        parser.error(str(error))
    print(f"picture: {output}")


if __name__ == "__main__":
    main()
