"""Loss and accuracy of one or more runs against steps, epochs, gradient evaluations, seconds and bytes.

python analysis/curves.py runs/ --output curves.png
"""

from pathlib import Path

import numpy as np
import style
from matplotlib.figure import Figure
from style import algorithm

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
ROWS = {"train_loss": "training loss", "test_accuracy": "held-out accuracy"}


def labels(runs: list[Run]) -> list[str]:
    """What tells runs apart: the algorithm and whatever of the job differs, but for the seed, the rate and files."""
    flat = [{(t, k): str(v) for t, table in run.config.items() for k, v in table.items()} for run in runs]
    keys = dict.fromkeys(key for job in flat for key in job)
    names = [{k: job[k] for k in keys if k in job and k not in HIDDEN} for job in flat]
    # among runs of the same algorithm; others differ in hyperparameters that mean nothing to this one
    values: dict[str, dict[tuple, set]] = {}
    for run, own in zip(runs, names, strict=True):
        seen = values.setdefault(algorithm(run), {})
        for key in keys:
            seen.setdefault(key, set()).add(own.get(key))
    found = []
    for run, own in zip(runs, names, strict=True):
        differing = [k for k in own if len(values[algorithm(run)][k]) > 1]
        found.append(", ".join([algorithm(run)] + [f"{k[1]}={own[k]}" for k in differing]))
    return found


def against(run: Run, axis: str, table: str = "eval") -> np.ndarray:
    """An axis of the rows of /eval, or of another table."""
    rows = run[table]
    if axis not in rows and axis != "bytes":  # a run of an older mpisign
        return np.zeros(len(rows["step"]))
    return rows["bytes_up"] + rows["bytes_down"] if axis == "bytes" else rows[axis]


def title(runs: list[Run]) -> str:
    """The problems, the voters and how rows are dealt; only what fits above a picture."""
    told = dict.fromkeys(
        f"{r.attributes['problem']}, n = {r.attributes['n']}, {r.config['partition']['kind']}" for r in runs
    )
    return "; ".join(told) if len(told) <= 3 else f"{len(runs)} runs"


def picture(runs: list[Run]) -> Figure:
    """One column an axis; loss above, held-out accuracy below where there is any. Seeds share their looks."""
    rows = [row for row in ROWS if any(np.isfinite(run["eval"][row]).any() for run in runs)]
    axes = [a for a in AXES if any(against(run, a).any() for run in runs)] or ["step"]
    named = labels(runs)
    looks = style.looks(named)
    width = 1.4 if len(looks) == len(runs) else 0.9
    figure, panels = style.panels(len(rows), len(axes), 3.2, sharex="col", sharey="row")
    for row, line in zip(rows, panels, strict=True):
        for axis, panel in zip(axes, line, strict=True):
            for run, name in zip(runs, named, strict=True):
                at, values = style.envelope(against(run, axis), run["eval"][row])
                panel.plot(at, values, label=name, linewidth=width, **looks[name])
            if row == "train_loss" and all((run["eval"][row] > 0).all() for run in runs):
                panel.set_yscale("log")
        line[0].set_ylabel(ROWS[row])
    for axis, panel in zip(axes, panels[-1], strict=True):
        style.counted(panel, AXES[axis])
        # methods that send bits and methods that send floats fit on one axis only if it is logarithmic
        if len(runs) > 1 and axis == "bytes" and min((against(run, axis)[-1:] for run in runs), default=0) > 0:
            panel.set_xscale("log", nonpositive="mask")
    style.title(figure, title(runs))
    style.legend(figure, panels[0, :1])
    return figure


def main() -> None:
    options = style.parser(__doc__)
    options.add_argument("--output", type=Path, help="a .png, .pdf or .svg; the first run's name with .png by default")
    style.run(options, lambda runs, a: style.save(picture(runs), a.output or runs[0].path.with_suffix(".png")))


if __name__ == "__main__":
    main()
