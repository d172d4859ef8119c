"""Plain text as the numbers of its characters."""

from pathlib import Path

import numpy as np

from mpisign.errors import UsageError
from mpisign.problems.data.readers.files import read, require


def read_text(file: Path, encoding: str) -> tuple[np.ndarray, str]:
    """Characters of a file, plain or compressed, as numbers (length,) int64, and those characters in order.

    Raises UsageError if it is not in that encoding.
    """
    require(file, "problem.path", "a text file")
    data = read(file)
    try:
        text = data.decode(encoding)
        points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    except UnicodeError as error:
        raise UsageError(
            f"{file}: not text in {encoding}: {_reason(error)}; save it as UTF-8, or name its encoding, as in "
            'problem.encoding = "latin-1"'
        ) from error
    except (LookupError, ValueError) as error:
        raise UsageError(f'problem.encoding = {encoding!r}: {error}; as in "utf-8", "latin-1", "utf-16"') from error
    known, numbers = np.unique(points, return_inverse=True)
    return numbers.reshape(-1).astype(np.int64), "".join(map(chr, known))


def _reason(error: UnicodeError) -> str:
    """What is wrong and, if the encoding tells, where."""
    if isinstance(error, UnicodeDecodeError) and error.start < len(error.object):
        return f"byte {error.object[error.start]:#04x} at {error.start} ({error.reason})"
    if isinstance(error, UnicodeEncodeError):
        return f"it decodes to {error.object[error.start]!a} at character {error.start}, which is no character"
    return str(error)
