"""What two runs do not share, bit for bit."""

from pathlib import Path

import numpy as np

from mpisign.storage.reader import Run, load_parameters

CLOCKS = {"seconds"}  # columns that time alone decides


def differing(one: Path, other: Path) -> list[str]:
    """The columns of /steps, /eval and /trace, clocks apart, and the kept parameters that are not the same."""
    first, second = Run(one), Run(other)
    columns = [(table, name) for table in ("steps", "eval", "trace") for name in sorted(set(first[table]) - CLOCKS)]
    found = [f"{t}/{c}" for t, c in columns if not np.array_equal(first[t][c], second[t][c], equal_nan=True)]
    kept = [load_parameters(file.with_suffix(".model")) for file in (one, other)]
    names = kept[0].keys() | kept[1].keys()
    alike = [n for n in names if all(n in k for k in kept) and np.array_equal(kept[0][n], kept[1][n], equal_nan=True)]
    return found + sorted(names - set(alike))


def extra_columns(one: Path, other: Path) -> list[str]:
    """The columns that only the other has."""
    first, second = Run(one), Run(other)
    return [f"{t}/{c}" for t in ("steps", "eval", "phases") for c in sorted(set(second[t]) - set(first[t]))]
