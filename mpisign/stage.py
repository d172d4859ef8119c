"""Four slots at work: their exchange, the arrays of every local voter, and the messages they post."""

from torch import Tensor

from mpisign import bits
from mpisign.algorithm import Algorithm
from mpisign.exchange import Exchange
from mpisign.layout import Layout
from mpisign.slots import State, Step
from mpisign.timing import Phase


class Stage:
    """An algorithm and its exchange, with the arrays of every local voter."""

    def __init__(self, algorithm: Algorithm, exchange: Exchange, layout: Layout, local: tuple[int, ...]):
        self.algorithm, self.exchange, self.local = algorithm, exchange, local
        # a row a local voter; a voter's own state is made of views
        self.estimator_rows = _rows(algorithm.estimator.init(layout), len(local))
        self.sign_rows = _rows(algorithm.sign.init(layout), len(local))
        self.estimator_states = [{k: rows[i] for k, rows in self.estimator_rows.items()} for i in range(len(local))]
        self.sign_states = [{k: rows[i] for k, rows in self.sign_rows.items()} for i in range(len(local))]
        self.update_state = algorithm.update.init(layout)
        self.scaled = algorithm.sign.up().scaled

    def common(self) -> State:
        """Named arrays that are the same on every rank, as views."""
        return {f"update/{name}": array for name, array in self.update_state.items()}

    def counted(self) -> State:
        """Named arrays of the vote, as views: their last dimension is the coordinates that this rank counts."""
        return {f"vote/{name}": array for name, array in self.exchange.state.items()}

    def own(self) -> State:
        """Named arrays of the local voters, as views: slot/name/voter."""
        named = {}
        for slot, states in (("estimator", self.estimator_states), ("sign", self.sign_states)):
            for voter, state in zip(self.local, states, strict=True):
                named |= {f"{slot}/{name}/{voter}": array for name, array in state.items()}
        return named

    def search(self, v: Tensor) -> int:
        """Index of the first value that is not finite, or -1."""
        return bits.first_nonfinite(v)

    def states(self) -> State:
        """All named arrays, as views."""
        return self.counted() | self.common() | self.own()


def _rows(state: State, count: int) -> State:
    return {name: array.repeat(count, 1) for name, array in state.items()}


class Posting:
    """Packs and sends the messages of one step, chunk by chunk, in the order in which chunks are asked for."""

    def __init__(
        self,
        stage: Stage,
        estimates: Tensor | list[Tensor],
        signals: list[tuple],
        states: list[State],
        steps: list[Step],
        phase: Phase,
    ):
        """signals: what each local voter begun with, (signal, scales); or of all of them together, as rows."""
        self.zeros = self.clips = 0
        self.bad = [-1] * len(estimates)  # first coordinate of each local voter's estimate that is not finite
        self._stage, self._phase, self._estimates, self._searched = stage, phase, estimates, 0
        self.scales = [scales for _, scales in signals]
        self._work = list(enumerate(zip(signals, states, steps, strict=True)))

    def __call__(self, c: int) -> None:
        exchange, sign = self._stage.exchange, self._stage.algorithm.sign
        lo, hi = exchange.chunks[c]
        with self._phase:
            for i, ((signal, scales), state, step) in self._work:
                out = exchange.outgoing_rows(c) if signal.dim() > 1 else exchange.outgoing(i, c)
                packed = sign.pack(signal, scales, lo, hi, out, state, step)
                self.zeros, self.clips = self.zeros + packed.zeros, self.clips + packed.clips
                if lo == self._searched:
                    self._note(i, packed.bad, lo, hi)
            self._searched = max(self._searched, hi)
            exchange.send(c)
            exchange.proceed()

    def search_on(self) -> list[int]:
        """Searches what is not packed yet; returns `bad`."""
        lo, hi = self._searched, self._stage.exchange.layout.length
        if lo < hi:
            for i, *_ in self._work:
                self._note(i, None, lo, hi)
        return self.bad

    def _note(self, i: int, bad: int | None, lo: int, hi: int) -> None:
        """Notes the first bad coordinate of a message (or of all of them, as rows), looking for it if nobody did."""
        together = isinstance(self._estimates, Tensor)
        if bad is None and together:
            clean = self._stage.search(self._estimates[:, lo:hi].reshape(-1)) < 0
            for row in () if clean else range(len(self.bad)):
                self._mark(row, self._stage.search(self._estimates[row, lo:hi]), lo)
        elif bad is None:
            self._mark(i, self._stage.search(self._estimates[i][lo:hi]), lo)
        else:
            self._mark(i, bad, 0)

    def _mark(self, i: int, index: int, lo: int) -> None:
        if self.bad[i] < 0 <= index:
            self.bad[i] = lo + index
