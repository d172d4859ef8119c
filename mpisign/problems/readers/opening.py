"""Files as they are found: plain or compressed."""

import bz2
import gzip
import lzma
import zlib
from pathlib import Path

from mpisign.errors import UsageError

ENDINGS = ("", ".gz", ".xz", ".bz2")
PACKED = {b"\x1f\x8b": gzip.decompress, b"\xfd7zXZ\0": lzma.decompress, b"BZh": bz2.decompress}  # by how they start


def find(folder: Path, *stems: str) -> Path | None:
    """The first file of one of these names in a folder, plain or compressed."""
    return next((f for stem in stems for ending in ENDINGS if (f := folder / f"{stem}{ending}").is_file()), None)


def read(file: Path) -> bytes:
    """What is in a file, decompressed whatever it is called. Raises UsageError where that can't be."""
    try:
        data = file.read_bytes()
        unpack = next((u for start, u in PACKED.items() if data.startswith(start)), bytes)
        return unpack(data)
    except (OSError, EOFError, ValueError, lzma.LZMAError, zlib.error) as error:
        raise UsageError(f"{file}: can't be read or decompressed ({error}); fetch it anew") from error
