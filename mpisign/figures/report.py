"""One self-contained HTML page of runs, for `mpisign report`: tables, pictures, configurations, environment.

Pictures show the best of grid of the leading methods; whatever stands in them stands in the tables and run files too.
"""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from itertools import chain

import jinja2
import numpy as np

from mpisign.errors import MpisignError, printable
from mpisign.figures import curves, dots, grid, grouping, scaling, tables, votes
from mpisign.figures.style import encoded
from mpisign.storage.reader import Run

LEADING = 8  # methods in pictures
KINDS = ("device", "threads", "mpi", "versions", "torch_build")  # of machine and software
TEMPLATE = files("mpisign.figures") / "report.html"
COLUMNS = ("status", "algorithm", "problem", "n", "d", "steps", "test_accuracy", "test_loss", "final_loss", "seconds",
           "steps_per_second", "bits_per_coordinate", "wire_bits_per_coordinate", "gradient_evaluations")  # fmt: skip


@dataclass
class Section:
    """A heading with a picture, a table, or both."""

    name: str
    note: str = ""
    picture: str = ""
    rows: list[dict[str, object]] | None = None


def name(run: Run) -> str:
    """That of its file, without the ending, in characters that a page can have."""
    return printable(run.path.stem)


def overview(runs: list[Run]) -> list[dict[str, object]]:
    """One row a run, without columns that no run has."""
    summaries = [run.summary() for run in runs]
    used = [c for c in COLUMNS if any(c in s for s in summaries)]
    pairs = zip(runs, summaries, strict=True)
    return [{"run": name(run)} | {c: summary.get(c, "") for c in used} for run, summary in pairs]


def sections(runs: list[Run]) -> list[Section]:
    """All sections for which there is something to show."""
    ended = [run for run in runs if not grid.not_ended(run)]
    going_on = len(runs) - len(ended)
    left_out = f"{going_on} run(s) have not ended: they stand in this table alone." if going_on else ""
    everything = Section("Runs", left_out, rows=overview(runs))
    accuracies = [run for run in ended if not grid.unusable(run, "test_accuracy")]
    metric = "test_accuracy" if any(len(run["eval"]["step"]) for run in accuracies) else "train_loss"
    measured = [run for run in ended if not grid.unusable(run, metric)]
    if not measured:
        return [everything]
    best = grid.table(measured, metric)
    leading = [row for row in best if np.isfinite(row.mean)][:LEADING]
    drawn = encoded(dots.picture(leading)) if leading else ""
    note = f"By {grid.NAMES[metric]} at the end, mean and {tables.DEVIATION}; edge: the grid ended there. "
    table = Section("Best of grid", note + "Bytes are of a rank, by the method.", drawn, [row.shown() for row in best])
    chosen = [run for row in leading for run in row.runs]
    others = {"Curves": (_curves, chosen), "Votes": (_votes, chosen or ended), "Scaling": (_scaling, ended)}
    drawn = [_section(name, *of) for name, of in others.items()]
    return [table, *filter(None, drawn), everything]


def _section(name: str, drawn: Callable[[list[Run]], tuple | None], runs: list[Run]) -> Section | None:
    """A section of what is drawn of the runs, or of why nothing could be; None if there is nothing to draw."""
    try:
        contents = drawn(runs)
    except MpisignError as error:
        return Section(name, f"Not shown: {error}")
    return contents and Section(name, *contents)


def _curves(runs: list[Run]) -> tuple | None:
    lines = list(grouping.by_name(runs).items())
    if not lines:
        return None
    figure = curves.picture(lines, curves.recorded(runs, mean=True), ["step", "bytes", "seconds"], mean=True)
    return f"The leading {len(lines)}.", encoded(figure)


def _votes(runs: list[Run]) -> tuple | None:
    voting = [run for run in runs if not votes.no_votes(run)]
    firsts = list({grouping.algorithm(run): run for run in reversed(voting)}.values())[:LEADING]
    return firsts and ("One run of each method; heat maps where it has probes.", encoded(votes.picture(firsts)))


def _scaling(runs: list[Run]) -> tuple | None:
    measured = [run for run in runs if not scaling.unusable(run)]
    if len({run.attributes["n"] for run in measured}) < 2:
        return None
    lines = scaling.lines(measured)
    return "", encoded(scaling.picture(lines)), scaling.rows(lines)


def configurations(runs: list[Run]) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    """The keys that all jobs share, and a row of the others for each run."""
    flat = [run.settings for run in runs]
    keys = [k for k in dict.fromkeys(chain(*flat)) if k not in ("run.file", "run.overwrite")]
    differing = [k for k in keys if len({str(job.get(k)) for job in flat}) > 1]
    shared = [{"key": k, "value": flat[0].get(k)} for k in keys if k not in differing]
    own = [{"run": name(run)} | {k: job.get(k, "") for k in differing} for run, job in zip(runs, flat, strict=True)]
    return shared, own if differing else []


def environment(runs: list[Run]) -> list[dict[str, object]]:
    """Each kind of machine and software once, with the number of runs on it."""
    started = [run["segments"] for run in runs if len(run["segments"]["step"])]
    kinds = Counter(tuple((k, str(segments[k][-1])) for k in KINDS if k in segments) for segments in started)
    return [dict(kind) | {"runs": count} for kind, count in kinds.items()] or [{"runs": len(runs)}]


def page(runs: list[Run], skipped: list[str], title: str) -> str:
    """The whole page."""
    shared, own = configurations(runs)
    versions = sorted({str(run.attributes.get("mpisign_version", "unknown")) for run in runs})
    texts = list({run.config_text.split("[problem]")[-1]: (name(run), run.config_text) for run in runs}.values())
    loader = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    loader.filters["short"] = tables.short
    return loader.from_string(TEMPLATE.read_text()).render(
        title=printable(title), runs=runs, skipped=[printable(line) for line in skipped], sections=sections(runs),
        shared=shared, own=own, configurations=texts, environment=environment(runs), versions=versions,
        date=time.strftime("%Y-%m-%d"),
    )  # fmt: skip
