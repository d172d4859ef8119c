"""Whole algorithms as slow, obvious numpy in one process: the definition of a trajectory.

A Reference takes an algorithm's definition and builds it from the classes of the same names in the files beside this
one. Those are written from the papers and share no code with mpisign but Philox itself, which its own test ties to
published answers. Gradients come from the problem.
"""

from dataclasses import dataclass

import numpy as np

from tests.reference import estimators, signs, updates, votes
from tests.reference.arithmetic import Randomness

F = np.float32


@dataclass
class Message:
    """signs in -1, 0, +1 with a scale a tensor or none; or raw floats, also those that a code stands for."""

    signs: np.ndarray | None = None
    scales: list | None = None
    raw: np.ndarray | None = None

    def floats(self, tensors):
        """What it says of each coordinate, float32: of signs without scales nothing can be said."""
        if self.raw is not None:
            return self.raw
        out = np.zeros(len(self.signs), dtype=F)
        for scale, (offset, size) in zip(self.scales, tensors, strict=True):
            here = slice(offset, offset + size)
            out[here] = scale * self.signs[here].astype(F)
        return out


class Reference:
    """One run of an algorithm by n voters.

    shapes, tensors: the shape, and (offset, size) as it lies in x, of each. oracle: gradient(voter, t, x),
    full(voter, t, x), and clipped(voter, t, x, norm), several(voter, t, x, batches), value(voter, t, x), and
    objective(x).
    """

    def __init__(self, algorithm, n, seed, x, shapes, tensors, oracle):
        self.turns, self.n, self.x, self.tensors, self.oracle = algorithm, n, x.copy(), tensors, oracle
        self.shapes = shapes
        self.random = Randomness(seed)
        self.coordinates = [i for offset, size in tensors for i in range(offset, offset + size)]
        self.x_before, self.t, self.lr = x.copy(), 0, 0.0
        self.stages = [self._stage(slots) for slots in algorithm.stages]
        self.messages = []

    def _stage(self, slots):
        return {
            "estimator": [self.slot(estimators, slots.estimator, j) for j in range(self.n)],
            "sign": [self.slot(signs, slots.sign, j) for j in range(self.n)],
            "vote": self.slot(votes, slots.vote),
            "update": self.slot(updates, slots.update),
        }

    def slot(self, module, definition, voter=None):
        """The slow class of the same name with the same hyperparameters."""
        made = getattr(module, type(definition).__name__)()
        made.run, made.voter = self, voter
        vars(made).update(vars(definition))
        made.begin()
        return made

    def zeros(self):
        return np.zeros_like(self.x)

    def step(self, lr, estimates=None, told=None, agreed=None):
        """One step; estimates: v of every voter, what each of them told, and v once they had agreed; or None.

        What is None is worked out. What the estimates agree to here is kept in any case, as self.agreed.
        """
        index = self.turns.stage(self.t)
        if self.t and index != (last := self.turns.stage(self.t - 1)):
            self._turn(self.stages[last], self.stages[index])
        stage, self.lr = self.stages[index], lr
        v = estimates or [e.estimate() for e in stage["estimator"]]
        self.agreed = stage["estimator"][0].agree(v, stage["estimator"])
        v = agreed or self.agreed
        shared = stage["sign"][0].agree(v)
        self.messages = [s.message(v[j], shared) for j, s in enumerate(stage["sign"])]
        levels, scales, in_x = stage["vote"].decide(self.messages)
        direction = levels, stage["sign"][0].unit(shared) or scales, in_x
        self.x_before = self.x.copy()
        self.told = told or [e.told for e in stage["estimator"]]
        stage["update"].move(*direction)
        for e in stage["estimator"]:
            e.observe(*direction)
        self.t += 1

    def _turn(self, before, after):
        if self.turns.shares:
            self._hand_over(before, after)
        for source, target in self.turns.keep:
            (from_slot, from_name), (to_slot, to_name) = source.split("/"), target.split("/")
            targets = after[to_slot] if isinstance(after[to_slot], list) else [after[to_slot]]
            sources = before[from_slot] if isinstance(before[from_slot], list) else [before[from_slot]] * len(targets)
            for source_slot, slot in zip(sources, targets, strict=True):
                # estimates that were given leave no arrays
                if hasattr(source_slot, from_name):
                    setattr(slot, to_name, getattr(source_slot, from_name).copy())

    def _hand_over(self, before, after):
        """All arrays of a voter's slots go on to the next phase."""
        for slot in ("estimator", "sign"):
            for source, target in zip(before[slot], after[slot], strict=True):
                vars(target).update({k: a for k, a in vars(source).items() if isinstance(a, np.ndarray)})

    # What slots share

    def coin(self, i, voter, stream, rule):
        flip = self.random.fresh_coin if rule == "random" else self.random.coin
        return 1 if flip(i, self.t, voter, stream) else -1

    def table(self, levels, scales, in_x, lr=None):
        """float32 by which each coordinate moves: lr or scale times level, rounded once."""
        lr = self.lr if lr is None else lr
        moves = np.zeros(len(self.x), dtype=F)
        for b, (offset, size) in enumerate(self.tensors):
            scale = 1.0 if scales is None else float(scales[b])
            unit = scale if in_x else lr * scale
            for i in range(offset, offset + size):
                moves[i] = F(unit * float(levels[i]))
        return moves
