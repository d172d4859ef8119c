"""Commands as copies of a process that has imported torch already, each import of which costs seconds.

A server (multiprocessing's) is started at the first command, with the program's modules and nothing of the test's own
state; every command is a fork of it, with an exit code, streams and a process group of its own.
"""

import functools
import multiprocessing
import os
import runpy
import sys
from pathlib import Path
from unittest import mock


@functools.cache
def _context():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.imports"])
    return context


def start(command: list[str], cwd: Path, environment: dict[str, str], out: str, err: str) -> multiprocessing.Process:
    """A started command: mpisign's console script, or Python with a script; its output goes to files."""
    with mock.patch.dict(os.environ, {"OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}):
        process = _context().Process(target=_become, args=(command, str(cwd), environment, out, err))
        process.start()
    return process


def _become(command: list[str], cwd: str, environment: dict[str, str], out: str, err: str) -> None:
    os.setsid()
    for number, name, mode in ((0, os.devnull, os.O_RDONLY), (1, out, os.O_WRONLY), (2, err, os.O_WRONLY)):
        os.dup2(os.open(name, mode), number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    program, *arguments = command
    if Path(program).name == "mpisign":
        sys.argv = command
        from mpisign.cli import main

        main()
    else:
        sys.argv, sys.path[0] = arguments, str(Path(arguments[0]).parent)
        runpy.run_path(arguments[0], run_name="__main__")


def fits(command: list[str]) -> bool:
    """Whether a command can be such a copy: not one that starts fresh interpreters itself."""
    program, *arguments = map(Path, command)
    if program.name == "mpisign":
        return "--jobs" not in command
    return program.name == "python" and arguments[0].suffix == ".py"
