"""`mpisign data show`: what a file or folder of data holds, and which rows each rank would own."""

import os
import shlex
from pathlib import Path

import numpy as np

from mpisign.bits.rng import Streams
from mpisign.errors import UsageError
from mpisign.parallel import memory
from mpisign.problems import find
from mpisign.problems.base import Problem, Rows, Tables
from mpisign.problems.data.checking import checked
from mpisign.problems.data.datasets import Say
from mpisign.problems.data.partition import partition
from mpisign.problems.data.readers import files
from mpisign.storage import superblock

HEAD = 1 << 16  # bytes by which a file is recognised


def show(path: Path, ranks: int, seed: int, say: Say, **kwargs) -> None:
    """Says what data lies at a path, and how many rows each rank has in a run with that seed.

    kwargs: kind, alpha, labels and min_rows of the partition. Raises UsageError for what is no data.
    """
    name, arguments = recognise(path)
    problem = find(name)(**arguments)
    tables = checked(problem, problem.read())
    problem.adopt(problem.describe(tables))
    settings = [f"problem.name={name}", *(f"problem.{key}={_toml(value)}" for key, value in arguments.items())]
    say(f"{path}: problem {name}; {' '.join(f'--set {shlex.quote(s)}' for s in settings)}")
    say(_summary("train", tables.train))
    if tables.test is not None:
        say(_summary("held out", tables.test))
    _show_model(problem, say)
    _show_ranks(tables, ranks, seed, say, kwargs)


def recognise(path: Path) -> tuple[str, dict[str, object]]:
    """The problem that reads what lies at a path, and its arguments. Raises UsageError if none does."""
    if _is_folder(path):
        if files.find(path, "train-images-idx3-ubyte"):
            return "mnist", {"path": str(path)}
        stems = [f"data_batch_{k}" for k in range(1, 6)]
        if batches := [stem for stem in stems if files.find(path, f"{stem}.bin", stem)]:
            test = "test_batch" if files.find(path, "test_batch.bin", "test_batch") else batches[-1]
            return "cifar10", {"path": str(path), "test": [test]}
        if files.find(path, "train.bin", "train"):
            return "cifar100", {"path": str(path)}
        raise UsageError(f"{path}: no IDX files and no batches of CIFAR in this folder; see mpisign data fetch")
    if not files.is_file(path):
        raise UsageError(f"no file or folder {path}")
    data = files.head(path, HEAD)
    if not data:
        raise UsageError(f"{path}: an empty file")
    if data.startswith(superblock.SIGNATURE):
        return "hdf5", {"path": str(path)}
    return "logistic" if _is_libsvm(data) else "text", {"path": str(path)}


def _is_folder(path: Path) -> bool:
    try:
        if path.is_dir():
            os.listdir(path)  # which may not be allowed
            return True
    except OSError as error:
        raise UsageError(f"{path}: can't be looked into: {error.strerror}") from error
    return False


def _is_libsvm(data: bytes) -> bool:
    """Whether the first line of a file's start is a number and pairs index:value."""
    words = data.splitlines()[:1]
    label, *pairs = words[0].split() if words and words[0].split() else [b"?"]
    if len(words[0]) == len(data) == HEAD:
        pairs = pairs[:-1]  # a line that is longer than what was read: its last pair may be cut
    try:
        float(label)
        return all(len([float(x) for x in pair.split(b":")]) == 2 for pair in pairs)
    except ValueError:
        return False


def _toml(value: object) -> str:
    return str(value).replace("'", '"').replace(" ", "") if isinstance(value, list) else str(value)


def _summary(what: str, rows: Rows) -> str:
    arrays = getattr(rows, "arrays", None)
    if arrays is None:  # an HDF5 file, whose rows are not read yet
        return f"{what}: {rows.count:,} rows, inputs {rows.dtype} {list(rows.shape)}"
    each = ", ".join(f"{name} {a.dtype} {list(a.shape[1:])}" for name, a in arrays.items())
    return f"{what}: {rows.count:,} rows, {each}"


def _show_model(problem: Problem, say: Say) -> None:
    if d := problem.coordinates:
        memory.require_memory(4 * d, f"x of {d:,} coordinates", "look at it on a machine with more memory")
    start = problem.initial(np.random.default_rng(0))
    say(f"with its default model: {sum(p.numel() for p in start.values()):,} coordinates")


def _show_ranks(tables: Tables, ranks: int, seed: int, say: Say, kwargs: dict) -> None:
    generator = Streams(seed).draw("partition", 0).generator()
    parts = partition(rows=tables.train.count, classes=tables.classes, ranks=ranks, generator=generator, **kwargs)
    say(f"partition {kwargs['kind']} over {ranks} ranks, seed {seed}:")
    for rank, rows in enumerate(parts):
        line = f"  rank {rank:3}: {len(rows):8,} rows"
        if tables.classes is not None:
            counts = np.bincount(tables.classes[rows], minlength=int(tables.classes.max()) + 1)
            shown = " ".join(map(str, counts[:20].tolist())) + (" ..." if len(counts) > 20 else "")
            line += f"; of each class: {shown}"
        say(line)
