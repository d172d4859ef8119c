"""Tables as text, and the mean and deviation in their cells."""

from collections.abc import Iterable

import numpy as np

from mpisign.errors import printable

DEVIATION = "standard deviation over seeds (ddof = 1)"  # how every picture and table has it


def deviation(values: Iterable[float]) -> float:
    """The sample's standard deviation, ddof = 1; NaN of a single value, and where one is not finite."""
    sample = np.asarray(list(values), dtype=float)
    return float(sample.std(ddof=1)) if len(sample) > 1 and np.isfinite(sample).all() else np.nan


def with_deviation(mean: float, spread: float, form: str = ".4g", own: str = ".2g") -> str:
    """mean +- deviation; the mean alone where there is no deviation."""
    return f"{mean:{form}}" + (f" +- {spread:{own}}" if np.isfinite(spread) else "")


def markdown(rows: list[dict[str, object]]) -> str:
    """A table for a README, one row a dict."""
    if not rows:
        return ""
    words = ([short(v).replace("|", "\\|") for v in row] for row in (rows[0], *(row.values() for row in rows)))
    lines = [next(words), ["---"] * len(rows[0]), *words]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def columns(rows: list[dict[str, object]]) -> str:
    """The same in line, for a terminal."""
    cells = [[short(v) for v in row] for row in (*rows[:1], *(row.values() for row in rows))]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in cells)


def short(value: object) -> str:
    """A figure of a table: four digits, thousands by commas."""
    if isinstance(value, (float, np.floating)):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, (int, np.integer)) and not isinstance(value, bool) else printable(value)
