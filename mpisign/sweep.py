"""[sweep] of a job file: many runs of one job, each with its own settings, name and product.

    [sweep]
    kind = "grid"                        # or "zip": the lists go side by side
    folder = "runs/study"                # where the products go; runs/NAME-OF-THE-JOB by default
    best = "schedule.lr"                 # optional: seeds after the first run only at the best of its values
    metric = "test_accuracy"             # by which it is the best, at the end of the run; or "train_loss"
    "schedule.lr" = [0.1, 0.01]          # any table.key with a list
    "run.seed" = [1, 2, 3]
    "run.voters" = [3, 27]

    [[sweep.case]]                       # optional: settings that belong together; a list in one is swept there
    name = "momentum"                    # optional: takes the place of the case's settings in names
    "algorithm.name" = "signum-mv"
    band = { what = "final_loss", expected = 1.0, low = 0.9, high = 1.1 }   # optional: see analysis/bands.py

A point whose run has ended is skipped, so a sweep that was cut short goes on where it stood.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import ConfigDict, Field

from mpisign import config
from mpisign.config import Config, Table
from mpisign.errors import UsageError, choices
from mpisign.results import Run

Settings = dict[str, Any]  # "table.key" -> value
SEED = "run.seed"
OF_A_CASE = ("name", "band")  # keys of a case that are no settings


class Sweep(Table):
    """The table itself; what is not one of its own keys is a list to sweep."""

    model_config = ConfigDict(extra="allow", frozen=True)

    kind: Literal["grid", "zip"] = "grid"
    folder: str = ""
    best: str | None = None
    metric: Literal["test_accuracy", "train_loss"] = "test_accuracy"
    case: list[dict[str, Any]] = Field(default_factory=lambda: [{}])


@dataclass(frozen=True)
class Point:
    """One run of a sweep. settings is None while the best value it waits for is not known."""

    index: int
    name: str
    file: Path | None
    settings: Settings | None
    tables: dict[str, dict]
    case: int = 0

    @property
    def config(self) -> Config:
        """The job of this point alone."""
        if self.settings is None:
            raise UsageError(f"point {self.index} ({self.name}) has to wait for the points before it; run those first")
        merged = {name: dict(table) for name, table in self.tables.items() if name != "sweep"}
        for key, value in self.settings.items():
            table, _, name = key.partition(".")
            merged.setdefault(table, {})[name] = value
        merged.setdefault("run", {}).update(file=_literal(self.file), overwrite=True)
        return config.make(merged)

    @property
    def status(self) -> str:
        """complete, error, incomplete, waiting (for the best value) or missing."""
        if self.settings is None:
            return "waiting"
        if not self.file.exists():
            return "missing"
        run = Run(self.file)
        self._check(run)
        return run.status.split()[0].rstrip(":")

    @property
    def ended(self) -> bool:
        return self.status in ("complete", "error")

    def _check(self, run: Run) -> None:
        """Refuses the product of another job under this point's name."""
        for table, keys in self.config.model_dump(exclude_unset=True).items():
            for key, value in keys.items():
                stored = run.config.get(table, {}).get(key, value)
                if (table, key) not in (("run", "file"), ("run", "overwrite")) and stored != value:
                    raise UsageError(
                        f"{self.file} was made with {table}.{key} = {stored!r}, but the sweep says {value!r}; "
                        "remove it, or set sweep.folder to another folder"
                    )


def read(file: Path, settings: tuple[str, ...] = ()) -> list[Point] | None:
    """The points of a job file, or None if it has no [sweep].

    Raises UsageError for a sweep that makes no sense.
    """
    tables = config.tables(file, settings)
    if "sweep" not in tables:
        return None
    found = Sweep(**_flat(tables["sweep"], Sweep.model_fields)) if _well_formed(tables["sweep"]) else None
    return _points(found, tables, found.folder or f"runs/{file.stem}")


def _well_formed(table: dict) -> bool:
    config._validate(Sweep, {k: v for k, v in table.items() if k in Sweep.model_fields}, "", "sweep.")
    return True


def _flat(table: dict, own) -> Settings:
    """Settings written as tables (schedule.lr = ... without quotes) as "table.key"."""
    found = {}
    for key, value in table.items():
        if isinstance(value, dict) and key not in own:
            found |= {f"{key}.{name}": inner for name, inner in value.items()}
        else:
            found[key] = value
    return found


def _points(sweep: Sweep, tables: dict, folder: str) -> list[Point]:
    lists = dict(sweep.__pydantic_extra__ or {})
    if not lists and sweep.case == [{}]:
        raise UsageError('[sweep] has nothing to sweep; give lists, as in "schedule.lr" = [0.1, 0.01]')
    for key, values in lists.items():
        if "." not in key:
            raise UsageError(
                f'unknown key sweep.{key}; [sweep] has: {choices(Sweep.model_fields)}, and "table.key" = [...]'
            )
        if not isinstance(values, list) or not values:
            raise UsageError(
                f'sweep."{key}" = {values!r}: a list of at least one value; a single one goes into its table'
            )
    cases = [_flat({k: v for k, v in case.items() if k not in OF_A_CASE}, ()) for case in sweep.case]
    combined, case_of = [], []
    for k, case in enumerate(cases):
        found = list(_combine(sweep.kind, lists, case))
        combined, case_of = combined + found, case_of + [k] * len(found)
    swept = [
        key for key in dict.fromkeys(k for s in combined for k in s) if len({str(s.get(key)) for s in combined}) > 1
    ]
    seeds = lists.get(SEED, [None])
    if sweep.best and not any(sweep.best in s for s in combined):
        raise UsageError(f"sweep.best = {sweep.best!r} is none of the lists, which are: {choices(swept)}")
    pairs = zip(combined, case_of, strict=True)
    first = [(s, case) for s, case in pairs if not sweep.best or s.get(SEED) == seeds[0]]

    def named(settings: Settings, case: int) -> str:
        label = sweep.case[case].get("name")
        own = cases[case] if label else ()
        return _name(settings, [k for k in swept if k not in own or isinstance(own[k], list)], label)

    def point(index: int, settings: Settings, case: int) -> Point:
        name = named(settings, case)
        return Point(index, name, Path(folder) / f"{name}.h5", settings, tables, case)

    points = [point(k, *pair) for k, pair in enumerate(first)]
    names = [p.name for p in points]
    if twice := [n for n in names if names.count(n) > 1]:
        raise UsageError(f"two points of the sweep have the name {twice[0]!r}; give their cases a name, or drop one")
    if not sweep.best:
        return points
    groups: dict[str, list[Point]] = {}
    for p in points:
        groups.setdefault(str((p.case, {k: v for k, v in p.settings.items() if k != sweep.best})), []).append(p)
    for group in groups.values():
        best = _best(group, sweep.metric)
        for seed in seeds[1:]:
            if best is not None:
                points.append(point(len(points), best.settings | {SEED: seed}, best.case))
            else:
                rest = {k: v for k, v in group[0].settings.items() if k != sweep.best} | {SEED: seed}
                name = f"{named(rest, group[0].case)} at the best {sweep.best}"
                points.append(Point(len(points), name, None, None, tables, group[0].case))
    return points


def _combine(kind: str, lists: dict[str, list], case: Settings) -> Iterator[Settings]:
    """All settings of one case; seeds always cross."""
    own = {k: v for k, v in case.items() if isinstance(v, list)}
    fixed = {k: v for k, v in case.items() if k not in own}
    lists = {k: v for k, v in lists.items() if k not in case} | own
    crossing = lists if kind == "grid" else {k: v for k, v in lists.items() if k == SEED}
    beside = {k: v for k, v in lists.items() if k not in crossing}
    if len({len(v) for v in beside.values()}) > 1:
        sizes = ", ".join(f"{k}: {len(v)}" for k, v in beside.items())
        raise UsageError(f'sweep.kind = "zip": lists of different lengths ({sizes}); make them equal, or use "grid"')
    rows = [dict(zip(beside, row, strict=True)) for row in zip(*beside.values(), strict=True)] if beside else [{}]
    for row in rows:
        for values in product(*crossing.values()):
            yield fixed | row | dict(zip(crossing, values, strict=True))


def _name(settings: Settings, swept: list[str], label: str | None = None) -> str:
    """The algorithm (or the case's own name) first, then what else is swept, as in signum-mv-lr0.01-seed1."""
    parts = [label] if label else []
    for key in swept:
        if key in settings:
            value = settings[key]
            text = "x".join(map(str, value)) if isinstance(value, list) else str(value)
            text = Path(text).name.replace(" ", "")
            short = key.rpartition(".")[2]
            parts.append(text if short in ("name", "path", "kind") else f"{short}{text}")
    return "-".join(parts) or "point"


def _best(group: list[Point], metric: str) -> Point | None:
    """The point with the best last value, None until all have ended; a run that diverged is the worst."""
    if not all(p.ended for p in group):
        return None
    values = [final(Run(p.file), metric) for p in group]
    return group[int(np.argmin(values))]


def final(run: Run, metric: str) -> float:
    """The metric at the end of a run, negated where larger is better; infinite if it did not complete."""
    column = run["eval"][metric]
    if not run.complete or not len(column) or not np.isfinite(column[-1]):
        return np.inf
    return float(-column[-1] if metric == "test_accuracy" else column[-1])


def _literal(file: Path) -> str:
    """A path that run.file takes as it is, without fields to fill in."""
    return str(file).replace("{", "{{").replace("}", "}}")
