"""The core: one step of any algorithm, for train, for the library and for simulations alike.

1. estimate   every local voter asks its oracle and forms v
2. sign       v becomes a message; a small header (flags, loss, scales) goes with it
3. exchange   messages travel, the vote decides; every header is in before x or any state of a vote moves
4. update     x moves, chunk by chunk, the same bits on every rank
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from mpisign.algorithm import Algorithm, Cycle, Stages
from mpisign.errors import NumericalError
from mpisign.exchange import Exchange
from mpisign.layout import Layout
from mpisign.problems import Oracle, assemble
from mpisign.rng import Streams
from mpisign.slots import State, Step
from mpisign.stage import Posting, Stage
from mpisign.timing import Timer
from mpisign.world import World

FLAGS = 3  # header: first coordinate that is not finite or -1; its value, or else a request; the loss; then scales


@dataclass
class Outcome:
    """What a step tells: the mean loss before it, this process's counts, and the largest request of any rank."""

    loss: float
    zeros: int
    clips: int
    request: int = 0


class Stepper:
    """x, the state of every local voter, and the four slots that move them."""

    def __init__(
        self,
        algorithm: Algorithm | Stages | Cycle,
        layout: Layout,
        exchanges: list[Exchange],
        world: World,
        streams: Streams,
        oracles: list[Oracle],
        x: Tensor,
        weights: np.ndarray | None = None,
        timer: Timer | None = None,
        begun: int = 0,
    ):
        """exchanges: one a stage of the algorithm. oracles: one a local voter. x: flat float32, the same bits on
        every rank. weights: (n,) of the voters in the loss and in means of raw floats, adding up to n; all 1 by
        default. begun: steps already behind x, taken by another run."""
        self.turns, self.layout = algorithm, layout
        self.world, self.streams, self.oracles, self.x = world, streams, oracles, x
        self.weights = np.ones(world.n) if weights is None else weights
        self.timer = timer or Timer()
        self.t = self.begun = begun
        pairs = zip(algorithm.stages, exchanges, strict=True)
        self.stages = [Stage(slots, exchange, layout, world.local) for slots, exchange in pairs]
        self.stage = self.stages[0]
        self.crew = assemble(oracles)
        two_points = any(slots.estimator.two_points for slots in algorithm.stages)
        self.x_before = x.clone() if two_points else None

    @property
    def algorithm(self) -> Algorithm:
        """The four slots at work now."""
        return self.stage.algorithm

    @property
    def exchange(self) -> Exchange:
        """The exchange at work now."""
        return self.stage.exchange

    def step(self, lr: float, counting: bool = False, request: int = 0) -> Outcome:
        """Takes one step. counting: also count agreement, ties and flips, into exchange.counts.

        request: any number that the ranks should agree on, which travels in the header; see Outcome.
        Raises NumericalError on all ranks, with x unmoved, if any voter's loss or estimate is not finite.
        """
        self.world.watch.step = self.t
        self._turn(self.turns.stage(self.t - self.begun))
        given = (self.t, self.layout.rates(lr), self.streams, self.layout, self.world)
        more = {"x_before": self.x_before, "begun": self.begun}
        everyone = Step(*given, **more)
        mine = [
            Step(*given, voter, float(self.weights[voter]), **more)
            for voter in (self.world.local[:1] if self._together else self.world.local)
        ]
        with self.timer("estimate"):
            estimates = self._estimate_all(mine)
        with self.timer("sign"):
            post = self._begin(estimates, mine, everyone)
        for c in self.exchange.at_once:
            post(c)
        with self.timer("sign"):
            self.world.start_header(self._headers(estimates, post, request))
        self._move(self.exchange.verdicts(everyone, counting, post, self._agree), mine, everyone)
        self.t += 1
        header = self._header
        loss = float(np.add.accumulate(header[:, 2] * self.weights)[-1]) / self.world.n
        return Outcome(loss, post.zeros, post.clips, int(header[:, 1].max()))

    def _turn(self, index: int) -> None:
        """Goes on to another stage, which starts from the arrays that are kept."""
        if self.stage is self.stages[index]:
            return
        before, self.stage = self.stage.states(), self.stages[index]
        after = self.stage.states()
        for source, target in self.turns.keep:
            for name, array in after.items():
                # a voter's own array starts from its own, or from the one that all share
                slot_name, _, voter = name.rpartition("/")
                if name == target and source in before:
                    array.copy_(before[source])
                elif slot_name == target and "/" in slot_name:
                    array.copy_(before[source] if source in before else before[f"{source}/{voter}"])

    @property
    def _together(self) -> bool:
        """Whether all voters are asked, and their messages packed, as rows of one matrix."""
        slots = self.algorithm
        return self.crew is not None and slots.estimator.elementwise and slots.sign.elementwise

    def _estimate_all(self, steps: list[Step]) -> Tensor | list[Tensor]:
        """v of every local voter: rows of a matrix, or vectors of their own."""
        if not self._together:
            return [self._estimate(i, step) for i, step in enumerate(steps)]
        self.crew.begin(self.t)
        return self.algorithm.estimator.estimate(self.crew, self.x, self.stage.estimator_rows, steps[0])

    def _estimate(self, i: int, step: Step) -> Tensor:
        self.oracles[i].begin(step.t)
        return self.algorithm.estimator.estimate(self.oracles[i], self.x, self.stage.estimator_states[i], step)

    def _begin(self, estimates: Tensor | list[Tensor], steps: list[Step], everyone: Step) -> Posting:
        """What all of v is needed for; returns what packs and sends the messages."""
        sign, states = self.algorithm.sign, self.stage.sign_states
        sign.agree(estimates, states, everyone)
        if self._together:
            states = [self.stage.sign_rows]
            signals = [sign.begin(estimates, states[0], steps[0])]
        else:
            signals = [sign.begin(v, s, step) for v, s, step in zip(estimates, states, steps, strict=True)]
        return Posting(self.stage, estimates, signals, states, steps, self.timer("sign"))

    def _move(self, verdicts, steps: list[Step], everyone: Step) -> None:
        if self.x_before is not None:
            self.x_before.copy_(self.x)
        while True:
            with self.timer("exchange"):
                direction = next(verdicts, None)
            if direction is None:
                break
            with self.timer("update"):
                self.algorithm.update.apply(self.x, direction, self.stage.update_state, everyone)
                if not self._together:
                    for state, step in zip(self.stage.estimator_states, steps, strict=True):
                        self.algorithm.estimator.observe(direction, state, step)

    def _headers(self, estimates: Tensor | list[Tensor], post: Posting, request: int) -> np.ndarray:
        """A row a local voter: (first bad coordinate or -1, its value or the request, loss), then scales."""
        losses = self.crew.loss if self._together else [oracle.loss for oracle in self.oracles]
        rows = np.zeros((len(self.world.local), FLAGS))
        rows[:, 0], rows[:, 1], rows[:, 2] = post.search_on(), request, losses
        for i in np.flatnonzero(rows[:, 0] >= 0):
            rows[i, 1] = float(estimates[i][int(rows[i, 0])])
        return np.hstack([rows, np.array(post.scales)]) if self.stage.scaled else rows

    def _agree(self) -> np.ndarray | None:
        """Waits for all headers, and returns the scales in them, if any."""
        self._header = self.world.finish_header()
        self._refuse_nonfinite(self._header)
        return self._header[:, FLAGS:].astype(np.float32) if self.stage.scaled else None

    def _refuse_nonfinite(self, header: np.ndarray) -> None:
        if (header[:, 0] < 0).all() and np.isfinite(header[:, 2:]).all():
            return
        for voter, (bad, value, loss, *scales) in enumerate(header):
            if bad >= 0:
                what = f"the estimate of parameter {self.layout.name_of(int(bad))} is {value}"
            elif not math.isfinite(loss):
                what = f"the loss is {loss}"
            elif not np.isfinite(scales).all():
                segment = int(np.flatnonzero(~np.isfinite(scales))[0])
                what = f"the scale of parameter {self.layout.segments[segment].name} is {scales[segment]}"
            else:
                continue
            self.exchange.drain()
            raise NumericalError(
                f"rank {voter}: {what} at step {self.t}; all ranks stop, x is as it was before the step. "
                "Lower schedule.lr, set algorithm.clip, or look at this rank's rows",
                agreed=True,
            )

    def common(self) -> State:
        """Named arrays that are the same on every rank: x, x_before, and those of each stage, as views."""
        named = {"x": self.x} | ({} if self.x_before is None else {"x_before": self.x_before})
        return named | self._of_stages(Stage.common)

    def own(self) -> State:
        """Named arrays of the local voters, as views; names end in /voter."""
        return self._of_stages(Stage.own)

    def states(self) -> State:
        """All named arrays of this process, as views."""
        return self.common() | self._of_stages(Stage.counted) | self.own()

    def _of_stages(self, group: Callable[[Stage], State]) -> State:
        return {self.prefix(k) + name: a for k, stage in enumerate(self.stages) for name, a in group(stage).items()}

    @staticmethod
    def prefix(k: int) -> str:
        """What the names of the k-th stage's arrays begin with."""
        return f"stage{k}/" if k else ""

    def restart(self, t: int, begun: int) -> None:
        """Goes on after t steps, with arrays that were filled in as they stood then."""
        self.t, self.begun = t, begun
        self.stage = self.stages[self.turns.stage(max(t - 1 - begun, 0))]

    def check_replicas(self) -> None:
        """Compares a hash of x across ranks; raises NumericalError on all of them, naming those that drifted."""
        digests = self.world.gather_bytes(self.layout.digest(self.x))
        groups = [[r for r, d in enumerate(digests) if d == one] for one in dict.fromkeys(digests)]
        if len(groups) == 1:
            return
        most = max(groups, key=len)
        if 2 * len(most) > len(digests):
            others = sorted(r for group in groups if group is not most for r in group)
            who = f"rank(s) {others} differ from those of the other ranks"
        else:
            who = f"ranks {' and '.join(map(str, groups))} differ, and none of them are a majority"
        raise NumericalError(
            f"after step {self.t} the parameters of {who}; "
            "a replica has drifted (bad memory, or code that changes x on one rank only)",
            agreed=True,
        )

    def memory(self) -> int:
        """Bytes held for x, states and messages."""
        slots = sum(a.nbytes for name, a in self.states().items() if "vote/" not in name)
        return slots + sum(stage.exchange.memory() for stage in self.stages)
