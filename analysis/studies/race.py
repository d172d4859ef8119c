"""Time to a target accuracy behind links: every method at its best rate, ranked at each link.

python analysis/race.py runs/race_links --target 0.97 --output race.png
python analysis/race.py runs/race runs/race_ddp --target 0.97 --best

The first ranks the runs in folders named by their links (runs/race_links/50mbit, ...), the second prints what to replay
there: method, rate, seed and steps.

Rates are compared by the steps to the target, mean over the seeds that all rates of a method have (trajectories do not
depend on links, and a step's cost not on the rate). Seconds are those of training: evaluations are taken off. Mean and
standard deviation (ddof = 1) over seeds; a table is written beside the picture.
"""

import re
from collections import defaultdict
from pathlib import Path

import numpy as np
import style
from compare import first, rate
from compare import unusable as unfit
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from style import algorithm

from mpisign.results import Run

METRIC = "test_accuracy"
LINK = re.compile(r"(\d+)([mg])bit")


def steps(run: Run, target: float) -> float:
    """Steps to the target; infinite if it was never reached."""
    found = first(run, METRIC, target)
    return np.inf if found is None else float(run["eval"]["step"][found])


def seconds(run: Run, target: float) -> float:
    """Seconds of training to the target: all that passed, less the evaluations."""
    found = first(run, METRIC, target)
    if found is None:
        return np.inf
    step, phases = run["eval"]["step"][found], run["phases"]
    evaluating = phases["evaluate"][phases["step"] <= step].sum() / run.attributes["n"]
    return float(run["eval"]["seconds"][found] - evaluating)


def best(runs: list[Run], target: float) -> list[tuple[str, float, list[Run]]]:
    """(method, rate, its runs) of the rate with the fewest steps to the target, for every method that gets there."""
    by_method: dict[str, dict[float, dict[str, Run]]] = defaultdict(lambda: defaultdict(dict))
    for run in runs:
        by_method[algorithm(run)][rate(run)][run.attributes["seed"]] = run
    found = []
    for name, rates in sorted(by_method.items()):
        common = set.intersection(*(set(seeds) for seeds in rates.values()))
        means = {r: np.mean([steps(seeds[s], target) for s in common]) for r, seeds in rates.items()} if common else {}
        if means and np.isfinite(min(means.values())):
            chosen = min(means, key=means.get)
            found.append((name, chosen, list(rates[chosen].values())))
    return found


def unusable(run: Run, by_link: bool) -> str:
    """Why a run takes no part; "" if it does. by_link: whether its folder must say behind which link it ran."""
    if by_link and not LINK.fullmatch(run.path.parent.name):
        return f"its folder {run.path.parent.name!r} is no link; folders are called as 50mbit or 1gbit"
    return unfit(run, METRIC) or style.no_evaluations(run)


def _mbit(link: str) -> float:
    """The rate of a link whose name is as tc says it."""
    found = LINK.fullmatch(link)
    return float(found[1]) * {"m": 1, "g": 1000}[found[2]]


def times(runs: list[Run], target: float) -> dict[str, dict[str, list[float]]]:
    """link -> method -> seconds of each seed, links from slow to fast."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        found[run.path.parent.name][algorithm(run)].append(seconds(run, target))
    return {link: dict(found[link]) for link in sorted(found, key=_mbit)}


def rows(found: dict[str, dict[str, list[float]]]) -> list[dict[str, object]]:
    """A row a link and method, the fastest first."""
    table = []
    for link, methods in found.items():
        ranked = sorted(methods.items(), key=lambda item: np.mean(item[1]))
        for place, (name, taken) in enumerate(ranked, 1):
            reached = np.isfinite(taken).all()
            told = style.with_deviation(np.mean(taken), style.deviation(taken), ".2f", ".2f")
            slower = f"{np.mean(taken) / np.mean(ranked[0][1]):.1f}" if reached else "-"
            table.append({"link": link, "place": place, "method": name, "seconds": told if reached else "not reached",
                          "seeds": len(taken), "times the fastest": slower})  # fmt: skip
    return table


def picture(found: dict[str, dict[str, list[float]]], target: float) -> Figure:
    """A panel a link: seconds, mean and standard deviation; votes and floats in two colours."""
    names = sorted({name for methods in found.values() for name in methods}, key=lambda name: np.mean(
        [np.mean(methods[name]) for methods in found.values() if name in methods]), reverse=True)  # fmt: skip
    figure, (panels,) = style.panels(1, len(found), 2.9, 0.24 * len(names) + 0.6, sharey=True, sharex=True)
    places = np.arange(len(names))
    for panel, (link, methods) in zip(panels, found.items(), strict=True):
        for place, name in zip(places, names, strict=True):
            if name in methods and np.isfinite(methods[name]).all():
                peer = name.startswith("ddp")
                spread = np.nan_to_num(style.deviation(methods[name]))
                panel.errorbar(np.mean(methods[name]), place, xerr=spread, capsize=3,
                               fmt="s" if peer else "o", color=style.COLOURS[1 if peer else 0])  # fmt: skip
        panel.set_title(link)
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        panel.xaxis.set_major_formatter("{x:g}")
        panel.minorticks_off()
        panel.set_xlabel(f"seconds to {target:.0%}")
    panels[0].set_yticks(places, names)
    style.title(figure, f"mean and {style.DEVIATION}")
    return figure


def main() -> None:
    options = style.parser(__doc__)
    options.add_argument("--target", type=float, default=0.97, help="held-out accuracy")
    options.add_argument("--best", action="store_true", help="print method, rate, seed and steps of what to replay")
    options.add_argument("--output", type=Path, default=Path("race.png"), help="a .png, .pdf or .svg")

    def work(runs, arguments):
        runs = style.without(runs, lambda run: unusable(run, not arguments.best), arguments.skipped)
        if arguments.best:
            for name, chosen, those in best(runs, arguments.target):
                for run in sorted(those, key=lambda r: int(r.attributes["seed"])):
                    print(name, f"{chosen:g}", run.attributes["seed"], f"{steps(run, arguments.target):g}")
            return
        found = times(runs, arguments.target)
        text = f"{style.markdown(rows(found))}\n\nMean +- {style.DEVIATION}."
        style.write(text, style.beside(arguments.output, ".md"))
        style.save(picture(found, arguments.target), arguments.output)

    style.run(options, work)


if __name__ == "__main__":
    main()
