"""Overlap of a step with the backward pass: what is ready is packed and sent while autograd works on the rest.

Backward makes the gradients of the last layers first, so chunks travel from the end of x to its beginning, on every
rank in this one order. A hook on each parameter copies its gradient into the estimator's g; once all gradients of the
next chunk are there, its estimate is made, packed and posted, and what has come meanwhile is counted and decided. x
itself moves in step(), when all headers are in. The bits are those of a step without overlap.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from mpisign.engine.stepper import PendingStep, Stepper
from mpisign.errors import UsageError
from mpisign.optim.gradients import Gradients


class Ready:
    """An oracle whose gradients are already in the estimator's g."""

    def gradient(self, x: Tensor, out: Tensor, again: bool = False) -> None: ...


class Overlap:
    """Hooks on the parameters of one rank."""

    def __init__(self, stepper: Stepper, gradients: Gradients, rates: Callable[[], np.ndarray]):
        self.stepper, self.gradients, self._rates = stepper, gradients, rates
        self._paused = False
        self._pending: PendingStep | None = None
        self._hooks = []
        for k, p in enumerate(gradients.parameters):
            frozen = not p.requires_grad  # for now, and torch wants hooks on what requires a gradient
            # compiled autograd would trace it, down to MPI
            hook = torch.compiler.disable(lambda _, k=k: self._arrived(k))
            self._hooks.append(p.requires_grad_().register_post_accumulate_grad_hook(hook))
            p.requires_grad_(not frozen)
        self.forget()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Backward passes inside only add to gradients."""
        self._paused = True
        try:
            yield
        finally:
            self._paused = False

    @property
    def under_way(self) -> bool:
        """Whether gradients of the next step have been taken."""
        return bool(self._versions)

    def forget(self) -> None:
        """Nothing has arrived for the next step yet."""
        self._versions: dict[int, int] = {}  # of the gradient of each segment that was taken
        self._twice: int | None = None

    def remove(self) -> None:
        """Takes the hooks off the parameters."""
        while self._hooks:
            self._hooks.pop().remove()

    def _arrived(self, k: int) -> None:
        """A hook of backward: the gradient of segment k is whole."""
        if self._paused:
            return
        if k in self._versions:
            self._twice = k
            return
        if not self._versions:
            self._begin()
        grad = self.gradients.parameters[k].grad
        assert grad is not None, "backward has just made it"
        self._versions[k] = grad._version
        if self._pending is None or grad.layout is not torch.strided:
            return
        self.gradients.views(self._g)[k].copy_(grad)
        for chunk in self._chunks_of[k]:
            self._lacking[chunk] -= 1
        self._post(self._pending)

    def _begin(self) -> None:
        self.gradients.missing = ()
        self.gradients.copies.take_over()
        self._pending = self.stepper.open(self._rates())
        if self._pending is None:
            return
        stage = self.stepper.stage
        self._state, self._g = stage.estimator_states[0], stage.estimator_states[0]["g"]
        self._chunks = [(i, c) for i, channel in enumerate(stage.channels) for c in range(len(channel.exchange.chunks))]
        self._lacking = [0] * len(self._chunks)
        self._chunks_of: list[list[int]] = [[] for _ in self.gradients.parameters]
        for number, (i, c) in enumerate(self._chunks):
            channel = stage.channels[i]
            for span in channel.layout.spans(*channel.exchange.chunks[c]):
                self._chunks_of[channel.group.first + span.segment].append(number)
                self._lacking[number] += 1
        self._next = 0

    def _post(self, pending: PendingStep) -> None:
        """Posts chunks, in their order, as long as the next one is ready."""
        channels = self.stepper.stage.channels
        while self._next < len(self._chunks) and not self._lacking[self._next]:
            i, c = self._chunks[self._next]
            self._estimate(i, c, pending)
            if c in channels[i].exchange.initial_chunks:
                pending.outboxes[i](c)
            self._next += 1
        channels[0].exchange.count_ahead(channels[0].step(pending.everyone), sum(pending.outboxes[0].sent))

    def _estimate(self, i: int, c: int, pending: PendingStep) -> None:
        group, (lo, hi) = self.stepper.stage.channels[i].group, self.stepper.stage.channels[i].exchange.chunks[c]
        chunk = slice(group.lo + lo, group.lo + hi)
        state = {name: array[chunk] for name, array in self._state.items()}
        with self.stepper.timer("estimate"):
            self.stepper.stage.algorithm.estimator.estimate(Ready(), self.stepper.x[chunk], state, pending.steps[0])

    def finish(self) -> None:
        """Before a step: gradients that have not arrived become zero, and the remaining estimates are made.

        A fault goes to gradients.fault.
        """
        gradients, pending = self.gradients, self._pending
        if self._versions and pending is not None:
            if gradients.fault is None and (text := self._fault()):
                gradients.fault = UsageError(text)
            for k, view in enumerate(gradients.views(self._g)):
                if k not in self._versions:
                    view.zero_()
            for i, c in self._chunks[self._next :]:
                self._estimate(i, c, pending)
        self._pending = None
        self.forget()

    def _fault(self) -> str | None:
        """What went wrong with gradients after they had been taken, or None."""
        gradients, segments = self.gradients, self.gradients.layout.segments
        if self._twice is not None:
            return (
                f"backward reached parameter {segments[self._twice].name!r} twice before step(), with overlap; put all "
                "passes but the last of a step into `with opt.no_sync():`"
            )
        if gradients.scaled:
            return "a gradient scaler can't be used with overlap: gradients are sent before they are unscaled"
        for k, version in self._versions.items():
            grad = gradients.parameters[k].grad
            if grad is None or grad._version != version:
                return (
                    f"the gradient of parameter {segments[k].name!r} was changed after backward, with overlap: it was "
                    "sent already; clip without overlap, or leave gradients alone"
                )
        return None
