"""Files of data: what is read, what is refused and how; every rank reads its own rows of an HDF5 file."""

import bz2
import gzip
import lzma

import h5py
import numpy as np
import pytest

from mpisign.errors import UsageError
from mpisign.problems.hdf5 import Hdf5
from mpisign.problems.partition import partition
from mpisign.problems.readers import hdf5, opening
from mpisign.problems.readers.text import read_text
from mpisign.problems.text import Text
from tests.building import Setup


@pytest.mark.parametrize("ending", opening.ENDINGS)
def test_compressed_files_are_found_and_read(tmp_path, ending):
    file = tmp_path / f"name{ending}"
    pack = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress}[ending]
    file.write_bytes(pack(b"content"))
    assert opening.find(tmp_path, "other", "name") == file
    assert opening.read(file) == b"content"
    if ending:
        file.write_bytes(pack(b"content")[:-5])
        with pytest.raises(UsageError, match="fetch it anew"):
            opening.read(file)


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
    ],
)
def test_what_does_not_fit_is_refused(stored, change, options, told):
    with h5py.File(stored, "a") as f:
        change(f)
    with pytest.raises(UsageError, match=told):
        Hdf5(str(stored), **options).read()


def test_what_is_no_hdf5_is_refused(tmp_path):
    (tmp_path / "data.h5").write_bytes(b"no")
    with pytest.raises(UsageError, match="can't be read as HDF5"):
        Hdf5(str(tmp_path / "data.h5")).read()
