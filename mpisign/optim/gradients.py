"""The gradients of a training loop, as an oracle for estimators: p.grad, and a closure."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import attrgetter

import numpy as np
import torch
from torch import Tensor

from mpisign import bits
from mpisign.errors import MpisignError, UsageError
from mpisign.layout import Layout
from mpisign.optim.buffers import to_save
from mpisign.optim.copies import Copies
from mpisign.optim.parameters import Named
from mpisign.optim.storage import copy_of, parts, put_back
from mpisign.optim.warning import warn

_dtype, _layout = attrgetter("dtype"), attrgetter("layout")  # of many tensors, in less time than a loop takes
Closure = Callable[[], Tensor | float]


class Gradients:
    """An oracle whose first gradient of a step is what backward left in p.grad, and whose second one asks a closure.

    named: its trained parameters lie in the memory of x, or are copies of it. warns: whether this rank is the one that
    warns.
    What is wrong on this rank is kept in `fault`, with gradients of zero, so that all ranks reach the exchange in which
    faults are agreed on.
    """

    rows, accumulate, clip, of_ranks = None, 1, 0.0, False
    keeps_buffers = True  # whether checkpoints have them

    def __init__(self, named: Named, layout: Layout, x: Tensor, warns: bool):
        self.layout, self.x, self.warns = layout, x, warns
        self.model, self.frozen, self._frozen = named.model, named.frozen, list(named.frozen.values())
        self.parameters = [named.trained[s.name] for s in layout.segments]
        self.copies = self._copies_of(x)
        self.places = self._places()
        self.closure: Closure | None = None
        self.scale, self.scaled = 1.0, False  # what gradients are multiplied by, and whether a scaler drives the step
        self.loss = 0.0
        self.fault: MpisignError | None = None
        self.grads: list[Tensor | None] = []  # of this step, in the order of segments
        self.missing: tuple[int, ...] = ()  # segments without one
        self._missed: tuple[int, ...] = ()  # those that were missing when it was last asked why
        self._of_model = {id(p) for p in named.model.parameters()} if named.model else set()
        self._views: dict[int, list[Tensor]] = {}
        self._bounds = np.array([(s.offset, s.end) for s in layout.segments], dtype=np.int64).reshape(-1, 2).T
        self._generator: list[Tensor] | None = None

    def _copies_of(self, x: Tensor) -> Copies:
        return Copies(self.parameters, self.layout, x)

    def _places(self) -> list[int]:
        """Where parameters must lie: in x, but for copies, which stay where they were."""
        return [*map(Tensor.data_ptr, self.parameters)]

    @property
    def statistics(self) -> dict[str, Tensor]:
        """The buffers of the model, which a checkpoint keeps besides the states of this rank."""
        return to_save(self.model) if self.keeps_buffers else {}

    def begin(self, t: int) -> None:
        """Does nothing: batches are the loop's own."""

    def constrain(self, x: Tensor) -> None:
        """Does nothing: constraints are the loop's own."""

    def evaluate(self, closure: Closure | None, twice: bool) -> Tensor | float | None:
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
        self.copies.take_over()
        self._look()
        self.fault = self.fault or self._fault_of_gradients()
        return returned

    def release(self) -> None:
        """Lets go of the gradients of a step that was taken, so that zero_grad() frees their memory."""
        self.grads = []

    def gradient_in_place(self) -> bits.Scattered | None:
        """What backward left in p.grad, where it lies; None where it is to be copied, scaled, or filled up with zeros.

        A kernel can read what is contiguous, on the CPU.
        """
        plain = self.fault is None and not self.missing and self.scale == 1.0 and self.x.device.type == "cpu"
        grads = self._present if plain else []
        if not grads or {*map(_dtype, grads)} != {torch.float32} or not all(map(Tensor.is_contiguous, grads)):
            return None
        return bits.Scattered(grads, self._bounds, self.layout.length)

    def gradient(self, x: Tensor, out: Tensor, again: bool = False) -> None:
        """The gradient at x, which is p.grad, or at another point of the same batch, written to out (flat)."""
        if self.fault is not None:
            out.zero_()
        elif again:
            assert self.closure is not None, "its absence is a fault"
            with self._elsewhere(x):
                self.closure()
                self._look()
                self._copy(out)
        else:
            self._copy(out)

    def _look(self) -> None:
        self.grads = [p.grad for p in self.parameters]
        self.missing = tuple(k for k, grad in enumerate(self.grads) if grad is None)

    def _copy(self, out: Tensor) -> None:
        views = self.views(out)
        if self.missing:
            for k in self.missing:
                views[k].zero_()
            views = [view for view, grad in zip(views, self.grads, strict=True) if grad is not None]
        if views:
            torch._foreach_copy_(views, self._present)
        if self.scale != 1.0:
            out.mul_(self.scale)

    @property
    def _present(self) -> list[Tensor]:
        """The gradients that are there."""
        return [grad for grad in self.grads if grad is not None]

    def views(self, flat: Tensor) -> list[Tensor]:
        """The segments of a flat vector, in order; made once."""
        if flat.data_ptr() not in self._views:
            self._views[flat.data_ptr()] = list(self.layout.views(flat).values())
        return self._views[flat.data_ptr()]

    @contextmanager
    def _elsewhere(self, point: Tensor) -> Iterator[None]:
        """Parameters at another point, with the draws of the first look; all else is afterwards as it was."""
        saved_x, gradients = self.x.clone(), [p.grad for p in self.parameters]
        buffers, generator = self._copies_of_buffers(), self._draws()
        self.x.copy_(point)
        self.copies.follow()
        if self._generator is not None:
            self._draw_on(self._generator)
        for p in self.parameters:
            p.grad = None
        try:
            with torch.enable_grad():
                yield
        finally:
            self.x.copy_(saved_x)
            self.copies.follow()
            self._draw_on(generator)
            for home, name, buffer, copies in buffers:
                home[name] = buffer  # a module may have replaced it
                for part, copy in copies:
                    put_back(part, copy)
            for p, gradient in zip(self.parameters, gradients, strict=True):
                p.grad = gradient

    def _copies_of_buffers(self) -> list[tuple[dict[str, Tensor | None], str, Tensor, list[tuple[Tensor, Tensor]]]]:
        """For each buffer of the model: the dict that holds it, its name, itself, and copies of its parts."""
        homes = [module._buffers for module in self.model.modules()] if self.model else []
        buffers = [(home, name, b) for home in homes for name, b in home.items() if b is not None]
        return [(*buffer, [(t, copy_of(t)) for t in parts(*buffer[1:]).values()]) for buffer in buffers]

    @property
    def _generators(self) -> list[torch.Generator]:
        """The generators of dropout masks: torch's own, and that of the GPU on which parameters lie."""
        generators, device = [torch.default_generator], self.x.device
        return generators if device.type == "cpu" else [*generators, torch.cuda.default_generators[device.index]]

    def _draws(self) -> list[Tensor]:
        return [generator.get_state() for generator in self._generators]

    def _draw_on(self, states: list[Tensor]) -> None:
        for generator, state in zip(self._generators, states, strict=True):
            generator.set_state(state)

    def _fault_of_gradients(self) -> UsageError | None:
        moved = self._places() != self.places
        if moved or {*map(_layout, self._present)} - {torch.strided}:
            return self._fault_of_segments()
        if any(p.requires_grad for p in self._frozen):
            return self._fault_of_frozen()
        return self._fault_of_missing() if self.missing != self._missed else None

    def _fault_of_segments(self) -> UsageError | None:
        for segment, place, p, grad in zip(self.layout.segments, self.places, self.parameters, self.grads, strict=True):
            if p.data_ptr() != place and p.dtype != self.x.dtype:
                return UsageError(
                    f"parameter {segment.name!r} ({p.dtype}) lies elsewhere than when the optimiser was made, which "
                    "can't tell what was written there (model.to(), p.data = ..., share_memory_()); assign in place "
                    "(p.copy_(...) under no_grad), or make the optimiser afterwards"
                )
            if p.data_ptr() != place:
                return UsageError(
                    f"parameter {segment.name!r} no longer lies in the flat vector x: its storage was replaced after "
                    "the optimiser was made (model.to(), p.data = ..., share_memory_()); assign in place "
                    "(p.copy_(...)), or make the optimiser afterwards"
                )
            if grad is not None and grad.layout is not torch.strided:
                return UsageError(
                    f"parameter {segment.name!r} has a sparse gradient ({grad.layout}), but votes are about every "
                    "coordinate; use sparse=False, or leave the parameter to another optimiser"
                )
        return None

    def _fault_of_frozen(self) -> UsageError | None:
        for name, p in self.frozen.items():
            if p.requires_grad and p.grad is not None:
                return UsageError(
                    f"parameter {name!r} was frozen when the optimiser was made, so it has no place in x and would not "
                    "move; make a new optimiser after unfreezing, or this one with include_frozen=True, by which all "
                    "frozen parameters travel from the first step on"
                )
        return None

    def _fault_of_missing(self) -> UsageError | None:
        """Whether a gradient is missing because the model has another parameter now. Asked where others are missing."""
        self._missed = self.missing
        if self.warns and len(self.missing) == len(self.parameters):
            warn("no parameter has a gradient, so none moves: backward() comes before step()")
        now = {id(p) for p in self.model.parameters()} if self.missing and self.model else self._of_model
        for k in self.missing:
            if id(self.parameters[k]) in self._of_model - now:
                return UsageError(
                    f"parameter {self.layout.segments[k].name!r} is no longer one of the model, whose new one would "
                    "not move (load_state_dict(assign=True), module.weight = ...); assign in place (p.copy_(...)), or "
                    "make the optimiser afterwards"
                )
        return None
