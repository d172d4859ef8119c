"""A run file whose writer was killed, or some of whose bytes are bad, into one that any HDF5 program opens."""

from pathlib import Path

from mpisign.errors import UsageError
from mpisign.lock import Lock
from mpisign.recorder import rewrite
from mpisign.results import Run


def repair(path: Path, output: Path | None = None) -> list[str]:
    """Rewrites a run file, aside and then renamed; returns what is to be told.

    Raises UsageError if somebody is writing it, nothing can be read, rows would be lost in place, or output exists.
    """
    if output and output.exists():
        raise UsageError(f"{output} exists; choose another --output")
    if not path.is_file():
        raise UsageError(f"no file {path}")
    lock = Lock(path)
    try:
        run = Run(path, salvage=True)
        if run.lost and not output:
            raise UsageError(
                f"{path}: can't be read whole ({'; '.join(run.lost)}); give --output FILE for the rest of it"
            )
        rewrite(run, output or path)
    finally:
        lock.release()
    rows = {table: len(run[table]["step"]) for table in ("steps", "eval", "events")}
    counted = ", ".join(f"{count} rows of /{table}" for table, count in rows.items())
    return [*(f"lost: {what}" for what in run.lost), f"kept: {counted}", f"run_file: {output or path}"]
