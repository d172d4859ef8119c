"""The end of this process: callbacks before MPI ends, and an end that depends on nothing that may fail."""

import atexit
import contextlib
import ctypes
import os
import signal
import threading
from collections.abc import Callable, Iterator

GRACE = 5  # seconds that an end may take before the kernel sees to it
PATIENCE = 2.0  # seconds that a message may take to leave
SEMAPHORE = 128  # bytes, of which the GNU C library's takes a part on every machine

_works: list[Callable[[], None]] = []
_held = threading.local()  # the semaphore at which this thread waits if it calls exit()


def at_end(work: Callable[[], None], first: bool = False) -> None:
    """Registers work for an orderly end of this process, before MPI's; all ranks must do so in the same order.

    first: the work is done before all that is registered already.
    """
    if not _works:
        atexit.register(end)
    _works.insert(0 if first else len(_works), work)


def end() -> None:
    """Does all registered work, once."""
    while _works:
        _works.pop(0)()


def say(text: str) -> None:
    """Writes to standard error, if that can be done at all: it may be closed, or a pipe that nobody reads."""
    attempt(lambda: os.write(2, text.encode(errors="replace")), PATIENCE)


def attempt(work: Callable[[], object], seconds: float) -> None:
    """Does work that may fail or never end, in a thread that is waited for at most so many seconds."""

    def tried() -> None:
        with contextlib.suppress(BaseException):
            work()

    thread = threading.Thread(target=tried, daemon=True)
    try:
        thread.start()
    except RuntimeError:  # no more threads, or the interpreter is about to end
        return
    thread.join(seconds)


def end_within(seconds: int = GRACE) -> None:
    """Has the kernel end this process by SIGALRM after so many seconds, whatever it does; 0 takes that back."""
    libc = ctypes.CDLL(None)
    # not by Python's signal module: that works in the main thread only, and its handlers only between bytecodes
    libc.signal(signal.SIGALRM, None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
    libc.alarm(seconds)


def skip_destructors() -> None:
    """Makes exit(), by which a library may end this process as MPI_Abort does, end it at once.

    Otherwise exit() runs the destructors of all libraries while other threads still use them, which may crash or hang.
    """
    _let_exit()
    with contextlib.suppress(AttributeError):  # on_exit is the GNU C library's
        libc = ctypes.CDLL(None)
        libc.on_exit(ctypes.cast(libc._exit, ctypes.c_void_p), None)


@contextlib.contextmanager
def no_exit() -> Iterator[None]:
    """Has exit() wait to be killed, if this thread calls it: for threads beside the main one that call MPI.

    MPICH calls exit() wherever it hears that another rank aborts, whose launcher kills this one, too. Destructors that
    run meanwhile under the main thread would make a crash of it, with an exit code that hides the other's.
    """
    with contextlib.suppress(AttributeError):  # the GNU C library's; what is registered is done before destructors
        libc = ctypes.CDLL(None)
        libc.calloc.restype = ctypes.c_void_p
        semaphore = ctypes.c_void_p(libc.calloc(1, SEMAPHORE))  # for good: the thread outlives this call
        libc.sem_init(semaphore, 0, 0)
        wait = ctypes.cast(libc.sem_wait, ctypes.c_void_p)
        libc.__cxa_thread_atexit_impl(wait, semaphore, wait)
        _held.semaphore = semaphore
    try:
        yield
    finally:
        _let_exit()


def _let_exit() -> None:
    if semaphore := getattr(_held, "semaphore", None):
        ctypes.CDLL(None).sem_post(semaphore)


def die(number: int) -> None:
    """Ends this process by a signal, from any thread, which launchers take for a failure of the whole job."""
    ctypes.CDLL(None).signal(number, None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
    os.kill(os.getpid(), number)
