"""Small data files in the formats that the problems read, and run files as older versions wrote them."""

import gzip

import h5py
import numpy as np

from mpisign.storage import hdf5
from mpisign.storage.reader import Run
from mpisign.storage.schema import TABLES


def idx(shape, body, kind=8):
    return bytes([0, 0, kind, len(shape)]) + np.array(shape, ">u4").tobytes() + bytes(body)


def mnist_folder(folder, count=40, side=4, classes=10, seed=0):
    """A tiny set in MNIST's format: images of side x side pixels."""
    rng = np.random.default_rng(seed)
    for stem in ("train", "t10k"):
        images, labels = (
            rng.integers(0, 256, (count, side, side), dtype=np.uint8),
            np.arange(count, dtype=np.uint8) % classes,
        )
        (folder / f"{stem}-images-idx3-ubyte").write_bytes(idx(images.shape, images.tobytes()))
        (folder / f"{stem}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels.shape, labels.tobytes())))
    return folder


def without_checksums(file):
    """A run file as versions wrote it that knew no checksums."""
    with h5py.File(file, "r+", libver="latest") as f:
        for name in ("config", *(f"{g}/{k}" for g in ("layout", "partition") for k in f[g])):
            del f[name].attrs[hdf5.CRC]
        for table in f.values():
            if isinstance(table, h5py.Group):
                table.pop(hdf5.CRC, None)


def older(path, copy):
    """The run as an mpisign wrote it that knew nothing of the method's cost."""
    copy.write_bytes(path.read_bytes())
    without_checksums(copy)
    with h5py.File(copy, "r+") as file:
        for table, columns in TABLES.items():
            for column in columns:
                if column.name.startswith("method_bytes"):
                    del file[table][column.name]
    return Run(copy)
