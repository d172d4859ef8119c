"""Small data files in the formats that the problems read."""

import gzip

import numpy as np


def idx(shape, body, kind=8):
    return bytes([0, 0, kind, len(shape)]) + np.array(shape, ">u4").tobytes() + bytes(body)


def mnist_folder(folder, count=40):
    """A tiny set in MNIST's format."""
    rng = np.random.default_rng(0)
    for stem in ("train", "t10k"):
        images, labels = (
            rng.integers(0, 256, (count, 4, 4), dtype=np.uint8),
            np.arange(count, dtype=np.uint8) % 10,
        )
        (folder / f"{stem}-images-idx3-ubyte").write_bytes(idx(images.shape, images.tobytes()))
        (folder / f"{stem}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels.shape, labels.tobytes())))
    return folder
