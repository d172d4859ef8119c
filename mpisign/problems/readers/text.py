"""Plain text as the numbers of its characters."""

from pathlib import Path

import numpy as np

from mpisign.errors import UsageError
from mpisign.problems.readers.opening import read


def read_text(file: Path, encoding: str) -> tuple[np.ndarray, str]:
    """Characters of a file, plain or compressed, as numbers (length,) int64, and those characters in order.

    Raises UsageError if it is not in that encoding.
    """
    if not file.is_file():
        raise UsageError(f"no file {file}; set problem.path to a text file")
    data = read(file)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{file}: not text in {encoding}: byte {data[error.start]:#04x} at {error.start} ({error.reason}); save it "
            'as UTF-8, or name its encoding, as in problem.encoding = "latin-1"'
        ) from error
    except LookupError as error:
        raise UsageError(f'problem.encoding = {encoding!r}: {error}; as in "utf-8", "latin-1", "utf-16"') from error
    points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    known, numbers = np.unique(points, return_inverse=True)
    return numbers.reshape(-1).astype(np.int64), "".join(map(chr, known))
