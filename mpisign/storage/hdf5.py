"""Opens HDF5 files, whoever made them, and hands out what is checked: the one place that reads stored values.

Nothing outside the file is read: links into other files, external storage and virtual datasets are refused, and so is
what is no regular file. A value is read once its type, its dimensions and its size fit: a size that the file can't
hold is never allocated.
"""

import io
import math
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

from mpisign.errors import UsageError, printable
from mpisign.storage import checksum, lock, superblock

CRC = "crc32"  # attribute of a dataset that is written once; dataset of a table that grows
SMALL, RATIO = 1 << 26, 200  # bytes that compressed values may take, and how often the size of the file
DEPTH = 8  # of links that lead to links
KINDS = {"i": "integers", "f": "floating-point numbers", "S": "text", "b": "booleans", "u": "unsigned integers"}
NODES = {stat.S_ISFIFO: "a pipe", stat.S_ISDIR: "a folder", stat.S_ISSOCK: "a socket"}


class Malformed(Exception):
    """What stands in a file is not what may stand there; says what and where, but not in which file."""


class Outside(Malformed):
    """Values that lie in another file."""


# Files


def regular(path: Path) -> BinaryIO:
    """A file, open for reading. Raises UsageError if there is none, or what is there is no file: a pipe would be
    waited for, and a device may never end.
    """
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISREG(mode):
            return path.open("rb")
    except FileNotFoundError as error:
        raise UsageError(f"no file {path}") from error
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: can't be read ({getattr(error, 'strerror', None) or error})") from error
    what = next((name for known, name in NODES.items() if known(mode)), "a device")
    raise UsageError(f"{path}: {what}, not a file")


def opened(path: Path) -> h5py.File:
    """An HDF5 file that was closed, that is being written here, or whose writer was killed; else UsageError."""
    with regular(path) as raw:
        used = superblock.in_use(raw.read(superblock.SIZE))
    if not used and not h5py.is_hdf5(path):
        raise UsageError(f"{path}: can't be opened as HDF5: it {'is none' if path.stat().st_size else 'is empty'}")
    try:
        if not used:
            return h5py.File(path, "r", **lock.hdf5(path))
        if lock.held(path):
            return h5py.File(path, "r", libver="latest", swmr=True, **lock.hdf5(path))
        return h5py.File(io.BytesIO(superblock.as_closed(bytearray(path.read_bytes()))), "r")
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise UsageError(f"{path}: can't be opened as HDF5 ({first_line(error)})") from error


def sealed(path: Path, kind: str, newest: int, bare: bool = False) -> h5py.File:
    """A finished file of ours whose digest is that of its contents, open for reading; else UsageError.

    newest: the newest format that is known. bare: whether a file without a digest is taken, too, as older versions
    wrote.
    """
    with regular(path) as raw:
        version = checksum.sealed(raw, kind)
        if version is None:
            raw.seek(0)
            if not bare or raw.read(8) != superblock.SIGNATURE:
                raise UsageError(f"{path}: not a {kind} of mpisign, or its first bytes are damaged")
        elif version > newest:
            known = f"this mpisign reads up to {newest}; update mpisign"
            raise UsageError(f"{path}: a {kind} of format {version}, but {known}")
        elif not checksum.is_intact(raw):
            raise UsageError(f"{path}: damaged: its checksum is not that of its contents")
    try:
        return h5py.File(path, "r", **lock.hdf5(path))
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise UsageError(f"{path}: can't be opened as HDF5 ({first_line(error)})") from error


def first_line(error: BaseException) -> str:
    """What an error says, in one line that can be printed."""
    return printable(next(iter(str(error).splitlines()), "") or type(error).__name__)


# Objects


def find(group: h5py.Group, name: str, outside: bool = False, depth: int = DEPTH) -> Any:
    """The object at a name or path below a group, or None. outside: follows links into other files.

    Raises Malformed for a link that is not followed.
    """
    item = group
    for part in (p for p in name.split("/") if p not in ("", ".")):
        key = part.encode()
        if not isinstance(item, h5py.Group) or not item.id.links.exists(key):
            return None
        kind = item.id.links.get_info(key).type
        if kind == h5py.h5l.TYPE_SOFT and depth:
            target = item.id.links.get_val(key).decode(errors="surrogateescape")
            item = find(item.file["/"] if target.startswith("/") else item, target, outside, depth - 1)
        elif kind == h5py.h5l.TYPE_HARD or (outside and kind == h5py.h5l.TYPE_EXTERNAL):
            item = item[part]
        elif kind == h5py.h5l.TYPE_SOFT:
            raise Malformed(f"{_label(group, name)}: a link in circles, which is not followed")
        else:
            target = item.id.links.get_val(key)
            file = f" ({printable(os.fsdecode(target[0]))})" if isinstance(target, tuple) else ""
            raise Outside(f"{_label(group, name)}: a link into another file{file}, which is not followed")
    return item


def datasets(group: h5py.Group) -> list[str]:
    """The names of datasets in a group, and of links into other files, which may be some."""

    def may_be_dataset(name: str) -> bool:
        try:
            return isinstance(find(group, name), h5py.Dataset)
        except Malformed:
            return True

    return [name for name in group if may_be_dataset(name)]


def _label(group: h5py.Group, name: str) -> str:
    return printable(f"{(group.name or '').rstrip('/')}/{name.lstrip('/')}")


def dataset(
    group: h5py.Group,
    name: str,
    kinds: str,
    dimensions: tuple[int, ...] = (),
    outside: bool = False,
    optional: bool = False,
) -> Any:
    """A dataset, checked: its values are of one of these kinds of numpy, in so many dimensions (any if none are given).

    outside: its values may lie in other files. optional: None if it is missing. Raises Malformed otherwise.
    """
    data, label = find(group, name, outside), _label(group, name)
    if data is None and optional:
        return None
    if not isinstance(data, h5py.Dataset):
        raise Malformed(f"{label} is missing" if data is None else f"{label} is no dataset")
    made = data.id.get_create_plist()
    kind = made.get_layout()
    if not outside and (kind == h5py.h5d.VIRTUAL or (kind == h5py.h5d.CONTIGUOUS and made.get_external_count())):
        raise Outside(f"{label}: its values lie in other files, which are not read")
    try:
        dtype = data.dtype
    except (TypeError, ValueError, RuntimeError) as error:
        raise Malformed(f"{label}: of a type that is not known ({first_line(error)})") from error
    if dtype.kind not in kinds or dtype.subdtype:
        wanted = " or ".join(KINDS[k] for k in kinds if k in KINDS)
        raise Malformed(f"{label}: {wanted} are needed, but it holds {printable(dtype)}")
    if data.shape is None:
        raise Malformed(f"{label}: holds no values")
    if dimensions and data.ndim not in dimensions:
        wanted = " or ".join(map(str, dimensions))
        raise Malformed(f"{label}: of shape {data.shape}, but {wanted} dimension(s) are needed")
    return data


def filtered(data: h5py.Dataset) -> bool:
    """Whether its chunks went through a filter, as compressed ones did."""
    return data.chunks is not None and data.id.get_create_plist().get_nfilters() > 0


def demand_room(data: h5py.Dataset, rows: int | None = None) -> None:
    """Raises Malformed if so many rows (all by default) are more than the file can hold: they would be made up."""
    shape = data.shape if rows is None else (rows, *data.shape[1:])
    claimed, size = data.dtype.itemsize * math.prod(shape), data.file.id.get_filesize()
    if filtered(data):
        claimed, size = max(claimed, data.dtype.itemsize * math.prod(data.chunks)), max(SMALL, RATIO * size)
    if claimed > size:
        raise Malformed(f"{printable(data.name)}: claims {claimed:,} bytes, which the file can't hold")


# Values


def values(group: h5py.Group, name: str, kinds: str, dimensions: tuple[int, ...] = ()) -> np.ndarray:
    """A whole array in native byte order, checked against its checksum where it carries one."""
    data = dataset(group, name, kinds, dimensions)
    demand_room(data)
    array = np.asarray(data[()])
    demand_checksum(data, array)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def text(group: h5py.Group, name: str, lost: list[str] | None = None) -> str:
    """A single text, of fixed or variable length. lost: collects a wrong checksum's message instead of raising it."""
    data = dataset(group, name, "SO", (0,))
    if data.dtype.kind == "O" and h5py.check_string_dtype(data.dtype) is None:
        raise Malformed(f"{_label(group, name)}: text is needed, but it holds {printable(data.dtype)}")
    demand_room(data)
    raw = data[()]
    raw = bytes(raw) if isinstance(raw, bytes) else str(raw).encode(errors="surrogateescape")
    try:
        demand_checksum(data, np.frombuffer(raw, np.uint8))
    except Malformed as error:
        if lost is None:
            raise
        lost.append(f"{_label(group, name)}: {error}; kept as it is")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise Malformed(f"{_label(group, name)}: not text in UTF-8 ({error})") from error


def demand_checksum(data: h5py.Dataset, array: np.ndarray) -> None:
    """Raises Malformed if the values don't match the dataset's checksum; an older dataset has none."""
    stored = attributes(data).get(CRC)
    if stored is not None and stored != checksum.of_array(array):
        raise Malformed(f"damaged: {printable(data.name)}: its checksum is not that of its values")


def attributes(item: h5py.Group | h5py.Dataset) -> dict[str, Any]:
    """Attributes that are a single number or text, as int, float or str; others are left alone."""
    values = {}
    for name in item.attrs:
        stored = item.attrs.get_id(name)
        try:
            if stored.shape == () and (stored.dtype.kind in "iufbS" or h5py.check_string_dtype(stored.dtype)):
                value = item.attrs[name]
                value = value.item() if isinstance(value, np.generic) else value
                values[name] = value.decode() if isinstance(value, bytes) else value
        except (TypeError, UnicodeDecodeError):
            continue  # of a type that numpy does not know, or bytes that are no text
    return values


def whole_rows(data: h5py.Dataset) -> int:
    """How many rows of a column the file has room for: the length that it claims may be any number."""
    if filtered(data):
        chunks_per_row = math.prod(-(-n // max(c, 1)) for n, c in zip(data.shape[1:], data.chunks[1:], strict=True))
        return min(len(data), data.id.get_num_chunks() * data.chunks[0] // max(chunks_per_row, 1))
    row = data.dtype.itemsize * math.prod(data.shape[1:])
    return min(len(data), min(data.id.get_storage_size(), data.file.id.get_filesize()) // max(row, 1))
