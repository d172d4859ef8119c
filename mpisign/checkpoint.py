"""State out, state in: named arrays in an HDF5 file that is whole or not there at all."""

from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor

from mpisign.errors import UsageError
from mpisign.recorder import write_aside


def save(path: Path, arrays: Mapping[str, Tensor], **attributes) -> None:
    """Writes tensors by name ("x", "estimator/m", ...) and attributes, aside, synced, then renamed."""

    def fill(file: h5py.File) -> None:
        file.attrs.update(attributes, filetype="mpisign-state")
        for name, tensor in arrays.items():
            file[name] = tensor.numpy()

    write_aside(path, fill)


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, object]]:
    """The tensors by name, and the attributes.

    Raises UsageError for a file that is not a saved state.
    """
    found: dict[str, Tensor] = {}

    def visit(name: str, item) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = torch.from_numpy(np.asarray(item[()]))

    try:
        with h5py.File(path, "r") as file:
            attributes = dict(file.attrs)
            file.visititems(visit)
    except OSError as error:
        raise UsageError(f"{path}: can't be opened as HDF5 ({error})") from error
    if attributes.get("filetype") != "mpisign-state":
        raise UsageError(f"{path}: an HDF5 file, but not a saved state of mpisign")
    return found, attributes


def save_model(path: Path, parameters: Mapping[str, Tensor], **attributes) -> None:
    """Writes trained parameters by name; results.load_parameters reads them without torch."""

    def fill(file: h5py.File) -> None:
        file.attrs.update(attributes, filetype="mpisign-model")
        for name, tensor in parameters.items():
            # one dataset a parameter, dots and all: no nested groups
            file.create_group("parameters") if "parameters" not in file else None
            file["parameters"].create_dataset(name, data=tensor.numpy())

    write_aside(path, fill)
