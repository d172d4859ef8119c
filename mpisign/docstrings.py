"""Docstrings, also where Python was told to drop them (-OO, PYTHONOPTIMIZE=2): help and the zoo are made of them."""

import ast
import inspect
from collections.abc import Callable
from functools import cache


def of(thing: Callable) -> str:
    """The docstring of a function or class, from its source where Python has dropped it; "" where there is none."""
    if text := inspect.getdoc(thing):
        return text
    try:
        return inspect.cleandoc(_of_file(inspect.getsourcefile(thing) or "").get(thing.__qualname__, ""))
    except (OSError, TypeError, SyntaxError, ValueError):
        return ""


@cache
def _of_file(path: str) -> dict[str, str]:
    """Docstrings in a file by qualified name, of what stands outside of functions."""
    with open(path, "rb") as file:
        tree = ast.parse(file.read())
    found, left = {}, [("", tree)]
    while left:
        prefix, node = left.pop()
        for inner in ast.iter_child_nodes(node):
            if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found[prefix + inner.name] = ast.get_docstring(inner, clean=False) or ""
                if isinstance(inner, ast.ClassDef):
                    left.append((f"{prefix}{inner.name}.", inner))
    return found
