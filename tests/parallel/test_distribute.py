"""Rows are handed out whole: every row to exactly one rank, dense or sparse."""

import h5py
import numpy as np
import pytest

from mpisign.bits.rng import Streams
from mpisign.errors import UsageError
from mpisign.parallel import mpi
from mpisign.problems import Problem, Rows, Tables
from mpisign.problems.data.distribute import distribute_rows, fingerprint
from mpisign.problems.data.partition import partition
from mpisign.problems.data.readers.hdf5 import StoredRows
from mpisign.problems.hdf5 import Hdf5

pytestmark = pytest.mark.mpi


class Numbered(Problem):
    def read(self):
        from scipy.sparse import csr_matrix

        ids = np.arange(1, 24)
        return Tables(train=Rows(ids=ids, sparse=csr_matrix(np.diag(ids))), test=Rows(ids=-ids), classes=ids % 3)

    def describe(self, tables):
        return {"count": tables.train.count}

    def adopt(self, sizes):
        self.count = sizes["count"]


@pytest.mark.parametrize("kind", ["iid", "sorted", "dirichlet"])
def test_every_row_has_one_owner(comm, everywhere, kind):
    ranks, problem = mpi.start(), Numbered()
    share = distribute_rows(
        problem, ranks, ranks.size, Streams(3).draw("partition", 0).generator(), kind=kind, alpha=1.0
    )
    everywhere(problem.count == 23, "sizes reach every rank")
    ids = comm.allgather(share.train[0]["ids"].tolist())
    everywhere(sorted(i for part in ids for i in part) == list(range(1, 24)), "each row once")
    everywhere([len(part) for part in ids] == share.rows.tolist(), "sizes recorded")
    diagonal = np.asarray(share.train[0]["sparse"].sum(axis=1)).ravel().tolist()
    everywhere(diagonal == share.train[0]["ids"].tolist(), "sparse rows belong to their ids")
    counts = np.bincount(share.train[0]["ids"] % 3, minlength=3)
    everywhere(share.class_counts[ranks.rank].tolist() == counts.tolist(), "class counts recorded")
    test = sorted(i for part in comm.allgather(share.test[0]["ids"].tolist()) for i in part)
    everywhere(test == list(range(-23, 0)), "held-out rows each once")


def test_a_fingerprint_is_the_same_for_ranks_and_for_voters_of_one_process(comm, everywhere):
    ranks = mpi.start()
    drawn = lambda: Streams(3).draw("partition", 0).generator()  # noqa: E731
    share = distribute_rows(Numbered(), ranks, ranks.size, drawn(), kind="iid")
    alone = distribute_rows(Numbered(), mpi.Ranks(), ranks.size, drawn(), kind="iid")
    found = fingerprint(share, ranks)
    everywhere(found == fingerprint(alone, mpi.Ranks()), "the same rows, the same fingerprint")
    everywhere(len(set(comm.allgather(found))) == 1, "on every rank")


def test_rows_that_one_rank_cant_read_end_all_with_one_error(comm, everywhere, tmp_path_factory):
    ranks = mpi.start()
    path = comm.bcast(str(tmp_path_factory.mktemp("data") / "data.h5") if ranks.root else None)
    if ranks.root:
        with h5py.File(path, "w") as f:
            f["x"], f["y"] = np.arange(120, dtype=np.float32).reshape(40, 3), np.arange(40) % 4
            f["x"][11, 1] = np.nan
    comm.Barrier()
    told = ""
    try:
        distribute_rows(Hdf5(path), ranks, ranks.size, Streams(3).draw("partition", 0).generator(), kind="iid")
    except UsageError as error:
        told = str(error) if error.agreed else ""
    everywhere("row 11 of x" in told, "whoever owns the row")


def test_a_partition_gives_way_on_all_ranks(comm, everywhere):
    ranks = mpi.start()
    drawn = lambda: Streams(3).draw("partition", 0).generator()  # noqa: E731
    how = {"kind": "labels", "labels": 7}  # of three classes
    share = distribute_rows(Numbered(), ranks, ranks.size, drawn(), gives_way=True, **how)
    plain = distribute_rows(Numbered(), ranks, ranks.size, drawn(), kind="iid")
    everywhere(share.kind == "iid", "told everywhere")
    everywhere(np.array_equal(share.train[0]["ids"], plain.train[0]["ids"]), "the rows that iid deals")


def test_every_rank_reads_its_own_rows_of_an_hdf5_file(comm, everywhere, monkeypatch, tmp_path_factory):
    """And no others: what a rank asks the file for is what it owns."""
    ranks = mpi.start()
    path = comm.bcast(str(tmp_path_factory.mktemp("data") / "data.h5") if ranks.root else None)
    if ranks.root:
        with h5py.File(path, "w") as f:
            f["x"], f["y"] = np.arange(120, dtype=np.float32).reshape(40, 3), np.arange(40) % 4
            f["x_test"], f["y_test"] = -f["x"][:9], f["y"][:9]
    comm.Barrier()
    asked, take = [], StoredRows.take
    monkeypatch.setattr(StoredRows, "take", lambda self, rows: asked.append(self.count) or take(self, rows))
    problem = Hdf5(path)
    drawn = lambda: Streams(3).draw("partition", 0).generator()  # noqa: E731
    share = distribute_rows(problem, ranks, ranks.size, drawn(), kind="labels", labels=4)
    everywhere(asked == [40, 9], "training rows once, held-out rows once")
    parts = partition(
        "labels", 40, np.arange(40) % 4, ranks.size, Streams(3).draw("partition", 0).generator(), labels=4
    )
    everywhere(np.array_equal(share.train[0]["inputs"][:, 0], 3.0 * parts[ranks.rank]), "its own rows")
    everywhere(np.array_equal(share.train[0]["labels"], parts[ranks.rank] % 4), "and their labels")
    total = sum(comm.allgather(len(share.test[0]["labels"])))
    everywhere(total == 9 and problem.coordinates == 3 * 128 + 128 + 128 * 4 + 4, "sizes reach every rank")
