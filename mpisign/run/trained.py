"""The parameters that a run kept: measured as the run measured them, and put back into a torch module."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mpisign import config as configuration
from mpisign.bits.rng import Streams
from mpisign.config import Config, Setting
from mpisign.errors import UsageError, choices, did_you_mean
from mpisign.layout import Layout
from mpisign.parallel import mpi
from mpisign.parallel.mpi import Ranks
from mpisign.parallel.world import Local
from mpisign.problems import Problem, device_for
from mpisign.problems.data.checking import checked
from mpisign.problems.data.loader import DeviceLoader
from mpisign.run import budget
from mpisign.run.evaluate import measure_ranks
from mpisign.run.plan import Plan, resolve
from mpisign.run.resume import MOVABLE, open_checkpoint, stored_job
from mpisign.run.setup import local_data, oracle_of, segment_options, use_threads
from mpisign.storage import checkpoint
from mpisign.storage.checkpoint import Checkpoint
from mpisign.storage.reader import Run, load_parameters, model_step

# what a model gathered besides, in a checkpoint: oracle/NAME/RANK, and /VOTER where that is several ranks
BUFFERS = "oracle/"
KEPT = "kept/"
POINTS = ("last", "best", "uniform")  # that a run may keep
# what may be set where a point is measured: it is of the place, and none of the run's
SAME, NOTHING = "the same figures", "nothing at that step"  # what a run told of a point
OF_THE_PLACE = (*(f"problem.{key}" for key in MOVABLE), "run.device", "run.threads")


@dataclass(frozen=True)
class Point:
    """Parameters that a run kept.

    parameters: float32 arrays by name, in the order in which they lie in x. statistics: what a model gathered besides,
    the mean over ranks. step: steps taken before. which: "last", "best" or "uniform". file: where they lie.
    """

    parameters: dict[str, np.ndarray]
    statistics: dict[str, np.ndarray]
    step: int
    which: str
    file: Path


def kept_point(run: Run, which: str | None = None) -> Point:
    """The point that a run kept, in its .model file, or in its newest checkpoint while the run is not complete.

    which: one of POINTS; by default the one of run.keep, or "last" where a checkpoint has that one not yet. Raises
    UsageError, with the setting that keeps it, where there is none.
    """
    if which not in (None, *POINTS):
        raise UsageError(f"which = {which!r}{did_you_mean(str(which), POINTS)}: a point is one of {choices(POINTS)}")
    rule = str(run.config["run"].get("keep", "none"))
    if run.complete:
        if rule == "none" or which not in (None, rule):
            raise _nothing(run, which, rule)
        return _in_model(run, rule)
    files = checkpoint.saved(run.path)
    if not files or which not in (None, "last", rule):
        raise _nothing(run, which, rule)
    with open_checkpoint(files[0], run) as opened:
        if which in (None, rule) and _has_kept(opened, rule):
            return _kept_in_checkpoint(run, opened, rule)
        if which in (None, "last"):
            return _in_checkpoint(run, opened)
    raise UsageError(f"{files[0]} has no point of run.keep = {rule!r} yet; it has the last one")


def evaluate(path: str | Path, which: str | None = None, settings: str | Sequence[str] = ()) -> dict[str, object]:
    """What a run would have told of the point that it kept, in this process alone.

    See results.evaluate(), by which users call it. settings: of OF_THE_PLACE.
    """
    if mpi.launch().size > 1:
        raise UsageError(f"one process measures what a run kept, but {mpi.launch().by} started several; start one")
    run = Run(path)
    point, config = kept_point(run, which), _job(run, settings)
    n, each = int(run.attributes["n"]), run.ranks_per_voter
    plan, ranks = resolve(config, n, each), mpi.alone(n * each, config.run.threads)
    use_threads(ranks.threads)
    figures, data = _measured(plan, ranks, n * each, point)
    told = {"run_file": str(run.path), "point": f"{point.which}, after step {point.step}"}
    told |= {"parameters": str(point.file)} | figures | {"recorded": _recorded(run, point.step, figures)}
    before = str(run.attributes.get("data", ""))
    if before and data and before != data:
        told["note"] = "the rows that were read are not those that the run had"
    return told


def load_module(path: str | Path, which: str | None = None, settings: str | Sequence[str] = ()) -> nn.Module:
    """The model of a run with the parameters that it kept, as a torch.nn.Module on the CPU, in eval mode.

    See results.load_module(), by which users call it.
    """
    run = Run(path)
    point, config = kept_point(run, which), _job(run, settings)
    problem = resolve(config, int(run.attributes["n"]), run.ranks_per_voter).problem
    _take_sizes(problem)
    module = problem.module()
    with torch.no_grad():
        _fill(module, point, run)
    return module.eval()


def _job(run: Run, settings: str | Sequence[str]) -> Config:
    """The job of a run with what is of this place, and the threads that its ranks had."""
    several = (settings,) if isinstance(settings, str) else settings
    parsed: list[Setting] = [configuration.parse(setting) for setting in several]
    for table, key, _ in parsed:
        if (name := f"{table}.{key}") not in OF_THE_PLACE:
            near = did_you_mean(name, OF_THE_PLACE)
            raise UsageError(f"--set {name}{near}: a run is measured as it was; only these may be set: "
                             f"{choices(OF_THE_PLACE)}")  # fmt: skip
    threads = [("run", "threads", count) for count in run["segments"]["threads"][-1:].tolist()]
    return stored_job(run, [*threads, *parsed], voters=int(run.attributes["n"]))


def _measured(plan: Plan, ranks: Ranks, count: int, point: Point) -> tuple[dict[str, float], str]:
    """The figures of a point, summed over so many ranks as these would, and the fingerprint of the rows."""
    streams = Streams(plan.config.run.seed)
    share = local_data(plan, ranks, count, streams)
    device = device_for(plan.problem, plan.config.run.device, ranks)
    shapes = {name: array.shape for name, array in point.parameters.items()}
    layout = Layout(shapes, segment_options(plan, shapes), device)
    x = layout.flatten({name: torch.from_numpy(array) for name, array in point.parameters.items()})
    gathered = {name: torch.from_numpy(array).to(device) for name, array in point.statistics.items()}
    members = [oracle_of(plan, rank, rows, count, layout, streams, ranks) for rank, rows in enumerate(share.train)]
    weights = budget.weights(plan.config, share)[:, None] * budget.shares(plan.config, share)
    test = [DeviceLoader(part, device) if part else None for part in share.test]
    figures = measure_ranks(members, weights.reshape(-1).tolist(), Local(count), x, test, gathered)
    return figures, share.data


def _recorded(run: Run, step: int, figures: dict[str, float]) -> str:
    """What the run told of this point, and whether that is the same."""
    rows = run["eval"]
    at = np.flatnonzero(rows["step"] == step)
    if not len(at):
        return NOTHING
    before = {name: float(rows[name][at[-1]]) for name in figures}
    if all(np.array_equal(before[name], figures[name], equal_nan=True) for name in figures):
        return SAME
    return ", ".join(f"{name} {value!r}" for name, value in before.items() if np.isfinite(value))


def _nothing(run: Run, which: str | None, rule: str) -> UsageError:
    """The error that a run did not keep what is asked for."""
    if not run.complete and which in (None, "last", rule):
        text = f"{run.path}: no checkpoint, and a run that is not complete has its parameters nowhere else"
        return UsageError(f"{text}; checkpoint.every_steps and checkpoint.every_minutes say when there is one")
    kept = "no parameters" if rule == "none" else f'the point of run.keep = "{rule}" alone'
    return UsageError(f'{run.path} kept {kept}; run.keep = "{which or "last"}" keeps what is asked for, in a new run')


def _in_model(run: Run, rule: str) -> Point:
    file = run.path.with_suffix(".model")
    if not file.exists():
        raise UsageError(f"{file} is missing: the parameters that {run.path} kept lay there")
    arrays, names = load_parameters(file), _names(run)
    if missing := [name for name in names if name not in arrays]:
        raise UsageError(f"{file} is of another run than {run.path}: it has no parameter {missing[0]!r}")
    statistics = {name: array for name, array in arrays.items() if name not in names}
    return Point({name: arrays[name] for name in names}, statistics, model_step(file), rule, file)


def _in_checkpoint(run: Run, opened: Checkpoint) -> Point:
    """The present point of a checkpoint, with the mean of what the ranks gathered."""
    of_ranks: dict[str, dict[int, np.ndarray]] = {}
    numbers = 1 if run.ranks_per_voter == 1 else 2  # at the end of a name
    for told in opened.names():
        if told.startswith(BUFFERS):
            name, rank, *_ = told.removeprefix(BUFFERS).rsplit("/", numbers)
            of_ranks.setdefault(name, {})[int(rank)] = opened[told]
    # added in the order of the ranks, as the run does
    means = {}
    for name, arrays in of_ranks.items():
        first, *others = (arrays[rank] for rank in sorted(arrays))
        total = first.copy()
        for other in others:
            total += other
        means[name] = total / np.float32(len(arrays))
    return Point(_cut(run, opened, "x"), means, opened.step, "last", opened.path)


def _has_kept(opened: Checkpoint, rule: str) -> bool:
    """Whether a checkpoint has a point besides the last one; what it has before the uniform one is drawn is none."""
    return f"{KEPT}x" in opened and (rule == "best" or int(opened.progress["kept_step"]) > 0)


def _kept_in_checkpoint(run: Run, opened: Checkpoint, rule: str) -> Point:
    names = [name.removeprefix(KEPT) for name in opened.names() if name.startswith(KEPT)]
    statistics = {name: opened[KEPT + name] for name in names if name != "x"}
    step = int(opened.progress["kept_step"])
    return Point(_cut(run, opened, f"{KEPT}x"), statistics, step, rule, opened.path)


def _names(run: Run) -> list[str]:
    """Of all parameters, in the order in which they lie in x."""
    return [name.decode() for name in run.layout["name"].tolist()]


def _cut(run: Run, opened: Checkpoint, name: str) -> dict[str, np.ndarray]:
    """The parameters in an array of a checkpoint that is x as it lies with its pads, by name."""
    x = opened[name]
    if x.ndim != 1 or len(x) < int((run.layout["offset"] + run.layout["size"]).max()):
        raise UsageError(f"{opened.path}: {name} has shape {x.shape}, too small for the parameters of {run.path}")
    columns = (run.layout[key].tolist() for key in ("shape", "offset", "size"))
    rows = zip(_names(run), *columns, strict=True)
    return {name: x[offset : offset + size].reshape(json.loads(shape)) for name, shape, offset, size in rows}


def _take_sizes(problem: Problem) -> None:
    """Has a problem read its data, and take the sizes that they tell."""
    if tables := checked(problem, problem.read()):
        problem.adopt(problem.describe(tables))


def _fill(module: nn.Module, point: Point, run: Run) -> None:
    """Copies a point into a module. Raises UsageError where that has other parameters."""
    own: dict[str, Any] = dict(module.named_parameters()) | dict(module.named_buffers())
    wanted = point.parameters | point.statistics
    lacking = [name for name, _ in module.named_parameters() if name not in wanted]
    other = [name for name, a in wanted.items() if name not in own or tuple(own[name].shape) != a.shape]
    if lacking or other:
        raise UsageError(
            f"{run.path}: its parameter {(lacking + other)[0]!r} is none of the model that the data make today, or has "
            "another shape there; give the data that it was trained on, as by problem.path=..."
        )
    for name, array in wanted.items():
        own[name].copy_(torch.from_numpy(array))
