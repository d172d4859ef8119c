"""Rows are handed out whole: every row to exactly one rank, dense or sparse."""

import numpy as np
import pytest

from mpisign import mpi
from mpisign.problems import Problem, Rows, Tables
from mpisign.problems.share import share_rows
from mpisign.rng import Streams

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
    share = share_rows(problem, ranks, ranks.size, Streams(3).draw("partition", 0).generator(), kind=kind, alpha=1.0)
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
