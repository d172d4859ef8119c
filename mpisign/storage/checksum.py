"""Checksums: CRC-32 of rows and arrays in a file that grows, BLAKE2b of a finished file in front of it.

HDF5 guards its own structure by checksums, but not what is stored. A row of a run file carries the CRC-32 of its
values: it is written once, after them, so a row that a kill cut short has none, and rows are found damaged one by one.
HDF5's own filter covers chunks of 512 rows, all of which a torn write of the last row would take along.

A checkpoint or a model is finished before it is seen. HDF5 leaves the first bytes of a file to others; there stand the
kind, the format and a digest of the rest, so that damage is found before HDF5 reads anything. What is written every few
steps and read by nobody else, a part in a node's memory, has a CRC-32 there, which takes a third of the time.

    "mpisign-KIND FORMAT blake2b HEX", zeros up to 512 bytes; or crc32
"""

import hashlib
import re
import zlib
from typing import BinaryIO

import numpy as np

HEAD = 512  # bytes: the least user block that HDF5 allows
SIGNATURE = re.compile(rb"mpisign-([a-z]+) (\d{1,9}) (blake2b|crc32) ([0-9a-f]{8,64})\n\0*")
BLOCK = 1 << 22


def of_array(array: np.ndarray) -> int:
    """CRC-32 of an array's values, little-endian, in C order."""
    return zlib.crc32(np.ascontiguousarray(_little(array)).tobytes())


def of_rows(columns: list[np.ndarray]) -> np.ndarray:
    """uint32 (rows,): CRC-32 of each row, its values little-endian, one column after the other.

    columns: (rows,) or (rows, width) each, of fixed-length types.
    """
    rows = len(columns[0])
    width = sum(c.dtype.itemsize * int(np.prod(c.shape[1:])) for c in columns)
    sums, step = np.empty(rows, np.uint32), max(BLOCK // max(width, 1), 1)
    for lo in range(0, rows, step):
        parts = [np.ascontiguousarray(_little(c[lo : lo + step])) for c in columns]
        raw = np.concatenate([p.view(np.uint8).reshape(len(p), -1) for p in parts], axis=1).tobytes()
        sums[lo : lo + step] = [zlib.crc32(raw[at : at + width]) for at in range(0, len(raw), width)]
    return sums


def _little(array: np.ndarray) -> np.ndarray:
    return array.astype(array.dtype.newbyteorder("<"), copy=False)


# A finished file


def seal(file: BinaryIO, kind: str, version: int, method: str = "blake2b") -> None:
    """Writes the first bytes of a finished file, open for reading and writing. method: blake2b or crc32."""
    digest = _digest(file, method)
    file.seek(0)
    file.write(f"mpisign-{kind} {version} {method} {digest}\n".encode().ljust(HEAD, b"\0"))


def sealed(file: BinaryIO, kind: str) -> int | None:
    """The format in a file's first bytes, None if there are none of this kind."""
    file.seek(0)
    head = SIGNATURE.fullmatch(file.read(HEAD))
    return int(head[2]) if head and head[1] == kind.encode() else None


def is_intact(file: BinaryIO) -> bool:
    """Whether the rest of a sealed file is what it was."""
    file.seek(0)
    head = SIGNATURE.fullmatch(file.read(HEAD))
    return bool(head) and _digest(file, head[3].decode()) == head[4].decode()


class _Crc32:
    """As hashlib's."""

    value = 0

    def update(self, block: bytes) -> None:
        self.value = zlib.crc32(block, self.value)

    def hexdigest(self) -> str:
        return f"{self.value:08x}"


def _digest(file: BinaryIO, method: str) -> str:
    state = _Crc32() if method == "crc32" else hashlib.blake2b(digest_size=32)
    file.seek(HEAD)
    while block := file.read(BLOCK):
        state.update(block)
    return state.hexdigest()
