"""Mean and band over seeds: what is in /eval of runs that differ in their seed alone, a line a method.

python analysis/seeds.py runs/ssvr_mnist/*.h5 --axes epoch gradient_evaluations --output seeds.png

The band is one standard deviation to each side. Norms of the gradient are there where a job has run.exact_gradient.
--table prints the last values instead, as markdown.
"""

import argparse
import re
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from compare import settings
from curves import AXES, against
from matplotlib.ticker import EngFormatter, MaxNLocator

from mpisign.errors import MpisignError
from mpisign.results import Run

ROWS = {
    "train_loss": "training loss",
    "gradient_l1": "|gradient|_1",
    "gradient_l2": "|gradient|_2",
    "test_accuracy": "held-out accuracy",
    "bits": "held-out bits a character",
}
TEXT = ("bits", "test_accuracy")  # the rows of a job on text, whose losses are in nats a character
LOGARITHMIC = ("train_loss", "gradient_l1", "gradient_l2")


def grouped(runs: list[Run]) -> dict[str, list[Run]]:
    """Runs that differ in their seed alone, by the algorithm and what else tells the groups apart."""
    rates = [settings(run) | {"schedule.lr": run.config["schedule"]["lr"]} for run in runs]
    found: dict[str, list[Run]] = {}
    for run, own in zip(runs, rates, strict=True):
        alike = [r for other, r in zip(runs, rates, strict=True) if _name(other) == _name(run)]
        differing = [k for k in own if len({str(r.get(k)) for r in alike}) > 1]
        name = ", ".join([_name(run), *(f"{k.rpartition('.')[2]} {own[k]}" for k in differing)])
        found.setdefault(name, []).append(run)
    return dict(sorted(found.items(), key=lambda item: _natural(item[0])))


def _natural(name: str) -> list:
    """Numbers in a name in the order of their values."""
    return [float(part) if k % 2 else part for k, part in enumerate(re.split(r"(\d+(?:\.\d+)?)", name))]


def _name(run: Run) -> str:
    return run.attributes["algorithm"]


def over_seeds(runs: list[Run], row: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of a column of /eval, as far as all runs have come."""
    columns = [run["eval"]["test_loss"] / np.log(2) if row == "bits" else run["eval"][row] for run in runs]
    values = np.array([column[: min(map(len, columns))] for column in columns])
    return values.mean(axis=0), values.std(axis=0)


def recorded(groups: dict[str, list[Run]]) -> list[str]:
    """The quantities that all runs have."""
    runs = [run for group in groups.values() for run in group]
    if all(run.attributes["problem"] == "text" for run in runs):
        return list(TEXT)
    return [row for row in ROWS if row != "bits" and all(np.isfinite(run["eval"][row]).all() for run in runs)]


def draw(groups: dict[str, list[Run]], axes: list[str], output: Path) -> None:
    """A row of panels for each quantity that was recorded, a column an axis."""
    everything, rows = [run for group in groups.values() for run in group], recorded(groups)
    shape = {"nrows": len(rows), "ncols": len(axes), "sharex": "col", "sharey": "row", "squeeze": False}
    figure, panels = plt.subplots(**shape, figsize=(4.4 * len(axes), 2.3 * len(rows) + 0.7), layout="constrained")
    for row, line in zip(rows, panels, strict=True):
        for axis, panel in zip(axes, line, strict=True):
            for group in groups.values():
                mean, spread = over_seeds(group, row)
                at = against(group[0], axis)[: len(mean)]
                # what is positive stays so, also below the mean of a logarithmic axis
                low = np.maximum(mean - spread, mean / 3) if row in LOGARITHMIC else mean - spread
                (drawn,) = panel.plot(at, mean, linewidth=1.2)
                panel.fill_between(at, low, mean + spread, alpha=0.2, color=drawn.get_color(), linewidth=0)
            panel.grid(alpha=0.3)
            if row in LOGARITHMIC:
                panel.set_yscale("log")
        if row == "bits":
            best = min(over_seeds(group, row)[0][-1] for group in groups.values())
            line[0].set_ylim(best - 0.05, best + 1.0)
        elif row not in LOGARITHMIC:
            # from where the methods differ: the first evaluations would fill the panel
            worst = min(over_seeds(group, row)[0][len(group[0]["eval"]["step"]) // 6] for group in groups.values())
            line[0].set_ylim(bottom=worst - 0.02)
        line[0].set_ylabel(ROWS[row])
    for axis, panel in zip(axes, panels[-1], strict=True):
        panel.set_xlabel(AXES[axis])
        panel.xaxis.set_major_locator(MaxNLocator(4))
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))
        ends = [against(group[0], axis)[-1] for group in groups.values()]
        if axis == "bytes" and max(ends) > 10 * min(ends) > 0:
            panel.set_xscale("log", nonpositive="mask")  # bits and floats fit on one axis only so
    seeds = {len(group) for group in groups.values()}
    first = everything[0]
    figure.suptitle(
        f"{first.attributes['problem']}, n = {first.attributes['n']}; mean and band of {max(seeds)} seed(s)",
        x=0.01, ha="left", fontsize=11,
    )  # fmt: skip
    columns = 3 if max(map(len, groups)) < 40 else 1
    figure.legend(panels[0, 0].get_lines(), groups, loc="outside lower center", ncols=columns, frameon=False)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=110)


def table(groups: dict[str, list[Run]]) -> str:
    """The last values of each group as a markdown table."""
    rows = recorded(groups)
    lines = ["method | rate | seeds | " + " | ".join(ROWS[r] for r in rows) + " | evaluations | bytes a rank"]
    lines.append(" | ".join("---" for _ in lines[0].split("|")))
    for name, group in groups.items():
        cells = []
        for row in rows:
            mean, spread = (values[-1] for values in over_seeds(group, row))
            cells.append(f"{mean:.3g} +- {spread:.2g}" if row in LOGARITHMIC else f"{mean:.4f} +- {spread:.4f}")
        spent, sent = group[0]["eval"]["gradient_evaluations"][-1], against(group[0], "bytes")[-1]
        rate = f"{group[0].config['schedule']['lr']:g}"
        lines.append(" | ".join([name, rate, str(len(group)), *cells, f"{spent:,}", f"{sent:,}"]))
    return "\n".join(f"| {line} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN.h5")
    parser.add_argument("--axes", nargs="+", choices=AXES, default=["epoch", "gradient_evaluations"])
    parser.add_argument("--output", type=Path, default=Path("seeds.png"), help="a .png, .pdf or .svg")
    parser.add_argument("--table", action="store_true", help="print the last values instead of drawing")
    options = parser.parse_args()
    try:
        groups = grouped([Run(path) for path in options.runs])
        if options.table:
            print(table(groups))
            return
        draw(groups, options.axes, options.output)
    except MpisignError as error:
        parser.error(str(error))
    print(f"picture: {options.output}")


if __name__ == "__main__":
    main()
