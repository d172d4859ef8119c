"""The core: one step of any algorithm, for train, for the library and for simulations alike.

1. estimate   every local voter asks its oracle and forms v
2. sign       v becomes a message; a small header (flags, loss, scales) goes with it
3. exchange   messages travel, the vote decides; every header is in before x or any state of a vote moves
4. update     x moves, chunk by chunk, the same bits on every rank
"""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mpisign import bits
from mpisign.algorithms.messages import Direction
from mpisign.algorithms.method import Method
from mpisign.algorithms.slots import State, Step
from mpisign.bits.rng import NO_VOTER, Streams
from mpisign.engine.header import FLAGS, first_bad, pack_header, refuse_drift, refuse_nonfinite
from mpisign.engine.memory import Memory, without_voter
from mpisign.engine.rounding import BITS, StochasticRounding, bit_patterns
from mpisign.engine.stage import Channel, Estimates, Outbox, Stage
from mpisign.engine.timing import Timer
from mpisign.errors import NumericalError
from mpisign.exchange import Exchange
from mpisign.layout import Layout
from mpisign.parallel.world import World
from mpisign.problems import Oracle, batch_oracles

Check = Callable[[np.ndarray], None]  # sees the requests of all voters (n,) before anything moves; may raise


@dataclass
class Outcome:
    """What a step tells: the mean loss before it, this process's counts, and the largest request of any rank."""

    loss: float
    zeros: int
    clips: int
    request: int
    stage: Stage = field(compare=False, repr=False)  # that took it

    def totals(self, world: World, **more: float) -> dict[str, Any]:
        """Counts of a step that counted, over all ranks, and the sums of `more`. Collective.

        agreement: mean over coordinates of |tally|/votes, in [0, 1]; NaN where no signs are sent. ties, flips, zeros
        and clips: coordinates, whole numbers.
        """
        exchange = self.stage.exchange
        counts = vars(exchange.counts) | {"zeros": self.zeros, "clips": self.clips}
        total = world.sums(counts | more)
        agreement = total.pop("agreement") / (exchange.votes * exchange.layout.size)
        if not self.stage.algorithm.sign.up().signs:
            agreement = math.nan
        whole = {name: int(total.pop(name)) for name in ("ties", "flips", "zeros", "clips")}
        return {"agreement": agreement} | whole | total


@dataclass
class PendingStep:
    """A step under way, from its estimates to its messages."""

    everyone: Step
    steps: list[Step]  # one a local voter, or only the first one's where all are asked together
    estimates: Estimates
    outboxes: list[Outbox]  # one a channel

    def at(self, rates: np.ndarray, own_decays: np.ndarray | None) -> "PendingStep":
        """The same with other rates and decays, which messages packed so far do not depend on."""
        everyone, *steps = (replace(s, rates=rates, own_decays=own_decays) for s in (self.everyone, *self.steps))
        return replace(self, everyone=everyone, steps=steps)


class Stepper:
    """x, the state of every local voter, and the four slots that move them."""

    def __init__(
        self,
        algorithm: Method,
        layout: Layout,
        exchanges: list[list[Exchange]],
        world: World,
        streams: Streams,
        oracles: list[Oracle],
        x: Tensor,
        weights: np.ndarray | None = None,
        timer: Timer | None = None,
        begun: int = 0,
    ):
        """exchanges: for each stage of the algorithm, one per group of the layout. oracles: one per local voter.

        x: flat float32, the same bits on every rank; or bfloat16, if rounding.unfit() says nothing of the algorithm.
        weights: of the voters by number in the loss and in means of raw floats, those of `world.voters` adding up to n;
        all 1 by default. begun: steps behind x, taken by another run.
        """
        self.algorithm, self.layout = algorithm, layout
        self.world, self.streams, self.oracles, self.x = world, streams, oracles, x
        self.weights = np.ones(world.voters[-1] + 1) if weights is None else weights
        self._factors = self.weights[[*world.voters]]  # of their losses
        self.timer = timer or Timer()
        self.t = self.begun = begun
        self.batched = batch_oracles(oracles)
        self.stages: list[Stage] = []
        for slots, own in zip(algorithm.stages, exchanges, strict=True):
            like = self.stages[0] if algorithm.shares and self.stages else None
            self.stages.append(Stage(slots, own, layout, world.local, oracles, bool(self.batched), like))
        self.stage = self.stages[0]
        two_points = any(slots.estimator.two_points for slots in algorithm.stages)
        self.x_before = x.clone() if two_points else None
        narrow = x.dtype == torch.bfloat16
        self.rounding = StochasticRounding(x, max(stage.longest_chunk for stage in self.stages)) if narrow else None
        self.own_decays: np.ndarray | None = None  # of the segments, where they are not those of their groups
        self._pending: PendingStep | None = None
        self.moved: Callable[[int, int], None] | None = None  # told of coordinates [lo, hi) of x that have moved

    @property
    def exchange(self) -> Exchange:
        """The exchange at work now, of what votes."""
        return self.stage.exchange

    def step(
        self, lr: float | np.ndarray, counting: bool = False, request: int = 0, check: Check | None = None
    ) -> Outcome:
        """Takes one step.

        lr: the schedule's learning rate, or one per segment, float64 (segments,). counting: also count agreement, ties
        and flips, into exchange.counts. request: any number that the ranks should agree on, which travels in the
        header; see Outcome. check: what else may stop all ranks.
        Raises NumericalError on all ranks, with x unmoved, if any voter's loss or estimate is not finite.
        """
        rates = lr if isinstance(lr, np.ndarray) else self.layout.rates(lr)
        if self._pending is None:
            self._turn_to_stage()
        at_once = self._pending is None and self.stage.at_once and not self.exchange.watched
        way = self._step_at_once if at_once else self._step_by_chunks
        everyone, zeros, clips = way(rates, counting, request, check)
        loss, most = self._mean(self._header[:, 2]), int(max(self._header[:, 1].tolist()))
        for channel in self.stage.channels:
            channel.update.finish(channel.of(self.x), channel.update_state, channel.step(everyone), self.objective)
        self.oracles[0].constrain(self.x)
        self.t += 1
        return Outcome(loss, zeros, clips, most, self.stage)

    def _step_by_chunks(
        self, rates: np.ndarray, counting: bool, request: int, check: Check | None
    ) -> tuple[Step, int, int]:
        """Estimates, votes and moves x; returns the step as all voters know it, and how many zeros and clips."""
        pending, self._pending = self._pending or self._begin_step(rates, counting), None
        if pending.everyone.rates is not rates:  # it was opened before they were known
            pending = pending.at(rates, self.own_decays)
        for channel, outbox in zip(self.stage.channels, pending.outboxes, strict=True):
            for c in channel.exchange.initial_chunks:
                if not outbox.sent[c]:
                    outbox(c)
            channel.exchange.flush()
        with self.timer("sign"):
            self.stage.carrier.start_header(self._headers(pending, request))
        self._keep_point()
        for channel, outbox in zip(self.stage.channels, pending.outboxes, strict=True):
            self._move(channel, outbox, pending, lambda channel=channel: self._agree(channel, check))
        zeros, clips = (sum([getattr(outbox, k) for outbox in pending.outboxes]) for k in ("zeros", "clips"))
        return pending.everyone, zeros, clips

    def _step_at_once(
        self, rates: np.ndarray, counting: bool, request: int, check: Check | None
    ) -> tuple[Step, int, int]:
        """The same where a step is one message: slots and exchange are asked the same, with nothing between calls.

        Of a small model's step most is Python.
        """
        (channel,), (everyone, step) = self.stage.channels, self._steps(rates)
        exchange, sign, states = channel.exchange, channel.sign, channel.sign_states
        with self.timer("estimate"):
            estimates = [self._estimate(0, step)]
            self.stage.algorithm.estimator.agree(estimates, self.stage.estimator_states, everyone)
        with self.timer("sign"):
            sign.agree(estimates, states, everyone)
            signal, scales = sign.begin(estimates[0], states[0], step)
            exchange.open(counting)
            packed = sign.pack(signal, scales, 0, self.layout.length, exchange.outgoing(0, 0), states[0], step)
            exchange.send(0)
            bad = channel.search(estimates[0]) if packed.bad is None else packed.bad
            beside = [[scales]] if channel.scaled else []
            exchange.start_header(self._rows([bad], estimates, request, [self.oracles[0].loss], beside))
        self._keep_point()
        with self.timer("exchange"):
            direction = exchange.decided_at_once(self._agree(channel, check), everyone)
        with self.timer("update"):
            self._apply(channel, direction, self._begin_update(channel, everyone), [step])
        return everyone, packed.zeros, packed.clips

    def _keep_point(self) -> None:
        """Keeps x as it is before it moves, where estimators ask for it; and no header has come yet."""
        self._header = None
        if self.x_before is not None:
            self.x_before.copy_(self.x)

    def at_hand(self, layout: Layout) -> Step:
        """The step that comes next or is under way, for who looks at messages on a layout: without rates of its own."""
        return Step(self.t, layout.rates(0.0), self.streams, layout, self.world)

    def objective(self) -> float:
        """f at x: the weighted mean of all voters' own functions. Collective; a float64 per voter travels for it."""
        self.world.count_reported(1)
        self.world.start_header(np.array([[oracle.objective(self.x)] for oracle in self.oracles]))
        return self._mean(self.world.finish_header()[:, 0])

    def _mean(self, values: np.ndarray) -> float:
        """Weighted mean of one value per voter, added in their order."""
        return reduce(add, (values * self._factors).tolist()) / self.world.n

    def open(self, rates: np.ndarray) -> PendingStep | None:
        """Begins a step whose gradients come part by part, if its slots work by parts; see Algorithm.needs_whole.

        The caller fills v and calls outboxes[channel](c) for chunks of `initial_chunks`, all ranks in the same order;
        step() does what is left, at rates of its own.
        """
        stage = self.stages[self.algorithm.stage(self.t - self.begun)]
        if stage.algorithm.needs_whole:
            return None
        v = [state[stage.algorithm.estimator.streams] for state in stage.estimator_states]
        self._turn_to_stage()
        self._pending = self._begin_step(rates, True, v)
        return self._pending

    def _switch_stage(self, index: int) -> None:
        """Goes on to another stage, which starts from the arrays that are kept."""
        if self.stage is self.stages[index]:
            return
        before, self.stage = self.stage.states(), self.stages[index]
        after = self.stage.states()
        for source, target in self.algorithm.keep:
            for name, array in after.items():
                # a voter's own array starts from its own, or from the one that all share
                slot_name, _, voter = name.rpartition("/")
                if name == target and source in before:
                    array.copy_(before[source])
                elif slot_name == target and "/" in slot_name:
                    array.copy_(before[source] if source in before else before[f"{source}/{voter}"])

    def _begin_step(self, rates: np.ndarray, counting: bool, estimates: list[Tensor] | None = None) -> PendingStep:
        """Begins a step of this stage: asks for estimates, unless there are some that are filled in later."""
        everyone, *steps = self._steps(rates)
        with self.timer("estimate"):
            if estimates is None:
                estimates = self._estimate_all(steps)
                self.stage.algorithm.estimator.agree(estimates, self.stage.estimator_states, everyone)
        with self.timer("sign"):
            outboxes = [
                self._open_outbox(channel, channel.of(estimates), steps, everyone) for channel in self.stage.channels
            ]
        for channel in self.stage.channels:
            channel.exchange.open(counting)
        return PendingStep(everyone, steps, estimates, outboxes)

    def _turn_to_stage(self) -> None:
        self.world.watch.step = self.t
        self._switch_stage(self.algorithm.stage(self.t - self.begun))

    def _steps(self, rates: np.ndarray) -> list[Step]:
        """What slots may know of this step: all voters together, and each local one."""
        first = (self.t, rates, self.streams, self.layout, self.world)
        rest = (self.x_before, self.begun, self.own_decays)
        voters = self.world.local[:1] if self.stage.together else self.world.local
        alone = [Step(*first, voter, float(self.weights[voter]), *rest) for voter in voters]
        return [Step(*first, NO_VOTER, 1.0, *rest), *alone]

    def _estimate_all(self, steps: list[Step]) -> Estimates:
        """v of every local voter: rows of a matrix, or vectors of their own."""
        if not self.stage.together:
            return [self._estimate(i, step) for i, step in enumerate(steps)]
        self.batched.begin(self.t)
        return self.stage.algorithm.estimator.estimate(self.batched, self.x, self.stage.estimator_rows, steps[0])

    def _estimate(self, i: int, step: Step) -> Tensor | bits.Scattered:
        self.oracles[i].begin(step.t)
        if self.stage.in_place and (gradient := self.oracles[i].gradient_in_place()) is not None:
            return gradient
        return self.stage.algorithm.estimator.estimate(self.oracles[i], self.x, self.stage.estimator_states[i], step)

    def _open_outbox(self, channel: Channel, estimates: Estimates, steps: list[Step], everyone: Step) -> Outbox:
        """What all of a channel's v is needed for; returns what packs and sends its messages."""
        sign, states, steps = channel.sign, channel.sign_states, [channel.step(step) for step in steps]
        sign.agree(estimates, states, channel.step(everyone))
        if self.stage.together:
            states = [channel.sign_rows]
            signals = [sign.begin(estimates, states[0], steps[0])]
        else:
            signals = [sign.begin(v, s, step) for v, s, step in zip(estimates, states, steps, strict=True)]
        return Outbox(channel, estimates, signals, states, steps, self.timer("sign"))

    def _move(
        self, channel: Channel, outbox: Outbox, pending: PendingStep, agree: Callable[[], np.ndarray | None]
    ) -> None:
        everyone, moving = channel.step(pending.everyone), False
        verdicts = channel.exchange.verdicts(everyone, outbox, agree)
        while True:
            with self.timer("exchange"):
                try:
                    direction = next(verdicts, None)
                except NumericalError:
                    self._drain_behind(channel)
                    raise
            if direction is None:
                break
            with self.timer("update"):
                if not moving:
                    moving, everyone = True, self._begin_update(channel, everyone)
                self._apply(channel, direction, everyone, pending.steps)

    def _begin_update(self, channel: Channel, everyone: Step) -> Step:
        """Lets a channel's update begin; returns the step with what the estimators told."""
        if reports := self.stage.reports:
            everyone = replace(everyone, reported=self._header[:, -reports:].copy())
        channel.update.begin(channel.of(self.x), channel.update_state, everyone, self.objective)
        return everyone

    def _apply(self, channel: Channel, direction: Direction, everyone: Step, steps: list[Step]) -> None:
        """Moves a channel's x along a chunk's direction, and lets all see it that want to."""
        x, lo = channel.of(self.x), channel.group.lo
        if (unit := channel.sign.unit(channel.sign_states[0])) is not None:
            direction.scales = unit
        if self.rounding:
            self.rounding.apply(channel.update, x, direction, channel.update_state, everyone, lo)
        else:
            channel.update.apply(x, direction, channel.update_state, everyone)
        if self.moved:
            self.moved(lo + direction.lo, lo + direction.hi)
        if self.stage.observes:
            for state, step in zip(self.stage.estimator_states, steps, strict=True):
                self.stage.algorithm.estimator.observe(direction, state, step)

    def _drain_behind(self, channel: Channel) -> None:
        """Where a channel's verdicts are refused, waits for what later channels have on their way."""
        behind = self.stage.channels.index(channel) + 1
        for one in self.stage.channels[behind:] if channel.exchange.collected else ():
            one.exchange.drain()

    def _headers(self, pending: PendingStep, request: int) -> np.ndarray:
        losses = self.batched.loss if self.stage.together else [oracle.loss for oracle in self.oracles]
        bad = first_bad([outbox.search_on() for outbox in pending.outboxes])
        rows_beside = [
            outbox.scales
            for channel, outbox in zip(self.stage.channels, pending.outboxes, strict=True)
            if channel.scaled
        ]
        return self._rows(bad, pending.estimates, request, losses, rows_beside)

    def _rows(self, bad: list[int], estimates: Estimates, request: int, losses, beside: list[list]) -> np.ndarray:
        """The headers of the local voters. beside: rows of scales, if messages have them."""
        if reports := self.stage.reports:
            beside = [*beside, [state["told"].numpy() for state in self.stage.estimator_states]]
            self.world.count_reported(reports)
        rows = pack_header(bad, estimates, request, losses, beside)
        return self.world.voters_rows(rows, self.layout.origin)

    def _agree(self, channel: Channel, check: Check | None) -> np.ndarray | None:
        """Waits for all headers, once a step, and returns a channel's scales in them, if any."""
        if self._header is None:
            self._header = self.stage.carrier.finish_header()
            try:
                refuse_nonfinite(self._without_reports(), self.layout.whole, self.t, self.world)
                if check:
                    check(self._header[:, 1])
            except Exception:
                for one in self.stage.channels:
                    one.exchange.drain()
                raise
        return self._without_reports()[:, FLAGS:].astype(np.float32) if channel.scaled else None

    def _without_reports(self) -> np.ndarray:
        return self._header[:, : -self.stage.reports] if self.stage.reports else self._header

    def common(self) -> State:
        """Named arrays that are the same on every rank: x, x_before, and those of each stage, as views.

        x is rounding.BITS, int16, where it is bfloat16.
        """
        x = {BITS if self.rounding else "x": bit_patterns(self.x)}
        named = x | ({} if self.x_before is None else {"x_before": self.x_before})
        return named | self._of_stages(Stage.common)

    def own(self) -> State:
        """Named arrays of the local voters, as views; names end in /voter."""
        pairs = zip(self.world.local, self.oracles, strict=True)
        kept = {f"oracle/{k}/{voter}": array for voter, oracle in pairs for k, array in oracle.statistics.items()}
        return self._of_stages(Stage.own) | kept

    def states(self) -> State:
        """All named arrays of this process that go on from step to step, as views."""
        return self.common() | self._of_stages(Stage.counted) | self.own()

    def _of_stages(self, group: Callable[[Stage], State]) -> State:
        stages = self.stages[:1] if self.algorithm.shares else self.stages
        return {self.prefix(k) + name: a for k, stage in enumerate(stages) for name, a in group(stage).items()}

    @staticmethod
    def prefix(k: int) -> str:
        """Of the names of the k-th stage's arrays."""
        return f"stage{k}/" if k else ""

    def resume_at(self, t: int, begun: int) -> None:
        """Goes on after t steps, with arrays that were filled in as they stood then."""
        self.t, self.begun = t, begun
        self.stage = self.stages[self.algorithm.stage(max(t - 1 - begun, 0))]

    def check_replicas(self) -> None:
        """Compares a hash of x across ranks; raises NumericalError on all of them, naming those that drifted."""
        refuse_drift(self.world.gather_bytes(self.layout.digest(self.x)), self.t, self.world.each)

    def close(self) -> None:
        """Gives back what the exchanges hold besides memory of this process. Collective."""
        for stage in self.stages:
            stage.close()

    def memory(self) -> Memory:
        """Bytes held for x, states and messages."""
        held = Counter({"x": self.x.nbytes, "moving": self.rounding.nbytes if self.rounding else 0})
        for name, array in (self.states() | self._of_stages(Stage.scratch)).items():
            if array.data_ptr() != self.x.data_ptr():
                held[without_voter(name)] += array.nbytes
        held["messages"] = sum(stage.memory() for stage in self.stages)
        return Memory({}, self.layout.size).with_more(held)
