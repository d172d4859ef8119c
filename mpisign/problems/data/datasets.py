"""The public data sets that can be fetched: addresses and checksums."""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np

from mpisign.problems.data.readers.libsvm import read_libsvm

Say = Callable[[str], None]


@dataclass(frozen=True)
class File:
    """One file: its name, and its checksum as pooch writes them ("md5:...", "sha256:..."), of the file or of its rows.

    rows: of what is in the file, where nobody publishes a checksum of the file itself; see digest_of_rows.
    """

    name: str
    checksum: str = ""
    rows: str = ""


@dataclass(frozen=True)
class Dataset:
    """A data set: the folder on the network, its files, and the job's settings that then read it.

    unpack: whether its files are archives, whose members are put beside each other.
    """

    title: str
    base: str
    files: tuple[File, ...]
    settings: str
    unpack: bool = False


MNIST = ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz", "t10k-images-idx3-ubyte.gz",
         "t10k-labels-idx1-ubyte.gz")  # fmt: skip
LIBSVM = "https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/binary/"
TORONTO = "https://www.cs.toronto.edu/~kriz/"


def _files(names: tuple[str, ...], *sums: str) -> tuple[File, ...]:
    return tuple(File(name, checksum=checksum) for name, checksum in zip(names, sums, strict=True))


SETS: dict[str, Dataset] = {
    "mnist": Dataset(
        "handwritten digits, 60,000 and 10,000 of 28 x 28 [LeCun et al.]",
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        _files(
            MNIST, "md5:f68b3c2dcbeaaa9fbdd348bbdeb94873", "md5:d53e105ee54ea40749a09fcbcd1e9432",
            "md5:9fb629c4189551a2d022fa330f9573f3", "md5:ec29112dd5afa0611ce80d1b7f02629c",
        ),
        "problem.name=mnist problem.path={folder}",
    ),
    "fashion-mnist": Dataset(
        "clothes in MNIST's form [Xiao et al. 2017]",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        _files(
            MNIST, "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d", "md5:25c81989df183df01b3e8a0aad5dffbe",
            "md5:bef4ecab320f06d8554ea6380940ec79", "md5:bb300cfdad3c16e7a12a480ee83cd310",
        ),
        "problem.name=mnist problem.path={folder}",
    ),
    "cifar10": Dataset(
        "60,000 images of 32 x 32 in 10 classes [Krizhevsky 2009]",
        TORONTO,
        (File("cifar-10-python.tar.gz", "md5:c58f30108f718f92721af3b95e74349a"),),
        "problem.name=cifar10 problem.path={folder}",
        unpack=True,
    ),
    "cifar100": Dataset(
        "60,000 images of 32 x 32 in 100 classes [Krizhevsky 2009]",
        TORONTO,
        (File("cifar-100-python.tar.gz", "md5:eb9058c3a382ffc7106e4002c42a8d85"),),
        "problem.name=cifar100 problem.path={folder}",
        unpack=True,
    ),
    "a9a": Dataset(
        "census, 32,561 and 16,281 rows of 123 binary features [UCI Adult, by LIBSVM]",
        LIBSVM,
        (
            File("a9a", rows="a468f3ba49a1b40a097e63065486e7398936e1eff8d078adf981468249bade0a"),
            File("a9a.t", rows="04e2f828814501ea5a7c79959be8f41e67720243105ae1879b1e1335cb1208a9"),
        ),
        "problem.name=logistic problem.path={folder}/a9a problem.test_path={folder}/a9a.t",
    ),
    "mushrooms": Dataset(
        "8,124 rows of 112 binary features [UCI Mushroom, by LIBSVM]",
        LIBSVM,
        (File("mushrooms", rows="8bb35bb042f5866a6e1d8c068facc018afe8d6908617192dfe287eb1d1afc25e"),),
        "problem.name=logistic problem.path={folder}/mushrooms",
    ),
    "german": Dataset(
        "1,000 rows of 24 features [UCI Statlog German Credit, by LIBSVM]",
        LIBSVM,
        (File("german.numer_scale", rows="2c31f7a0aeb45f07f61886f113ea16072f405dac54af47e691a617e6aba91420"),),
        "problem.name=logistic problem.path={folder}/german.numer_scale",
    ),
    "shakespeare": Dataset(
        "1,115,394 characters of Shakespeare [karpathy/char-rnn]",
        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/",
        (File("input.txt", "sha256:86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"),),
        "problem.name=text problem.path={folder}/input.txt",
    ),
}  # fmt: skip


def digest_of_rows(file: Path) -> str:
    """SHA-256 over values, columns, row ends and labels of a LIBSVM file, however its lines end."""
    (rows,), digest = read_libsvm([file]), sha256()
    x = rows["inputs"]
    for array, kind in ((x.data, "<f4"), (x.indices, "<i4"), (x.indptr, "<i8"), (rows["labels"], "<f4")):
        digest.update(np.ascontiguousarray(array.astype(kind)).tobytes())
    return digest.hexdigest()
