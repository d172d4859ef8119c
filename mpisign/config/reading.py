"""A job file and --set, read into the models of tables.py: unknown keys refused with the valid ones."""

import inspect
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pydantic

from mpisign.config.tables import BUILT_IN, Config, OpenTable
from mpisign.errors import UsageError, choices

LENGTHS = ("steps", "epochs", "evaluations")


def load(file: Path | None, settings: Iterable[str] = ()) -> Config:
    """The job in a TOML file (or the built-in one) with `table.key=value` settings laid over it.

    Raises UsageError with one message about the first thing that is wrong.
    """
    return make(tables(file, settings), f"{file}: " if file else "")


def tables(file: Path | None, settings: Iterable[str] = ()) -> dict[str, dict]:
    """The tables of a job file (or of the built-in job) with settings laid over them, not yet checked."""
    found = _read(file) if file else {k: dict(v) for k, v in BUILT_IN.items()}
    parsed = [parse(setting) for setting in settings]
    for table, key, value in parsed:
        if not file:
            _forget_arguments(found, table, key)
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


def _read(file: Path) -> dict[str, dict]:
    try:
        tables = tomllib.loads(file.read_text())
    except OSError as error:
        raise UsageError(f"can't read the job file {file}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{file}: not valid TOML: {error}") from error
    loose = [key for key, value in tables.items() if not isinstance(value, dict)]
    if loose:
        raise UsageError(f"{file}: key {loose[0]!r} stands outside a table; tables are: {choices(Config.model_fields)}")
    return tables


def parse(setting: str) -> tuple[str, str, Any]:
    """Table, key and value of a `table.key=value`; raises UsageError if it is not of that form."""
    target, equals, text = setting.partition("=")
    table, dot, key = target.strip().partition(".")
    if not (equals and dot and table and key):
        raise UsageError(f"--set {setting}: not of the form table.key=value, as in --set run.seed=2")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()  # a bare word or path is a string
    return table, key, value


def literal(file: Path) -> str:
    """A path that run.file takes as it is, without fields to fill in, variables or a home."""
    text = str(file).replace("$", "$$").replace("{", "{{").replace("}", "}}")
    return f"./{text}" if text.startswith("~") else text


def shell_path(text: str, key: str) -> str:
    """A path in which ~, ~user, $NAME and ${NAME} at its start or inside mean what they mean to a shell; $$ is one $.

    Raises UsageError for a variable or user that there is not.
    """

    def value(match: re.Match) -> str:
        if match[0] == "$$":
            return "$"
        name = match[1] or match[2]
        if name not in os.environ:
            raise UsageError(f"{key} = {text!r}: there is no variable {name} in the environment; a $ itself is $$")
        return os.environ[name]

    try:
        whole = Path(text).expanduser() if text.startswith("~") else text
    except RuntimeError as error:
        raise UsageError(f"{key} = {text!r}: whose home is that? A name that begins with ~ is ./~...") from error
    return re.sub(r"\$\$|\$(\w+)|\$\{(\w+)\}", value, str(whole), flags=re.ASCII)


def validate(model: type[pydantic.BaseModel], values: dict, where: str, prefix: str = "") -> Any:
    """The model of these values, or UsageError: what is wrong, the value, what is valid."""
    try:
        return model(**values)
    except pydantic.ValidationError as error:
        first = (found := error.errors())[0]
        path = [str(p) for p in first["loc"]][: 2 if model is Config else 1]
        name = prefix + ".".join(path)
        if first["type"] == "extra_forbidden":
            raise UsageError(f"{where}unknown key {name}; {_valid_keys(model, path)}") from None
        if first["type"] == "missing":
            raise UsageError(f"{where}{name} is missing; set it, as in --set {name}=...") from None
        # a value that may be of several kinds fails once for each
        reasons = dict.fromkeys(
            e["msg"].replace("Input should be ", "")
            for e in found
            if e["loc"][: len(path)] == first["loc"][: len(path)]
        )
        raise UsageError(f"{where}{name} = {first['input']!r}: should be {', or '.join(reasons)}") from None


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
    for p in inspect.signature(factory).parameters.values():
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            continue
        kind = Any if p.annotation is p.empty else p.annotation
        fields[p.name] = (kind, ... if p.default is p.empty else p.default)
    model = pydantic.create_model("Arguments", __config__=pydantic.ConfigDict(extra="forbid"), **fields)
    try:
        return validate(model, table.arguments, "", f"{where}.").model_dump()
    except UsageError as error:
        if "unknown key" in str(error):
            own = type(table).model_fields
            raise UsageError(
                f"{str(error).split(';')[0]}; {table.name} has: {choices(fields) or 'none of its own'}; "
                f"every {where} has: {choices(own)}"
            ) from None
        raise
