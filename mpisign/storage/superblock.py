"""The first 48 bytes of a run file: whether its writer closed it, and an image of it that opens if not.

HDF5 opens a file whose writer was killed in SWMR mode only, and there it reads damaged metadata again and again for
minutes. An image in memory, marked as closed, is read once: it opens, or is damaged.
[HDF5 File Format Specification 3.0, section II.A, superblock version 3; section IV.A, Jenkins's lookup3 checksum]
"""

import struct

SIGNATURE = b"\x89HDF\r\n\x1a\n"
SIZE = 48
VERSION, FLAGS, END, CHECKSUM = 8, 11, 28, 44  # offsets; of one byte, one byte, eight bytes, four bytes


def in_use(image: bytes) -> bool:
    """Whether these first bytes are those of a file that was not closed, and are whole."""
    known = image[:8] == SIGNATURE and len(image) >= SIZE and image[VERSION] == 3
    return known and image[FLAGS] != 0 and struct.unpack_from("<I", image, CHECKSUM)[0] == lookup3(image[:CHECKSUM])


def as_closed(image: bytearray) -> bytearray:
    """The same file, in place, as if its writer had closed it after the last byte that is there."""
    image[FLAGS] = 0
    struct.pack_into("<Q", image, END, len(image))
    struct.pack_into("<I", image, CHECKSUM, lookup3(bytes(image[:CHECKSUM])))
    return image


def lookup3(data: bytes) -> int:
    """Bob Jenkins's 32-bit hash of at least one byte, as HDF5 uses it for its metadata."""
    a = b = c = (0xDEADBEEF + len(data)) & 0xFFFFFFFF
    blocks = (len(data) - 1) // 12
    for k in range(blocks):
        x, y, z = struct.unpack_from("<III", data, 12 * k)
        a, b, c = _mix(a + x & 0xFFFFFFFF, b + y & 0xFFFFFFFF, c + z & 0xFFFFFFFF)
    x, y, z = struct.unpack("<III", data[12 * blocks :].ljust(12, b"\0"))
    return _final(a + x & 0xFFFFFFFF, b + y & 0xFFFFFFFF, c + z & 0xFFFFFFFF)


def _turn(x: int, k: int) -> int:
    return (x << k | x >> 32 - k) & 0xFFFFFFFF


def _mix(a: int, b: int, c: int) -> tuple[int, int, int]:
    for k in (4, 6, 8, 16, 19, 4):
        a = (a - c ^ _turn(c, k)) & 0xFFFFFFFF
        c = c + b & 0xFFFFFFFF
        a, b, c = b, c, a
    return a, b, c


def _final(a: int, b: int, c: int) -> int:
    for k in (14, 11, 25, 16, 4, 14, 24):
        c = (c ^ b) - _turn(b, k) & 0xFFFFFFFF
        a, b, c = b, c, a
    return b
