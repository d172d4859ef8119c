"""Imports without Python's search for garbage. It imports nothing itself, so that every command may have it."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_collection() -> Iterator[None]:
    """Inside, where modules are imported, Python looks for no garbage, and later not among what they made.

    torch makes half a million objects, which Python would otherwise look through again and again: a fifth of the time.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()
