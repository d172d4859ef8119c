"""A job file and --set, read into the models of tables.py: unknown keys refused with the valid ones."""

import inspect
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pydantic

from mpisign.config.tables import BUILT_IN, Config, OpenTable
from mpisign.errors import UsageError, choices, did_you_mean

ENDING = ".h5"  # of run files
VARIABLE = r"\$\$|\$[A-Za-z_][A-Za-z0-9_]*|\$\{[A-Za-z_][A-Za-z0-9_]*\}"  # as a shell has them, and $$ for a $
LENGTHS = ("steps", "epochs", "evaluations")


def load(file: Path | None, settings: Iterable[str] = ()) -> Config:
    """The job in a TOML file (or the built-in one) with `table.key=value` settings laid over it.

    Raises UsageError with one message about the first thing that is wrong.
    """
    settings = tuple(settings)
    config = make(tables(file, settings), f"{file}: " if file else "")
    return config if file else config.with_fallbacks(_left_of_the_built_in(settings))


def tables(file: Path | None, settings: Iterable[str] = ()) -> dict[str, dict]:
    """The tables of a job file (or of the built-in job) with settings laid over them, not yet checked."""
    found = _read(file) if file else {k: dict(v) for k, v in BUILT_IN.items()}
    parsed = [parse(setting) for setting in settings]
    # what another name makes useless goes before anything is set: the order of settings does not matter
    for table, key, _ in () if file else parsed:
        _forget_arguments(found, table, key)
    for table, key, value in parsed:
        found.setdefault(table, {})[key] = value
    # a setting for the length of the run takes the place of the file's, whichever way that was given
    lengths = {key for table, key, _ in parsed if table == "run"} & set(LENGTHS)
    if len(lengths) == 1:
        found["run"] = {k: v for k, v in found["run"].items() if k in lengths or k not in LENGTHS}
    return found


def make(tables: dict[str, dict], where: str = "") -> Config:
    """The job that tables describe; raises UsageError if they do not."""
    if hidden := next((key for key, text in _strings(tables) if "\0" in text), None):
        raise UsageError(f"{where}{hidden} has a zero byte in it, which no name or path may have")
    config = validate(Config, tables, where)
    given = [f"run.{name}" for name in LENGTHS if getattr(config.run, name)]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} are all given; give one of them")
    if not given:
        raise UsageError(
            "none of run.steps, run.epochs and run.evaluations is given; set one of them, as in --set run.steps=1000"
        )
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


def _left_of_the_built_in(settings: Iterable[str]) -> frozenset[str]:
    """The keys of the built-in job that nobody set and another problem may have no use for."""
    given = {f"{table}.{key}" for table, key, _ in map(parse, settings)}
    if "problem.name" not in given:
        return frozenset()
    lengths = {f"run.{name}" for name in LENGTHS}
    return frozenset({"partition.kind"} - given) | ({"run.epochs"} if not lengths & given else frozenset())


def _read(file: Path) -> dict[str, dict]:
    try:
        # TOML is UTF-8 whatever the locale; some editors put a mark in front
        tables = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UsageError(f"can't read the job file {file}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{file}: not valid TOML: {error}") from error
    loose = [key for key, value in tables.items() if not isinstance(value, dict)]
    if loose:
        key, known = loose[0], choices(Config.model_fields)
        raise UsageError(f"{file}: key {key!r} stands outside a table{_elsewhere(key)}; tables are: {known}")
    return tables


def parse(setting: str) -> tuple[str, str, Any]:
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


def literal(file: Path) -> str:
    """A path that run.file takes as it is, without fields to fill in, variables or a home."""
    return as_shell(str(file)).replace("{", "{{").replace("}", "}}")


def as_shell(path: str) -> str:
    """What shell_path() takes for this very path."""
    text = path.replace("$", "$$")
    return f"./{text}" if text.startswith("~") else text


def shell_path(text: str, key: str) -> str:
    """A path in which ~, ~user, $NAME and ${NAME} at its start or inside mean what they mean to a shell; $$ is one $.

    Raises UsageError for a variable or user that there is not.
    """

    def value(match: re.Match) -> str:
        if match[0] == "$$":
            return "$"
        name = match[0].strip("${}")
        if name not in os.environ:
            raise UsageError(f"{key} = {text!r}: there is no variable {name} in the environment; a $ itself is $$")
        return os.environ[name]

    try:
        whole = Path(text).expanduser() if text.startswith("~") else text
    except RuntimeError as error:
        raise UsageError(f"{key} = {text!r}: whose home is that? A name that begins with ~ is ./~...") from error
    return re.sub(VARIABLE, value, str(whole))


def validate(
    model: type[pydantic.BaseModel],
    values: dict,
    where: str,
    prefix: str = "",
    hints: Mapping[str, str] | None = None,
) -> Any:
    """The model of these values, or UsageError: what is wrong, the value, what is valid.

    hints: what keys without a default are for, by key.
    """
    try:
        return model(**values)
    except pydantic.ValidationError as error:
        first = (found := error.errors())[0]
        path = [str(p) for p in first["loc"]][: 2 if model is Config else 1]
        name = prefix + ".".join(path)
        if first["type"] == "extra_forbidden":
            raise UsageError(f"{where}unknown key {name}{_near(model, path)}; {_valid_keys(model, path)}") from None
        if first["type"] == "missing":
            hint = f" ({hints[path[-1]]})" if path[-1] in (hints or {}) else ""
            raise UsageError(f"{where}{name} is missing{hint}; set it, as in --set {name}=...") from None
        # a value that may be of several kinds fails once for each
        reasons = dict.fromkeys(
            e["msg"].replace("Input should be ", "")
            for e in found
            if e["loc"][: len(path)] == first["loc"][: len(path)]
        )
        near = did_you_mean(first["input"], re.findall("'(.*?)'", first.get("ctx", {}).get("expected", "")))
        raise UsageError(f"{where}{name} = {first['input']!r}{near}: should be {', or '.join(reasons)}") from None


def _near(model: type[pydantic.BaseModel], path: list[str]) -> str:
    """What an unknown key was perhaps meant to be: a table, a key of another table, or one of its own table."""
    if len(path) > 1:
        return _elsewhere(path[1]) or did_you_mean(path[1], model.model_fields[path[0]].annotation.model_fields)
    return did_you_mean(path[0], model.model_fields)


def _elsewhere(key: str) -> str:
    """The question whether the key of another table was meant; "" where no table has it."""
    found = [f"{t}.{key}" for t, field in Config.model_fields.items() if key in field.annotation.model_fields]
    return f" (did you mean {' or '.join(found)}?)" if found else ""


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
    how = pydantic.ConfigDict(extra="forbid", arbitrary_types_allowed=True)
    model = pydantic.create_model("Arguments", __config__=how, **fields)
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


def _of_shell(file: str) -> str:
    """run.file as a shell would read it, its fields not yet filled in."""
    # ${NAME} is no field, and braces in what a variable holds are none either
    pieces = re.split(rf"({VARIABLE}|^~[^/{{]*)", file)
    for k, piece in enumerate(pieces):
        if piece.startswith(("$", "~")):
            found = shell_path(piece, "run.file")
            pieces[k] = found.replace("{", "{{").replace("}", "}}")
    return "".join(pieces)


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
        path = Path(_of_shell(config.run.file).format(**fields))
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
