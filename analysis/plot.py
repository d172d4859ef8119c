"""Loss and accuracy of one or more runs against steps, epochs, gradient evaluations, seconds and bytes.

python analysis/curves.py runs/ --output curves.png
"""

from collections import Counter
from pathlib import Path

import numpy as np
import style
from compare import settings
from matplotlib.figure import Figure

from mpisign.errors import UsageError
from mpisign.results import Run

SINGLY = 10  # runs up to which every seed has a line in the legend
AXES = {
    "step": "steps",
    "epoch": "epochs",
    "gradient_evaluations": "gradient evaluations",
    "function_evaluations": "function evaluations",
    "seconds": "seconds",
    "bytes": "bytes per rank, by the method",
    "wire": "bytes per rank, on the wire",
}
ROWS = {"train_loss": "training loss", "test_accuracy": "held-out accuracy"}


def labels(runs: list[Run]) -> list[str]:
    """What tells runs apart: the algorithm and whatever of the job differs among its runs, the rate and seed included.

    Of more than SINGLY runs, those that differ in their seed alone share a label, which says how many they are.
    """
    jobs = [settings(run) | {"schedule.lr": style.key(run, "schedule.lr")} for run in runs]
    found = [style.algorithm(run) for run in runs]
    for k, (name, job) in enumerate(zip(map(style.algorithm, runs), jobs, strict=True)):
        alike = [other for other, run in zip(jobs, runs, strict=True) if style.algorithm(run) == name]
        found[k] = ", ".join(
            [name, *(f"{style.named(key)}={style.said(job[key])}" for key in style.telling(job, alike))]
        )
    groups = Counter(found)
    seeds = [str(run.attributes["seed"]) for run in runs]
    if len(runs) > SINGLY:
        return [f"{name} ({groups[name]} seeds)" if groups[name] > 1 else name for name in found]
    found = [f"{name}, seed={seed}" if groups[name] > 1 else name for name, seed in zip(found, seeds, strict=True)]
    # the same job, run twice: only the files differ
    groups = Counter(found)
    return [f"{name}, {run.path}" if groups[name] > 1 else name for name, run in zip(found, runs, strict=True)]


def against(run: Run, axis: str, table: str = "eval") -> np.ndarray:
    """An axis of the rows of /eval, or of another table; NaN where an older mpisign did not tell."""
    if axis in ("bytes", "wire") and "bytes_up" in run[table]:
        return (run.method_bytes(table) if axis == "bytes" else run.wire_bytes(table)).astype(float)
    return style.column(run, table, axis)


def told(values: np.ndarray) -> bool:
    """Whether an axis says anything: a single voter sends nothing, most methods take no function values."""
    return bool(np.nan_to_num(values).any())


def title(runs: list[Run]) -> str:
    """The problems, the voters and how rows are dealt; only what fits above a picture."""
    found = dict.fromkeys(
        f"{r.attributes['problem']}, n = {r.attributes['n']}, {style.key(r, 'partition.kind', 'iid')}" for r in runs
    )
    return "; ".join(found) if len(found) <= 3 else f"{len(runs)} runs"


def picture(runs: list[Run]) -> Figure:
    """One column an axis; loss above, held-out accuracy below where there is any.

    Raises UsageError where no run has a finite value.
    """
    rows = [row for row in ROWS if any(np.isfinite(style.column(run, "eval", row)).any() for run in runs)]
    if not rows:
        raise UsageError("no run has a finite loss or accuracy")
    axes = [a for a in AXES if any(told(against(run, a)) for run in runs)] or ["step"]
    named = labels(runs)
    looks = style.looks(named)
    width = 1.4 if len(looks) == len(runs) else 0.9
    figure, panels = style.panels(len(rows), len(axes), 3.2, sharex="col", sharey="row")
    for row, line in zip(rows, panels, strict=True):
        for axis, panel in zip(axes, line, strict=True):
            for run, name in zip(runs, named, strict=True):
                _draw(panel, run, axis, row, {"label": name, "linewidth": width} | looks[name])
            everything = np.concatenate([style.column(run, "eval", row) for run in runs])
            if row == "train_loss" and (everything[np.isfinite(everything)] > 0).all():
                panel.set_yscale("log")
        line[0].set_ylabel(ROWS[row])
    for axis, panel in zip(axes, panels[-1], strict=True):
        style.counted(panel, AXES[axis])
        # methods that send bits and methods that send floats fit on one axis only if it is logarithmic
        if len(runs) > 1 and axis in ("bytes", "wire") and min(against(run, axis)[-1] for run in runs) > 0:
            panel.set_xscale("log", nonpositive="mask")
    style.title(figure, title(runs))
    style.legend(figure, panels[0, :1])
    return figure


def _draw(panel, run: Run, axis: str, row: str, look: dict[str, object]) -> None:
    """A line as far as it is finite, with a point where it is too short to be one."""
    at, values = against(run, axis), style.column(run, "eval", row)
    there = np.isfinite(at) & np.isfinite(values)
    at, values = style.envelope(at[there], values[there])
    panel.plot(at, values, **look | ({"marker": "o"} if len(at) == 1 else {}))


def main() -> None:
    options = style.parser(__doc__)
    options.add_argument("--output", type=Path, help="a .png, .pdf or .svg; the first run's name with .png by default")

    def work(runs, a):
        runs = style.without(runs, style.no_evaluations, a.skipped)
        style.save(picture(runs), a.output or runs[0].path.with_suffix(".png"))

    style.run(options, work)


if __name__ == "__main__":
    main()
