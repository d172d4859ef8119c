"""Files of data: what is read, what is refused and how; every rank reads its own rows of an HDF5 file."""

import bz2
import errno
import gzip
import lzma
import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from mpisign.cli.inspect import recognise
from mpisign.errors import UsageError
from mpisign.problems.cifar import Cifar10
from mpisign.problems.data.partition import partition
from mpisign.problems.data.readers import files, hdf5
from mpisign.problems.data.readers.text import read_text
from mpisign.problems.hdf5 import Hdf5
from mpisign.problems.logistic import Logistic
from mpisign.problems.mnist import Mnist
from mpisign.problems.text import Text
from tests.building import Setup
from tests.files import mnist_folder


@pytest.mark.parametrize("ending", files.ENDINGS)
def test_compressed_files_are_found_and_read(tmp_path, ending):
    file = tmp_path / f"name{ending}"
    pack = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress}[ending]
    file.write_bytes(pack(b"content"))
    assert files.find(tmp_path, "other", "name") == file
    assert files.read(file) == b"content"
    if ending:
        file.write_bytes(pack(b"content")[:-5])
        with pytest.raises(UsageError, match="fetch it anew"):
            files.read(file)


@pytest.mark.parametrize("size", [0, 5, 70_000])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress, bz2.compress])
def test_the_head_of_a_file_is_what_read_begins_with(tmp_path, size, pack):
    content = np.random.default_rng(0).bytes(size)
    (tmp_path / "file").write_bytes(pack(content))
    assert files.head(tmp_path / "file", 1000) == files.read(tmp_path / "file")[:1000] == content[:1000]


def denied(*_, **__):
    raise PermissionError(errno.EACCES, "Permission denied")


READING = [
    lambda path: Text(str(path)).read(),
    lambda path: Hdf5(str(path)).read(),
    lambda path: Logistic(str(path)).read(),
    lambda path: Mnist(str(path)).read(),
    lambda path: Cifar10(str(path)).read(),
    recognise,
]


@pytest.mark.parametrize("read", READING)
@pytest.mark.parametrize("what", ["is_file", "open"])
def test_a_path_that_may_not_be_read_is_one_message(tmp_path, monkeypatch, read, what):
    (tmp_path / "file").write_text("1 1:1\n2 2:1\n")
    path = mnist_folder(tmp_path) if read in READING[3:5] else tmp_path / "file"
    monkeypatch.setattr(Path, what, denied)
    with pytest.raises(UsageError):
        read(path)


@pytest.mark.parametrize("read", READING[:3])
def test_what_is_no_file_is_named(tmp_path, read):
    (tmp_path / "link").symlink_to("/nowhere/at/all")
    os.mkfifo(tmp_path / "pipe")
    for path, words in (
        (tmp_path, "a folder; set problem.path"),
        (tmp_path / "link", "a link to /nowhere/at/all"),
        (tmp_path / "pipe", "nothing that can be read twice"),
        (tmp_path / "nothing", "no such file"),
    ):
        with pytest.raises(UsageError, match=words):
            read(path)


# Text


def test_windows_are_of_the_text_and_what_follows(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("abcä" * 50, encoding="utf-8")
    numbers, known = read_text(file, "utf-8")
    assert known == "abcä"
    tables = Text(str(file), context=8, test_fraction=0.25).read()
    assert (tables.train.count, tables.test.count) == (18, 6)
    np.testing.assert_array_equal(tables.train["inputs"].ravel(), numbers[: 18 * 8])
    np.testing.assert_array_equal(tables.train["labels"].ravel(), numbers[1 : 18 * 8 + 1])
    assert Text(str(file), context=8, stride=1, test_fraction=0.25).read().train.count == 142
    assert set(tables.classes) == set(range(8))


def test_a_gpt_learns_what_follows_what(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("hello world. " * 60)
    setup = Setup(Text(str(file), context=16, width=32, layers=1), 2, batch_size=4)
    stepper = setup.stepper(setup.algorithm("dlion-mavo"))
    first = stepper.step(0.003).loss
    for _ in range(60):
        last = stepper.step(0.003).loss
    assert first == pytest.approx(np.log(9), rel=0.1)
    assert last < 0.5
    found = setup.oracle(0).measure(stepper.x, setup.oracle(0).rows)
    assert found["correct"] / found["rows"] > 0.9


@pytest.mark.parametrize(
    ("content", "options", "told"),
    [
        (b"caf\xe9" * 99, {}, r"byte 0xe9 at 3 .*problem\.encoding"),
        (b"abc" * 99, {"encoding": "klingon"}, r"problem\.encoding"),
        (b"abc", {}, "too few for windows"),
        (b"abc" * 99, {"context": 0}, r"problem\.context = 0"),
        (b"abc" * 99, {"heads": 3}, "must be a multiple"),
        (b"aaa" * 99, {"context": 8}, "nothing to learn"),
        (b"", {}, "too few for windows"),
        (b"abc" * 99 + b"+2AA-", {"encoding": "utf-7"}, r"'\\ud800' at character 297"),
        (b"abc" * 99 + b"\xff\xfe", {"encoding": "utf-8-sig"}, "byte 0xff at 297"),
        (b"abc" * 99, {"encoding": "utf-16"}, "not text in utf-16.*truncated"),
        (b"abc" * 99, {"encoding": "undefined"}, "not text in undefined"),
        (b"abc" * 99, {"encoding": "rot13"}, r"problem\.encoding = 'rot13'"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path, content, options, told):
    (tmp_path / "text.txt").write_bytes(content)
    with pytest.raises(UsageError, match=told):
        Text(str(tmp_path / "text.txt"), **options).read()


def test_another_encoding_can_be_named(tmp_path):
    (tmp_path / "text.txt").write_bytes(b"caf\xe9" * 99)
    assert read_text(tmp_path / "text.txt", "latin-1")[1] == "acfé"


# HDF5


@pytest.fixture
def stored(tmp_path):
    rng = np.random.default_rng(0)
    with h5py.File(tmp_path / "data.h5", "w") as f:
        f["x"] = rng.integers(256, size=(90, 3, 8, 8), dtype=np.uint8)
        f["y"] = rng.integers(4, size=90)
        f["x_test"], f["y_test"] = f["x"][:10], f["y"][:10]
    return tmp_path / "data.h5"


def test_rows_are_read_where_they_are_wanted(stored, monkeypatch):
    monkeypatch.setattr(hdf5, "PIECE", 7 * 192)  # seven rows at a time
    rows = hdf5.StoredRows(stored, "x", "y")
    with h5py.File(stored) as f:
        x, y = f["x"][:], f["y"][:]
    for part in partition("iid", 90, None, 4, np.random.default_rng(1)):
        taken = rows.take(part)
        np.testing.assert_array_equal(taken["inputs"], x[part])
        np.testing.assert_array_equal(taken["labels"], y[part])
    assert rows.take(slice(80, 90)).count == 10


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_a_model_trains_on_rows_of_a_file(stored, model):
    setup = Setup(Hdf5(str(stored), model=model, norm="group", hidden=[16]), 3, batch_size=8)
    stepper = setup.stepper(setup.algorithm("signum-mv"))
    before = setup.oracle(0).objective(stepper.x)
    for _ in range(60):
        stepper.step(0.003)
    assert setup.oracle(0).objective(stepper.x) < before
    assert setup.problem.read().test.count == 10


@pytest.mark.parametrize(
    ("change", "options", "told"),
    [
        (lambda f: f.pop("x"), {}, r"no dataset 'x'; its datasets: x_test, y, y_test"),
        (lambda f: f["y"].__setitem__(3, -1), {}, "a label of -1"),
        (lambda f: f["y"].__setitem__(3, 7), {"classes": 4}, "a label of 7, but there are 4 classes"),
        (lambda f: f["y_test"].__setitem__(0, 9), {}, "a label of 9"),
        (lambda f: f.__setitem__("z", np.zeros(90)), {"labels": "z"}, "integers are needed"),
        (lambda f: f.__setitem__("z", np.zeros(8, int)), {"labels": "z"}, "no rows of data"),
        (lambda f: f.__setitem__("z", np.zeros((90, 0))), {"inputs": "z"}, "no rows of data"),
        (lambda f: f.__setitem__("z", h5py.Empty("f4")), {"inputs": "z"}, "holds no values"),
        (lambda f: f.__setitem__("z", 3), {"inputs": "z"}, "no rows of data"),
        (lambda f: f.__setitem__("z", np.zeros((90, 2), complex)), {"inputs": "z"}, "numbers and integers"),
        (lambda f: f.__setitem__("z", h5py.SoftLink("/gone")), {"inputs": "z"}, "no dataset 'z'"),
        (lambda f: f.__setitem__("z", h5py.ExternalLink("gone.h5", "/x")), {"inputs": "z"}, "another file"),
        (lambda f: replace(f, "y", np.full(90, 2**40)), {}, "stay below 1048576"),
        (lambda f: f["y"].__setitem__(..., 2), {}, "the label 2; there is nothing to learn"),
        (lambda f: replace(f, "x_test", np.zeros((10, 3, 8, 7), np.uint8)), {}, r"\[3, 8, 8\].*\[3, 8, 7\]"),
        (lambda f: replace(f, "x_test", np.zeros((10, 3, 8, 8))), {}, "uint8.*float64.*store both alike"),
        (lambda f: f.pop("y_test"), {}, "no dataset 'y_test'"),
        (lambda f: f.create_dataset("z", (90, 2), "f4"), {"inputs": "z"}, "never filled"),
        (
            lambda f: f.create_dataset("z", (90, 2), "f4", chunks=(9, 2)).write_direct(
                np.ones((9, 2)), dest_sel=np.s_[:9]
            ),
            {"inputs": "z"},
            "only in part",
        ),
        (lambda f: f.create_virtual_dataset("z", gone()), {"inputs": "z", "external": True}, "gone.h5 is not there"),
    ],
)
def test_what_does_not_fit_is_refused(stored, change, options, told):
    with h5py.File(stored, "a") as f:
        change(f)
    with pytest.raises(UsageError, match=told):
        Hdf5(str(stored), **options).read()


def replace(file, name, array):
    del file[name]
    file[name] = array


def gone():
    """The layout of a virtual dataset whose source is not there: HDF5 reads zeros."""
    layout = h5py.VirtualLayout((90, 2), "f4")
    layout[:] = h5py.VirtualSource("gone.h5", "x", (90, 2))
    return layout


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e39])
def test_rows_that_are_no_numbers_are_refused_by_whoever_reads_them(stored, value, monkeypatch):
    monkeypatch.setattr(hdf5, "PIECE", 64)
    with h5py.File(stored, "a") as f:
        f["z"] = np.ones((90, 2))
        f["z"][7, 1] = value
    rows = hdf5.StoredRows(stored, "z", "y")
    rows.take(np.arange(7))
    with pytest.raises(UsageError, match="row 7 of z"):
        rows.take(np.array([3, 7, 8]))


def test_a_filter_that_hdf5_lacks_is_named(stored, monkeypatch):
    with h5py.File(stored, "a") as f:
        f.create_dataset("z", data=np.ones((90, 2)), compression="gzip")
    monkeypatch.setattr(hdf5, "available", lambda code: False)
    assert Hdf5(str(stored), inputs="z").read().train.count == 90  # it can be read nevertheless
    monkeypatch.setattr(hdf5, "_readable", lambda data: False)
    with pytest.raises(UsageError, match=r"filter 1 .*which this HDF5 has not.*h5repack"):
        Hdf5(str(stored), inputs="z").read()


def test_what_is_no_hdf5_is_refused(tmp_path):
    (tmp_path / "data.h5").write_bytes(b"no")
    with pytest.raises(UsageError, match="can't be read as HDF5"):
        Hdf5(str(tmp_path / "data.h5")).read()
