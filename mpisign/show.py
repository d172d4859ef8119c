"""A run file as text, for `mpisign show`."""

import time

import numpy as np

from mpisign.results import Run
from mpisign.timing import PHASES


def describe(run: Run) -> str:
    """Summary, machine, partition, seconds by phase, and events."""
    lines = [f"{name}: {value}" for name, value in run.summary().items()]
    lines.insert(2, f"definition: {run.attributes['definition']}")
    lines += ["", *_machine(run), *_partition(run), *_phases(run), "", "events:"]
    for when, step, kind, text in zip(*(run["events"][k] for k in ("time", "step", "kind", "text")), strict=True):
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(when))
        lines.append(f"  {stamp}  step {step:<8} {kind:10} {text}".rstrip())
    return "\n".join(lines)


def _machine(run: Run) -> list[str]:
    segments = run["segments"]
    return [f"{name}: {segments[name][-1]}" for name in segments if len(segments[name]) and name not in ("step", "n")]


def _partition(run: Run) -> list[str]:
    rows, counts = run.partition.get("rows"), run.partition.get("class_counts")
    if rows is None or not rows.any():
        return []
    lines = ["", "rank     rows   rows of each class" if counts.size else "rank     rows"]
    return lines + [f"{r:4} {n:8}   {' '.join(f'{c:5}' for c in counts[r])}".rstrip() for r, n in enumerate(rows)]


def _phases(run: Run) -> list[str]:
    phases = run["phases"]
    total = {name: float(np.sum(phases[name])) / max(run.attributes["n"], 1) for name in PHASES}
    whole = sum(total.values())
    if not whole:
        return []
    shares = "  ".join(f"{name} {100 * s / whole:.0f}%" for name, s in total.items())
    return ["", f"seconds a rank: {whole:.2f} ({shares})"]
