"""A run file as text, for `mpisign show`."""

import csv
import io
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mpisign.errors import printable
from mpisign.storage import lock
from mpisign.storage.reader import Run, cell, summary_lines
from mpisign.storage.schema import PHASES

FOLLOW_SECONDS = 1.0  # between looks


def describe(run: Run) -> str:
    """Summary, machine, partition, seconds by phase, and events."""
    lines = summary_lines(run.summary())
    lines.insert(2, f"definition: {printable(run.attributes['definition'])}")
    if details := run.attributes.get("exchange_details"):  # a run of an older mpisign has them in the reason
        lines.append(f"exchange: {printable(details)}")
    lines += ["", *_machine(run), *_partition(run), *_phases(run), "", "events:"]
    for when, step, kind, text in zip(*(run["events"][k] for k in ("time", "step", "kind", "text")), strict=True):
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(when))
        lines.append(f"  {stamp}  step {step:<8} {printable(kind):10} {printable(text)}".rstrip())
    return "\n".join(lines)


def as_csv(run: Run, table: str, write: Callable[[str], None]) -> None:
    """A table of the run file as CSV, a column a value; see results.Run.columns."""
    columns, lines = run.columns(table), io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(map(cell, row) for row in zip(*(column.tolist() for column in columns.values()), strict=True))
    write(lines.getvalue())


def follow(path: Path, say: Callable[[str], None]) -> None:
    """Tells of evaluations and events as they come, until the run ends or nobody writes it any more."""
    seen, stamp, written = {"eval": 0, "events": 0}, None, False
    while True:
        alive, now = lock.held(path), path.stat().st_mtime_ns if path.exists() else 0
        if now != stamp:
            run, stamp = Run(path), now
            for line in _news(run, seen):
                say(line)
            if not run.status.startswith("incomplete"):
                break
        elif written and not alive:
            break
        written |= alive
        time.sleep(FOLLOW_SECONDS)
    say(f"status: {printable(Run(path).status)}")


def _news(run: Run, seen: dict[str, int]) -> list[str]:
    """What has come to /eval and /events, in the order of steps."""
    lines, evals, events = [], run["eval"], run["events"]
    for k in range(seen["eval"], len(evals["step"])):
        names = [name for name in ("train_loss", "test_accuracy") if np.isfinite(evals[name][k])]
        shown = "  ".join(f"{name} {evals[name][k]:<8.5g}" for name in names)
        lines.append((evals["step"][k], f"step {evals['step'][k]:<8} {shown}  {evals['seconds'][k]:.1f} s"))
    for k in range(seen["events"], len(events["step"])):
        step, kind, text = (events[name][k] for name in ("step", "kind", "text"))
        lines.append((step, f"step {step:<8} {printable(kind)} {printable(text)}"))
    # a run that went on from a checkpoint may have fewer rows than before
    seen |= {"eval": len(evals["step"]), "events": len(events["step"])}
    return [text.rstrip() for _, text in sorted(lines, key=lambda line: line[0])]


def _machine(run: Run) -> list[str]:
    last = {name: column[-1] for name, column in run["segments"].items() if len(column)}
    return [f"{name}: {printable(value)}" for name, value in last.items() if name not in ("step", "n")]


def _partition(run: Run) -> list[str]:
    rows, counts = run.partition.get("rows"), run.partition.get("class_counts")
    if rows is None or not rows.any():
        return []
    lines = ["", "rank     rows   rows of each class" if counts.size else "rank     rows"]
    return lines + [f"{r:4} {n:8}   {' '.join(f'{c:5}' for c in counts[r])}".rstrip() for r, n in enumerate(rows)]


def _phases(run: Run) -> list[str]:
    phases = run["phases"]
    ranks = run.voters_at(phases["step"]) * run.ranks_per_voter
    total = {name: float(np.sum(phases[name] / ranks)) for name in PHASES}
    whole = sum(total.values())
    if not whole:
        return []
    shares = "  ".join(f"{name} {100 * s / whole:.0f}%" for name, s in total.items())
    lines = ["", f"seconds per rank: {whole:.2f} s ({shares})"]
    if "memory" in phases:  # a file of an older mpisign has no such column
        lines.append(f"most memory of any rank: {int(phases['memory'].max()) / 1e6:,.0f} MB")
    return lines
