"""Standard output and error that are closed, full, broken, or of few letters: words may get lost, no run may."""

import contextlib
import io
import os
import sys
import traceback


def prepare() -> None:
    """To be called first thing: opens what is closed, and lets no letter or broken pipe end the process.

    A file that took the number of a closed stream would get what others print into it.
    """
    for number, name in ((0, "stdin"), (1, "stdout"), (2, "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def say(text: str = "", end: str = "\n") -> None:
    """A line of output, if there is still somebody who takes it."""
    try:
        print(text, end=end, flush=True)
    except (OSError, ValueError):
        silence()


def is_fault(error: BaseException) -> bool:
    """Whether an error is that output can't be written, and none of a file."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    return isinstance(error, OSError) and error.filename is None and (where.name == "echo" or "stdout" in where.line)


def silence() -> None:
    """From now on output goes nowhere, so that neither a later line nor the end of Python meets the same error."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
