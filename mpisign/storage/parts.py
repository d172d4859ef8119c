"""Parts of a checkpoint in a node's memory: what one rank adds to it, in a file of /dev/shm that is whole or not there.

A part outlives its rank, and a copy of it elsewhere its node. Those of all ranks make a checkpoint. Those of a run lie
in one folder per node, as /dev/shm/mpisign-UID-HASH/step-000000040.rank-3, with a checksum as checkpoints have:

    (head)                 "mpisign-part FORMAT crc32 HEX", zeros up to 512 bytes, see checksum.py
    /                      attributes: run (what tells it from others of its name), file (where it is), step, rank, and
                           ranks (how many there were); of rank 0 also those of the checkpoint
    /config ...            the texts of the checkpoint, of rank 0 alone
    /arrays/x              an array of the checkpoint that this rank has to itself
    /arrays/vote/z@4096    coordinates 4096, 4097, ... of one that is cut among ranks; attribute length: of the whole
"""

import contextlib
import io
import os
import stat
from collections.abc import Callable, Mapping
from functools import partial
from hashlib import blake2b
from pathlib import Path
from shutil import rmtree
from typing import Any

import h5py
import numpy as np

from mpisign.errors import UsageError
from mpisign.storage import hdf5, lock
from mpisign.storage.checkpoint import NUMBERS, TEXTS, Writer, array_names
from mpisign.storage.checksum import HEAD, seal
from mpisign.storage.writer import aside_of, remove_leftovers, write_aside

FORMAT = 1
OWN = ("run", "file", "step", "rank", "ranks")  # attributes of every part
PER_FILE, PER_ARRAY = 16 << 10, 1 << 10  # bytes that HDF5 takes besides the arrays, at most

Held = dict[tuple[int, int], int]  # by step and rank, the ranks there were


class PartWriter(Writer):
    """What fills a part, as the Writer of a checkpoint is filled."""

    def place(self, name: str, length: int, lo: int, part: np.ndarray) -> None:
        self.put(piece := f"{name}@{lo}", part)
        self._arrays[piece].attrs["length"] = length


class Size:
    """Bytes that a part will take, filled in the same way."""

    nbytes = PER_FILE

    def put(self, name: str, array: np.ndarray) -> None:
        self.nbytes += array.nbytes + PER_ARRAY

    def place(self, name: str, length: int, lo: int, part: np.ndarray) -> None:
        self.put(name, part)


class Part:
    """A part in bytes whose checksum was found right, open for reading; a context manager."""

    def __init__(self, raw: np.ndarray):
        self._file = h5py.File(io.BytesIO(raw), "r")
        attributes = hdf5.attributes(self._file)
        self.attributes = {name: value for name, value in attributes.items() if name == "step" or name not in OWN}

    @property
    def texts(self) -> dict[str, str]:
        """Those of the checkpoint, of the part of rank 0."""
        return {name: hdf5.text(self._file, name) for name in TEXTS}

    def give(self, writer: Writer) -> None:
        """Hands all arrays to a checkpoint's Writer."""
        for name in array_names(self._file):
            data = hdf5.dataset(self._file, f"arrays/{name}", NUMBERS)
            length = hdf5.attributes(data).get("length")
            if length is None:
                writer.put(name, data[()])
            else:
                whole, _, lo = name.rpartition("@")
                writer.place(whole, length, int(lo), data[()])

    def __enter__(self) -> "Part":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def save(path: Path, fill: Callable[[Writer], None], texts: Mapping[str, str], attributes: Mapping[str, Any]) -> None:
    """Writes a part aside, with its checksum, then renames it. Raises OSError where there is no room."""

    def write(file: h5py.File) -> None:
        file.attrs.update(attributes)
        for name, text in texts.items():
            file[name] = text
        fill(PartWriter(file))

    _make_folder(path)
    write_aside(path, write, head=partial(seal, kind="part", version=FORMAT, method="crc32"), userblock_size=HEAD)


def write(path: Path, raw: np.ndarray) -> None:
    """Writes a copy of a part, given in bytes, likewise."""
    _make_folder(path)
    temporary = aside_of(path)
    try:
        temporary.write_bytes(raw)
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def in_bytes(path: Path) -> np.ndarray:
    """uint8 (bytes,): a part as it lies there, not copied."""
    return np.memmap(path, np.uint8, "r")


def _make_folder(path: Path) -> None:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    remove_leftovers(path.parent, path.name)


# The folder of a run on a node


def folder_name(run: Path) -> str:
    """Of the folder in which each node keeps parts of a run file."""
    return f"mpisign-{os.geteuid()}-{blake2b(os.fsencode(run.resolve()), digest_size=12).hexdigest()}"


def path_at(folder: Path, step: int, rank: int) -> Path:
    """The part of a rank after so many steps."""
    return folder / f"step-{step:09d}.rank-{rank}"


def obstacle(folder: Path) -> str:
    """Why no parts can be kept in a folder, "" if they can."""
    shared = folder.parent
    if not shared.is_dir():
        return f"there is no {shared} on {os.uname().nodename}"
    if not os.access(shared, os.W_OK | os.X_OK):
        return f"{shared} can't be written on {os.uname().nodename}"
    # anybody may foresee the name, and /dev/shm is everybody's
    with contextlib.suppress(FileNotFoundError):
        info = folder.lstat()
        if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid():
            return f"{folder} on {os.uname().nodename} is not a folder of yours"
    return ""


def occupied(folder: Path) -> int:
    """Bytes that a node keeps of a run file."""
    return sum(file.stat().st_size for file in folder.glob("*"))


def remove(folder: Path) -> None:
    """Removes what a node keeps of a run file."""
    if not obstacle(folder):
        rmtree(folder, ignore_errors=True)


def held(folder: Path, run: str, share: slice) -> tuple[Held, list[str]]:
    """The whole parts of a run in a folder, and what is wrong with others. share: which of the files are looked at.

    run: as the attribute tells; parts of another run that had this file are left out.
    """
    whole, damaged = {}, []
    files = [] if obstacle(folder) else sorted(folder.glob("step-*.rank-*"))
    for path in files[share]:
        try:
            with hdf5.sealed(path, "part", FORMAT) as file:
                facts = hdf5.attributes(file)
        except UsageError as error:
            damaged.append(f"{error} (on {os.uname().nodename})")
            continue
        if facts["run"] == run:
            whole[facts["step"], facts["rank"]] = facts["ranks"]
    return whole, damaged


def leftovers(shared: Path) -> dict[Path, tuple[str, int]]:
    """Folders of this user of which no run goes on, as far as locks tell: the run file and the bytes of each."""
    left = {}
    for folder in sorted(shared.glob(f"mpisign-{os.geteuid()}-*")):
        file = ""
        for path in folder.glob("step-*.rank-*"):
            with contextlib.suppress(UsageError), hdf5.sealed(path, "part", FORMAT) as part:
                file = str(hdf5.attributes(part)["file"])
                break
        if not (file and lock.held(Path(file))):
            left[folder] = file, occupied(folder)
    return left
