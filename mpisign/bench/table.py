"""A table of measurements: rows as they come, printed as Markdown, saved with the machine they were made on."""

import math
import os
import platform
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np

from mpisign.errors import UsageError
from mpisign.storage import hdf5
from mpisign.storage.writer import write_aside

Value = str | int | float | None


@dataclass
class Table:
    """Columns by name; a float is shown by the format of its column, None as a dash."""

    title: str
    columns: Mapping[str, str]  # name -> format of its numbers
    about: dict[str, Value] = field(default_factory=dict)  # what holds for every row
    rows: list[dict[str, Value]] = field(default_factory=list)

    def add(self, **row: Value) -> None:
        """Appends a row; columns that are left out are empty."""
        assert not row.keys() - self.columns.keys()
        self.rows.append({name: row.get(name) for name in self.columns})

    def markdown(self) -> str:
        """The table as text."""
        said = ", ".join(f"{name} {value}" for name, value in self.about.items())
        head = ["| " + " | ".join(self.columns) + " |", "|" + "---|" * len(self.columns)]
        body = ["| " + " | ".join(self._shown(row, name) for name in self.columns) + " |" for row in self.rows]
        return "\n".join([f"**{self.title}** ({said})", "", *head, *body])

    def _shown(self, row: dict[str, Value], name: str) -> str:
        value = row[name]
        if value is None:
            return "-"
        return value if isinstance(value, str) else format(value, self.columns[name])


def link_text(bandwidth: float) -> str:
    """Gbit/s of the link below which something pays, from bytes per second: "any" if that is infinite, "none" for 0."""
    if bandwidth in (0, math.inf):
        return "any" if bandwidth else "none"
    return f"{bandwidth * 8e-9:.3g}"


def machine() -> dict[str, Value]:
    """The machine's processor, cores and load, and the versions of libraries."""
    info = Path("/proc/cpuinfo")
    models = re.findall(r"^model name\s*: (.*)", info.read_text(), re.MULTILINE) if info.exists() else []
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return {
        "processor": next(iter(models), platform.processor() or platform.machine()),
        "cores": len(os.sched_getaffinity(0)),
        "load": round(load, 1),
        "versions": ", ".join(f"{p} {version(p)}" for p in ("mpisign", "torch", "numpy", "numba", "mpi4py")),
    }


def save(path: Path, tables: list[Table]) -> None:
    """Writes tables into an HDF5 file, one group each: a dataset per column, and `about` as attributes."""

    def fill(file):
        for table in tables:
            group = file.create_group(table.title)
            group.attrs.update({k: v for k, v in (table.about | machine()).items() if v is not None})
            for name in table.columns:
                group[name] = _array([row[name] for row in table.rows])

    write_aside(path, fill)


def load(path: Path, title: str) -> Table:
    """A table of a file that save() wrote; its numbers are floats, and an empty text or NaN is None.

    Raises UsageError where there is none.
    """
    with hdf5.opened(path) as file:
        try:
            group = hdf5.find(file, title)
            if group is None:
                raise hdf5.Malformed(f"no table {title!r} of mpisign bench --output, but: {', '.join(file) or 'none'}")
            columns = {name: hdf5.values(group, name, "fS", (1,)).tolist() for name in hdf5.datasets(group)}
            about = hdf5.attributes(group)
        except hdf5.Malformed as error:
            raise UsageError(f"{path}: {error}") from error
    table = Table(title, dict.fromkeys(columns, ""), about)
    for row in zip(*columns.values(), strict=True):
        table.add(**dict(zip(columns, map(_value, row), strict=True)))
    return table


def _value(stored: bytes | float) -> Value:
    value = stored.decode(errors="replace") if isinstance(stored, bytes) else stored
    return None if value == "" or value != value else value


def _array(values: list[Value]) -> np.ndarray:
    if any(isinstance(value, str) for value in values):
        return np.array([str(value or "").encode() for value in values])
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


Say = Callable[[str], None]
