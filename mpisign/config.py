"""A job file and --set, read into frozen models: unknown keys refused with the valid ones, defaults written out.

The tables [problem] and [algorithm] also take the arguments of the factory or zoo entry they name; those are checked
against its signature, which is the only list of them.
"""

import inspect
import math
import re
import tomllib
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal

import pydantic
import tomli_w
from pydantic import Field

from mpisign.errors import UsageError, choices, did_you_mean
from mpisign.paths import with_fields

ENDING = ".h5"  # of run files
LENGTHS = ("steps", "epochs", "evaluations")
LONGEST = 10**15  # steps or gradients of a run: counters are exact up to there
Setting = tuple[str, str, Any]  # table, key and value


class Table(pydantic.BaseModel):
    """One table of a job file."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class OpenTable(Table):
    """A table that also holds the arguments of what its `name` names."""

    model_config = pydantic.ConfigDict(extra="allow", frozen=True)

    @property
    def arguments(self) -> dict[str, Any]:
        return dict(self.__pydantic_extra__ or {})


class Run(Table):
    """[run]: how long, from which seed, on what, into which file, and how often something is recorded."""

    steps: int | None = Field(None, ge=1, le=LONGEST)
    epochs: float | None = Field(None, gt=0, le=LONGEST / 1000)
    evaluations: int | None = Field(None, ge=1, le=LONGEST)
    voters: int = Field(0, ge=0)
    preset: Literal["none", "theory"] = "none"
    seed: int = Field(1, ge=0, lt=2**64)
    file: str = "runs/{problem}-{algorithm}-n{n}-seed{seed}.h5"
    overwrite: bool = False
    keep: Literal["none", "last", "best", "uniform"] = "last"
    log: Literal["text", "json"] = "text"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["float32", "bf16"] = "float32"
    compile: bool = False
    threads: int = Field(0, ge=0, le=1024)
    objective: Literal["ranks", "rows"] = "ranks"
    record_every: int = Field(10, ge=1)
    check_every: int = Field(100, ge=1)
    eval_every: int = Field(0, ge=0)
    exact_gradient: bool = False
    trace: bool = False
    recorder: Literal["auto", "swmr", "rewrite"] = "auto"
    max_minutes: float | None = Field(None, gt=0)
    watchdog: float = Field(1800.0, ge=0)
    lost_ranks: Literal["stop", "vote on", "adopt"] = "stop"
    least_voters: int = Field(1, ge=1)


class Problem(OpenTable):
    """[problem]: what is minimised, and how a rank samples its rows.

    batch_size: of a rank. global_batch_size: of all ranks together, which sets batch_size; 0 for none. batch_sizes: of
    each rank, instead of batch_size, or by measured "speed".
    """

    name: str = "digits"
    batch_size: int = Field(32, ge=0)
    global_batch_size: int = Field(0, ge=0)
    batch_sizes: Literal["speed"] | list[Annotated[int, Field(ge=1)]] | None = None
    sampling: Literal["auto", "reshuffle", "replacement"] = "auto"


class Partition(Table):
    """[partition]: which rows belong to which rank."""

    kind: Literal["iid", "labels", "dirichlet", "sorted"] = "iid"
    alpha: float = Field(0.3, gt=0)
    labels: int = Field(2, ge=1)
    min_rows: int = Field(1, ge=1)


class Algorithm(OpenTable):
    """[algorithm]: an entry of the zoo, its hyperparameters, and what every entry understands."""

    name: str = "signum-mv"
    zeros: Literal["auto", "coin", "random", "plus", "minus", "abstain"] = "auto"
    ties: Literal["auto", "coin", "random", "plus", "minus", "zero"] = "auto"
    accumulate: int = Field(1, ge=1, le=1 << 20)
    clip: float = Field(0.0, ge=0)
    weights: Literal["rows", "batches"] | list[Annotated[int, Field(ge=1, le=15)]] | None = None


class Schedule(Table):
    """[schedule]: the learning rate. Without lr, the zoo's entry has one."""

    kind: Literal["constant", "inverse-sqrt", "step", "cosine"] = "constant"
    lr: float | None = Field(None, gt=0, allow_inf_nan=False)
    warmup: int = Field(0, ge=0)
    milestones: list[Annotated[float, Field(gt=0, lt=1)]] = [0.5, 0.75]
    decay: float = Field(0.1, gt=0, lt=1)


class Dense(Table):
    """[dense]: what sends raw floats: the first steps, and parameters whose names match; at a rate of its own."""

    steps: int = Field(0, ge=0, le=LONGEST)
    parameters: list[str] = []
    lr: float | None = Field(None, gt=0, allow_inf_nan=False)


class Exchange(Table):
    """[exchange]: how messages travel. chunk: bytes of a plane in one; 0 for a quarter of x from 128 KiB to 1 MiB, and
    at least 16 KiB per rank, or 1 MiB where one rank runs alone.

    voter: what has a vote, a rank or all ranks of a node together. node_size: ranks of a node for that and for
    `hierarchical`, 0 for what a host has. gpu_aware: MPI is given memory of the GPU.
    """

    name: str = "auto"
    chunk: Literal[0] | Annotated[int, Field(ge=512, le=1 << 30)] = 0
    progress: Literal["calls", "thread"] = "calls"
    voter: Literal["rank", "node"] = "rank"
    node_size: int = Field(0, ge=0)
    gpu_aware: bool = False


class Checkpoint(Table):
    """[checkpoint]: how often all states are saved, how many are kept, and how long before Slurm's end to stop.

    memory_every: steps between those in the memory of nodes, 0 for none. ranks_changed: whether a run may go on with
    another number of ranks. residuals: of error feedback then; their mean is kept, or what leavers owe is dropped.
    """

    every_steps: int = Field(0, ge=0)
    every_minutes: float = Field(10.0, ge=0)
    keep: int = Field(2, ge=1)
    margin_seconds: float = Field(60.0, ge=0)
    memory_every: int = Field(0, ge=0)
    ranks_changed: bool = False
    residuals: Literal["keep", "drop"] = "keep"


class Probe(Table):
    """[probe]: what the papers measure, every so many steps; 0 for never. It moves no bit of x.

    batches: of each voter, from which the noise is estimated. smoothness: costs a full gradient more; see schema.py.
    """

    every: int = Field(0, ge=0)
    batches: int = Field(8, ge=2, le=1 << 16)
    smoothness: bool = True


class Adversary(Table):
    """[adversary]: the first `voters` voters lie; see adversary.py. factor: of their scales, or of their floats."""

    voters: int = Field(0, ge=0)
    kind: Literal["invert", "random", "constant", "colluding", "scale"] = "invert"
    factor: float = Field(1.0, ge=-1e6, le=1e6)


class Theory(Table):
    """[theory]: constants of the problem, for run.preset = "theory"; see theory.CONSTANTS."""

    gap: float | None = Field(None, gt=0)
    smoothness: float | None = Field(None, gt=0)
    smoothness_l1: float | None = Field(None, gt=0)
    largest_gradient: float | None = Field(None, gt=0)
    gradient_norm: float | None = Field(None, gt=0)


class Config(Table):
    """A whole job: one run. [sweep] is not part of it; see sweep.py."""

    run: Run = Run()
    problem: Problem = Problem()
    partition: Partition = Partition()
    algorithm: Algorithm = Algorithm()
    schedule: Schedule = Schedule()
    dense: Dense = Dense()
    exchange: Exchange = Exchange()
    checkpoint: Checkpoint = Checkpoint()
    theory: Theory = Theory()
    probe: Probe = Probe()
    adversary: Adversary = Adversary()

    # keys, as "table.key", that nobody chose: where they don't fit a problem, something else takes their place
    _fallbacks: frozenset[str] = pydantic.PrivateAttr(frozenset())

    def with_fallbacks(self, keys: frozenset[str]) -> "Config":
        """The same job, in which these keys ("table.key") give way where they don't fit the problem."""
        config = self.model_copy()
        config._fallbacks = keys
        return config

    def gives_way(self, key: str) -> bool:
        """Whether a key ("table.key") was left from the built-in job, and so gives way where it does not fit."""
        return key in self._fallbacks

    def updated(self, **tables: dict[str, Any]) -> "Config":
        """The same job with other values, by table and key, which are not checked again."""
        return self.model_copy(update={t: getattr(self, t).model_copy(update=new) for t, new in tables.items()})

    @property
    def ranks_per_voter(self) -> int:
        """Of a job that is resolved: where a voter is a node, exchange.node_size."""
        return self.exchange.node_size if self.exchange.voter == "node" else 1

    def text(self) -> str:
        """The job as TOML with every default written out; options that are not set are left out."""
        return tomli_w.dumps(self.written)

    @property
    def written(self) -> dict[str, dict]:
        """The tables of `text`, as TOML holds them."""
        return _plain(self.model_dump(exclude_none=True))


def _plain(value: Any) -> Any:
    """What a problem's own arguments may be besides TOML's types: paths become text, tuples lists."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, PurePath) else value


# The job of `mpisign train` without a job file; jobs/digits.toml holds the same.
BUILT_IN = {
    "run": {"epochs": 130},
    "problem": {"name": "digits", "batch_size": 8, "hidden": [128], "dropout": 0.2},
    "partition": {"kind": "dirichlet", "alpha": 0.3},
    "algorithm": {"name": "signum-mv"},
    "schedule": {"kind": "cosine", "lr": 0.001},
}


def load(file: Path | None, settings: Iterable[str] = ()) -> Config:
    """The job in a TOML file (or the built-in one) with `table.key=value` settings laid over it.

    Raises UsageError with one message about the first thing that is wrong.
    """
    parsed = [parse(setting) for setting in settings]
    if file:
        return make(_laid_over(_read(file), parsed), f"{file}: ", parsed)
    built_in = {name: dict(table) for name, table in BUILT_IN.items()}
    # what another name makes useless goes before anything is set: the order of settings does not matter
    for table, key, _ in parsed:
        _forget_arguments(built_in, table, key)
    return make(_laid_over(built_in, parsed), settings=parsed).with_fallbacks(_left_of_the_built_in(parsed))


def tables(file: Path, settings: Iterable[str] = ()) -> dict[str, dict]:
    """The tables of a job file with settings laid over them, not yet checked."""
    return _laid_over(_read(file), [parse(setting) for setting in settings])


def _laid_over(tables: dict[str, dict], parsed: list[Setting]) -> dict[str, dict]:
    for table, key, value in parsed:
        tables.setdefault(table, {})[key] = value
    # a setting for the length of the run takes the place of the file's, whichever way that was given
    lengths = {key for table, key, _ in parsed if table == "run"} & set(LENGTHS)
    if len(lengths) == 1:
        tables["run"] = {k: v for k, v in tables["run"].items() if k in lengths or k not in LENGTHS}
    return tables


def make(tables: dict[str, dict], where: str = "", settings: Iterable[Setting] = ()) -> Config:
    """The job that tables describe; raises UsageError if they do not.

    where: they come from, with a colon; settings: what of them was set at the command line.
    """
    if hidden := next((key for key, text in _strings(tables) if "\0" in text), None):
        raise UsageError(f"{where}{hidden} has a zero byte in it, which no name or path may have")
    given = {name for table, key, _ in settings for name in (table, f"{table}.{key}")}
    config = validate(Config, tables, where, given=given)
    lengths = [f"run.{name}" for name in LENGTHS if getattr(config.run, name)]
    if len(lengths) > 1:
        raise UsageError(f"{' and '.join(lengths)} are all given; give one of them")
    if not lengths:
        remedy = "set one of them, as in --set run.steps=1000"
        raise UsageError(f"none of run.steps, run.epochs and run.evaluations is given; {remedy}")
    return config


def _strings(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """All strings in tables and lists, each with the key under which it stands."""
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _strings(inner, f"{name}.{key}" if name else key)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner, name)


def _forget_arguments(tables: dict[str, dict], table: str, key: str) -> None:
    """Another problem or algorithm has no use for the arguments, or the rate, of the built-in one."""
    if key == "name" and table in ("problem", "algorithm"):
        common = Config.model_fields[table].annotation.model_fields
        tables[table] = {k: v for k, v in tables[table].items() if k in common}
        if table == "algorithm":
            tables["schedule"].pop("lr", None)


def _left_of_the_built_in(parsed: list[Setting]) -> frozenset[str]:
    """The keys of the built-in job that nobody set and another problem may have no use for."""
    keys = {f"{table}.{key}" for table, key, _ in parsed}
    if "problem.name" not in keys:
        return frozenset()
    lengths = {f"run.{name}" for name in LENGTHS}
    return frozenset({"partition.kind"} - keys) | ({"run.epochs"} if not lengths & keys else frozenset())


def _read(file: Path) -> dict[str, dict]:
    try:
        # TOML is UTF-8 whatever the locale; some editors put a mark in front
        tables = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UsageError(f"can't read the job file {file}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        if file.suffix == ENDING:
            raise UsageError(f"{file}: a run file is no job; mpisign resume {file} goes on with the run") from error
        raise UsageError(f"{file}: not valid TOML: {error}") from error
    loose = [key for key, value in tables.items() if not isinstance(value, dict)]
    if loose:
        key, known = loose[0], choices(Config.model_fields)
        raise UsageError(f"{file}: key {key!r} stands outside a table{_elsewhere(key)}; tables are: {known}")
    return tables


def parse(setting: str) -> Setting:
    """Table, key and value of a `table.key=value`; raises UsageError if it is not of that form."""
    target, equals, text = setting.partition("=")
    table, dot, key = target.strip().partition(".")
    if not (equals and dot and table and key):
        near = "" if dot else _elsewhere(table)
        raise UsageError(f"--set {setting}: not of the form table.key=value, as in --set run.seed=2{near}")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()  # a bare word or path is a string
    return table, key, value


def validate(
    model: type[pydantic.BaseModel],
    values: dict,
    where: str,
    prefix: str = "",
    hints: Mapping[str, str] | None = None,
    given: Container[str] = (),
) -> Any:
    """The model of these values, or UsageError: what is wrong, the value, what is valid.

    where: the values come from, except those that are `given` at the command line. hints: what keys without a default
    are for, by key.
    """
    try:
        return model(**values)
    except pydantic.ValidationError as error:
        first = (errors := error.errors())[0]
        path = [str(p) for p in first["loc"]][: 2 if model is Config else 1]
        name = prefix + ".".join(path)
        where = "--set " if name in given else where
        if first["type"] == "extra_forbidden":
            where = where.replace("--set ", "--set: ")
            raise UsageError(f"{where}unknown key {name}{_near(model, path)}; {_valid_keys(model, path)}") from None
        if first["type"] == "missing":
            hint = f" ({hints[path[-1]]})" if path[-1] in (hints or {}) else ""
            raise UsageError(f"{where}{name} is missing{hint}; set it, as in --set {name}=...") from None
        # a value that may be of several kinds fails once for each
        same = (e for e in errors if e["loc"][: len(path)] == first["loc"][: len(path)])
        reasons = dict.fromkeys(_reason(e, name) for e in same)
        near = did_you_mean(first["input"], re.findall("'(.*?)'", first.get("ctx", {}).get("expected", "")))
        raise UsageError(f"{where}{name} = {first['input']!r}{near}: should be {', or '.join(reasons)}") from None


def _reason(error: Mapping[str, Any], name: str) -> str:
    """What a value should be that pydantic refuses: as it says, but for what its limits hide."""
    value = error["input"]
    if isinstance(value, float) and not math.isfinite(value):
        return "a finite number"
    if error["type"] == "list_type":
        return f"a list, as in {name}=[{value}]"
    return error["msg"].replace("Input should be ", "")


def _near(model: type[pydantic.BaseModel], path: list[str]) -> str:
    """What an unknown key was perhaps meant to be: a table, a key of another table, or one of its own table."""
    if len(path) > 1:
        return _elsewhere(path[1]) or did_you_mean(path[1], model.model_fields[path[0]].annotation.model_fields)
    return did_you_mean(path[0], model.model_fields)


def _elsewhere(key: str) -> str:
    """The question whether the key of another table was meant; "" where no table has it."""
    names = [f"{t}.{key}" for t, field in Config.model_fields.items() if key in field.annotation.model_fields]
    return f" (did you mean {' or '.join(names)}?)" if names else ""


def _valid_keys(model: type[pydantic.BaseModel], path: list[str]) -> str:
    if len(path) > 1:
        return f"[{path[0]}] has: {choices(model.model_fields[path[0]].annotation.model_fields)}"
    known = choices(model.model_fields) or "none"
    return f"tables are: {known}" if model is Config else f"it has: {known}"


def bind(factory: Callable, table: OpenTable, where: str) -> dict[str, Any]:
    """A table's extra keys as arguments of a factory, with the factory's defaults filled in.

    Raises UsageError for a key the factory does not have, a missing one, or one of another type.
    """
    fields: dict[str, Any] = {}
    for p in _signature(factory).parameters.values():
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            continue
        kind = Any if p.annotation is p.empty else p.annotation
        fields[p.name] = (kind, ... if p.default is p.empty else p.default)
    rules = pydantic.ConfigDict(extra="forbid", arbitrary_types_allowed=True)
    model = pydantic.create_model("Arguments", __config__=rules, **fields)
    try:
        return validate(model, table.arguments, "", f"{where}.", getattr(factory, "hints", None)).model_dump()
    except UsageError as error:
        if "unknown key" in str(error):
            own = type(table).model_fields
            unknown = next(key for key in table.arguments if key not in fields)
            near = _elsewhere(unknown) or did_you_mean(unknown, [*fields, *own])
            raise UsageError(
                f"unknown key {where}.{unknown}{near}; {table.name} has: {choices(fields) or 'none of its own'}; "
                f"every {where} has: {choices(own)}"
            ) from None
        raise


def _signature(factory: Callable) -> inspect.Signature:
    """The signature with its annotations as types, where a module keeps them as text."""
    try:
        return inspect.signature(factory, eval_str=True)
    except Exception:  # a name that only a type checker knows
        return inspect.signature(factory)


def run_path(config: Config, n: int) -> Path:
    """run.file with its fields filled in.

    Raises UsageError (on all ranks alike) for a field it has not, and for a name that does not end in .h5: models and
    checkpoints are named after it with another ending, and two runs must not share them.
    """
    fields = {
        "problem": config.problem.name.rpartition(":")[2],
        "algorithm": config.algorithm.name.rpartition(":")[2],
        "n": n,
        "seed": config.run.seed,
    }
    try:
        path = Path(with_fields(config.run.file, "run.file").format(**fields))
        if not path.name or path.is_dir():
            raise UsageError(f"run.file = {config.run.file!r} names no file; as in runs/mine.h5", agreed=True)
        # a run that an older mpisign wrote under another name can still go on
        if path.suffix != ENDING and (config.run.overwrite or not path.is_file()):
            raise UsageError(
                f"run.file = {config.run.file!r}: the name of a run file ends in {ENDING}; set "
                f"run.file={path.with_name(path.name + ENDING)}",
                agreed=True,
            )
        return path
    except OSError as error:
        raise UsageError(f"run.file = {config.run.file!r}: {error.strerror}", agreed=True) from error
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        known = ", ".join(f"{{{name}}}" for name in fields)
        raise UsageError(
            f"run.file = {config.run.file!r}: {error} is none of its fields, which are: {known}", agreed=True
        ) from error
