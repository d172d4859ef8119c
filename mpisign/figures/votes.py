"""The vote, seen from inside: agreement, ties and flips against steps; and, where a run has probes, every voter.

The heat maps are of the first run with probes (job table [probe]): how often each voter sends what is decided, how
often it has the sign of the exact gradient, and the histogram of signal to noise, |g_i|/sigma_i.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mpisign.figures import grouping, style
from mpisign.figures.curves import labels, title
from mpisign.storage.reader import Run
from mpisign.storage.schema import CRITICAL_SNR, SNR_EDGES

LINES = {"agreement": "agreement |tally|/n", "ties": "tied coordinates", "flips": "flipped coordinates"}
VOTERS = {"voter_agreement": "share sent as decided", "voter_success": "share with the sign of g"}  # heat maps


def no_votes(run: Run) -> str:
    """Why nothing can be seen of a run's votes; "" if it has some."""
    return "" if np.isfinite(grouping.column(run, "steps", "agreement")).any() else "its ranks do not vote"


def series(run: Run, column: str) -> np.ndarray:
    """A column of /steps; counts of coordinates as shares of d; no flips in the first row, which has none before."""
    values = grouping.column(run, "steps", column).copy()
    if column == "flips":
        values[:1] = np.nan  # the file has 0
    return values if column == "agreement" else values / run.attributes["d"]


@style.styled
def picture(runs: list[Run]) -> Figure:
    """Lines above, one per run; heat maps below."""
    probed = next(
        (run for run in runs if len(run["probes"]["step"]) and run["probes"].keys() >= {*VOTERS, "snr"}), None
    )
    figure, panels = style.panels(2 if probed else 1, len(LINES), 3.6, 2.5)
    looks = style.looks(names := labels(runs))
    above = {"linewidth": 0.9, "clip_on": False, "zorder": 3}  # lines of zeros are seen on the axis
    for (column, label), panel in zip(LINES.items(), panels[0], strict=True):
        for run, name in zip(runs, names, strict=True):
            at, values = style.envelope(run["steps"]["step"], series(run, column))
            panel.plot(at, values, label=name, **above, **looks[name])
        panel.set_ylabel(label)
        if panel.get_ylim()[0] < 0:  # none of them is
            panel.set_ylim(bottom=0)
        style.counted(panel, "steps")
    if probed:
        _heat(figure, panels[1], probed)
    style.title(figure, title(runs))
    style.legend(figure, panels[0, :1])
    return figure


def _heat(figure: Figure, panels: Sequence[Axes], run: Run) -> None:
    probes = run["probes"]
    n = probes["voter_success"].shape[1]  # of the most voters that there were
    for panel, (column, label) in zip(panels[:2], VOTERS.items(), strict=True):
        image = panel.pcolormesh(*_edges(probes["step"], n), probes[column].T, cmap="cividis", vmin=0, vmax=1)
        panel.set_ylabel("voter")
        panel.yaxis.get_major_locator().set_params(integer=True)
        figure.colorbar(image, ax=panel, label=label)
    counts = probes["snr"].T / np.maximum(probes["snr"].sum(axis=1), 1)
    first = SNR_EDGES[1] / SNR_EDGES[0]
    edges = np.array([SNR_EDGES[0] / first, *SNR_EDGES, SNR_EDGES[-1] * first])
    image = panels[2].pcolormesh(_edges(probes["step"], 1)[0], edges, counts, cmap="cividis")
    panels[2].axhline(CRITICAL_SNR, color="white", linestyle="--", linewidth=0.8)
    panels[2].set(yscale="log", ylabel="|g| / sigma (line: critical)")
    figure.colorbar(image, ax=panels[2], label="share of coordinates")
    for panel in panels:
        panel.grid(False)
        style.counted(panel, "steps")


def _edges(steps: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Borders of the cells of a heat map: half-way between probes, and half-way between voters."""
    middle = (steps[1:] + steps[:-1]) / 2
    last = steps[-1] + (steps[-1] - middle[-1] if len(middle) else 0.5)
    return np.array([max(steps[0] - 0.5, 0), *middle, last]), np.arange(n + 1) - 0.5
