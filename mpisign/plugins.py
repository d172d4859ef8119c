"""What other packages add: problems, algorithms and exchanges, found by their entry points.

A package says, in its pyproject.toml,

    [project.entry-points."mpisign.algorithms"]
    mine = "mypackage.algorithms"              # a module whose import enters functions into the zoo

    [project.entry-points."mpisign.exchanges"]
    mine = "mypackage.exchanges"               # a module whose import enters classes among the exchanges

    [project.entry-points."mpisign.problems"]
    mine = "mypackage.problems:LeastSquares"   # a factory, by the name that jobs give

A module that no package declares, such as a file in the folder where `python -m mpisign` is started, is named in the
job itself: algorithm.name = "module:entry", exchange.name = "module:entry" and problem.name = "module:factory".

Nothing is imported before somebody asks for a name that is not mpisign's own, or for a list of all.
"""

import ast
import importlib
import inspect
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any

from mpisign.errors import UsageError, choices, did_you_mean

PROBLEMS = "mpisign.problems"


@cache
def _declared(group: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=group)}


def problems() -> list[str]:
    """The names of other packages' problems."""
    return list(_declared(PROBLEMS))


def problem(name: str) -> Callable[..., Any] | None:
    """The factory of that name, or None if no package has one; raises UsageError if it can't be imported."""
    point = _declared(PROBLEMS).get(name)
    try:
        return point.load() if point else None
    except (ImportError, AttributeError) as error:
        raise UsageError(f"problem {name!r}: entry point {point.value} can't be loaded: {error}") from error


def load_module(name: str, where: str) -> ModuleType:
    """The module of that name, imported; raises UsageError that begins with `where` if it is not to be found.

    Whatever else goes wrong inside of it is its own, and is raised as it is.
    """
    try:
        return importlib.import_module(name)
    except (ImportError, ValueError, TypeError) as error:
        raise UsageError(
            f"{where}: {error}; the module must be importable: installed, on PYTHONPATH, or in the folder where "
            "`python -m mpisign` is started"
        ) from error


def find(kind: str, name: str, registry: Mapping[str, Any], others: tuple[str, ...] = ()) -> Any:
    """An entry of a registry, another package's too, or module:name, whose module is imported first.

    kind: "algorithm" or "exchange". others: names that are no entries. Raises UsageError listing the names there are.
    """
    if ":" in name:
        module, _, name = name.partition(":")
        load_module(module, f"{kind}.name = {module}:{name}")
    if name not in registry:
        failed = load_all(kind)
        if name not in registry:
            names = [*others, *registry]
            broken = "".join(f"; not loaded: {line}" for line in failed)
            raise UsageError(f"unknown {kind} {name!r}{did_you_mean(name, names)}; known: {choices(names)}{broken}")
    return registry[name]


@cache
def load_all(kind: str) -> tuple[str, ...]:
    """Imports all modules with algorithms, or with exchanges, once; returns a line for each that could not be."""
    failed = []
    for point in _declared(f"mpisign.{kind}s").values():
        try:
            point.load()
        except Exception as error:  # other people's code: a fault there must not take mpisign's own away
            package = point.dist.name if point.dist else "some package"
            failed.append(f"entry point {point.name} = {point.value} of {package}: {type(error).__name__}: {error}")
    return tuple(failed)


def docstring(thing: Callable) -> str:
    """The docstring of a function or class, from its source where Python drops it (-OO): help is made of it. Or ""."""
    if text := inspect.getdoc(thing):
        return text
    try:
        return inspect.cleandoc(_docstrings_in(inspect.getsourcefile(thing) or "").get(thing.__qualname__, ""))
    except (OSError, TypeError, SyntaxError, ValueError):
        return ""


@cache
def _docstrings_in(path: str) -> dict[str, str]:
    """Docstrings in a file by qualified name, of what stands outside of functions."""
    with open(path, "rb") as file:
        tree = ast.parse(file.read())
    docstrings, left = {}, [("", tree)]
    while left:
        prefix, node = left.pop()
        for inner in ast.iter_child_nodes(node):
            if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                docstrings[prefix + inner.name] = ast.get_docstring(inner, clean=False) or ""
                if isinstance(inner, ast.ClassDef):
                    left.append((f"{prefix}{inner.name}.", inner))
    return docstrings
