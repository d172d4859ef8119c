"""Ranks of a training loop leave together: calls that all make are counted, and an interrupt is one of all ranks.

What one rank does alone, such as a step more than the others, a save() behind `if rank == 0`, or its end, leaves the
others waiting for ever; see parallel/rollcall.py. An interrupt (Ctrl-C) travels with the next step and is raised on all
ranks as KeyboardInterrupt once it is taken, so that a script can catch it and save.
"""

import functools
import signal
import threading
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

from mpisign.errors import StepInterrupted
from mpisign.parallel import leaving, mpi, stopping
from mpisign.parallel.launchers import launch
from mpisign.parallel.mpi import Ranks
from mpisign.parallel.rollcall import RollCall
from mpisign.parallel.stopping import Request

INTERRUPT = 1 << 50  # added to the request of a rank that was interrupted: above any other, exact in float64
LIMIT = "the optimiser's watchdog"
PROMISE = "raises KeyboardInterrupt on all ranks after their next step()"

Call = TypeVar("Call", bound=Callable[..., Any])


class CollectiveCalls:
    """The collective calls of an optimiser, counted and watched over, and its interrupts."""

    roll: RollCall | None = None
    _several = _interrupted = False

    def begin_construction(self, watchdog: float, everyone: bool) -> None:
        """Begins the construction: from here on a rank that has left already, after mpisign.rank(), is found.

        Over torch.distributed its waits are watched, too: groups are made, which takes all ranks. MPI's start has a
        limit of its own. everyone: whether all ranks that were launched take part.
        """
        if place := mpi.place_by_torch():
            leaving.watch_waits(place[0], watchdog, LIMIT)
        if everyone and (roll := leaving.roll_of(mpi.started())) is not None:
            roll.enter("SignOptimizer()")

    def watch_over(self, ranks: Ranks, watchdog: float) -> None:
        """Starts to watch over the ranks of a communicator. Collective."""
        leaving.guard()
        self._several = ranks.size > 1
        self.roll = leaving.watch_over(ranks, watchdog, LIMIT, patient=True)
        if self.roll:
            self.roll.enter("SignOptimizer()")
        plain = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if ranks.size > 1 and plain and threading.current_thread() is threading.main_thread():
            stopping.catch_signals(leaving.interrupted, saves=True, numbers=(signal.SIGINT,), promise=PROMISE)

    def end_construction(self) -> None:
        """Ends the construction, on all ranks."""
        if self.roll:
            self.roll.leave(together=True)

    @property
    def interrupt(self) -> int:
        """INTERRUPT if this rank was interrupted and the others do not know yet, else 0."""
        asked = self._several and not self._interrupted and stopping.asked() == Request.INT
        return INTERRUPT if asked else 0

    def raise_interrupt(self, request: int, step: int) -> None:
        """Raises KeyboardInterrupt, on all ranks, if the largest request of a step says so."""
        if request >= INTERRUPT:
            self._interrupted = True
            text = f"interrupted (signal INT) after step {step}; a script that catches KeyboardInterrupt can save there"
            raise StepInterrupted(text)


def collective(meet: bool = False, where: Callable[[Any], bool] | None = None) -> Callable[[Call], Call]:
    """Decorates a collective method. meet: whether ranks wait for each other first; steps do so by themselves.

    Without it, messages of a call that one rank makes alone would be taken for those of another call. where: of which
    optimisers the method is collective, the same on all ranks; of all by default.
    """

    def counted(method: Call) -> Call:
        name = f"{method.__name__}()"

        @functools.wraps(method)
        def call(self: CollectiveCalls, *args: Any, **kwargs: Any) -> Any:
            roll, alike = self.roll, False
            if roll is None or (where and not where(self)):
                return method(self, *args, **kwargs)
            roll.enter(name)
            try:
                if meet:
                    roll.meet()
                returned = method(self, *args, **kwargs)
                alike = True
                return returned
            except BaseException as error:
                alike = bool(getattr(error, "agreed", False))
                raise
            finally:
                roll.leave(alike)

        # inside a compiled function it is called as it is, since numba and MPI can't be traced
        return cast(Call, torch._disable_dynamo(call))

    return counted


if launch().size > 1:
    # before an optimiser is made: what ends this rank ends the others, which would wait for it where MPI starts
    leaving.guard()
    leaving.note_exits()
