"""Checks of a run file beyond the types of its columns: names that must exist, values that are possible."""

import math
from collections.abc import Mapping

import numpy as np

from mpisign.storage.schema import COUNTED, TABLES

TEXTS = ("mpisign_version", "algorithm", "definition", "paper", "problem", "exchange", "exchange_reason")
ATTRIBUTES = dict.fromkeys(TEXTS, str) | dict.fromkeys(("n", "d"), int)
FIXED = {  # arrays that are written once: kinds of numpy and dimensions
    "layout": {"name": ("S", 1), "shape": ("S", 1), "offset": ("iu", 1), "size": ("iu", 1)},
    "partition": {"rows": ("iu", 1), "class_counts": ("iu", 2)},
}
CONFIG = ("run", "problem", "partition", "algorithm", "schedule", "exchange")  # tables that every job has
KEYS = {  # of them, those that pictures and tables count on, where they are given
    ("run", "seed"): (int,),
    ("problem", "name"): (str,),
    ("partition", "kind"): (str,),
    ("algorithm", "name"): (str,),
    ("schedule", "lr"): (int, float),
}
LONGEST = 1 << 53  # steps
LATEST = 253402300799  # the last second of the year 9999
NAME = 400  # characters of a name


def wrong_attribute(attributes: Mapping[str, object]) -> str:
    """The first fault of a run file's attributes, "" if there is none."""
    for name, kind in ATTRIBUTES.items():
        value = attributes.get(name)
        if type(value) is not kind:
            instead = "" if value is None else f", not {value!r:.80}"
            return f"attribute {name}: a single {'number' if kind is int else 'text'} is needed{instead}"
        if kind is int and not 0 < value < LONGEST:
            return f"attribute {name} = {value}: it can't be"
        if name in ("algorithm", "problem") and len(value) > NAME:
            return f"attribute {name}: a name of {len(value)} characters"
    return ""


def wrong_rows(table: str, columns: Mapping[str, np.ndarray], steps: int) -> tuple[np.ndarray, str]:
    """A mask (rows,) of a table's rows with impossible values, and what is wrong with the first of them.

    steps: the length of the run.
    """
    bad, why = np.zeros(len(columns["step"]), bool), ""
    declared = {c.name: c for c in TABLES[table]}
    for name, values in columns.items():
        wrong = np.zeros(values.shape, bool)
        if values.dtype.kind == "i":
            wrong = values < 0
        elif values.dtype.kind == "f" and declared[name].unit == "s":
            wrong = ~np.isfinite(values)
        if name == "step":
            before = np.maximum.accumulate(np.concatenate([[0], values[:-1]])) if table in COUNTED else 0
            wrong |= (values > steps) | (values < before)
        if (table, name) == ("events", "time"):
            wrong |= ~((values >= 0) & (values <= LATEST))
        if (table, name) == ("segments", "threads"):
            wrong |= (values < 1) | (values > 1024)
        wrong = wrong.any(axis=tuple(range(1, wrong.ndim))) if wrong.ndim > 1 else wrong
        if not why and wrong.any():
            row = int(np.argmax(wrong))
            where = f" in a run of {steps} steps" if name == "step" else ""
            why = f"row {row} of /{table}: {name} = {values[row]!s:.80} can't be{where}"
        bad |= wrong
    return bad, why


def length(config: Mapping[str, Mapping]) -> int:
    """The steps of a run, by its job with every default written out; LONGEST if that does not say."""
    steps = config["run"].get("steps")
    return steps if type(steps) is int and 0 < steps < LONGEST else LONGEST


def missing(dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Values of a column that a run of an older mpisign lacks."""
    return np.full(shape, math.nan if dtype.startswith("f") else b"" if dtype.startswith("S") else 0, dtype)
