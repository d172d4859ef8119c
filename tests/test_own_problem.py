"""A problem of a user's own, as it is written at first: what works, and what is one message."""

import sys
import types

import h5py
import numpy as np
import pytest
import torch

from mpisign import config
from mpisign.bits.rng import Streams
from mpisign.errors import UsageError
from mpisign.parallel import mpi
from mpisign.problems import Rows, Tables
from mpisign.problems.data.checking import checked
from mpisign.run.plan import resolve
from mpisign.run.setup import _initial
from mpisign.run.train import resume, simulate
from mpisign.storage import hdf5
from mpisign.storage.reader import Run
from tests.problems import Plain

PLAIN = ("problem.name=tests.problems:Plain", "run.steps=6", "checkpoint.every_steps=2")


def here(*settings, n=2):
    simulate(config.load(None, (*PLAIN, *settings)), n, quiet=True)


def test_it_needs_nothing_but_its_name(tmp_path):
    file = tmp_path / "r.h5"
    here(f"run.file={file}")
    run = Run(file)
    assert run["eval"]["train_loss"][-1] < run["eval"]["train_loss"][0]
    # arguments that are paths and tuples are told in the run file, and understood again
    assert (run.config["problem"]["path"], run.config["problem"]["start"]) == ("data.npz", [0.0, 0.0])
    with h5py.File(file, "a") as plain:  # as if it had not ended yet
        plain["events/kind"][-1] = b"stop"
        del plain["events"][hdf5.CRC]
    resume(file)
    assert Run(file).complete


@pytest.mark.parametrize("kind", ["float64", "float16", "int64", "int32", "uint8", "bool"])
def test_rows_of_another_type_than_x_are_one_message(kind, tmp_path):
    with pytest.raises(UsageError, match=rf"rows are: a {kind}, b float32; make inputs float32 in read\(\)") as caught:
        here(f"problem.kind={kind}", f"run.file={tmp_path}/r.h5")
    assert caught.value.agreed


class OfDoubles(Plain):
    """Arithmetic between types that torch does by itself."""

    def loss(self, parameters, batch):
        return ((batch["a"] * parameters["x"]).sum(dim=1) - batch["b"]).square().mean() / 2


def test_rows_of_doubles_stay_what_they_are_where_they_work(tmp_path, monkeypatch):
    """Bits of runs that are right are not to change."""
    monkeypatch.setattr(sys.modules["tests.problems"], "Plain", OfDoubles)
    here("problem.kind=float64", f"run.file={tmp_path}/r.h5")
    tables = checked(OfDoubles(kind="float64"), OfDoubles(kind="float64").read())
    assert tables.train["a"].dtype == np.float64


def test_an_error_that_is_none_of_types_stays_what_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(Plain, "loss", lambda *_: torch.zeros(2) @ torch.zeros(3))
    with pytest.raises(RuntimeError, match="size"):
        here("problem.kind=float64", f"run.file={tmp_path}/r.h5")


def test_a_rank_that_did_not_read_is_told_of_describe_and_adopt():
    plan = resolve(config.load(None, PLAIN), 1)
    plan.problem.read()
    assert "x" in _initial(plan, Streams(1), mpi.Ranks())
    plan = resolve(config.load(None, PLAIN), 1)
    with pytest.raises(UsageError, match=r"did not read the data .*'size'.*describe\(\).*adopt\(\)"):
        _initial(plan, Streams(1), mpi.Ranks(local_rank=1))
    # on the rank that did, it is a fault of the program, whose place is wanted
    with pytest.raises(AttributeError):
        _initial(plan, Streams(1), mpi.Ranks())


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        (Rows(a=np.zeros((3, 2))), "gave a Rows"),
        (Tables(Rows(a=np.zeros((0, 2)))), "no rows to train on"),
        (Tables(Rows(a=np.array(["a", "b"]))), "numbers are needed"),
        (Tables(Rows(a=np.array([{}, {}]))), "numbers are needed"),
        (Tables(Rows(a=np.zeros(2)), Rows(a=np.zeros(2, "M8[s]"))), "numbers are needed"),
        (Tables(Rows(a=np.zeros(2)), classes=np.array([0.0, 1.0])), "integers from 0"),
        (Tables(Rows(a=np.zeros(2)), classes=np.array([0, np.nan])), "integers from 0"),
        (Tables(Rows(a=np.zeros(2)), classes=np.array([0, 1, 2])), "integers from 0"),
        (Tables(Rows(a=np.zeros(2)), classes=np.array([[0], [1]])), "integers from 0"),
        (Tables(Rows(a=np.zeros(2)), classes=np.array([0, -1])), "a class of -1"),
        (Tables(Rows(a=np.zeros(2)), classes=np.array([0, 2**40])), "a class of 1099511627776"),
    ],
)
def test_tables_that_cant_be_used_are_refused(tables, words):
    with pytest.raises(UsageError, match=words):
        checked(Plain(), tables)


def test_arrays_become_what_torch_takes_with_their_values():
    from scipy.sparse import csc_array

    a = np.arange(6.0).reshape(3, 2)
    more = {"tensor": torch.tensor(a), "csc": csc_array(a)}
    rows = Rows(big=a.astype(">f4"), back=a[::-1], long=a.astype(np.longdouble), **more)
    train = checked(Plain(), Tables(rows, classes=[True, False, True])).train
    for name, wanted in (("big", a), ("back", a[::-1]), ("long", a), ("tensor", a)):
        np.testing.assert_array_equal(torch.from_numpy(train[name]).numpy(), wanted)
    np.testing.assert_array_equal(Rows.unflatten(train.flat())["csc"].toarray(), a)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (FileNotFoundError(2, "No such file", "data.npz"), "can't read its data.*data.npz"),
        (PermissionError(13, "Not allowed", "data.npz"), "can't read its data.*Not allowed"),
        (MemoryError(), "more memory than there is"),
    ],
)
def test_what_reading_runs_into_is_one_message(error, words, tmp_path, monkeypatch):
    def read(self):
        raise error

    monkeypatch.setattr(Plain, "read", read)
    with pytest.raises(UsageError, match=f"Plain: .*{words}|Plain: {words}"):
        here(f"run.file={tmp_path}/r.h5")


def test_annotations_may_be_text(monkeypatch):
    module = types.ModuleType("somebodys")
    exec(
        "from __future__ import annotations\nimport numpy as np\nfrom pathlib import Path\n"
        "from mpisign.problems import Problem\nclass Mine(Problem):\n"
        "    def __init__(self, path: Path = Path('x'), grid: np.ndarray | None = None):\n        self.path = path\n",
        module.__dict__,
    )
    monkeypatch.setitem(sys.modules, "somebodys", module)
    plan = resolve(config.load(None, ("problem.name=somebodys:Mine", "problem.path=there")), 1)
    assert str(plan.problem.path) == "there"
    assert plan.config.written["problem"]["path"] == "there"
