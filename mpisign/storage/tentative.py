"""Writers for runs whose ranks may outlive one another: rows on probation, and rows that others may have to write."""

import time
from typing import Any

from mpisign.storage.writer import REWRITE_SECONDS, NoWriter

MEMORY = 2 * REWRITE_SECONDS  # seconds after which root has surely written a row


class Remembering(NoWriter):
    """Keeps the rows of late on ranks other than root, as root may be lost before it has written them."""

    def __init__(self):
        self._rows: list[tuple[float, str, dict[str, Any]]] = []
        self._forgotten: dict[str, int] = {}  # by table, the last step of which a row was forgotten

    def append(self, table, **row):
        now = time.monotonic()
        self._rows.append((now, table, row))
        while self._rows[0][0] < now - MEMORY:
            _, old, gone = self._rows.pop(0)
            self._forgotten[old] = gone["step"]

    def event(self, kind, step, text=""):
        self.append("events", step=step, time=time.time(), kind=kind, text=text)

    def remembered(self, table: str) -> list[dict[str, Any]]:
        """The rows of late, from the first step of which none was forgotten."""
        return [row for _, of, row in self._rows if of == table and row["step"] > self._forgotten.get(table, -1)]


class Tentative(NoWriter):
    """Holds rows and events back until they are released, or dropped; what ends a run is told at once."""

    def __init__(self, writer: NoWriter):
        self.writer = writer
        self._held: list[tuple[str, dict[str, Any]]] = []

    @property
    def failure(self):
        """Why rows are no longer written."""
        return self.writer.failure

    def append(self, table, **row):
        self._held.append((table, row))

    def event(self, kind, step, text=""):
        if kind in ("stop", "error"):
            self.writer.event(kind, step, text)
        else:
            self._held.append(("", {"kind": kind, "step": step, "text": text}))

    def release(self) -> None:
        """Writes what was held back."""
        held, self._held = self._held, []
        for table, row in held:
            if table:
                self.writer.append(table, **row)
            else:
                self.writer.event(**row)

    def drop(self) -> None:
        """Forgets what was held back."""
        self._held.clear()

    def flush(self, force=False):
        self.writer.flush(force)

    def sync(self):
        self.writer.sync()

    def close(self):
        self.writer.close()
