"""Reads a problem's data once per node and hands every rank its own rows."""

import copy
import hashlib
from dataclasses import dataclass

import numpy as np

from mpisign.errors import UsageError
from mpisign.parallel import mpi
from mpisign.parallel.mpi import Ranks
from mpisign.parallel.watchdog import WATCH
from mpisign.problems.base import Problem, Rows, Tables
from mpisign.problems.data.checking import checked
from mpisign.problems.data.partition import partition


@dataclass
class LocalData:
    """What a process holds: of each local voter its rows and its slice of the held-out rows; and everybody's sizes."""

    train: list[Rows | None]
    test: list[Rows | None]
    rows: np.ndarray  # (n,) rows to train on, of every voter
    class_counts: np.ndarray  # (n, classes), or (n, 0)
    kind: str = "iid"  # of the partition
    data: str = ""  # fingerprint of all rows, where it was taken
    data_before: str = ""  # that of the same rows as they were dealt to other voters, where a run had others so far


def distribute_rows(
    problem: Problem, ranks: Ranks, voters: int, generator: np.random.Generator, gives_way: bool = False, **settings
) -> LocalData:
    """This process's share of the problem's data; `settings` are the arguments of partition(). Collective.

    voters: as many as ranks, or any number in a single process. gives_way: where rows can't be dealt so, they are
    dealt as "iid". Every node's first rank reads, or every rank where the problem says so. Raises UsageError on all
    ranks if one of them can't.
    """
    tables, parts, facts = None, [], None
    with ranks.agreed(), WATCH.at("reading the data"):
        if ranks.local_rank == 0 or problem.everywhere:
            tables, parts, facts = _read(problem, voters, generator, gives_way, settings)
    with WATCH("a bcast of the sizes of the data"):
        facts = ranks.node.bcast(facts) if ranks.node else facts
    sizes, rows, class_counts, kind = facts
    with ranks.agreed():
        problem.adopt(sizes)
    local = 1 if ranks.size > 1 else voters
    if rows is None:
        none = np.zeros(voters, dtype=np.int64)
        return LocalData([None] * local, [None] * local, none, np.zeros((voters, 0), dtype=np.int64))
    if ranks.size > 1 and not problem.everywhere:
        dealt = [_hand_out(tables, parts, ranks)]
    else:
        own = (ranks.rank,) if ranks.size > 1 else range(voters)
        with ranks.agreed():
            dealt = [_rows_of(tables, parts, voter, voters) for voter in own]
    train, test = zip(*dealt, strict=True)
    return LocalData(list(train), list(test), rows, class_counts, kind)


def rows_of_voter(
    problem: Problem, voters: int, voter: int, generator: np.random.Generator, gives_way: bool = False, **settings
) -> tuple[Rows | None, Rows | None]:
    """One voter's rows and its slice of the held-out rows, read anew by this process alone.

    Arguments as those of distribute_rows(). Raises UsageError if the rows can't be read or dealt.
    """
    tables, parts, _ = _read(problem, voters, generator, gives_way, settings)
    return _rows_of(tables, parts, voter, voters) if tables else (None, None)


def fingerprint(share: LocalData, ranks: Ranks) -> str:
    """A hash of the rows of all voters, training and held out: the same wherever the files lay. Collective.

    Every rank hashes its own, at about a second per gigabyte.
    """
    own = [_digest(train, test) for train, test in zip(share.train, share.test, strict=True)]
    everyone = ranks.gather(own)
    whole = hashlib.blake2b(b"".join(d for part in everyone for d in part), digest_size=16) if ranks.root else None
    return ranks.share(whole and whole.hexdigest())


def fingerprint_as_dealt(
    problem: Problem, voters: int, generator: np.random.Generator, gives_way: bool = False, **settings
) -> str:
    """The fingerprint that a run of so many voters has: this process reads all rows, and deals them to one at a time.

    Arguments as those of distribute_rows(). Raises UsageError if the rows can't be read or dealt.
    """
    tables, parts, _ = _read(problem, voters, generator, gives_way, settings)
    whole = hashlib.blake2b(digest_size=16)
    for voter in range(voters if tables else 0):
        whole.update(_digest(*_rows_of(tables, parts, voter, voters)))
    return whole.hexdigest()


def _digest(*parts: Rows | None) -> bytes:
    state = hashlib.blake2b(digest_size=16)
    for rows in parts:
        for name, array in sorted(rows.flat().items()) if rows else ():
            if name.endswith((".indices", ".indptr")):
                array = array.astype(np.int64)  # scipy's choice of integers is none of the data's
            state.update(f"{name} {array.dtype.str} {array.shape};".encode())
            state.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return state.digest()


def _read(problem: Problem, voters: int, generator: np.random.Generator, gives_way: bool, settings: dict):
    """The tables, the row numbers of every voter and all facts about them; raises UsageError if reading fails."""
    try:
        if not (tables := checked(problem, problem.read())):
            return None, [], ({}, None, None, "iid")
        kind, parts = _parts(tables, voters, generator, gives_way, settings)
        return tables, parts, _facts(problem, tables, parts, voters, kind)
    except OSError as error:
        raise UsageError(f"problem {type(problem).__name__}: can't read its data: {error}") from error
    except MemoryError as error:
        raise UsageError(f"problem {type(problem).__name__}: its data take more memory than there is") from error


def _parts(tables: Tables, voters: int, generator: np.random.Generator, gives_way: bool, settings: dict):
    """The kind of partition and the row numbers of every voter."""
    sizes = {"rows": tables.train.count, "classes": tables.classes, "ranks": voters}
    untouched = copy.deepcopy(generator)
    try:
        return settings["kind"], partition(generator=generator, **sizes, **settings)
    except UsageError:
        if not gives_way:
            raise
        return "iid", partition(generator=untouched, **sizes, **settings | {"kind": "iid"})


def _facts(problem: Problem, tables: Tables, parts: list[np.ndarray], size: int, kind: str):
    classes = tables.classes
    count = int(classes.max()) + 1 if classes is not None else 0
    counts = [np.bincount(classes[p], minlength=count) if count else np.zeros(0, dtype=np.int64) for p in parts]
    return problem.describe(tables), np.array([len(p) for p in parts]), np.array(counts).reshape(size, count), kind


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
