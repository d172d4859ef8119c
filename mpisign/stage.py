"""Four slots at work: their exchange, the arrays of every local voter, and the messages they post."""

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

    def states(self) -> State:
        """All named arrays, as views."""
        return self.counted() | self.common() | self.own()


def _rows(state: State, count: int) -> State:
    return {name: array.repeat(count, 1) for name, array in state.items()}


class Posting:
    """Packs and sends the messages of one step, chunk by chunk, in the order in which chunks are asked for."""

    def __init__(self, stage: Stage, signals: list[tuple], states: list[State], steps: list[Step], phase: Phase):
        """signals: what each local voter begun with, (signal, scales); or of all of them together, as rows."""
        self.zeros = self.clips = 0
        self._stage, self._phase = stage, phase
        self._work = list(enumerate(zip(signals, states, steps, strict=True)))

    def __call__(self, c: int) -> None:
        exchange, sign = self._stage.exchange, self._stage.algorithm.sign
        lo, hi = exchange.chunks[c]
        with self._phase:
            for i, ((signal, scales), state, step) in self._work:
                out = exchange.outgoing_rows(c) if signal.dim() > 1 else exchange.outgoing(i, c)
                zeros, clips = sign.pack(signal, scales, lo, hi, out, state, step)
                self.zeros, self.clips = self.zeros + zeros, self.clips + clips
            exchange.send(c)
            exchange.proceed()
