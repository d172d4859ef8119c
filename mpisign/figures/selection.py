"""Which runs a table or picture is made of: those that were named, less those that can't be read or used."""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from mpisign.errors import MpisignError, UsageError, printable
from mpisign.storage.reader import Run, read_all

SKIPPED = 2  # exit code where a file could not be read or used, though all else was done


def read(paths: Iterable[str | Path]) -> tuple[list[Run], list[str]]:
    """The runs in files and folders, and a line for each that can't be read, which standard error is told as well.

    Raises UsageError where none is left.
    """
    runs, skipped = read_all(paths)
    if not runs and len(skipped) == 1:
        raise UsageError(skipped[0])
    for message in skipped:
        _tell(f"skipped: {message}")
    return without(runs, unusable, skipped), skipped


def without(runs: list[Run], why: Callable[[Run], object], skipped: list[str] | None = None) -> list[Run]:
    """The runs of which why(run) says nothing and raises no UsageError; the others are named with what it says.

    skipped: where their names go, too, if leaving them out is worth an exit code. Raises UsageError if none is left.
    """
    kept, verb = [], "left out" if skipped is None else "skipped"
    for run in runs:
        try:
            reason = why(run)
        except MpisignError as error:
            reason = str(error).removeprefix(f"{run.path}: ")
        if not isinstance(reason, str) or not reason:
            kept.append(run)
            continue
        _tell(f"{verb}: {run.path}: {reason}")
        if skipped is not None:
            skipped.append(f"{run.path}: {reason}")
    if not kept:
        raise UsageError("none of these runs is left; see what is said of each above")
    return kept


def _tell(line: str) -> None:
    print(printable(line), file=sys.stderr)


def unusable(run: Run) -> str:
    """Why nothing can be told of a run, whatever the view; "" where something can."""
    if missing := [name for name in ("algorithm", "problem", "n", "d", "seed") if name not in run.attributes]:
        return f"its attribute {missing[0]} is missing"
    try:
        tables = run.config
    except (ValueError, MpisignError) as error:
        return f"its job is damaged: {error}"
    return "" if all(isinstance(table, dict) for table in tables.values()) else "its job is no table of tables"
