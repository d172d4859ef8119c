"""Checkpoints and models: named arrays in an HDF5 file that is whole or not there at all.

A checkpoint is a matter of voters, not of ranks: any exchange, placement or simulation of the same n voters goes on
from it. Both begin with a checksum of all that follows, see checksum.py.

    (head)                  "mpisign-checkpoint FORMAT blake2b HEX", zeros up to 512 bytes
    /                       attributes: step (taken so far), begun (at which states were made), n, d, definition
    /config                 text: the job as TOML, every default written out
    /layout                 text: JSON, name and shape of every parameter, in order
    /progress               text: JSON, what the run log counts: bytes, evaluations, rows of the run file; and the
                            fingerprint of the data
    /arrays/x               float32 (length,): the parameters as they lie in x, pads included; once, as all ranks agree
    /arrays/x_bfloat16      int16 (length,) in its place, the bits of bfloat16, where no x in float32 is kept
    /arrays/estimator/m/3   an array of voter 3; sign/... alike
    /arrays/vote/z          (..., length): what the vote keeps, in coordinate order, whoever counted it
    /arrays/update/m        an array of the update, the same on every rank; averaged/m of parameters that do not vote
    /arrays/stage1/...      the arrays of an algorithm's later stages
    /arrays/verdict         int64 words: signs of the verdict counted last, for the column `flips`
    /arrays/kept/x          float32 (length,): the point kept for the end of the run, if any; beside it its statistics
"""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from mpisign.errors import UsageError, printable
from mpisign.storage import hdf5, runfile
from mpisign.storage.checksum import HEAD, seal
from mpisign.storage.hdf5 import Malformed
from mpisign.storage.reader import MODEL_FORMAT
from mpisign.storage.validation import LONGEST, length
from mpisign.storage.writer import write_aside

if TYPE_CHECKING:  # a sweep is read without torch
    from torch import Tensor

FORMAT = 1
TEXTS = ("config", "layout", "progress")
NUMBERS = "fiubc"  # kinds of arrays
FAR = 1e300  # no number of what a run counts is larger


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

    write_aside(path, write, head=partial(seal, kind="checkpoint", version=FORMAT), userblock_size=HEAD)


class Checkpoint:
    """A checkpoint, open for reading once it was found whole and well-formed; a context manager.

    Raises UsageError saying what is wrong with the file: missing, no checkpoint, newer format, damaged, or made by
    something else: values of another kind, numbers that can't be, links into other files.
    """

    def __init__(self, path: Path):
        self.path = path
        self._file = hdf5.sealed(path, "checkpoint", FORMAT)
        try:
            self._read()
        except Malformed as error:
            self.close()
            raise UsageError(f"{path}: {error}") from error
        except Exception as error:  # whatever HDF5 may come to with a file that something else made
            self.close()
            raise UsageError(f"{path}: can't be read ({hdf5.first_line(error)})") from error

    def _read(self) -> None:
        self.attributes = hdf5.attributes(self._file)
        texts = {name: hdf5.text(self._file, name) for name in TEXTS}
        self.layout = texts["layout"]  # JSON, as text: compared as it is
        self.config: dict[str, dict] = runfile.job(texts["config"])  # the job, every default written out
        self.progress = _progress(texts["progress"])
        steps = length(self.config) if "run" in self.config else LONGEST
        for name, low, high in (("step", 0, steps), ("n", 1, LONGEST), ("d", 1, LONGEST), ("begun", 0, LONGEST)):
            value = self.attributes.get(name)
            if type(value) is not int or not low <= value <= high:
                raise Malformed(f"attribute {name} = {value!r:.80}: a number from {low} to {high} is needed")
        self.step: int = self.attributes["step"]
        if self.attributes["begun"] > self.step:
            raise Malformed(f"attribute begun = {self.attributes['begun']}, after step {self.step}")
        if type(self.attributes.get("definition")) is not str:
            raise Malformed("attribute definition is no text")
        if not isinstance(hdf5.find(self._file, "arrays"), h5py.Group):
            raise Malformed("/arrays is no group")

    @property
    def voters(self) -> list[int]:
        """The voters whose states it holds: all, but for those that were lost when it was written."""
        return [voter for voter in range(int(self.attributes["n"])) if voter not in self.progress.get("lost", [])]

    def _array(self, name: str) -> h5py.Dataset:
        try:
            data = hdf5.dataset(self._file, f"arrays/{name}", NUMBERS)
            hdf5.demand_room(data)
        except Malformed as error:
            raise UsageError(f"{self.path}: {error}") from error
        return data

    def __contains__(self, name: str) -> bool:
        try:
            return hdf5.find(self._file, f"arrays/{name}") is not None
        except Malformed as error:
            raise UsageError(f"{self.path}: {error}") from error

    def __getitem__(self, name: str) -> np.ndarray:
        return self._array(name)[()]

    def names(self) -> list[str]:
        """All arrays."""
        return array_names(self._file)

    def kind(self, name: str) -> tuple[tuple[int, ...], np.dtype] | None:
        """Shape and type of an array, or None if there is none of that name. Raises UsageError if it is not one."""
        if name not in self:
            return None
        data = self._array(name)
        return data.shape, data.dtype

    def part(self, name: str, lo: int, hi: int) -> np.ndarray:
        """Coordinates [lo, hi) of an array's last dimension."""
        return self._array(name)[..., lo:hi]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self) -> None:
        self._file.close()


def array_names(file: h5py.File) -> list[str]:
    """The datasets under /arrays."""
    names: list[str] = []
    keep = lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None  # noqa: E731
    file["arrays"].visititems(keep)
    return names


def folder(run: Path) -> Path:
    """Where the checkpoints of a run file lie."""
    return run.with_suffix(".checkpoints")


def path_at(run: Path, step: int) -> Path:
    """The checkpoint of a run after so many steps."""
    return folder(run) / f"step-{step:09d}.h5"


def step_of(path: Path) -> int:
    """The step that the name of a checkpoint of a run tells; 0 for other names."""
    digits = path.stem.removeprefix("step-")
    return int(digits) if digits.isdecimal() else 0


def saved(run: Path) -> list[Path]:
    """The checkpoints of a run, the newest first, whole or not."""
    return sorted(folder(run).glob("step-*.h5"), reverse=True)


def remove_all(run: Path) -> None:
    """Removes the checkpoints of a run that is replaced."""
    for file in saved(run):
        file.unlink(missing_ok=True)


def save_model(path: Path, parameters: "Mapping[str, Tensor]", **attributes) -> None:
    """Writes trained parameters by name; results.load_parameters reads them without torch."""

    def fill(file: h5py.File) -> None:
        file.attrs.update(attributes, filetype="mpisign-model")
        # one dataset per parameter, dots and all: no nested groups
        group = file.create_group("parameters")
        for name, tensor in parameters.items():
            group.create_dataset(name, data=tensor.cpu().numpy())

    write_aside(path, fill, head=partial(seal, kind="model", version=MODEL_FORMAT), userblock_size=HEAD)


def _progress(text: str) -> dict[str, Any]:
    """What a run log, or a user's optimiser, counted. Raises Malformed where that can't be."""
    try:
        progress = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"/progress: not JSON ({hdf5.first_line(error)})") from error
    if isinstance(progress, dict) and "groups" in progress:
        return progress  # of a user's optimiser, which knows what it saved
    progress = progress if isinstance(progress, dict) else {}
    whole = {"kept_step": progress.get("kept_step"), "seen": progress.get("seen", 0)}
    counted = [progress.get("counters"), progress.get("rows"), whole]
    valid = all(isinstance(t, dict) and all(_number(v) and v >= 0 for v in t.values()) for t in counted)
    if not (valid and (progress.get("best", "") is None or _number(progress.get("best")))):
        raise Malformed(f"/progress: not what a run counts: {printable(text[:80])}")
    lost = progress.get("lost", [])
    if not (isinstance(lost, list) and all(type(voter) is int and voter >= 0 for voter in lost)):
        raise Malformed(f"/progress: not the numbers of lost voters: {printable(str(lost)[:80])}")
    return progress


def _number(value: object) -> bool:
    return type(value) in (int, float) and abs(value) < FAR
