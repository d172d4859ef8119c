"""Four slots at work: their channels, the arrays of every local voter, and the messages they send.

A channel is what travels one way: the coordinates that vote, and those that are averaged, if some are.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from mpisign import bits
from mpisign.algorithms.estimators import Minibatch
from mpisign.algorithms.method import Algorithm
from mpisign.algorithms.signs import Sign
from mpisign.algorithms.slots import Estimator, State, Step
from mpisign.engine.timing import Phase
from mpisign.exchange import Exchange
from mpisign.layout import Group, Layout
from mpisign.parallel.world import World
from mpisign.problems import Oracle

Estimates = Tensor | list[Tensor] | list[bits.Scattered]  # rows of a matrix, or a vector for each local voter


class Channel:
    """A group of coordinates, with the sign rule, vote, update and exchange that move it, and their arrays."""

    def __init__(self, group: Group, algorithm: Algorithm, exchange: Exchange, voters: int, like: "Channel | None"):
        """voters: local ones; each has a row in the arrays of the sign rule, its own state being made of views.

        like: the channel whose arrays it shares, if any.
        """
        self.group, self.layout, self.exchange = group, group.layout, exchange
        self.sign, self.update = algorithm.sign, algorithm.update
        self.sign_rows = like.sign_rows if like else _rows(self.sign.init(self.layout), voters)
        self.sign_states = [{k: rows[i] for k, rows in self.sign_rows.items()} for i in range(voters)]
        self.update_state = like.update_state if like else self.update.init(self.layout)
        self.scaled = self.sign.up().scaled

    def of(self, vectors: Estimates) -> Estimates:
        """This channel's coordinates of vectors (d,), or of the rows of a matrix (n, d)."""
        if self.group.whole:
            return vectors
        where = slice(self.group.lo, self.group.hi)
        return [v[where] for v in vectors] if isinstance(vectors, list) else vectors[..., where]

    def search(self, v: Tensor | bits.Scattered) -> int:
        """Index of the first value that is not finite, or -1; `mpisign bench` measures it apart."""
        return bits.first_nonfinite(v)

    def step(self, step: Step) -> Step:
        """What this channel's slots may know of a step: with its own layout and rates."""
        if step.layout is self.layout:
            return step
        own, where = step.own_decays, self.group.segments
        return replace(
            step, layout=self.layout, rates=step.rates[where], own_decays=None if own is None else own[where]
        )


class Stage:
    """An algorithm with its channels, and the arrays of every local voter."""

    def __init__(
        self,
        algorithm: Algorithm,
        exchanges: list[Exchange],
        layout: Layout,
        local: tuple[int, ...],
        oracles: list[Oracle],
        batched: bool = False,
        like: "Stage | None" = None,
    ):
        """exchanges: one per group of the layout. oracles: one per local voter.

        batched: whether the problem can be asked for all voters at once. like: the stage whose arrays it shares.
        """
        self.algorithm, self.local, self.layout = algorithm, local, layout
        shared = like.channels if like else [None] * len(exchanges)
        self.channels = [
            Channel(group, algorithm.of(group), exchange, len(local), channel)
            for group, exchange, channel in zip(layout.groups, exchanges, shared, strict=True)
        ]
        # all voters are then asked, and their messages packed, as rows of one matrix
        alike = algorithm.estimator.elementwise and all(channel.sign.elementwise for channel in self.channels)
        self.together = batched and alike
        self.reports = algorithm.estimator.reports
        self.observes = type(algorithm.estimator).observe is not Estimator.observe and not self.together
        # plain signs of plain gradients are packed where the gradients lie, if the oracle can tell where
        self.in_place = type(algorithm.estimator) is Minibatch and all(type(c.sign) is Sign for c in self.channels)
        self.estimator_rows = like.estimator_rows if like else _rows(algorithm.estimator.init(layout), len(local))
        self.estimator_states = [
            {k: rows[i] for k, rows in self.estimator_rows.items()} | _tables(algorithm.estimator, oracle)
            for i, oracle in enumerate(oracles)
        ]

    @property
    def at_once(self) -> bool:
        """Whether a step is one message, of one voter here, that every rank decides for itself."""
        return self.exchange.at_once and len(self.channels) == len(self.local) == 1 and not self.together

    @property
    def carrier(self) -> Exchange | World:
        """Who sends headers, between start_header() and finish_header()."""
        return self.exchange if self.exchange.carries else self.exchange.world

    @property
    def exchange(self) -> Exchange:
        """That of the coordinates that vote, where some do."""
        return self.channels[0].exchange

    def common(self) -> State:
        """Named arrays that are the same on every rank, as views: of the update, and of that of what is averaged."""
        return {name: array for name, array, scratch in self._of_updates() if not scratch}

    def counted(self) -> State:
        """Named arrays of the vote, as views: their last dimension is the coordinates that this rank counts."""
        return {f"vote/{name}": array for name, array in self.exchange.state.items()}

    def own(self) -> State:
        """Named arrays of the local voters, as views: slot/name/voter."""
        return {name: array for name, array, scratch in self._of_voters() if not scratch}

    def states(self) -> State:
        """All named arrays that go on from step to step, as views."""
        return self.counted() | self.common() | self.own()

    def scratch(self) -> State:
        """Named arrays that do not, as views: no checkpoint has them, and nobody hands them on."""
        return {name: array for name, array, scratch in (*self._of_updates(), *self._of_voters()) if scratch}

    def _of_updates(self) -> Iterator[tuple[str, Tensor, bool]]:
        """The arrays of updates by name, and whether each is scratch."""
        for slot, channel in zip(("update", "averaged"), self.channels, strict=False):
            for name, array in channel.update_state.items():
                yield f"{slot}/{name}", array, name in channel.update.scratch

    def _of_voters(self) -> Iterator[tuple[str, Tensor, bool]]:
        """Likewise those of the local voters."""
        estimator, voting = self.algorithm.estimator, self.channels[0]
        slots = ("estimator", estimator, self.estimator_states), ("sign", voting.sign, voting.sign_states)
        for slot, of, states in slots:
            for voter, state in zip(self.local, states, strict=True):
                for name, array in state.items():
                    yield f"{slot}/{name}/{voter}", array, name in of.scratch

    def bytes_a_step(self) -> int:
        """Bytes of words and floats that this rank sends in a step, to vote and to agree before it, foretold."""
        return sum(channel.exchange.bytes_foretold() for channel in self.channels) + self.bytes_to_agree

    @property
    def bytes_to_agree(self) -> int:
        """Of them, those of the means on which estimators agree: a share of a mean goes up, and the mean comes down."""
        n = self.exchange.world.n
        return 8 * self.algorithm.estimator.shared_floats(self.layout) * (n - 1) * len(self.local) // n

    @property
    def longest_chunk(self) -> int:
        """Coordinates of the longest chunk of any channel."""
        return max(hi - lo for channel in self.channels for lo, hi in channel.exchange.chunks)

    def memory(self) -> int:
        """Bytes of the exchanges' buffers, without the vote's arrays."""
        held = sum(channel.exchange.memory() for channel in self.channels)
        return held - sum(array.nbytes for array in self.counted().values())

    def close(self) -> None:
        """Collective; see Exchange.close."""
        for channel in self.channels:
            channel.exchange.close()
            if channel.exchange.progress_engine:
                channel.exchange.progress_engine.close()


def _rows(state: State, count: int) -> State:
    return {name: array.repeat(count, 1) for name, array in state.items()}


def _tables(estimator: Estimator, oracle: Oracle) -> State:
    """A voter's arrays with a row for each of its own rows of data, of which each voter may own another number."""
    return {
        name: torch.zeros(oracle.rows.count, oracle.problem.outputs, device=oracle.device) for name in estimator.tables
    }


class Outbox:
    """Packs and sends a channel's messages of one step, chunk by chunk, in whatever order they are asked for."""

    def __init__(
        self,
        channel: Channel,
        estimates: Estimates,
        signals: list[tuple],
        states: list[State],
        steps: list[Step],
        phase: Phase,
    ):
        """estimates: the channel's, rows of a matrix or a vector for each local voter. signals: what each of these
        began with, (signal, scales); or of all of them together, as rows."""
        self.zeros = self.clips = 0
        self.bad = [-1] * len(estimates)  # first coordinate of each local voter's estimate that is not finite
        self.scales = [scales for _, scales in signals]
        if channel.scaled and channel.exchange.adversary:
            self.scales = channel.exchange.adversary.inflate(self.scales)
        self._channel, self._phase, self._estimates = channel, phase, estimates
        self._work = list(enumerate(zip(signals, states, steps, strict=True)))
        chunks = len(channel.exchange.chunks)
        self.sent, self._unsearched = [False] * chunks, dict.fromkeys(range(chunks))

    def __call__(self, c: int) -> None:
        exchange = self._channel.exchange
        lo, hi = exchange.chunks[c]
        with self._phase:
            for i, ((signal, scales), state, step) in self._work:
                out = exchange.outgoing_rows(c) if signal.dim() > 1 else exchange.packed_into(i, c)
                packed = self._channel.sign.pack(signal, scales, lo, hi, out, state, step)
                self.zeros, self.clips = self.zeros + packed.zeros, self.clips + packed.clips
                if c in self._unsearched:
                    self._note(i, packed.bad, lo, hi)
            self._unsearched.pop(c, None)
            self.sent[c] = True
            exchange.send_chunk(c)
            exchange.progress()

    def search_on(self) -> list[int]:
        """Searches what is not packed yet; the first bad coordinate of each local voter in x, or -1."""
        for c in self._unsearched:
            for i, *_ in self._work:
                self._note(i, None, *self._channel.exchange.chunks[c])
        self._unsearched.clear()
        lo = self._channel.group.lo
        return [index if index < 0 else index + lo for index in self.bad]

    def _note(self, i: int, bad: int | None, lo: int, hi: int) -> None:
        """Notes the first bad coordinate of a message (or of all of them, as rows), looking for it if nobody did."""
        together = isinstance(self._estimates, Tensor)
        if bad is None and together:
            clean = self._channel.search(self._estimates[:, lo:hi].reshape(-1)) < 0
            for row in () if clean else range(len(self.bad)):
                self._mark(row, self._channel.search(self._estimates[row, lo:hi]), lo)
        elif bad is None:
            self._mark(i, self._channel.search(self._estimates[i][lo:hi]), lo)
        else:
            self._mark(i, bad, 0)

    def _mark(self, i: int, index: int, lo: int) -> None:
        if index >= 0 and not 0 <= self.bad[i] <= lo + index:
            self.bad[i] = lo + index
