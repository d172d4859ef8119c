"""The errors a user may cause or meet, each with the exit code of the process; and text made fit for messages.

Exit codes: 0 complete, 2 usage and data, 3 numerical, 75 requeue me, 130 interrupted, 1 anything else.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class MpisignError(Exception):
    """Known trouble: printed as one message without a traceback.

    agreed: every rank raises the same error at the same place, so all may leave in order. An error that
    only one rank knows of ends the job by an abort.
    """

    exit_code = 1

    def __init__(self, message: str, agreed: bool = False):
        super().__init__(message)
        self.agreed = agreed


class UsageError(MpisignError):
    """A wrong configuration, name, value, or data file."""

    exit_code = 2


class NumericalError(MpisignError):
    """A value that is not finite, or replicas that drifted apart."""

    exit_code = 3


class StorageError(MpisignError):
    """A file that can no longer be written: no space, no quota, no permission."""


class Stopped(MpisignError):
    """A run that was asked to stop, and did so with a checkpoint: to be started again."""

    exit_code = 75


class Interrupted(Stopped):
    """A run that was stopped from the keyboard, with a checkpoint: not to be started again by itself."""

    exit_code = 130


class StepInterrupted(KeyboardInterrupt):
    """An interrupt of any rank, raised on all ranks after the same step of a training loop."""

    agreed = True


def choices(names: Iterable[str]) -> str:
    """The valid names in one line, for the end of an error message."""
    return ", ".join(sorted(names))


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """The question "(did you mean ...?)" with the valid name nearest to a wrong one; "" where none is near."""
    near = nearest(name, names)
    return f" (did you mean {near}?)" if near else ""


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The valid name nearest to a wrong one, in whatever case; None where none is near."""
    known = {known.lower(): known for known in names}
    near = get_close_matches(str(name).lower(), known, n=1)
    return known[near[0]] if near else None


def printable(text: object, lines: bool = False) -> str:
    """The text with every character that a terminal might act upon written as Python escapes it; so no escape
    sequence, no reversed writing, and one line. lines: whether line breaks and tabs stay as they are.
    """
    said = str(text)
    if said.isprintable():
        return said
    kept = "\n\t" if lines else ""
    return "".join(c if c.isprintable() or c in kept else c.encode("unicode_escape").decode() for c in said)
