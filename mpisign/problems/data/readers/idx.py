"""IDX, the format of MNIST and its relatives."""

import math
from pathlib import Path

import numpy as np

from mpisign.errors import UsageError
from mpisign.problems.data.readers.files import read


def read_idx(file: Path, dimensions: int) -> np.ndarray:
    """A uint8 array from an IDX file, plain or compressed.

    Raises UsageError if it is not IDX, has another number of dimensions, or is cut short.
    """
    data = read(file)
    if data[:4] != bytes([0, 0, 8, dimensions]):
        wanted = f"0000 08 {dimensions:02x}"
        raise UsageError(
            f"{file}: not an IDX file of bytes in {dimensions} dimensions: starts {data[:4].hex()}, not {wanted}"
        )
    if len(data) < 4 + 4 * dimensions:
        raise UsageError(f"{file}: cut short in its header, at {len(data)} bytes; fetch it anew")
    shape = np.frombuffer(data, ">u4", dimensions, offset=4)
    body = np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions)
    if len(body) != math.prod(shape.tolist()):
        raise UsageError(f"{file}: {len(body)} bytes of data where its header promises {shape.tolist()}; fetch it anew")
    return body.reshape(shape)
