"""SignOptimizer: torch's interface around the Stepper."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from mpisign import __version__, bits, exchange
from mpisign.algorithms import dense, zoo
from mpisign.algorithms.formats import RAW
from mpisign.algorithms.method import Method
from mpisign.algorithms.slots import Update
from mpisign.bits.rng import Streams
from mpisign.engine.autotune import autotune
from mpisign.engine.build import make_stepper
from mpisign.engine.rounding import bit_patterns
from mpisign.engine.stepper import Outcome, Stepper
from mpisign.errors import UsageError, choices
from mpisign.layout import Layout, LayoutShard, SegmentOptions
from mpisign.optim import broadcast, requests, threads
from mpisign.optim.collective import collective
from mpisign.optim.gradients import Closure, Gradients
from mpisign.optim.options import (
    Settings,
    algorithm_of,
    check_group,
    decay_of,
    numbers_of,
    rate_of,
    refuse_unrounded,
    settings_of,
    weighted,
)
from mpisign.optim.overlap import Overlap
from mpisign.optim.parameters import Named, Parameters, check_alike, fault_of, named, refuse_nothing, refuse_wrapped
from mpisign.optim.sharded import fault_of_sharding, locals_of, refuse_undivided, reshard, take_in
from mpisign.optim.stateful import Stateful
from mpisign.optim.statistics import Statistics, statistics_of
from mpisign.optim.storage import own_storage
from mpisign.optim.values import Number
from mpisign.optim.voters import divide
from mpisign.optim.warning import warn
from mpisign.parallel import mpi
from mpisign.parallel.device import broadcast_tensor
from mpisign.parallel.world import Local, Mpi, OfShards, World
from mpisign.problems import Oracle

assert zoo  # its entries are in the registry


class SignOptimizer(Stateful):
    """Sign-based distributed optimisation of a torch model: every rank computes gradients, all vote, x moves alike.

    Parameters move into one flat float32 vector x, in the order in which they are given, those that do not vote last.
    Each is contiguous there and has a storage of its own over its part of that memory, so that other savers see single
    tensors; a step takes no longer for it. Those of bfloat16 and float16 stay where they are instead, and are x rounded
    to nearest after every step; with rounding="stochastic" x is bfloat16 itself. They come from root, and so does what
    does not move: frozen parameters, and the model's buffers if there is a model. All ranks of the communicator make
    the optimiser and call step() together.

    What is trained, and how:

    - params: a torch.nn.Module; or parameters, pairs (name, parameter), or groups of these as torch takes them, in an
      order that is the same on all ranks (no set). A group's own keys are lr, weight_decay and vote: with vote=False
      estimates are averaged as raw float32 and x moves along their mean, at that group's lr.
    - algorithm: a name of `mpisign algorithms`, whose hyperparameters are further keyword arguments, or an
      mpisign.algorithms.Algorithm.
    - lr, and weight_decay, which is decoupled: the entry's own where they are None.
    - model: names parameters that were given without, and all else that it holds comes from root too.
    - include_frozen: gives frozen parameters places in x, so that they travel like others. By default they stay where
      they are, and step() raises UsageError if one of them has a gradient later.
    - rounding: "nearest" for an x in float32; "stochastic" for parameters that are all bfloat16, and an x of that type
      in which they lie: a step moves it in float32 by pieces, and rounds at random so that none is lost on average.

    Who votes:

    - comm: an mpi4py intracommunicator, or a process group of torch.distributed; by default all that mpirun, srun or
      torchrun started, one process where nothing launched several.
    - weights: the votes of every rank, or of every voter, 1 to 15, the same list on all, such as
      mpisign.algorithms.weights_of(rows) of all ranks' rows; one each by default.
    - voters: for a model that fully_shard() has cut, which ranks are one voter: the DeviceMesh that it was cut by, one
      of (replicate, shard) dimensions whose second one it was, or an mpi4py communicator of the ranks of this rank's
      voter. Each of them then holds a shard of x, and parameters are copies of x whatever their type.
    - seed: of coins and stochastic signs; the same on all ranks.

    How messages travel:

    - zeros, ties, exchange, chunk, progress: as in a job's [algorithm] and [exchange]; what needs MPI (exchange
      hierarchical, butterfly, dense-mpi, progress "thread") says so without it.
    - overlap: packs and sends gradients while backward makes others.
    - dense_steps, dense_lr: so many first steps send raw floats, at that rate in lr's place.

    What is watched:

    - check_every: steps between comparisons of the replicas, 0 for none.
    - statistics_every: steps between counts of agreement and ties, for which a few numbers travel, 0 for none.
    - watchdog: seconds after which a rank that waits for others ends the job, 0 for none.

    Raises UsageError, on all ranks, for unknown names, parameters of other types, given twice or sharing memory, models
    or settings that differ.
    """

    def __init__(
        self,
        params: Parameters,
        algorithm: str | Method = "signum-mv",
        lr: Number | None = None,
        *,
        weight_decay: Number | None = None,
        comm: Any = None,
        seed: int = 1,
        zeros: str = "auto",
        ties: str = "auto",
        exchange: str = "auto",
        chunk: int = 0,
        progress: str = "",
        overlap: bool = False,
        dense_steps: int = 0,
        dense_lr: Number | None = None,
        weights: Sequence[int] = (),
        check_every: int = 100,
        statistics_every: int = 1,
        watchdog: float = 1800.0,
        model: nn.Module | None = None,
        include_frozen: bool = False,
        rounding: str = "nearest",
        voters: Any = None,
        **hyperparameters: Any,
    ):
        self.begin_construction(watchdog, everyone=comm is None)
        ranks = self.ranks = mpi.join(limit=watchdog) if comm is None else mpi.of(comm)
        self.watch_over(ranks, watchdog)
        bits.use_threads(min(ranks.threads, torch.get_num_threads()))
        self.statistics, self._sent, self._frozen = Statistics(), (0, 0), False

        self.voters = None if voters is None else divide(ranks, voters)
        across = self.across = self.voters.across if self.voters else ranks
        with ranks.agreed():
            settings = settings_of(
                seed=seed, exchange=exchange, chunk=chunk, progress=progress, overlap=overlap, dense_steps=dense_steps,
                check_every=check_every, statistics_every=statistics_every, weights=weights, rounding=rounding,
            )  # fmt: skip
            slots, rate = algorithm_of(algorithm, zeros, ties, across.size, hyperparameters)
            slots = weighted(slots, settings.weights, across.size)
            live = lr if isinstance(lr, Tensor) else None  # torch's way to a rate that changes in place
            rate = rate_of("lr", rate if lr is None else lr)
            refuse_wrapped(params, model, ranks)
            if self.voters:
                refuse_undivided(slots, settings)
                reshard(params, model)
            names = named(params, model, include_frozen)
            decay = getattr(slots.stages[-1].update, "weight_decay", 0.0) if weight_decay is None else weight_decay
            decay = decay_of("weight_decay", decay)
            defaults = {"lr": rate if live is None else live, "weight_decay": decay, "vote": True}
            torch.optim.Optimizer.__init__(self, names.groups, defaults)
        self.check_every, self.statistics_every = settings.check_every, settings.statistics_every
        with ranks.agreed():
            self.layout, algorithm = self._lay_out(names, slots, settings, dense_lr, rate)
        check_alike(self.layout, broadcast.descriptions(names.others), self._settings_alike(algorithm, settings), ranks)

        self.gradients = self._take_in(names, settings.rounding)
        self.gradients.copies.follow()
        self._build(algorithm, settings)
        if self.check_every:
            self.stepper.check_replicas()
        self._show_state()
        self._frozen = True
        threads.warn_if_crowded(ranks)
        self.end_construction()

    # Construction

    def _settings_alike(self, algorithm: Method, settings: Settings) -> dict[str, object]:
        """What must be alike on all ranks besides the layout."""
        rates, decays = numbers_of(self.param_groups).tolist()
        sizes = [len(group["params"]) for group in self.param_groups]
        of_groups = {"lr of the groups": rates, "weight_decay of the groups": decays, "parameters of the groups": sizes}
        program = {"mpisign": __version__, "algorithm": f"{algorithm.name}: {algorithm!r}"}
        types = {"dtypes of the parameters": [str(p.dtype) for group in self.param_groups for p in group["params"]]}
        return program | settings.model_dump() | of_groups | types

    def _lay_out(
        self, names: Named, slots: Method, settings: Settings, dense_lr: Number | None, rate: float
    ) -> tuple[Layout, Method]:
        parameters, others = dict[str, Tensor](names.trained), names.others
        refuse_nothing(parameters)
        if self.voters:
            if fault := fault_of_sharding(names, self.voters):
                raise fault
            parameters, others = locals_of(parameters), locals_of(others)
        if fault := fault_of(parameters, others):
            raise fault
        raw = all(stage.sign.up() == RAW for stage in slots.stages)
        numbers = {id(p): k for k, group in enumerate(self.param_groups) for p in group["params"]}
        group_of = {name: numbers[id(p)] for name, p in names.trained.items()}
        votes = {name: raw or bool(self.param_groups[k]["vote"]) for name, k in group_of.items()}
        if not all(votes.values()):
            slots = dense.with_averaging(slots)
        if settings.dense_steps:
            factor = rate_of("dense_lr", dense_lr or rate) / (rate or 1.0)
            slots = dense.warm_start(slots, settings.dense_steps, factor)
        if settings.rounding == "stochastic":
            refuse_unrounded(slots, parameters)
        shapes = {name: tuple(p.shape) for name, p in names.trained.items()}
        device = next(iter(parameters.values())).device
        layout = Layout(shapes, {name: SegmentOptions(vote=vote) for name, vote in votes.items()}, device)
        slots.check(layout)
        self._shard = LayoutShard(layout, self.voters.inside) if self.voters else None
        # the groups' rates and decays are read at every step, in the order of the layout
        self._group_of = np.array([group_of[s.name] for s in layout.segments])
        return layout, slots

    def _take_in(self, names: Named, rounding: str) -> Gradients:
        """Has x, and all else that the model holds, be root's; parameters of x's type lie in x from now on."""
        if self.voters and self._shard:
            return take_in(names, self._shard, self.voters, self.ranks)
        kind = torch.bfloat16 if rounding == "stochastic" else torch.float32
        x = self.layout.flatten({name: p.data for name, p in names.trained.items()}, kind)
        broadcast_tensor(self.ranks, bit_patterns(x))
        for name, view in self.layout.views(x).items():
            if names.trained[name].dtype == kind:
                names.trained[name].data = own_storage(view)
        broadcast.from_root(self.ranks, names.others)
        return Gradients(names, self.layout, x, self.ranks.root)

    def _world(self) -> World:
        if self.voters:
            return OfShards(self.across.comm, self.ranks.comm, self.voters.inside)
        return Mpi(self.ranks.comm) if self.ranks.size > 1 else Local(1)

    def _build(self, algorithm: Method, settings: Settings) -> None:
        ranks, across, overlap, here = self.ranks, self.across, settings.overlap, self._shard or self.layout
        needs_whole = [reason for stage in algorithm.stages if (reason := stage.needs_whole)]
        self.overlaps = overlap and len(needs_whole) < len(algorithm.stages) and ranks.size > 1
        if overlap and needs_whole and ranks.root:
            warn(f"no overlap with backward in {algorithm.name}: {needs_whole[0]}")
        with ranks.agreed():
            chosen = exchange.choose(settings.exchange, algorithm, across.size)
        # a helper thread lets messages proceed while backward runs
        helped = self.overlaps and ranks.by_mpi and mpi.multithreaded()
        progress = settings.progress or ("thread" if helped else "calls")
        options: dict[str, Any] = {"chunk": settings.chunk, "progress": progress}
        chosen = autotune(chosen, algorithm.stages, across.comm, here.length, **options)
        # each shard has measured for itself
        self.choices = chosen = self.voters.inside.comm.bcast(chosen) if self.voters else chosen
        oracles = cast(list[Oracle], [self.gradients])  # all that a Stepper asks of one
        streams = Streams(settings.seed, here.origin)
        options["reverse"] = self.overlaps
        arguments = algorithm, chosen, here, self._world(), streams, oracles, self.gradients.x
        self.stepper: Stepper = make_stepper(*arguments, **options)
        self.stepper.moved = self.gradients.copies.follow_part if self.gradients.copies else None
        self._overlap = Overlap(self.stepper, self.gradients, self._rates) if self.overlaps else None

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
        check_group(self.param_groups[-1], len(self.param_groups) - 1)

    def __repr__(self) -> str:
        if not self.__dict__.get("_frozen"):
            return super().__repr__()
        names = " then ".join(dict.fromkeys(choice.name for choice in self.choices))
        n = f"{self.across.size} voters of {self.voters.inside.size} ranks" if self.voters else self.ranks.size
        facts = f"{self.stepper.algorithm.name}, d={self.layout.size}, n={n}, exchange={names}"
        facts += ", rounding=stochastic" if self.stepper.rounding else ""
        return super().__repr__().replace(" (\n", f" {facts} (\n", 1)

    # A step

    @collective()
    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Any:
        """One step of all ranks, from the gradients that backward left in p.grad.

        closure: zeroes gradients, computes the loss, calls backward, returns the loss (as torch.optim has it). It is
        needed where the algorithm takes a second gradient of the same batch, and then called again at another point,
        with the same random draws. Returns what it returned at x, or None.
        A gradient that is missing on all ranks leaves its parameter where it is. Raises on all ranks, with x unmoved:
        UsageError after close(), for a missing closure, sparse gradients, gradients missing on some ranks only, moved
        storage, and parameters that were unfrozen or replaced; NumericalError for gradients that are not finite, and
        for replicas that drifted.
        """
        if self.closed:
            raise UsageError("this SignOptimizer was closed, and takes no step any more; make a new one", agreed=True)
        gradients, stepper = self.gradients, self.stepper
        returned = gradients.evaluate(closure, twice=self._two_points)
        # with overlap messages are on their way already: a scaler is then a fault, which all ranks are told
        if self._overflowed() and not self._overlap:
            self.statistics = Statistics(step=stepper.t, skipped=True)
            return returned
        if self._overlap:
            self._overlap.finish()
        if self._checks(stepper.t) and not gradients.fault:
            gradients.fault = gradients.copies.fault()
        numbers = self._numbers()
        stepper.own_decays, rates = numbers[1][self._group_of], self._rates(numbers)
        counting = bool(self.statistics_every) and (stepper.t + 1) % self.statistics_every == 0
        request = self.interrupt + requests.request(gradients, numbers, self.ranks)
        if self.voters:
            request = requests.of_voter(self.voters.inside.rows(np.array([request]))[:, 0])
        check = lambda values: requests.refuse(values, gradients, numbers, self.ranks, stepper.t)  # noqa: E731
        outcome = stepper.step(rates, counting, request, check)
        gradients.release()
        # bytes since the last step, as messages travel before step() where they overlap with backward
        before, traffic = self._sent, stepper.world.traffic
        self._sent = traffic.up, traffic.down
        sent = traffic.up - before[0], traffic.down - before[1]
        self.statistics = statistics_of(
            stepper, outcome, sent, self.ranks.size, counting, with_loss=closure is not None
        )
        if gradients.copies:
            self._follow(outcome)
        if self._checks(stepper.t):
            stepper.check_replicas()
        self.raise_interrupt(outcome.request, stepper.t)
        return returned

    def _checks(self, t: int) -> bool:
        return bool(self.check_every) and t % self.check_every == 0

    def _follow(self, outcome: Outcome) -> None:
        """Has parameters of 16 bits be what x is, where they have not followed it chunk by chunk."""
        late = any(type(channel.update).finish is not Update.finish for channel in outcome.stage.channels)
        self.gradients.copies.follow() if late else self.gradients.copies.follow_rest()

    @property
    def _two_points(self) -> bool:
        stepper = self.stepper
        return stepper.algorithm.at(stepper.t - stepper.begun).estimator.two_points

    def _numbers(self) -> np.ndarray:
        """Rates and decays of the groups, float64 (2, groups); zeros, and a fault, where they can't be."""
        try:
            return numbers_of(self.param_groups)
        except UsageError as error:
            self.gradients.fault = self.gradients.fault or error
            return np.zeros((2, len(self.param_groups)))

    def _rates(self, numbers: np.ndarray | None = None) -> np.ndarray:
        """Learning rates of the segments; 0 for one whose gradient is missing."""
        rates = (self._numbers() if numbers is None else numbers)[0][self._group_of]
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
        return any(self.ranks.allgather(mine, "overflows"))

    # torch.amp.GradScaler then leaves unscaling, and what to do about an overflow, to step()
    _step_supports_amp_scaling = True

    def no_sync(self) -> AbstractContextManager[None]:
        """A context for all but the last of several backward passes whose gradients add up, where they overlap."""
        return self._overlap.paused() if self._overlap else nullcontext()
