"""Refuses to write over a run, before torch and MPI start: a slip so frequent should not cost their seconds."""

from pathlib import Path

from mpisign import launchers, lock
from mpisign.config import Config, run_path
from mpisign.errors import UsageError
from mpisign.results import occupied


def refuse(config: Config, voters: int) -> None:
    """Raises UsageError, on all ranks alike, if a new run of this job would find its file taken by another run.

    Only what is certain is told here. A file that somebody writes just now, a run that never took a step, and ranks on
    several machines, of which some may not see the file, are left to whoever opens it.
    """
    path = run_path(config, voters)
    if config.run.overwrite or not path.exists() or lock.held(path) or not launchers.one_machine():
        return
    if occupied(path):
        raise UsageError(text(path))


def text(path: Path) -> str:
    """What is wrong, and what to do."""
    return (
        f"the run file {path} exists; set run.overwrite=true (or --overwrite) to replace it, "
        "or run.file=... to write another"
    )
