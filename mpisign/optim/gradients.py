"""What a training loop's gradients look like to an estimator: an oracle over p.grad and a closure."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor
from torch.nn import Module, Parameter

from mpisign.errors import MpisignError, UsageError
from mpisign.layout import Layout
from mpisign.optim.buffers import to_save

Closure = Callable[[], Tensor | float]


class Gradients:
    """An oracle whose first gradient of a step is what backward left in p.grad, and whose second one asks a closure.

    parameters: by name, views into x. model: whose buffers a second look at a batch must not move twice, or None.
    What is wrong on this rank is kept in `fault`, and zeros are answered, so that all ranks reach the place where they
    tell each other.
    """

    rows, accumulate, clip = None, 1, 0.0

    def __init__(self, parameters: dict[str, Parameter], layout: Layout, x: Tensor, model: Module | None):
        self.layout, self.x, self.model = layout, x, model
        self.buffers = list(model.buffers()) if model else []
        self.parameters = [parameters[s.name] for s in layout.segments]
        self.places = [x.data_ptr() + 4 * s.offset for s in layout.segments]
        self.closure: Closure | None = None
        self.scale, self.scaled = 1.0, False  # what gradients are multiplied by, and whether a scaler drives the step
        self.loss = 0.0
        self.fault: MpisignError | None = None
        self.grads: list[Tensor | None] = []  # of this step, in the order of segments
        self.missing: tuple[int, ...] = ()  # segments without one
        self._views: dict[int, list[Tensor]] = {}
        self._generator: list[Tensor] | None = None

    @property
    def statistics(self) -> dict[str, Tensor]:
        """What a checkpoint keeps of this rank besides its states: the buffers that the model has now."""
        return to_save(self.model)

    def begin(self, t: int) -> None:
        """Nothing turns with the step: batches are the loop's own."""

    def constrain(self, x: Tensor) -> None:
        """A loop that has constraints sees to them itself."""

    def look(self, closure: Closure | None, twice: bool) -> Tensor | float | None:
        """Evaluates the closure, if there is one, and looks at the gradients that are there.

        twice: whether the estimator will ask for a second gradient. Returns what the closure returned.
        """
        self.closure, self.loss, self.fault, returned = closure, 0.0, None, None
        if twice and closure is None:
            self.fault = UsageError(
                "step() was called without a closure, but the algorithm takes a second gradient of the same batch: "
                "opt.step(closure), where closure() zeroes gradients, computes the loss, calls backward and returns it"
            )
        if closure is not None:
            self._generator = self._draws() if twice else None
            with torch.enable_grad():
                returned = closure()
            self.loss = float(returned) if returned is not None else 0.0
        self.grads = [p.grad for p in self.parameters]
        self.missing = tuple(k for k, grad in enumerate(self.grads) if grad is None)
        self.fault = self.fault or self._fault_of_gradients()
        return returned

    def gradient(self, x: Tensor, out: Tensor, again: bool = False) -> None:
        """The gradient at x, which is p.grad, or at another point of the same batch, written to out (flat)."""
        if self.fault is not None:
            out.zero_()
        elif again:
            assert self.closure is not None, "its absence is a fault"
            with self._elsewhere(x):
                self.closure()
                self.grads = [p.grad for p in self.parameters]
                self.missing = tuple(k for k, grad in enumerate(self.grads) if grad is None)
                self._copy(out)
        else:
            self._copy(out)

    def _copy(self, out: Tensor) -> None:
        views, grads = self.views(out), self.grads
        if self.missing:
            there = [k for k, grad in enumerate(grads) if grad is not None]
            for k in self.missing:
                views[k].zero_()
            views, grads = [views[k] for k in there], [grads[k] for k in there]
        if views:
            torch._foreach_copy_(views, cast(list[Tensor], grads))
        if self.scale != 1.0:
            out.mul_(self.scale)

    def views(self, flat: Tensor) -> list[Tensor]:
        """The segments of a flat vector, in order; made once."""
        if flat.data_ptr() not in self._views:
            self._views[flat.data_ptr()] = list(self.layout.views(flat).values())
        return self._views[flat.data_ptr()]

    @contextmanager
    def _elsewhere(self, point: Tensor) -> Iterator[None]:
        """Parameters at another point, with the draws of the first look; all else is afterwards as it was."""
        here, gradients = self.x.clone(), [p.grad for p in self.parameters]
        buffers, generator = [b.clone() for b in self.buffers], self._draws()
        self.x.copy_(point)
        if self._generator is not None:
            self._draw_on(self._generator)
        for p in self.parameters:
            p.grad = None
        try:
            with torch.enable_grad():
                yield
        finally:
            self.x.copy_(here)
            self._draw_on(generator)
            for buffer, before in zip(self.buffers, buffers, strict=True):
                buffer.copy_(before)
            for p, gradient in zip(self.parameters, gradients, strict=True):
                p.grad = gradient

    @property
    def _generators(self) -> list[torch.Generator]:
        """What draws the masks of a dropout: torch's generator, and the GPU's, if parameters lie on one."""
        found, device = [torch.default_generator], self.x.device
        return found if device.type == "cpu" else [*found, torch.cuda.default_generators[device.index]]

    def _draws(self) -> list[Tensor]:
        return [generator.get_state() for generator in self._generators]

    def _draw_on(self, states: list[Tensor]) -> None:
        for generator, state in zip(self._generators, states, strict=True):
            generator.set_state(state)

    def _fault_of_gradients(self) -> UsageError | None:
        if [p.data_ptr() for p in self.parameters] == self.places and not any(
            grad is not None and grad.layout is not torch.strided for grad in self.grads
        ):
            return None
        for segment, place, p, grad in zip(self.layout.segments, self.places, self.parameters, self.grads, strict=True):
            if p.data_ptr() != place and segment.size:
                return UsageError(
                    f"parameter {segment.name!r} no longer lies in the flat vector x: its storage was replaced after "
                    "the optimiser was made (model.to(), p.data = ...); assign in place (p.copy_(...)), or make the "
                    "optimiser afterwards"
                )
            if grad is not None and grad.layout is not torch.strided:
                return UsageError(
                    f"parameter {segment.name!r} has a sparse gradient ({grad.layout}), but votes are about every "
                    "coordinate; use sparse=False, or leave the parameter to another optimiser"
                )
        return None
