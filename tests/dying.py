"""A problem whose ranks die, or are stopped for a while, and the simulation of the same history."""

import os
import signal
import subprocess

import torch

from mpisign import config
from mpisign.engine.snapshot import Snapshot
from mpisign.engine.stepper import Stepper
from mpisign.exchange.costs import cut, grain_of
from mpisign.parallel import ending, mpi
from mpisign.parallel.world import Local
from mpisign.run.plan import resolve
from mpisign.run.schedules import Schedule
from mpisign.run.setup import Setup, set_up
from mpisign.run.survive import among
from tests.problems import Awkward

STOPPED = 3  # seconds


class Dying(Awkward):
    """Rank r dies at its k-th gradient, for each "r:k" of `deaths`, or is stopped for some seconds.

    k = 0: when it makes its starting point. at_end: the rank that dies once its run is complete, or -1.
    """

    def __init__(self, deaths: str = "", stops: str = "", at_end: int = -1):
        super().__init__(size=300)
        self.deaths, self.stops, self.calls = deaths.split(), stops.split(), 0
        if at_end == mpi.launch().rank and os.environ.get("OMPI_COMM_WORLD_SIZE"):
            ending.at_end(lambda: os.kill(os.getpid(), signal.SIGKILL), first=True)

    def initial(self, generator):
        if f"{mpi.launch().rank}:0" in self.deaths:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().initial(generator)

    def gradient(self, parameters, batch, gradients):
        self.calls += 1
        here = f"{mpi.launch().rank}:{self.calls}"
        if here in self.deaths:
            os.kill(os.getpid(), signal.SIGKILL)
        if here in self.stops:
            subprocess.Popen(["sh", "-c", f"sleep {STOPPED}; kill -CONT {os.getpid()}"])
            os.kill(os.getpid(), signal.SIGSTOP)
        return super().gradient(parameters, batch, gradients)


def simulated(settings: tuple[str, ...], n: int, lost: dict[int, list[int]], back: int = 0) -> dict[str, torch.Tensor]:
    """Parameters at the end of a job whose voters were lost in these steps, counted from 1; all in one process.

    back: a step from which on all vote again, those that were lost with zeros for a state.
    """
    setup = set_up(resolve(config.load(None, settings), n), mpi.alone(n, 1), n)
    stepper, table = setup.stepper, setup.plan.config.schedule.model_dump()
    steps = setup.plan.config.run.steps
    schedule = Schedule(steps=steps, **table)
    for step in range(1, steps + 1):
        if step == back:
            stepper = _whole(stepper, set_up(setup.plan, mpi.alone(n, 1), n).stepper)
        if step in lost:
            stepper = _without(stepper, lost[step], setup)
        stepper.step(schedule(stepper.t))
    return stepper.layout.views(stepper.x)


def _without(stepper: Stepper, lost: list[int], setup: Setup) -> Stepper:
    """The same without some voters, and without what ranks of theirs would have kept of the vote by `sharded`."""
    voters, exchange = stepper.world.voters, stepper.exchange
    for array in exchange.state.values():
        for lo, hi in exchange.chunks:
            for voter in lost:
                grain = grain_of(exchange.vote, exchange.up, exchange.down)
                start, end = cut(lo, hi, grain, len(voters), voters.index(voter))
                array[..., start:end] = 0
    world = Local(voters=tuple(voter for voter in voters if voter not in lost))
    before = Snapshot(stepper)
    after = among(world, stepper, setup.plan)
    before.restore(after, stepper, lambda whole: None)
    return after


def _whole(stepper: Stepper, anew: Stepper) -> Stepper:
    """All voters at the step of those that are left, who keep their states."""
    kept = stepper.states()
    for name, array in anew.states().items():
        if name in kept:
            array.copy_(kept[name])
    anew.resume_at(stepper.t, stepper.begun)
    return anew
