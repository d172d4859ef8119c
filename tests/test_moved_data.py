"""Data that lie elsewhere when a run goes on: the same rows under another path, and other rows under the same one."""

import shutil

import h5py
import numpy as np
import pytest

from mpisign import config
from mpisign.bits.rng import Streams
from mpisign.errors import Stopped, UsageError
from mpisign.parallel import mpi
from mpisign.problems import Rows
from mpisign.problems.data.distribute import LocalData, distribute_rows, fingerprint
from mpisign.problems.hdf5 import Hdf5
from mpisign.run import sweep
from mpisign.run.resume import ResumeOptions
from mpisign.run.train import resume as resume_here
from mpisign.run.train import simulate
from mpisign.storage import checkpoint
from mpisign.storage.reader import Run
from tests.comparing import differing

JOB = ("problem.name=logistic", "run.steps=40", "run.record_every=5", "run.eval_every=20", "exchange.name=sharded",
       "problem.batch_size=4")  # fmt: skip


def here(*settings, options=ResumeOptions()):  # noqa: B008
    simulate(config.load(None, (*JOB, *settings)), 2, quiet=True, options=options)


def resume(file, settings=(), saved=None):
    resume_here(file, (*settings, "run.max_minutes=1000"), saved)


def rows(folder, shift=0):
    """A folder with files to train on and held out."""
    folder.mkdir(exist_ok=True)
    for name in ("train", "test"):
        lines = [f"{1 + k % 2} 1:{(-1) ** k} 2:0.{(k + shift) % 7}" for k in range(40)]
        (folder / name).write_text("\n".join(lines))
    return (f"problem.path={folder}/train", f"problem.test_path={folder}/test")


@pytest.fixture
def stopped(tmp_path):
    """A run file whose data lie in `one`, stopped after its first step; and the whole run."""
    file, whole, paths = tmp_path / "r.h5", tmp_path / "whole.h5", rows(tmp_path / "one")
    here(*paths, f"run.file={whole}")
    with pytest.raises(Stopped):
        here(*paths, f"run.file={file}", "run.max_minutes=1e-6")
    return file


def test_a_run_goes_on_with_data_that_moved(stopped, tmp_path):
    (tmp_path / "one").rename(tmp_path / "two")
    there = [f"problem.{key}={tmp_path}/two/{name}" for key, name in (("path", "train"), ("test_path", "test"))]
    resume(stopped, tuple(there))
    assert Run(stopped).complete
    assert not differing(tmp_path / "whole.h5", stopped)
    assert Run(stopped).config["problem"]["path"] == f"{tmp_path}/two/train"


def test_a_run_goes_on_by_itself_with_data_that_move_again_and_again(stopped, tmp_path):
    for k in range(2):
        (tmp_path / "one").rename(tmp_path / f"job{k}")
        with pytest.raises(Stopped):
            here(
                *rows(tmp_path / f"job{k}"),
                f"run.file={stopped}",
                "run.max_minutes=1e-6",
                options=ResumeOptions("auto"),
            )
        (tmp_path / f"job{k}").rename(tmp_path / "one")
    here(*rows(tmp_path / "one"), f"run.file={stopped}", options=ResumeOptions("auto"))
    assert not differing(tmp_path / "whole.h5", stopped)
    assert Run(stopped)["events"]["kind"].tolist().count("resume") == 3


@pytest.mark.parametrize("place", ["one", "two"])
def test_other_rows_are_refused_wherever_they_lie(stopped, tmp_path, place):
    before = stopped.read_bytes()
    paths = rows(tmp_path / place, shift=1)
    with pytest.raises(UsageError, match=r"began with other data"):
        resume(stopped, paths)
    assert stopped.read_bytes() == before


def test_a_run_without_a_fingerprint_goes_on_where_its_data_were(stopped, tmp_path):
    with h5py.File(stopped, "a") as plain:  # as an older mpisign wrote it
        del plain.attrs["data"]
    with pytest.raises(UsageError, match=r"another job: problem\.path"):
        resume(stopped, rows(tmp_path / "two"))
    resume(stopped)
    assert not differing(tmp_path / "whole.h5", stopped)
    assert Run(stopped).attributes["data"] == Run(tmp_path / "whole.h5").attributes["data"]


def test_a_checkpoint_of_the_moved_run_is_taken(stopped, tmp_path):
    (saved,) = checkpoint.saved(stopped)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    resume(stopped, rows(tmp_path / "two"), saved)
    assert Run(stopped).complete


def test_other_arguments_of_the_problem_still_count(stopped, tmp_path):
    with pytest.raises(UsageError, match=r"problem\.l2"):
        resume(stopped, (*rows(tmp_path / "two"), "problem.l2=0.5"))


def test_points_of_a_sweep_whose_data_moved_are_known(tmp_path):
    job = tmp_path / "job.toml"

    def written(place):
        rows(tmp_path / place)
        job.write_text(
            f'[run]\nsteps = 5\nvoters = 2\n[problem]\nname = "logistic"\npath = "{tmp_path}/{place}/train"\n'
            f'[sweep]\nfolder = "{tmp_path}/points"\n"schedule.lr" = [0.01, 0.02]\n'
        )
        return sweep.read(job)

    sweep.run_points(lambda: written("one"))
    assert [p.status for p in written("two")] == ["complete"] * 2


# The fingerprint


def of(*arrays, test=None):
    train = [Rows(**a) for a in arrays]
    held_out = [Rows(**test) if test else None] * len(train)
    return fingerprint(LocalData(train, held_out, np.zeros(0), np.zeros(0)), mpi.Ranks())


def test_a_fingerprint_is_of_every_bit_type_name_and_order():
    a = np.arange(6.0).reshape(3, 2)
    flipped = np.ascontiguousarray(a).view(np.int64) ^ np.array([[0, 0], [0, 1], [0, 0]])
    others = [
        {"a": flipped.view(np.float64)},
        {"a": a.astype(np.float32)},
        {"b": a},
        {"a": a.reshape(3, 1, 2)},
        {"a": a[:2]},
        {"a": a[::-1]},
        {"a": a, "b": a},
    ]
    found = [*map(of, others), of({"a": a}, {"a": a}), of({"a": a}, test={"a": a}), of({"a": a[:1]}, {"a": a[1:]})]
    assert len({of({"a": a}), *found}) == 1 + len(found)
    assert of({"a": a.T.copy().T}) == of({"a": a})


def test_a_fingerprint_of_sparse_rows_is_of_their_values():
    from scipy.sparse import csr_matrix

    sparse = csr_matrix(np.eye(4, dtype=np.float32))
    wide = sparse.copy()
    wide.indices, wide.indptr = wide.indices.astype(np.int64), wide.indptr.astype(np.int64)
    assert of({"a": wide}) == of({"a": sparse})
    assert of({"a": sparse * 2}) != of({"a": sparse})


def test_rows_that_are_read_from_a_file_by_every_rank_have_one_too(tmp_path):
    def found(name, value):
        with h5py.File(tmp_path / name, "w") as f:
            f["x"], f["y"] = np.ones((12, 3)), np.arange(12) % 2
            f["x"][7, 2] = value
        share = distribute_rows(
            Hdf5(str(tmp_path / name)), mpi.Ranks(), 3, Streams(1).draw("partition", 0).generator(), kind="iid"
        )
        return fingerprint(share, mpi.Ranks())

    assert found("one", 1) == found("two", 1) != found("three", 2)


def test_a_path_with_a_dollar_is_read_again_on_resume(tmp_path):
    file, paths = tmp_path / "r.h5", rows(tmp_path / "a$b")
    written = tuple(path.replace("$", "$$") for path in paths)
    with pytest.raises(Stopped):
        here(*written, f"run.file={file}", "run.max_minutes=1e-6")
    resume(file)
    assert Run(file).complete
