"""Reads a problem's data once a node and hands every rank its own rows."""

from dataclasses import dataclass

import numpy as np

from mpisign import mpi
from mpisign.errors import MpisignError
from mpisign.mpi import Ranks
from mpisign.problems.base import Problem, Rows, Tables
from mpisign.problems.partition import partition
from mpisign.watchdog import WATCH


@dataclass
class Share:
    """What a process holds: of each local voter its rows and its slice of the held-out rows; and everybody's sizes."""

    train: list[Rows | None]
    test: list[Rows | None]
    rows: np.ndarray  # (n,) rows to train on, of every voter
    class_counts: np.ndarray  # (n, classes), or (n, 0)


def share_rows(problem: Problem, ranks: Ranks, voters: int, generator: np.random.Generator, **how) -> Share:
    """This process's share of the problem's data; `how` are the arguments of partition().

    voters: as many as ranks, or any number in a single process. Every node's first rank reads, or every rank where the
    problem says so. Raises UsageError on all ranks if one of them can't.
    """
    tables, parts, error = None, [], None
    if ranks.local_rank == 0 or problem.everywhere:
        try:
            tables = problem.read()
            if tables:
                parts = partition(
                    rows=tables.train.count, classes=tables.classes, ranks=voters, generator=generator, **how
                )
        except MpisignError as found:
            error = found
    ranks.agree(error)
    facts = _facts(problem, tables, parts, voters) if ranks.local_rank == 0 else None
    with WATCH("a bcast of the sizes of the data"):
        sizes, rows, class_counts = ranks.node.bcast(facts) if ranks.node else facts
    problem.adopt(sizes)
    local = 1 if ranks.size > 1 else voters
    if rows is None:
        none = np.zeros(voters, dtype=np.int64)
        return Share([None] * local, [None] * local, none, np.zeros((voters, 0), dtype=np.int64))
    if ranks.size > 1:
        dealt = [_rows_of(tables, parts, ranks.rank, voters) if problem.everywhere else _hand_out(tables, parts, ranks)]
    else:
        dealt = [_rows_of(tables, parts, voter, voters) for voter in range(voters)]
    train, test = zip(*dealt, strict=True)
    return Share(list(train), list(test), rows, class_counts)


def _facts(problem: Problem, tables: Tables | None, parts: list[np.ndarray], size: int):
    if tables is None:
        return {}, None, None
    classes = tables.classes
    count = int(classes.max()) + 1 if classes is not None else 0
    counts = [np.bincount(classes[p], minlength=count) if count else np.zeros(0, dtype=np.int64) for p in parts]
    return problem.describe(tables), np.array([len(p) for p in parts]), np.array(counts).reshape(size, count)


def _hand_out(tables: Tables | None, parts: list[np.ndarray], ranks: Ranks) -> tuple[Rows, Rows | None]:
    if ranks.local_rank:
        got = mpi.receive_arrays(ranks.node, 0)
        split = {
            part: {k[len(part) + 1 :]: a for k, a in got.items() if k.startswith(f"{part}/")}
            for part in ("train", "test")
        }
        return Rows.unflatten(split["train"]), Rows.unflatten(split["test"]) if split["test"] else None
    for local, member in list(enumerate(ranks.members))[1:]:
        train, test = _rows_of(tables, parts, member, ranks.size)
        arrays = {f"train/{k}": a for k, a in train.flat().items()}
        arrays |= {f"test/{k}": a for k, a in test.flat().items()} if test else {}
        mpi.send_arrays(ranks.node, arrays, local)
    return _rows_of(tables, parts, ranks.rank, ranks.size)


def _rows_of(tables: Tables, parts: list[np.ndarray], rank: int, size: int) -> tuple[Rows, Rows | None]:
    """A rank's training rows, and its slice of the held-out rows, which all ranks evaluate together."""
    train = tables.train.take(parts[rank])
    if tables.test is None:
        return train, None
    ends = [tables.test.count * r // size for r in (rank, rank + 1)]
    return train, tables.test.take(slice(*ends))
