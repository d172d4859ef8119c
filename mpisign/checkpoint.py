"""Checkpoints and models: named arrays in an HDF5 file that is whole or not there at all.

A checkpoint is a matter of voters, not of ranks: any exchange, placement or simulation of the same n voters goes on
from it. HDF5 leaves the first 512 bytes of a file to others; there stand the format and a checksum of the rest, so
that damage is found before HDF5 reads anything.

    (head)                  "mpisign-checkpoint FORMAT blake2b HEX", zeros up to 512 bytes
    /                       attributes: step (taken so far), begun (at which states were made), n, d, definition
    /config                 text: the job as TOML, every default written out
    /layout                 text: JSON, name and shape of every parameter, in order
    /progress               text: JSON, what the observer counts: bytes, evaluations, rows of the run file; and the
                            fingerprint of the data
    /arrays/x               float32 (length,): the parameters as they lie in x, pads included; once, as all ranks agree
    /arrays/estimator/m/3   an array of voter 3; sign/... alike
    /arrays/vote/z          (..., length): what the vote keeps, in coordinate order, whoever counted it
    /arrays/update/m        an array of the update, the same on every rank
    /arrays/stage1/...      the arrays of an algorithm's later stages
    /arrays/verdict         int64 words: signs of the verdict counted last, for the column `flips`
    /arrays/kept/x          float32 (length,): the point kept for the end of the run, if any; beside it its statistics
"""

import hashlib
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path

import h5py
import numpy as np
from torch import Tensor

from mpisign import lock
from mpisign.errors import UsageError
from mpisign.recorder import write_aside

FORMAT = 1
HEAD = 512  # bytes: the least user block that HDF5 allows
SIGNATURE = re.compile(rb"mpisign-checkpoint (\d+) blake2b ([0-9a-f]{64})\n\0*")
BLOCK = 1 << 22


class Writer:
    """What fills a checkpoint: whole arrays, or parts of one that come from several ranks."""

    def __init__(self, file: h5py.File):
        self._arrays = file.create_group("arrays")

    def put(self, name: str, array: np.ndarray) -> None:
        self._arrays[name] = array

    def place(self, name: str, length: int, lo: int, part: np.ndarray) -> None:
        """part: coordinates lo, lo + 1, ... of an array whose last dimension has `length` coordinates."""
        if name not in self._arrays:
            self._arrays.create_dataset(name, shape=(*part.shape[:-1], length), dtype=part.dtype)
        self._arrays[name][..., lo : lo + part.shape[-1]] = part


def save(path: Path, fill: Callable[[Writer], None], texts: Mapping[str, str], attributes: Mapping) -> None:
    """Writes a checkpoint aside, with its checksum, synced, then renamed. texts: config, layout, progress.

    Raises OSError where it can't be written; what was there before is then still there.
    """

    def write(file: h5py.File) -> None:
        file.attrs.update(attributes)
        for name, text in texts.items():
            file[name] = text
        fill(Writer(file))

    write_aside(path, write, head=_head, userblock_size=HEAD)


def _head(file) -> None:
    """Writes the first bytes of a finished file, open for reading and writing."""
    digest = _digest(file)
    file.seek(0)
    file.write(f"mpisign-checkpoint {FORMAT} blake2b {digest}\n".encode().ljust(HEAD, b"\0"))


def _digest(file) -> str:
    state = hashlib.blake2b(digest_size=32)
    file.seek(HEAD)
    while block := file.read(BLOCK):
        state.update(block)
    return state.hexdigest()


class Checkpoint:
    """A checkpoint, open for reading once it was found whole; a context manager.

    Raises UsageError saying what is wrong with the file: missing, no checkpoint, newer format, damaged.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            with path.open("rb") as raw:
                head = SIGNATURE.fullmatch(raw.read(HEAD))
                if not head:
                    raise UsageError(f"{path}: not a checkpoint of mpisign")
                if int(head[1]) > FORMAT:
                    raise UsageError(
                        f"{path}: a checkpoint of format {int(head[1])}, but this mpisign reads up to {FORMAT}; "
                        "update mpisign"
                    )
                if _digest(raw) != head[2].decode():
                    raise UsageError(f"{path}: damaged: its checksum is not that of its contents")
            self._file = h5py.File(path, "r", **lock.hdf5(path))
        except OSError as error:
            raise UsageError(f"{path}: can't be read ({error.strerror or error})") from error
        self.attributes = {k: v.item() if isinstance(v, np.generic) else v for k, v in self._file.attrs.items()}

    def text(self, name: str) -> str:
        """config, layout or progress."""
        return self._file[name][()].decode()

    @property
    def config(self) -> dict[str, dict]:
        """The job, every default written out."""
        return tomllib.loads(self.text("config"))

    @property
    def step(self) -> int:
        return self.attributes["step"]

    def __contains__(self, name: str) -> bool:
        return f"arrays/{name}" in self._file

    def __getitem__(self, name: str) -> np.ndarray:
        return self._file[f"arrays/{name}"][()]

    def names(self) -> list[str]:
        """All arrays."""
        found: list[str] = []
        keep = lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None  # noqa: E731
        self._file["arrays"].visititems(keep)
        return found

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The shape of an array, or None if there is none of that name."""
        return self._file[f"arrays/{name}"].shape if name in self else None

    def part(self, name: str, lo: int, hi: int) -> np.ndarray:
        """Coordinates [lo, hi) of an array's last dimension."""
        return self._file[f"arrays/{name}"][..., lo:hi]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self) -> None:
        self._file.close()


def folder(run: Path) -> Path:
    """Where the checkpoints of a run file lie."""
    return run.with_suffix(".checkpoints")


def path_at(run: Path, step: int) -> Path:
    """The checkpoint of a run after so many steps."""
    return folder(run) / f"step-{step:09d}.h5"


def saved(run: Path) -> list[Path]:
    """The checkpoints of a run, the newest first, whole or not."""
    return sorted(folder(run).glob("step-*.h5"), reverse=True)


def remove_all(run: Path) -> None:
    """Removes the checkpoints of a run that is replaced."""
    for file in saved(run):
        file.unlink(missing_ok=True)


def save_model(path: Path, parameters: Mapping[str, Tensor], **attributes) -> None:
    """Writes trained parameters by name; results.load_parameters reads them without torch."""

    def fill(file: h5py.File) -> None:
        file.attrs.update(attributes, filetype="mpisign-model")
        # one dataset a parameter, dots and all: no nested groups
        group = file.create_group("parameters")
        for name, tensor in parameters.items():
            group.create_dataset(name, data=tensor.cpu().numpy())

    write_aside(path, fill)
