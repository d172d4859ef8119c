"""Time to a target accuracy behind links: every method at its best rate, ranked at each link.

python analysis/studies/race.py runs/race_links --target 0.97 --output race.png

Ranks the runs in folders named by their links (runs/race_links/50mbit, ...). With --best, rates of a grid are compared
by the steps to the target, mean over the seeds that all rates of a method have (trajectories do not depend on links,
and a step's cost not on the rate). Seconds are those of training: evaluations are taken off. Mean and standard
deviation (ddof = 1) over seeds; a table is written beside the picture.
"""

import re
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from mpisign.figures import grid, style, tables
from mpisign.figures.grouping import algorithm, best_rate, grouped, no_evaluations
from mpisign.figures.selection import without
from mpisign.storage.reader import Run

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the modules that all scripts share
import script

METRIC = "test_accuracy"
LINK = re.compile(r"(\d+)([mg])bit")
Times = dict[str, dict[str, list[float]]]  # link -> method -> seconds of each seed


def steps(run: Run, target: float) -> float:
    """Steps to the target; infinite if it was never reached."""
    row = grid.first(run, METRIC, target)
    return np.inf if row is None else float(run["eval"]["step"][row])


def seconds(run: Run, target: float) -> float:
    """Seconds of training to the target: all that passed, less the evaluations; infinite if it was never reached."""
    row = grid.first(run, METRIC, target)
    if row is None:
        return np.inf
    phases = run["phases"]
    before = phases["step"] <= run["eval"]["step"][row]
    evaluating = (phases["evaluate"] / run.voters_at(phases["step"]))[before].sum()
    return float(run["eval"]["seconds"][row] - evaluating)


def best(runs: list[Run], target: float) -> list[tuple[str, float, list[Run]]]:
    """(method, rate, its runs) of the rate with the fewest steps to the target, for every method that gets there."""
    chosen = []
    for name, group in sorted(grouped(runs, algorithm).items()):
        least, rate, rates = best_rate(group, lambda run: steps(run, target))
        if np.isfinite(least):
            chosen.append((name, rate, rates[rate]))
    return chosen


def unusable(run: Run, by_link: bool) -> str:
    """Why a run takes no part; "" if it does. by_link: whether its folder must say behind which link it ran."""
    if by_link and not LINK.fullmatch(run.path.parent.name):
        return f"its folder {run.path.parent.name!r} is no link; folders are called as 50mbit or 1gbit"
    return grid.unusable(run, METRIC) or no_evaluations(run)


def _mbit(link: str) -> float:
    """The rate of a link whose name is as tc says it."""
    number, unit = LINK.fullmatch(link).groups()
    return float(number) * {"m": 1, "g": 1000}[unit]


def times(runs: list[Run], target: float) -> Times:
    """The seconds of all runs, links from slow to fast."""
    links = grouped(runs, lambda run: run.path.parent.name)
    taken = lambda runs: {n: [seconds(r, target) for r in group] for n, group in grouped(runs, algorithm).items()}  # noqa: E731
    return {link: taken(links[link]) for link in sorted(links, key=_mbit)}


def rows(times: Times) -> list[dict[str, object]]:
    """A row per link and method, the fastest first."""
    table = []
    for link, methods in times.items():
        ranked = sorted(methods.items(), key=lambda item: np.mean(item[1]))
        for place, (name, taken) in enumerate(ranked, 1):
            cells = {"link": link, "place": place, "method": name, "seconds": "not reached", "seeds": len(taken)}
            slower = "-"
            if np.isfinite(taken).all():
                cells["seconds"] = tables.with_deviation(np.mean(taken), tables.deviation(taken), ".2f", ".2f")
                slower = f"{np.mean(taken) / np.mean(ranked[0][1]):.1f}"
            table.append(cells | {"times the fastest": slower})
    return table


@style.styled
def picture(times: Times, target: float) -> Figure:
    """A panel per link: seconds, mean and standard deviation; ours and DDP's in two colours."""
    mean = lambda name: np.mean([np.mean(methods[name]) for methods in times.values() if name in methods])  # noqa: E731
    names = sorted(sorted({n for methods in times.values() for n in methods}), key=mean, reverse=True)
    figure, (panels,) = style.panels(1, len(times), 2.9, 0.24 * len(names) + 0.6, sharey=True, sharex=True)
    places = np.arange(len(names))
    for panel, (link, methods) in zip(panels, times.items(), strict=True):
        for place, name in zip(places, names, strict=True):
            if name in methods and np.isfinite(methods[name]).all():
                marker, colour = ("s", style.COLOURS[1]) if name.startswith("ddp") else ("o", style.COLOURS[0])
                spread = np.nan_to_num(tables.deviation(methods[name]))
                panel.errorbar(np.mean(methods[name]), place, xerr=spread, capsize=3, fmt=marker, color=colour)
        panel.set(title=link, xlabel=f"seconds to {target:.0%}", xscale="log")
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        panel.xaxis.set_major_formatter("{x:g}")
        panel.minorticks_off()
    panels[0].set_yticks(places, names)
    style.title(figure, f"mean and {tables.DEVIATION}")
    return figure


def main() -> None:
    options = script.parser(__doc__, "race.png")
    options.add_argument("--target", type=float, default=0.97, help="held-out accuracy")
    options.add_argument(
        "--best", action="store_true", help="print method, rate, seed and steps of what to replay there"
    )
    with script.reading(options) as (runs, arguments):
        runs = without(runs, lambda run: unusable(run, not arguments.best), arguments.skipped)
        if arguments.best:
            for name, rate, seeds in best(runs, arguments.target):
                for run in sorted(seeds, key=lambda r: int(r.attributes["seed"])):
                    print(name, f"{rate:g}", run.attributes["seed"], f"{steps(run, arguments.target):g}")
            return
        taken = times(runs, arguments.target)
        text = f"{tables.markdown(rows(taken))}\n\nMean +- {tables.DEVIATION}."
        print(style.save(picture(taken, arguments.target), arguments.output, text))


if __name__ == "__main__":
    main()
