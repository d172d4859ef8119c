"""The run files of a folder, a row each, for `mpisign list`. A file that is damaged, or no run, has a row too."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from mpisign.errors import UsageError, choices, did_you_mean, printable
from mpisign.figures import grouping, tables
from mpisign.figures.selection import unusable
from mpisign.storage.reader import NotARun, Run, cell, run_files

UNREADABLE = ("damaged", "foreign")  # states of files that are no runs that can be read
BYTES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


@dataclass(frozen=True)
class Row:
    """A file; None stands for what it does not tell.

    state: complete, running, killed, stopped or error as Run.state has them; damaged; or foreign, a file that is no
    run. voters: "8", or "8-6-8" of a run whose number changed. steps: those that were taken, of steps_asked.
    train_loss, test_loss and test_accuracy are those of the last evaluation. bits are the method's, per coordinate,
    rank and step. bytes: the size of the file. why: what is wrong with it.
    """

    file: str
    state: str
    bytes: int | None
    algorithm: str | None = None
    problem: str | None = None
    voters: str | None = None
    steps: int | None = None
    steps_asked: int | None = None
    train_loss: float | None = None
    test_loss: float | None = None
    test_accuracy: float | None = None
    bits: float | None = None
    seconds: float | None = None
    why: str | None = None

    def shown(self) -> dict[str, str]:
        """Its cells on a terminal."""
        asked = "" if self.steps_asked is None else f"/{self.steps_asked}"
        named = {"run": self.file, "algorithm": self.algorithm, "problem": self.problem, "n": self.voters}
        counted = {"steps": None if self.steps is None else f"{self.steps}{asked}", "state": self.state}
        ends = {"loss": self.train_loss, "test_loss": self.test_loss, "accuracy": self.test_accuracy, "bits": self.bits}
        spent = {"seconds": self.seconds, "size": size(self.bytes)}
        cells = named | counted | ends | spent
        return {name: "-" if value is None else tables.short(value) for name, value in cells.items()}


KEYS = tuple(field.name for field in fields(Row))
SHOWN = {"run": "file", "n": "voters", "loss": "train_loss", "accuracy": "test_accuracy", "size": "bytes"}  # for --sort


def check_key(key: str | None) -> None:
    """Raises UsageError for what rows can't be sorted by."""
    known = (*KEYS, *SHOWN)
    if key is not None and key not in known:
        raise UsageError(f"--sort {key}: no such key{did_you_mean(key, known)}; keys are: {choices(known)}")


def rows(folder: Path, key: str | None = None, reverse: bool = False) -> list[Row]:
    """The rows of a folder and the folders below, by the names of their files, or by one of KEYS or SHOWN.

    What has no value comes last. Raises UsageError for a folder without files that may be runs.
    """
    found = [_row(file, folder) for file in run_files([folder])]
    if key is None:
        return found[::-1] if reverse else found
    key = SHOWN.get(key, key)
    known = [row for row in found if getattr(row, key) is not None]
    ordered = sorted(known, key=lambda row: _order(key, getattr(row, key)), reverse=reverse)
    return ordered + [row for row in found if getattr(row, key) is None]


def _order(key: str, value: str | int | float) -> object:
    """Numbers by their size, those of voters too."""
    return [int(n) for n in str(value).split("-")] if key == "voters" else value


def _row(file: Path, folder: Path) -> Row:
    name = str(file.relative_to(folder) if file != folder else file.name)
    try:
        occupied: int | None = file.stat().st_size
    except OSError:  # it went away, or may not be looked at
        occupied = None
    try:
        run = Run(file)
    except UsageError as error:
        why = str(error).removeprefix(f"{file}: ")
        foreign = isinstance(error, NotARun) or file.suffix != ".h5"
        return Row(name, "foreign" if foreign else "damaged", occupied, why=why)
    if why := unusable(run):
        return Row(name, "damaged", occupied, why=why)
    steps, asked = run["steps"], grouping.key(run, "run.steps", None)
    return Row(
        file=name,
        state=run.state,
        bytes=occupied,
        algorithm=str(run.attributes["algorithm"]),
        problem=str(run.attributes["problem"]),
        voters=run.voters,
        steps=int(steps["step"][-1]) if len(steps["step"]) else 0,
        steps_asked=asked if type(asked) is int else None,
        **{key: _last(grouping.column(run, "eval", key)) for key in ("train_loss", "test_loss", "test_accuracy")},
        bits=_last([run.bits_per_coordinate]),
        seconds=_last(steps["seconds"]),
    )


def _last(values: Sequence[float] | np.ndarray) -> float | None:
    """The last of the values; None where there is none, or it is not finite."""
    return float(values[-1]) if len(values) and np.isfinite(values[-1]) else None


def size(count: int | None) -> str | None:
    """Bytes for a reader: 1.2 MB; None if they are not known."""
    if count is None:
        return None
    return next((f"{count / unit:.1f} {name}" for unit, name in BYTES if count >= unit), f"{count} B")


def text(found: list[Row]) -> str:
    """A line per row, under a head, without columns that tell nothing, and held-out losses where accuracies do."""
    shown = [row.shown() for row in found]
    used = [name for name in shown[0] if any(cells[name] != "-" for cells in shown)]
    if all(row.test_loss is None or row.test_accuracy is not None for row in found):
        used = [name for name in used if name != "test_loss"]
    return tables.columns([{name: cells[name] for name in used} for cells in shown])


def as_json(found: list[Row]) -> str:
    """A list of objects, whose names are KEYS; null where a file does not tell."""
    return json.dumps([asdict(row) for row in found], indent=1)


def as_csv(found: list[Row]) -> str:
    """A line per row under KEYS; empty cells where a file does not tell."""
    lines = io.StringIO()
    cells = (["" if value is None else cell(value) for value in asdict(row).values()] for row in found)
    csv.writer(lines, lineterminator="\n").writerows([KEYS, *cells])
    return lines.getvalue().removesuffix("\n")


def unreadable(found: list[Row]) -> list[str]:
    """A line for each file that could not be read as a run."""
    return [printable(f"{row.state}: {row.file}: {row.why}") for row in found if row.state in UNREADABLE]


FORMS = {"text": text, "json": as_json, "csv": as_csv}  # by the options of the command
