"""Errors, exits and signals of one rank end all ranks, in order where they are agreed on.

Ending a job depends on nothing that may fail itself: not on output, logs, or MPI.
"""

import contextlib
import gc
import os
import sys
import threading
import traceback
from collections.abc import Callable
from types import NoneType
from typing import NoReturn

from mpisign.errors import MpisignError, printable
from mpisign.parallel import ending, mpi
from mpisign.parallel.ending import say
from mpisign.parallel.launchers import Launch, launch
from mpisign.parallel.rollcall import RollCall
from mpisign.parallel.watchdog import WATCH, Watchdog

INTERRUPTED = 130  # the exit code of what was interrupted from the keyboard
LOST = "another rank was lost (killed, or its host is gone), and this one has nothing that it could do without it"
SECONDS = 3.0  # that a last row of the run file may take

_rolls: list[RollCall] = []
_last_words: list[Callable[[int, str], None]] = []  # called with step and message before the watchdog ends the job
_exits: list[str] = []  # calls of sys.exit(), as they were written


def leave(error: BaseException) -> int:
    """Prints an error and returns its exit code.

    An agreed error is printed once, by root. Any other ends the whole job, since the other ranks would wait for this
    one.
    """
    ranks, agreed = mpi.started(), getattr(error, "agreed", False)
    alone = ranks is not None and ranks.size > 1 and not agreed
    text, code = _text(error, _who() if alone else ""), code_of(error)
    if alone:
        end_all(text, code or 1)
    if isinstance(error, SystemExit):
        text = "" if isinstance(error.code, (int, NoneType)) else f"{error.code}\n"  # as Python does
    if mpi.speaks():
        say(text)
    return code


def code_of(error: BaseException) -> int:
    """The exit code that an error stands for."""
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        return code & 255 or int(code != 0)  # a shell sees eight bits of it, and a failure is to stay one
    return getattr(error, "exit_code", INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1)


def _text(error: BaseException, who: str) -> str:
    if isinstance(error, SystemExit):
        return f"mpisign: {who}ended by SystemExit: {error.code}\n"
    if mpi.says_lost(error):
        return f"mpisign: {who}{LOST}\n"
    if isinstance(error, (MpisignError, KeyboardInterrupt)):
        return f"mpisign: {who}{printable(error, lines=True) or 'interrupted'}\n"
    return f"mpisign: {who}unexpected error\n{''.join(traceback.format_exception(error))}"


def interrupted() -> None:
    """Ends all ranks: by a second Ctrl-C, or by the first one where nothing is to be saved yet."""
    end_all("mpisign: interrupted\n" if launch().rank == 0 else "", INTERRUPTED)


def end_all(text: str, code: int = 1) -> None:
    """Ends all ranks at once, from any thread, saying why. This process ends, whatever becomes of the others."""
    ending.end_within()
    say(text)
    ranks = mpi.started()
    if ranks is not None and ranks.comm:
        ending.skip_destructors()
        ranks.comm.Abort(code)
    elif launch().size > 1 and code != INTERRUPTED and not launch().stranger:
        # a launcher takes an exit before MPI's start for a success, and the others would wait there
        ending.die(15)
    os._exit(code)


def finish_at_once(code: int) -> None:
    """Ends this process in order towards MPI, and without what Python and its libraries do at the end."""
    ending.attempt(sys.stdout.flush, ending.PATIENCE)
    if mpi.has_lost():  # another one may be lost meanwhile
        ending.attempt(ending.end, mpi.FINALIZE)
    ending.end()
    if mpi.finalize():
        mpi.take_leave()
    os._exit(code)


def finish(code: int) -> NoReturn:
    """Ends this process in order, as Python does, but MPI before it: a rank that is stopped there is waited for."""
    if not mpi.has_lost():
        ending.end()
    if mpi.has_lost():  # maybe only now
        finish_at_once(code)
    mpi.finalize()
    gc.freeze()  # else Python looks for garbage among all that torch has made, twice, in half a second
    sys.exit(code)


def guard() -> None:
    """Has uncaught errors end all ranks, in threads too, as in the application.

    An agreed error is printed once, and the ranks leave in order, with its exit code.
    """
    if getattr(sys.excepthook, "of_mpisign", False):
        return

    def hook(kind: type[BaseException], error: BaseException, trace: object) -> None:
        if _place().size > 1:
            finish_at_once(leave(error)) if mpi.started() else end_all(_text(error, _who()), code_of(error))
        else:
            before(kind, error, trace)

    def thread_hook(what: threading.ExceptHookArgs) -> None:
        if _place().size > 1 and what.exc_value is not None and what.exc_type is not SystemExit:
            name = what.thread.name if what.thread else "unknown"
            text = "".join(traceback.format_exception(what.exc_value))
            end_all(f"mpisign: {_who()}unexpected error in thread {name!r}\n{text}")
        before_in_threads(what)

    before, before_in_threads, hook.of_mpisign = sys.excepthook, threading.excepthook, True
    sys.excepthook, threading.excepthook = hook, thread_hook


def note_exits() -> None:
    """Records calls of sys.exit(), for messages on other ranks.

    Before MPI has started, an exit with an error ends the others too, which would wait for this rank there.
    """
    if getattr(sys.exit, "of_mpisign", False):
        return

    def noting(code: object = None) -> None:
        _exits.append(f"sys.exit({code!r})" if code is not None else "sys.exit()")
        if code not in (None, 0) and threading.current_thread() is threading.main_thread() and not _exits[1:]:
            ending.at_end(lambda: _fail_before_mpi(SystemExit(code)))
        before(code)

    before, noting.of_mpisign = sys.exit, True
    sys.exit = noting


def _fail_before_mpi(error: SystemExit) -> None:
    if mpi.started() is None and launch().size > 1 and not mpi.is_running():
        end_all(_text(error, _who()), code_of(error))


def _place() -> mpi.Ranks | Launch:
    """Rank and size: MPI's once it has started, else those that the launcher promised."""
    ranks = mpi.started()
    return launch() if ranks is None else ranks


def _who() -> str:
    return f"rank {_place().rank}/{_place().size}: "


def watch_waits(rank: int, limit: float, key: str) -> None:
    """Starts the watchdog, unless there is one or no limit. key: what the limit is called where the user sets it."""
    if limit and not any(isinstance(thread, Watchdog) for thread in threading.enumerate()):
        Watchdog(WATCH, limit, rank, on_timeout, key).start()


def watch_over(ranks: mpi.Ranks, limit: float, key: str, patient: bool = False) -> RollCall | None:
    """Starts the watchdog, and the roll call where MPI allows threads: they find a rank that will never come.

    limit: seconds of one wait, 0 for none. key: what it is called where the user sets it. patient: whether a rank may
    stay behind for as long as it likes when all others have left. Collective.
    """
    if ranks.size == 1:
        return None
    watch_waits(ranks.rank, limit, key)
    if ranks.by_mpi and not mpi.multithreaded():
        return None
    if known := roll_of(ranks):
        return known
    with WATCH("the start of the roll call"):
        comm = ranks.comm.Dup() if ranks.by_mpi else ranks.comm.for_roll_call()
        roll = RollCall(comm, lambda text: end_all(f"mpisign: {text}\n"), limit)
    connected = mpi.is_running if ranks.by_mpi else ranks.comm.is_connected
    ending.at_end(lambda: _depart(roll, patient, connected), first=True)
    roll.start()
    _rolls.append(roll)
    return roll


def roll_of(ranks: mpi.Ranks | None) -> RollCall | None:
    """The roll call over these ranks that runs already, or None."""
    return next((roll for roll in _rolls if ranks and roll.spans(ranks.comm)), None)


def dismiss_rolls() -> None:
    """Ends the roll calls, as a rank was lost with which no call that all make will end."""
    while _rolls:
        _rolls.pop().dismiss()


def _depart(roll: RollCall, patient: bool, connected: Callable[[], bool]) -> None:
    if roll in _rolls and connected():
        why = _exits[-1] if _exits else "its program ended"
        try:
            # a rank that torch.distributed finds gone by then has told why itself, if it could
            with (
                contextlib.nullcontext() if patient else WATCH("the end of all ranks"),
                contextlib.suppress(MpisignError),
            ):
                roll.say_goodbye(why)
        except Exception as error:  # all that was to be done is done, so nobody misses a rank that is lost now
            if not mpi.says_lost(error):
                raise
            dismiss_rolls()
            mpi.do_without_finalize()


def on_timeout(step: int, text: str) -> None:
    """Ends the job for the watchdog, saying where the other ranks are."""
    ending.end_within(ending.GRACE + int(SECONDS))
    reports = [report for roll in _rolls if (report := roll.report())]
    text = "; ".join([text, *reports])
    for call in _last_words:
        ending.attempt(lambda call=call: call(step, text), SECONDS)
    end_all(f"mpisign: {_who()}step {step}: {text}\n")


def tell_first(call: Callable[[int, str], None]) -> Callable[[], None]:
    """Registers a call of (step, message) before the watchdog ends the job; returns what removes it again."""
    _last_words.append(call)
    return lambda: _last_words.remove(call)
