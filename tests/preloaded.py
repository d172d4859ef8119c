"""Commands, and ranks under mpirun, as copies of a process that has imported torch already, which costs seconds each.

A server (multiprocessing's) is started at the first command, with the program's modules and nothing of the test's own
state; every command is a fork of it, with an exit code, streams and a process group of its own. Under mpirun it is one
for each rank: rank.py takes its place and has another fork, which listens, make the rank.
"""

import atexit
import contextlib
import ctypes
import functools
import json
import multiprocessing
import os
import runpy
import select
import signal
import socket
import sys
import threading
import time
import types
from pathlib import Path
from unittest import mock

from mpisign.parallel import mpi
from tests import rank

# seconds for which a rank's line to the launcher stays open, so that others can tell their codes: where one ends by
# os._exit() it takes no leave of the launcher, which kills whoever is left as soon as the line is closed
PAUSE = 1.0


@functools.cache
def _context():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.imports"])
    return context


def _started(work, *arguments, daemon: bool = False) -> multiprocessing.Process:
    """A fork of the server, which is started with the first one, at work."""
    with mock.patch.dict(os.environ, {"OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}):
        process = _context().Process(target=work, args=arguments, daemon=daemon)
        process.start()
    return process


def start(command: list[str], cwd: Path, environment: dict[str, str], out: str, err: str) -> multiprocessing.Process:
    """A started command: mpisign's console script, or Python with a script; its output goes to files."""
    return _started(_to_files, command, str(cwd), environment, out, err)


def _to_files(command: list[str], cwd: str, environment: dict[str, str], out: str, err: str) -> None:
    os.setsid()
    for number, name, mode in ((0, os.devnull, os.O_RDONLY), (1, out, os.O_WRONLY), (2, err, os.O_WRONLY)):
        os.dup2(os.open(name, mode), number)
    _become(command, cwd, environment)


def _become(command: list[str], cwd: str, environment: dict[str, str]) -> None:
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    program, *arguments = command
    if Path(program).name == "mpisign":
        sys.argv = command
        from mpisign.cli import main

        main()
    elif arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    elif arguments[0] == "-c":
        sys.argv, sys.modules["__main__"] = ["-c", *arguments[2:]], types.ModuleType("__main__")
        exec(compile(arguments[1], "<string>", "exec"), vars(sys.modules["__main__"]))
    else:
        sys.argv, sys.path[0] = arguments, str(Path(arguments[0]).parent)
        runpy.run_path(arguments[0], run_name="__main__")


def fits(command: list[str]) -> bool:
    """Whether a command can be such a copy: not one that starts fresh interpreters itself."""
    program, *arguments = map(Path, command)
    if program.name == "mpisign":
        return "--jobs" not in command
    return program.name == "python" and arguments[0].suffix == ".py"


# Ranks


def by_copies(command: list[str]) -> list[str]:
    """The command `mpirun -n N ...` with ranks that are copies; any other one as it is."""
    launcher, *words = command
    if Path(launcher).name != "mpirun" or words[0] != "-n" or not _is_python(words[2]):
        return command
    return [launcher, *words[:2], sys.executable, "-I", "-S", rank.__file__, _address(), *words[2:]]


def _is_python(program: str) -> bool:
    return Path(program).name in ("mpisign", "python", Path(sys.executable).name)


@functools.cache
def _address() -> str:
    """Where this process's listener is asked for ranks; starts it."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("")  # to a name that Linux chooses
        listener.listen(64)
        _started(_listen, listener, daemon=True)
        return listener.getsockname()[1:].decode()


def _listen(listener: socket.socket) -> None:
    """Makes the ranks that are asked for, until the tests have ended."""
    tests = multiprocessing.parent_process().sentinel
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those who mind ranks
    while select.select([listener, tests], [], [])[0] == [listener]:
        line, _ = listener.accept()
        if not os.fork():
            listener.close()
            _mind(line)
            os._exit(0)
        line.close()


def _mind(line: socket.socket) -> None:
    """Makes a rank, passes signals on to it, and tells how it ended; kills it where who asked for it is gone."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    length, numbers, *_ = socket.recv_fds(line, 4, 4)
    command, cwd, environment = json.loads(line.recv(int.from_bytes(length), socket.MSG_WAITALL))
    if not (copy := os.fork()):
        line.close()
        for number, of_rank in enumerate(numbers[:3]):
            os.dup2(of_rank, number)
            os.close(of_rank)
        _open_streams()
        _live(command, cwd, environment | {rank.LINE: str(numbers[3])})
    for number in numbers[:3]:
        os.close(number)
    ended = os.pidfd_open(copy)
    while ended not in select.select([ended, line], [], [])[0]:
        os.kill(copy, int.from_bytes(line.recv(1)) or signal.SIGKILL)
    status = os.waitpid(copy, 0)[1]
    with contextlib.suppress(BrokenPipeError):
        line.send(status.to_bytes(4))
    time.sleep(PAUSE)


def _open_streams() -> None:
    """Python's streams, anew: those of the server may have been files, in which one can seek."""
    how = {"stdin": {}, "stdout": {"mode": "w"}, "stderr": {"mode": "w", "buffering": 1, "errors": "backslashreplace"}}
    for number, (name, options) in enumerate(how.items()):
        stream = open(number, closefd=False, **options)  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _live(command: list[str], cwd: str, environment: dict[str, str]) -> None:
    """A rank from its first line to its end, at which what is registered is done, and MPI ends.

    Not as the interpreter ends: that takes all modules apart, those too that only the server has imported, in seconds.
    """
    os.setsid()
    multiprocessing.current_process()._config["daemon"] = False  # it may have workers
    code: object = 0
    try:
        _become(command, cwd, environment)
    except SystemExit as left:
        code = left.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    if not isinstance(code, int | None):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    mpi.finalize()
    sys.stdout.flush()
    sys.stderr.flush()
    ctypes.pythonapi.exit(code or 0)  # C's, at which MPICH takes leave of its launcher
