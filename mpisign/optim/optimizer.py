"""SignOptimizer: torch's interface around the Stepper."""

import warnings
import zlib
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from mpisign import bits, dense, exchange, mpi, zoo
from mpisign.choosing import measured
from mpisign.device import spread
from mpisign.errors import MpisignError, UsageError, choices
from mpisign.layout import Group, Layout
from mpisign.optim import saving
from mpisign.optim.asked import Turns, algorithm_of, rate_of
from mpisign.optim.gradients import Closure, Gradients
from mpisign.optim.leaving import INTERRUPT, Attendant, together
from mpisign.optim.overlap import Overlap
from mpisign.optim.parameters import Given, check_alike, fault_of, named
from mpisign.optim.statistics import Statistics, told
from mpisign.problems import Oracle
from mpisign.rng import Streams
from mpisign.stepper import Stepper
from mpisign.watchdog import WATCH
from mpisign.world import Local, Mpi

assert zoo  # its entries are in the registry

FAULT = 1  # the request of a rank that has something to tell before anything moves


class SignOptimizer(Attendant, torch.optim.Optimizer):
    """Sign-based distributed optimisation of a torch model: every rank computes gradients, all vote, x moves alike.

    Parameters become views into one flat float32 vector x, in the order in which they are given, those that do not vote
    last; they are broadcast from root, with the buffers of the model if there is one. All ranks of the communicator
    make the optimiser and call step() together.

    params: a torch.nn.Module; or parameters, pairs (name, parameter), or groups of these as torch takes them. A group's
    own keys are lr, weight_decay and vote: with vote=False estimates are averaged as raw float32 and x moves along
    their mean, at that group's lr. algorithm: a name of `mpisign algorithms`, whose hyperparameters are further keyword
    arguments, or an mpisign.algorithm.Algorithm. lr: the entry's own if it is None. weight_decay: decoupled; the
    entry's own if it is None. comm: an mpi4py intracommunicator, COMM_WORLD by default, one process where
    nothing launched several. seed: of coins and stochastic signs; the same on all ranks. zeros, ties, exchange, chunk,
    progress: as in a job's [algorithm] and [exchange]. overlap: pack and send gradients while backward makes others.
    dense_steps, dense_lr: so many first steps send raw floats, at that rate in lr's place. check_every: steps between
    comparisons of the replicas, 0 for none. statistics_every: steps between counts of agreement and ties, which take
    an Allgather of a few numbers, 0 for none. watchdog: seconds after which a rank that waits for others ends the job,
    0 for none. model: names parameters that were given without, and its buffers come from root too.

    Raises UsageError, on all ranks, for unknown names, parameters not float32, models or settings that differ.
    """

    def __init__(
        self,
        params: Given,
        algorithm: str | Turns = "signum-mv",
        lr: float | None = None,
        *,
        weight_decay: float | None = None,
        comm: Any = None,
        seed: int = 1,
        zeros: str = "auto",
        ties: str = "auto",
        exchange: str = "auto",
        chunk: int = 0,
        progress: str = "",
        overlap: bool = False,
        dense_steps: int = 0,
        dense_lr: float | None = None,
        check_every: int = 100,
        statistics_every: int = 1,
        watchdog: float = 1800.0,
        model: nn.Module | None = None,
        **hyperparameters: Any,
    ):
        ranks = mpi.start(limit=watchdog) if comm is None else mpi.of(comm)
        self.attend(ranks, watchdog)
        bits.use_threads(min(ranks.threads, torch.get_num_threads()))
        self.ranks, self.check_every, self.statistics_every = ranks, check_every, statistics_every
        self.statistics, self._sent, self._frozen = Statistics(), (0, 0), False

        def prepare() -> tuple[Any, ...]:
            slots, rate = algorithm_of(algorithm, zeros, ties, ranks.size, hyperparameters)
            rate = rate_of("lr", rate if lr is None else lr)
            given = named(params, model)
            decay = getattr(slots.stages[-1].update, "weight_decay", 0.0) if weight_decay is None else weight_decay
            defaults = {"lr": rate, "weight_decay": float(decay), "vote": True}
            torch.optim.Optimizer.__init__(self, given.groups, defaults)
            return slots, rate, given

        slots, rate, given = self._agreed(prepare)
        parameters = dict(zip(given.names, self._parameters(), strict=True))
        self.layout, turns = self._agreed(lambda: self._lay_out(parameters, slots, dense_steps, dense_lr, rate))
        buffers = list(given.model.buffers()) if given.model else []
        settings = f"{turns.name}: {turns!r}, seed {seed}, exchange {exchange}, chunk {chunk}, overlap {overlap}"
        shapes = f"buffers {[(list(b.shape), str(b.dtype)) for b in buffers]}"
        check_alike(self.layout, f"{settings}, {shapes}", ranks)

        x = self.layout.flatten({name: p.data for name, p in parameters.items()})
        self.gradients = Gradients(parameters, self.layout, x, buffers)
        self._broadcast(x)
        for name, view in self.layout.views(x).items():
            parameters[name].data = view
        self._build(turns, x, Streams(seed), exchange, chunk, progress, overlap)
        if check_every:
            self.stepper.check_replicas()
        self._frozen = True
        self.attended()

    # Construction

    def _agreed(self, work: Callable[[], Any]) -> Any:
        """What work returns, or the UsageError that any rank met, on all ranks."""
        found, error = None, None
        try:
            found = work()
        except MpisignError as met:
            error = met
        self.ranks.agree(error)
        return found

    def _parameters(self) -> list[nn.Parameter]:
        return [p for group in self.param_groups for p in group["params"]]

    def _lay_out(
        self, parameters: dict[str, Tensor], slots: Turns, dense_steps: int, dense_lr: float | None, rate: float
    ) -> tuple[Layout, Turns]:
        if fault := fault_of(parameters):
            raise fault
        raw = all(stage.sign.up().raw for stage in slots.stages)
        groups = [group for group in self.param_groups for _ in group["params"]]
        votes = {name: raw or bool(g["vote"]) for name, g in zip(parameters, groups, strict=True)}
        if not all(votes.values()):
            slots = dense.beside(slots)
        if dense_steps:
            slots = dense.warm_start(slots, dense_steps, rate_of("dense_lr", dense_lr or rate) / (rate or 1.0))
        shapes = {name: tuple(p.shape) for name, p in parameters.items()}
        device = next(iter(parameters.values())).device
        layout = Layout(shapes, {name: Group(vote=vote) for name, vote in votes.items()}, device)
        # the groups' rates and decays are read at every step, in the order of the layout
        places = {name: k for k, name in enumerate(parameters)}
        numbers = [k for k, group in enumerate(self.param_groups) for _ in group["params"]]
        self._group_of = np.array([numbers[places[s.name]] for s in layout.segments])
        return layout, slots

    def _broadcast(self, x: Tensor) -> None:
        spread(self.ranks, x)
        for buffer in self.gradients.buffers:
            whole = buffer.detach().cpu().contiguous()
            self.ranks.bcast(whole.reshape(-1).view(torch.uint8).numpy())
            buffer.data.copy_(whole)

    def _build(
        self, turns: Turns, x: Tensor, streams: Streams, name: str, chunk: int, progress: str, overlap: bool
    ) -> None:
        ranks = self.ranks
        world = Mpi(ranks.comm) if ranks.size > 1 else Local(1)
        wholes = [reason for stage in turns.stages if (reason := stage.whole)]
        self.overlaps = bool(overlap) and len(wholes) < len(turns.stages) and ranks.size > 1
        if overlap and wholes and ranks.root:
            warnings.warn(f"no overlap with backward in {turns.name}: {wholes[0]}", stacklevel=4)
        chosen = self._agreed(lambda: exchange.choose(name, turns, ranks.size))
        how: dict[str, Any] = {"chunk": chunk, "progress": progress or ("thread" if self._threads() else "calls")}
        chosen = measured(chosen, turns.stages, ranks.comm, self.layout.length, **how)
        carriers = exchange.build(chosen, world, self.layout, turns, **how, backwards=self.overlaps)
        self.choices = chosen
        oracles = cast(list[Oracle], [self.gradients])  # all that a Stepper asks of one
        self.stepper = Stepper(turns, self.layout, carriers, world, streams, oracles, x)
        self._overlap = Overlap(self.stepper, self.gradients, self._rates) if self.overlaps else None

    def _threads(self) -> bool:
        """Whether a helper thread should let messages proceed while backward runs."""
        return self.overlaps and mpi.multithreaded()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Only while the optimiser is made: x has no room for more afterwards. Raises UsageError."""
        if getattr(self, "_frozen", False):
            raise UsageError("parameters can't be added later: all lie in one flat vector; make a new optimiser")
        if unknown := set(param_group) - {"params", "lr", "weight_decay", "vote", "param_names", "initial_lr"}:
            raise UsageError(
                f"parameter group with {choices(unknown)}: a group's own keys are lr, weight_decay and vote; "
                "hyperparameters are those of the whole optimiser"
            )
        super().add_param_group(param_group)

    # A step

    @together()
    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Any:
        """One step of all ranks, from the gradients that backward left in p.grad.

        closure: zeroes gradients, computes the loss, calls backward, returns the loss (as torch.optim has it). It is
        needed where the algorithm takes a second gradient of the same batch, and then called again at another point,
        with the same random draws. Returns what it returned at x, or None.
        A gradient that is missing on all ranks leaves its parameter where it is. Raises on all ranks, with x unmoved:
        UsageError for a missing closure, sparse gradients, gradients missing on some ranks only, moved storage;
        NumericalError for gradients that are not finite, and for replicas that drifted.
        """
        gradients, stepper = self.gradients, self.stepper
        returned = gradients.look(closure, twice=self._two_points)
        # with overlap messages are on their way already: a scaler is then a fault, which all ranks are told
        if self._overflowed() and not self._overlap:
            self.statistics = Statistics(step=stepper.t, skipped=True)
            return returned
        if self._overlap:
            self._overlap.finish()
        rates = self._rates()
        stepper.own_decays = np.array([float(group["weight_decay"]) for group in self.param_groups])[self._group_of]
        counting = bool(self.statistics_every) and (stepper.t + 1) % self.statistics_every == 0
        outcome = stepper.step(rates, counting, self._request(), self._check)
        # bytes since the last step, as messages travel before step() where they overlap with backward
        before, traffic = self._sent, stepper.world.traffic
        self._sent = traffic.up, traffic.down
        sent = traffic.up - before[0], traffic.down - before[1]
        self.statistics = told(stepper, outcome, sent, counting, with_loss=closure is not None)
        if self.check_every and stepper.t % self.check_every == 0:
            stepper.check_replicas()
        self.heed(outcome.request, stepper.t)
        return returned

    @property
    def _two_points(self) -> bool:
        stepper = self.stepper
        return stepper.turns.stages[stepper.turns.stage(stepper.t - stepper.begun)].estimator.two_points

    def _rates(self) -> np.ndarray:
        """Learning rates of the segments; 0 for one whose gradient is missing."""
        rates = np.array([float(group["lr"]) for group in self.param_groups])[self._group_of]
        if self.gradients.missing:
            rates[list(self.gradients.missing)] = 0.0
        return rates

    def _overflowed(self) -> bool:
        """Whether torch's gradient scaler, if one drives this step, found an overflow on any rank."""
        found, scale = getattr(self, "found_inf", None), getattr(self, "grad_scale", None)
        self.gradients.scale = 1.0 if scale is None else 1.0 / float(scale)
        self.gradients.scaled = found is not None
        if found is None:
            return False
        mine = bool(found.item()) if isinstance(found, Tensor) else bool(found)
        with WATCH("an allgather of overflows"):
            return any(self.ranks.comm.allgather(mine)) if self.ranks.comm else mine

    # torch.amp.GradScaler then leaves unscaling, and what to do about an overflow, to step()
    _step_supports_amp_scaling = True

    def _request(self) -> int:
        """What this rank tells all others before anything moves: a fault, or which gradients are missing."""
        if self.gradients.fault is not None:
            return FAULT
        missing = self.gradients.missing
        return self.interrupt + (FAULT + 1 + zlib.crc32(repr(missing).encode()) if missing else 0)

    def _check(self, requests: np.ndarray) -> None:
        """Raises on all ranks what any of them has to tell."""
        requests = requests % INTERRUPT
        if (requests == FAULT).any():
            self.ranks.agree(self.gradients.fault)
        if (requests == requests[0]).all():
            return
        mine = [self.layout.segments[k].name for k in self.gradients.missing]
        everyone = self.ranks.comm.allgather(mine)
        name = next(name for names in everyone for name in names if not all(name in others for others in everyone))
        lacking = [rank for rank, names in enumerate(everyone) if name in names]
        raise UsageError(
            f"parameter {name!r} has no gradient on rank(s) {lacking}, but on others it has; in a step "
            "every rank must use the same parameters",
            agreed=True,
        )

    def no_sync(self) -> Any:
        """A context for all but the last of several backward passes whose gradients add up, where they overlap."""
        return self._overlap.paused() if self._overlap else nullcontext()

    # Saving

    def state_dict(self) -> dict[str, Any]:
        """This rank's state: groups, step and arrays, plain enough for torch.load(weights_only=True).

        Parameters are the model's; all ranks' states together are what save() writes.
        """
        return saving.state_dict(super().state_dict(), self.stepper)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from what state_dict() returned on this rank. Raises UsageError if it is of another rank or model."""
        saving.load_state_dict(state_dict, self.stepper, self.param_groups)

    @together(meet=True)
    def save(self, path: str | Path, **extra: Any) -> None:
        """Writes x and the states of all ranks into one checkpoint, aside and renamed. Collective.

        extra: small values for JSON that load() returns, such as an epoch. Raises StorageError on all ranks.
        """
        saving.save(Path(path), self, extra)

    @together(meet=True)
    def load(self, path: str | Path) -> dict[str, Any]:
        """Goes on from a checkpoint that save() wrote, bit for bit: x, all states, the groups. Collective.

        Returns the extra values. Raises UsageError on all ranks, with nothing changed, if it is damaged or of another
        job.
        """
        return saving.load(Path(path), self)
