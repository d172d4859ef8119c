"""A run file whose writer was killed, or some of whose bytes are bad, into one that any HDF5 program opens."""

from pathlib import Path

from mpisign.errors import UsageError
from mpisign.storage.hdf5 import regular
from mpisign.storage.lock import Lock
from mpisign.storage.reader import Run
from mpisign.storage.schema import TABLES
from mpisign.storage.writer import RunWriter, write_aside

LOST = 4000  # characters that a repaired file tells of what it lacks


def repair(path: Path, output: Path | None = None) -> list[str]:
    """Rewrites a run file, aside and then renamed; returns the lines of a report.

    Raises UsageError if somebody is writing it, nothing can be read, rows would be lost in place, or output exists.
    """
    if output and output.exists():
        raise UsageError(f"{output} exists; choose another --output")
    regular(path).close()
    lock = Lock(path)
    try:
        run = Run(path, salvage=True)
        if run.lost and not output:
            remedy = "give --output FILE for the rest of it"
            raise UsageError(f"{path}: can't be read whole ({'; '.join(run.lost)}); {remedy}")
        rewrite(run, output or path)
    finally:
        lock.release()
    rows = {table: len(run[table]["step"]) for table in ("steps", "eval", "events")}
    counted = ", ".join(f"{count} rows of /{table}" for table, count in rows.items())
    return [*(f"lost: {what}" for what in run.lost), f"kept: {counted}", f"run_file: {output or path}"]


def rewrite(run: Run, path: Path) -> None:
    """Writes what was read of a run file to a new one that any HDF5 program opens; aside, then renamed."""
    arrays = {f"layout/{name}": array for name, array in run.layout.items()}
    arrays |= {f"partition/{name}": array for name, array in run.partition.items()}
    tables = {table: run[table] for table in TABLES}
    wide = {c.each: tables[t].get(c.name) for t, columns in TABLES.items() for c in columns if c.each}
    widths = {each: column.shape[1] for each, column in wide.items() if column is not None and column.ndim == 2}
    lost = {"lost": "; ".join(run.lost)[:LOST]} if run.lost else {}
    contents = (run.attributes | lost, run.config_text, arrays, widths, tables)
    write_aside(path, lambda file: RunWriter.lay_out(file, *contents), libver="latest")
