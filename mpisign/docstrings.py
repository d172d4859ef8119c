"""Docstrings, also where Python was told to drop them (-OO, PYTHONOPTIMIZE=2): help and the zoo are made of them."""

import ast
import inspect
from collections.abc import Callable
from functools import cache
from types import ModuleType


def of(thing: Callable | ModuleType) -> str:
    """The docstring of a module, function or class, from its source where Python dropped it; "" where there is none."""
    if text := inspect.getdoc(thing):
        return text
    name = getattr(thing, "__qualname__", "")
    try:
        return inspect.cleandoc(_of_file(inspect.getsourcefile(thing) or "").get(name, ""))
    except (OSError, TypeError, SyntaxError, ValueError):
        return ""


@cache
def _of_file(path: str) -> dict[str, str]:
    """Docstrings in a file by qualified name, of what stands outside of functions; the file's own under ""."""
    with open(path, "rb") as file:
        tree = ast.parse(file.read())
    found, left = {"": ast.get_docstring(tree, clean=False) or ""}, [("", tree)]
    while left:
        prefix, node = left.pop()
        for inner in ast.iter_child_nodes(node):
            if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found[prefix + inner.name] = ast.get_docstring(inner, clean=False) or ""
                if isinstance(inner, ast.ClassDef):
                    left.append((f"{prefix}{inner.name}.", inner))
    return found
