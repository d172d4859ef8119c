"""A job file and --set, read into frozen models: unknown keys refused, defaults written out.

The tables [problem] and [algorithm] also take the arguments of the factory or zoo entry they name; those are
checked against its signature, which is the only list of them.
"""

from mpisign.config.reading import as_shell, bind, literal, load, make, parse, run_path, shell_path, tables, validate
from mpisign.config.tables import BUILT_IN, Algorithm, Config, Table, Theory

__all__ = [
    "BUILT_IN",
    "Algorithm",
    "Config",
    "Table",
    "Theory",
    "as_shell",
    "bind",
    "literal",
    "load",
    "make",
    "parse",
    "run_path",
    "shell_path",
    "tables",
    "validate",
]
