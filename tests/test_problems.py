"""Readers, partitions, batches and gradients."""

import bz2
import gzip

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mpisign.bits.rng import Streams
from mpisign.errors import UsageError
from mpisign.layout import Layout
from mpisign.problems import PROBLEMS, Oracle, digits
from mpisign.problems.data.partition import partition
from mpisign.problems.data.readers.libsvm import read_libsvm
from mpisign.problems.logistic import Logistic
from mpisign.problems.mnist import Mnist
from tests.building import Setup
from tests.files import idx, mnist_folder
from tests.problems import Awkward

# Readers


def _both(folder, stem, count):
    """Images and labels of another number."""
    (folder / f"{stem}-images-idx3-ubyte").write_bytes(idx((count, 4, 4), [0] * count * 16))
    (folder / f"{stem}-labels-idx1-ubyte.gz").write_bytes(idx((count,), [0] * count))


def _followed(folder):
    return (folder / "train-labels-idx1-ubyte.gz").read_bytes() + b"and so on"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / "t10k-images-idx3-ubyte").unlink(), ["t10k-images-idx3-ubyte", "problem.path"]),
        (
            lambda f: (f / "train-images-idx3-ubyte").write_bytes(idx((40, 4, 4), [0] * 600)),
            ["600", "[40, 4, 4]"],
        ),
        (lambda f: (f / "train-images-idx3-ubyte").write_bytes(b"PNG and so on"), ["not an IDX file"]),
        (
            lambda f: (f / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"x" * 100, mtime=0)[:20]),
            ["decompressed"],
        ),
        (lambda f: (f / "train-labels-idx1-ubyte.gz").write_bytes(idx((39,), [0] * 39)), ["40", "39 "]),
        (lambda f: (f / "train-images-idx3-ubyte").write_bytes(b""), ["not an IDX file"]),
        (lambda f: (f / "train-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03\0"), ["cut short in its header"]),
        (lambda f: (f / "t10k-images-idx3-ubyte").write_bytes(idx((40, 5, 4), [0] * 800)), ["[1, 4, 4]", "[1, 5, 4]"]),
        (lambda f: (f / "train-labels-idx1-ubyte.gz").write_bytes(idx((40,), [3] * 40)), ["label 3", "two classes"]),
        (lambda f: (f / "train-images-idx3-ubyte").write_bytes(idx((2**31, 2**31, 4), [])), ["promises"]),
        (lambda f: _both(f, "t10k", 0), ["[0, 4, 4]", "none at all"]),
        (lambda f: (f / "train-labels-idx1-ubyte.gz").write_bytes(_followed(f)), ["decompressed", "something else"]),
    ],
)
def test_damaged_mnist_files_are_refused(damage, words, tmp_path):
    damage(mnist_folder(tmp_path))
    with pytest.raises(UsageError) as caught:
        Mnist(str(tmp_path)).read()
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("name", "raw", "words"),
    [
        ("data", None, ["no file", "problem.path"]),
        ("data", b"1 3:0.5\n2 1:1\n3 2:1\n", ["labels", "-1/+1"]),
        ("data", b"1 3:0.5\n-1 x:y\n", ["LIBSVM"]),
        ("data", b"\x00\xff\x80", ["data"]),
        ("data", b"", ["data"]),
        ("data.bz2", bz2.compress(b"1 1:1\n-1 2:1\n" * 1000)[:40], ["data.bz2"]),
        ("data.gz", gzip.compress(b"1 1:1\n-1 2:1\n" * 1000, mtime=0)[:30], ["data.gz"]),
    ],
)
def test_damaged_libsvm_files_are_refused(name, raw, words, tmp_path):
    file = tmp_path / name
    if raw is not None:
        file.write_bytes(raw)
    with pytest.raises(UsageError) as caught:
        read_libsvm([file])
    for word in words:
        assert word in str(caught.value)


def files(folder, **contents):
    """LIBSVM files of these contents, in order."""
    for name, content in contents.items():
        (folder / name).write_text(content)
    return [folder / name for name in contents]


@pytest.mark.parametrize(
    ("train", "test", "inputs", "labels"),
    [
        # counted from 0, which the held-out file alone would not show
        ("1 0:5 1:1\n-1 1:-1\n", "1 1:1\n-1 1:-1\n", [[0, 1], [0, -1]], [1, -1]),
        # nor the file to train on
        ("1 1:1\n-1 1:-1\n", "1 0:5 1:1\n-1 1:-1\n", [[5, 1], [0, -1]], [1, -1]),
        # features and classes that only the other file has
        ("1 1:1\n2 2:1\n", "1 3:4\n1 1:2\n", [[0, 0, 4], [2, 0, 0]], [-1, -1]),
        ("0 1:1 3:1\n1 2:1\n", "1 1:1\n", [[1, 0, 0]], [1]),
        ("1 1:1\n-1 2:1\n", "1\n", [[0, 0]], [1]),
    ],
)
def test_files_of_one_problem_are_read_by_one_decision(train, test, inputs, labels, tmp_path):
    known, held_out = read_libsvm(files(tmp_path, train=train, test=test))
    assert known["inputs"].shape[1] == held_out["inputs"].shape[1]
    np.testing.assert_array_equal(held_out["inputs"].toarray(), inputs)
    assert held_out["labels"].tolist() == labels


def test_a_file_without_features_does_not_move_those_of_the_others(tmp_path):
    known, _ = read_libsvm(files(tmp_path, train="1 1:1\n-1 2:1\n", test="1\n-1\n"))
    np.testing.assert_array_equal(known["inputs"].toarray(), [[1, 0], [0, 1]])


@pytest.mark.parametrize(
    ("train", "test", "words"),
    [
        ("1 1:1\n2 2147483648:1\n", "", "beyond 2147483646"),
        ("1 1:1\n2 9999999999999999999:1\n", "", "beyond 2147483646"),
        ("1 1:1\n2 2:nan\n", "", "row 2 has a value that is not a finite number"),
        ("1 1:1\n2 2:1e39\n", "", "row 2 has a value that is not a finite number"),
        ("1 1:1\nnan 2:1\n", "", "labels 1, nan"),
        ("1 1:1\n1.5 2:1\n", "", "labels 1, 1.5"),
        ("1 1:1\n1099511627776 2:1\n", "", "two classes are needed"),
        ("1 1:1\n1 2:1\n", "", "labels 1; two classes"),
        ("1 1:1\n1 2:1\n", "2 1:1\n", "train: labels 1 only"),
        ("1 1:1\n2 2:1\n", "-1 1:1\n", "labels -1, 1, 2"),
        ("1 1:1\n2 2:1\n", "\n", "test: no rows"),
        ("1\n2\n", "", "no row has a feature"),
        ("1 -3:1\n2 2:1\n", "", "can't be read as LIBSVM"),
    ],
)
def test_rows_that_cant_be_trained_on_are_refused(train, test, words, tmp_path):
    with pytest.raises(UsageError, match=words):
        read_libsvm(files(tmp_path, train=train, **({"test": test} if test else {})))


@pytest.mark.parametrize(("low", "high"), [("0", "1"), ("1", "2"), ("-1", "+1")])
@pytest.mark.parametrize(("name", "compress"), [("d", bytes), ("d.gz", gzip.compress), ("d.bz2", bz2.compress)])
def test_libsvm_labels_and_compressions(low, high, name, compress, tmp_path):
    (tmp_path / name).write_bytes(compress(f"{low} 1:0.5 3:2\n{high} 2:-1\n".encode()))
    (rows,) = read_libsvm([tmp_path / name])
    assert rows["labels"].tolist() == [-1, 1]
    np.testing.assert_array_equal(rows["inputs"].toarray(), [[0.5, 0, 2], [0, -1, 0]])


def test_a_class_that_is_only_held_out_has_an_output(tmp_path):
    folder = mnist_folder(tmp_path)
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(idx((40,), [k % 9 for k in range(40)]))
    problem = Mnist(str(folder))
    tables = problem.read()
    assert problem.describe(tables) == {"shape": (1, 4, 4), "classes": 10}


# Partitions


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["iid", "sorted", "labels", "dirichlet"]),
    st.integers(1, 9),
    st.integers(60, 200),
    st.integers(2, 10),
    st.integers(0, 99),
)
def test_every_row_belongs_to_exactly_one_rank_and_no_rank_is_empty(kind, ranks, rows, classes, seed):
    labels = np.arange(rows) % classes
    generator = Streams(seed).draw("partition", 0).generator()
    try:
        parts = partition(kind, rows, labels, ranks, generator, alpha=0.5, labels=min(2, classes))
    except UsageError as error:
        assert kind == "labels" and ranks * 2 < classes, error  # noqa: PT017, PT018
        return
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(rows))
    assert min(map(len, parts)) > 0


def test_kinds_of_partition_do_what_they_say():
    labels, generator = np.arange(1000) % 10, Streams(1).draw("partition", 0).generator()
    by_label = partition("labels", 1000, labels, 10, generator, labels=2)
    assert [len(np.unique(labels[p])) for p in by_label] == [2] * 10
    assert max(len(np.unique(labels[p])) for p in partition("sorted", 1000, labels, 10, generator)) == 1
    skewed = partition("dirichlet", 1000, labels, 10, generator, alpha=0.1, min_rows=5)
    assert min(map(len, skewed)) >= 5
    assert max(np.bincount(labels[skewed[0]]) / len(skewed[0])) > 0.2


# Batches


@pytest.mark.parametrize("batch", [1, 3, 7, 10])
def test_a_pass_sees_every_row_once(batch):
    setup = Setup(Awkward(size=10, rows=10), 1, batch_size=batch)
    oracle = setup.oracle(0)
    seen = np.concatenate([oracle._sample(k) for k in range(70 // batch)])
    for epoch in range(len(seen) // 10):
        assert sorted(seen[10 * epoch : 10 * epoch + 10].tolist()) == list(range(10))


def test_batches_depend_on_the_step_alone():
    one, other = (Setup(Awkward(size=10), 2, batch_size=3).oracle(1) for _ in range(2))
    for k in (0, 9, 4):
        np.testing.assert_array_equal(one._sample(k), other._sample(k))
    different = Setup(Awkward(size=10), 2, batch_size=3).oracle(0)
    assert any(one._sample(k).tolist() != different._sample(k).tolist() for k in range(4))


@pytest.mark.parametrize("there", [True, False])
def test_digits_are_those_of_scikit_learn(there, monkeypatch):
    from sklearn.datasets import load_digits

    if not there:  # in a version that keeps its file elsewhere
        monkeypatch.setattr(digits, "find_spec", lambda name: None)
    for found, wanted in zip(digits.bundled(), load_digits(return_X_y=True), strict=True):
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(found, wanted)


def test_two_points_see_one_dropout_mask():
    problem = PROBLEMS["digits"](hidden=[16], dropout=0.5)
    tables = problem.read()
    problem.adopt(problem.describe(tables))
    start = problem.initial(np.random.default_rng(0))
    layout = Layout({k: tuple(v.shape) for k, v in start.items()})
    x = layout.flatten(start)
    oracle = Oracle(problem, layout, tables.train, 0, Streams(1), batch_size=8)
    first, second = layout.zeros(), layout.zeros()
    oracle.begin(3)
    oracle.gradient(x, first)
    oracle.gradient(x.clone(), second, again=True)
    assert torch.equal(first, second)
    oracle.begin(4)
    oracle.gradient(x, second)
    assert not torch.equal(first, second)


# Gradients


@pytest.mark.parametrize("nonconvex", [0.0, 0.1])
def test_logistic_gradient_is_that_of_its_loss(nonconvex, tmp_path):
    rng = np.random.default_rng(0)
    lines = [
        f"{rng.choice([-1, 1])} " + " ".join(f"{i + 1}:{rng.standard_normal():.4f}" for i in range(5))
        for _ in range(30)
    ]
    (tmp_path / "d").write_text("\n".join(lines))
    problem = Logistic(str(tmp_path / "d"), l2=0.01, nonconvex=nonconvex)
    rows = problem.read().train.tensors()
    x = torch.tensor([0.3, -0.5, 1.0, 0.0, 2.0])

    def objective(values):
        a, y = torch.from_numpy(rows["inputs"].toarray()).double(), rows["labels"].double()
        loss = torch.log1p(torch.exp(-y * (a @ values))).mean()
        return loss + 0.005 * (values**2).sum() + nonconvex * (values**2 / (1 + values**2)).sum()

    exact = x.double().requires_grad_()
    objective(exact).backward()
    g = {"x": torch.zeros(5)}
    loss = problem.gradient({"x": x}, rows, g)
    np.testing.assert_allclose(g["x"], exact.grad, rtol=1e-5, atol=1e-6)
    assert loss == pytest.approx(float(objective(x.double())), rel=1e-6)
    sums = problem.measure({"x": x}, rows)
    assert sums["loss"] / sums["rows"] + problem.penalty({"x": x}) == pytest.approx(loss, rel=1e-6)


@pytest.mark.parametrize("name", ["quadratic", "rosenbrock"])
def test_synthetic_gradients_are_unbiased(name):
    problem = PROBLEMS[name](dimension=6, noise=0.5)
    x = torch.linspace(-1, 1, 6)
    exact = x.double().requires_grad_()
    if name == "quadratic":
        (0.5 * (exact**2).sum()).backward()
    else:
        (100 * (exact[1:] - exact[:-1] ** 2) ** 2 + (1 - exact[:-1]) ** 2).sum().backward()
    found = torch.zeros(4000, 6)
    for t, row in enumerate(found):
        problem.gradient({"x": x}, problem.draw(Streams(0).draw("noise", t, 0)), {"x": row})
    # the mean of so many draws lies within five of its standard deviations
    spread = 5 * found.double().std(dim=0) / len(found) ** 0.5
    assert ((found.double().mean(dim=0) - exact.grad).abs() < spread).all()
