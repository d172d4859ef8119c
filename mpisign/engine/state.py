"""A Stepper into a checkpoint and back: root writes and reads, the other ranks hand over their own arrays in turn."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from mpisign.algorithms.slots import State
from mpisign.engine.handing import Arrays, Cut, Kind, arrays_of, cuts_of, kinds_of, take
from mpisign.engine.rounding import BITS
from mpisign.engine.stepper import Stepper
from mpisign.errors import StorageError, UsageError, printable
from mpisign.layout import Layout
from mpisign.parallel import mpi
from mpisign.parallel.device import broadcast_tensor
from mpisign.parallel.mpi import Ranks
from mpisign.storage import checkpoint, parts
from mpisign.storage.checkpoint import Checkpoint, Writer

Cuts = dict[str, Cut]


def save_state(path: Path, stepper: Stepper, ranks: Ranks, config: str, progress: dict, kept: State | None) -> None:
    """Writes a checkpoint of all ranks. Collective.

    progress: what else is to be remembered, for JSON; root's counts. kept: a point kept for the end of the run, and
    what goes with it, by name.
    Raises StorageError on all ranks if it can't be written; older checkpoints are then still there.
    """
    mine = arrays_of(stepper)
    cuts = cuts_of(stepper, mine)
    texts, attributes = _described(stepper, config, progress)
    with ranks.agreed():
        if ranks.root:
            try:
                with _in_turn(mine, cuts, ranks) as of_ranks:
                    checkpoint.save(path, lambda writer: _fill(writer, of_ranks, kept), texts, attributes)
            except (OSError, RuntimeError) as error:
                if mpi.says_lost(error):  # no fault of the file system
                    raise
                raise StorageError(f"can't write the checkpoint {path}: {error}") from error
        elif ranks.receive(0):
            ranks.comm.send(cuts, 0)
            mpi.send_arrays(ranks.comm, mine, 0)


def save_part(
    path: Path, stepper: Stepper, ranks: Ranks, facts: dict, config: str, progress: dict, kept: State | None
) -> None:
    """Writes what this rank adds to the checkpoint that save_state() would write now; see parts.py.

    facts: of the run. Raises OSError where there is no room.
    """
    own = facts | {"step": stepper.t, "rank": ranks.rank, "ranks": ranks.size}
    texts, attributes = _described(stepper, config, progress) if ranks.root else ({}, {})
    parts.save(path, lambda writer: _fill_part(writer, stepper, kept), texts, attributes | own)


def part_size(stepper: Stepper, config: str, kept: State | None) -> int:
    """Bytes that save_part() will write on this rank, or a little less."""
    size = parts.Size()
    _fill_part(size, stepper, kept)
    if stepper.world.rank:
        return size.nbytes
    # what is not there before the first step: signs of the verdict counted last
    later = sum(stage.exchange.layout.length // 8 for stage in stepper.stages if stage.exchange.before is None)
    return size.nbytes + later + len(config) + len(layout_text(stepper.layout))


def load_state(opened: Checkpoint | None, stepper: Stepper, ranks: Ranks) -> tuple[dict, State | None]:
    """Fills a Stepper with a checkpoint, which root has opened. Collective.

    Returns what save_state() was given: progress, and the point kept for the end, which is root's alone. Raises
    UsageError on all ranks, with nothing changed, if it is of another job.
    """
    everyone = ranks.gather(kinds_of(stepper))
    with ranks.agreed():
        if ranks.root:
            _check(opened, stepper, everyone)
    if not ranks.root:
        take(stepper, mpi.receive_arrays(ranks.comm, 0))
        return _take_common(stepper, ranks, None), None
    with opened:
        for rank, kinds in reversed(list(enumerate(everyone))):
            arrays = {name: array for name, kind in kinds.items() if (array := _read(opened, name, kind)) is not None}
            if rank:
                mpi.send_arrays(ranks.comm, arrays, rank)
        take(stepper, arrays)
        names = [name for name in opened.names() if name.startswith("kept/")]
        kept = {name.removeprefix("kept/"): torch.from_numpy(opened[name]) for name in names} or None
        return _take_common(stepper, ranks, opened), kept


def start_from(opened: Checkpoint | None, stepper: Stepper, ranks: Ranks) -> None:
    """Takes x and the step from a checkpoint of the same model, and nothing else. Collective; root has opened it."""
    layout = stepper.layout
    x = stepper.x if layout.whole is layout else layout.whole.zeros()
    with ranks.agreed():
        if ranks.root:
            _check_model(opened, stepper.layout)
            x.copy_(_x_in(opened, layout.whole.length))
    broadcast_tensor(ranks, x)
    if x is not stepper.x:
        stepper.x.copy_(x[layout.origin :][: layout.length])
    if stepper.x_before is not None:
        stepper.x_before.copy_(stepper.x)
    step = ranks.share(opened and opened.step)
    stepper.resume_at(step, begun=step)


def layout_text(layout: Layout) -> str:
    """Names and shapes of all parameters, in order."""
    return json.dumps([[s.name, list(s.shape)] for s in layout.segments])


# Ranks in turn


@contextmanager
def _in_turn(mine: Arrays, cuts: Cuts, ranks: Ranks) -> Iterator[Iterator[tuple[Arrays, Cuts]]]:
    """The arrays of every rank and where they belong; ranks whose turn does not come are told so in the end."""
    waiting = list(range(1, ranks.size))

    def take_turns():
        yield mine, cuts
        while waiting:
            rank = waiting.pop(0)
            ranks.comm.send(True, rank)
            theirs = ranks.receive(rank)
            yield mpi.receive_arrays(ranks.comm, rank), theirs

    try:
        yield take_turns()
    finally:
        for rank in waiting:
            ranks.comm.send(False, rank)


def _described(stepper: Stepper, config: str, progress: dict) -> tuple[dict[str, str], dict[str, object]]:
    """Texts and attributes of a checkpoint."""
    attributes = {"step": stepper.t, "begun": stepper.begun, "n": len(stepper.weights), "d": stepper.layout.size}
    attributes["definition"] = repr(stepper.algorithm)
    return {"config": config, "layout": layout_text(stepper.layout), "progress": json.dumps(progress)}, attributes


def _fill(writer: Writer, of_ranks: Iterator[tuple[Arrays, Cuts]], kept: State | None) -> None:
    _fill_kept(writer, kept)
    for arrays, cuts in of_ranks:
        _fill_rank(writer, arrays, cuts)


def _fill_part(writer: Writer | parts.Size, stepper: Stepper, kept: State | None) -> None:
    if stepper.world.rank == 0:
        _fill_kept(writer, kept)
    arrays = arrays_of(stepper)
    _fill_rank(writer, arrays, cuts_of(stepper, arrays))


def _fill_kept(writer: Writer | parts.Size, kept: State | None) -> None:
    for name, array in (kept or {}).items():
        writer.put(f"kept/{name}", array.cpu().numpy())


def _fill_rank(writer: Writer | parts.Size, arrays: Arrays, cuts: Cuts) -> None:
    for name, array in arrays.items():
        if (cut := cuts.get(name)) is None:
            writer.put(name, array)
            continue
        for lo, hi, at in cut.parts:
            writer.place(name, cut.length, lo, array[..., at : at + hi - lo])


def _read(opened: Checkpoint, name: str, kind: Kind) -> np.ndarray | None:
    """What a rank takes of an array; None for one that it can do without."""
    if kind.optional and name not in opened:
        name = kind.instead
        if not name or name not in opened:
            return None
    if kind.cut is None:
        return opened[name]
    return np.concatenate([opened.part(name, lo, hi) for lo, hi, _ in kind.cut.parts], axis=-1)


def _take_common(stepper: Stepper, ranks: Ranks, opened: Checkpoint | None) -> dict:
    """Arrays that all ranks share, from root; then the step. Returns the progress."""
    # the first voter has them, each of its ranks its shard
    world = stepper.world
    like = ranks if stepper.layout.whole is stepper.layout else replace(ranks, rank=world.rank, comm=world.comm)
    for array in stepper.common().values():
        broadcast_tensor(like, array)
    for stage in stepper.stages:
        # where everyone counts everything, root's copy is everybody's
        for array in () if stage.exchange.sharded else stage.counted().values():
            broadcast_tensor(like, array)
    facts, progress = ranks.share(opened and (opened.attributes, opened.progress))
    stepper.resume_at(facts["step"], facts["begun"])
    return progress


def _x_in(opened: Checkpoint, length: int) -> torch.Tensor:
    """x as it lies in a checkpoint, float32 or bfloat16. Raises UsageError where there is none of that length."""
    name, kind = (BITS, np.int16) if BITS in opened else ("x", np.float32)
    _check_arrays(opened, {name: ((length,), np.dtype(kind))})
    x = torch.from_numpy(opened[name])
    return x.view(torch.bfloat16) if name == BITS else x


# What must fit


def _check(opened: Checkpoint, stepper: Stepper, everyone: list[dict[str, Kind]]) -> None:
    facts, n = opened.attributes, stepper.world.n
    if facts["n"] != n:
        raise UsageError(
            f"{opened.path}: a checkpoint of {facts['n']} voters, but this job has {n}, each with its own state; "
            f"start {facts['n']}, or take only x from it: mpisign train --init-from {opened.path}"
        )
    _check_model(opened, stepper.layout)
    if facts["definition"] != (ours := repr(stepper.algorithm)):
        raise UsageError(f"{opened.path}: a checkpoint of {facts['definition']}, but this job has {ours}")
    wanted = {name: kind for kinds in everyone for name, kind in kinds.items()}
    arrays = {name: kind.whole for name, kind in wanted.items() if not kind.optional or name in opened}
    kept = {"kept/x": arrays["x"]} if "kept/x" in opened else {}
    _check_arrays(opened, arrays | kept)


def _check_arrays(opened: Checkpoint, wanted: dict[str, tuple[tuple[int, ...], np.dtype]]) -> None:
    for name, (shape, kind) in wanted.items():
        if opened.kind(name) != (tuple(shape), kind):
            text = f"lacks {name} of shape {list(shape)} and type {kind}; it was made by other code"
            raise UsageError(f"{opened.path}: {text}")


def _check_model(opened: Checkpoint, layout: Layout) -> None:
    theirs, ours = opened.layout, layout_text(layout)
    if theirs != ours:
        raise UsageError(
            f"{opened.path}: a checkpoint of another model: its parameters are {printable(theirs[:200])}, "
            f"but those of this job are {ours[:200]}"
        )
