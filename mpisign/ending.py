"""What is to be given back before MPI ends, such as windows: MPI does not do it by itself."""

import atexit
from collections.abc import Callable

_works: list[Callable[[], None]] = []


def at_end(work: Callable[[], None]) -> None:
    """Calls work when this process ends in order, before MPI does; all ranks must do the same in the same order."""
    if not _works:
        atexit.register(end)
    _works.append(work)


def end() -> None:
    """Does all that was asked for, once."""
    while _works:
        _works.pop(0)()
