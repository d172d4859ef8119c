"""States, buffers and checkpoints of a SignOptimizer: averaged, saved, loaded."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NoReturn, Self

import torch
from torch import nn

from mpisign.engine.memory import Memory
from mpisign.engine.stepper import Stepper
from mpisign.errors import UsageError
from mpisign.optim import buffers, saving
from mpisign.optim.collective import CollectiveCalls, collective
from mpisign.optim.gradients import Gradients
from mpisign.optim.overlap import Overlap
from mpisign.optim.storage import copy_of, is_dense, put_back
from mpisign.optim.voters import Voters
from mpisign.parallel.mpi import Ranks
from mpisign.parallel.world import Mpi


class Stateful(CollectiveCalls, torch.optim.Optimizer):
    """A SignOptimizer but for its construction and its step."""

    ranks: Ranks
    voters: Voters | None
    gradients: Gradients
    stepper: Stepper
    _overlap: Overlap | None
    closed = False  # whether it takes no step any more

    @property
    def under_way(self) -> bool:
        """Whether backward has sent a part of the next step already."""
        return self._overlap is not None and self._overlap.under_way

    def memory(self) -> Memory:
        """What this rank holds in bytes, by name, in all and per coordinate: the optimiser's, parameters and buffers.

        Gradients in p.grad are the loop's own, and what backward holds too. Not collective.
        """
        return self.stepper.memory().with_more(self.gradients.copies.memory())

    # Buffers

    @collective(meet=True)
    def average_buffers(self) -> None:
        """Overwrites the model's buffers, where ranks differ, by their mean over ranks (numbers that count: root's).

        For evaluation, and before the model is saved: each rank's BatchNorm has seen its own batches only. Collective.
        """
        world = Mpi(self.ranks.comm) if self.voters else self.stepper.world
        buffers.average(self._model(), world, self.ranks)

    @contextmanager
    def averaged_buffers(self) -> Iterator[None]:
        """A context in which buffers are those of average_buffers(); afterwards each rank has its own again."""
        own = [(b, copy_of(b)) for b in self._model().buffers() if is_dense(b)]
        self.average_buffers()
        try:
            yield
        finally:
            for buffer, copy in own:
                put_back(buffer, copy)

    def _model(self) -> nn.Module:
        if self.gradients.model is None:
            raise UsageError("whose buffers? Make the SignOptimizer of the model, or pass it as model=")
        return self.gradients.model

    # The end

    @collective(meet=True)
    def close(self) -> None:
        """Gives back what messages take besides memory of this process: windows of nodes, threads, hooks of overlap.

        Collective. For those who make several optimisers, one after the other; at the end of a program nothing needs to
        be closed. The model, states and save() stay of use, a step is not taken any more. A second call does nothing.
        Raises UsageError on all ranks if backward has begun a step.
        """
        if self.closed:
            return
        with self.ranks.agreed():
            saving.check_between_steps(self)
        if self._overlap is not None:
            self._overlap.remove()
        self._overlap, self.closed = None, True
        self.stepper.close()

    def __enter__(self) -> Self:
        """The optimiser, which close() ends on the way out, but where one rank alone leaves by an error."""
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or getattr(error, "agreed", False):
            self.close()

    # Saving

    @collective(meet=True, where=lambda optimizer: optimizer.states_meet)
    def state_dict(self) -> dict[str, Any]:
        """This rank's state: groups, step and arrays, plain enough for torch.load(weights_only=True).

        Parameters and buffers are the model's; all ranks' states together are what save() writes. Numbers of numpy in
        groups become Python's own. Collective where `states_meet`. Raises UsageError for a value in a group that can't
        be saved.
        """
        with self._agreed():
            saving.check_between_steps(self)
        with_x = self.gradients.copies.tell_less
        if with_x:
            self.gradients.copies.take_over()
        self._show_state()
        with self._agreed():
            return saving.state_dict(super().state_dict()["param_groups"], self.stepper, with_x)

    @collective(meet=True, where=lambda optimizer: optimizer.states_meet)
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from what state_dict() returned on this rank. Collective where `states_meet`.

        Raises UsageError, with nothing changed, if it is of another rank or model.
        """
        with_x = self.gradients.copies.tell_less
        with self._agreed():
            saving.check_between_steps(self)
            saved = saving.checked(state_dict, self.stepper, self.param_groups, with_x)
        saving.load_state_dict(state_dict, saved, self.stepper, self.param_groups, with_x)
        if with_x:
            self.gradients.copies.follow()

    @property
    def states_meet(self) -> bool:
        """Whether a rank's state takes all ranks: parameters are pieces of 16 bits, and x lies with other ranks."""
        return self.voters is not None and self.gradients.copies.tell_less

    def _agreed(self) -> AbstractContextManager[None]:
        """A context in which an error of one rank's state is one of all ranks, if states are collective."""
        return self.ranks.agreed() if self.states_meet else nullcontext()

    def _show_state(self) -> None:
        """Puts entries into torch's own state: tools that find no state take a step to make some."""
        first, *others = [p for group in self.param_groups for p in group["params"]]
        self.state[first] = saving.entries(self.stepper, self.gradients.copies.tell_less)
        self.state.update((p, {}) for p in others)

    def __getstate__(self) -> NoReturn:
        # what copy, pickle, torch.save and multiprocessing would make of one can't step
        raise UsageError(
            "a SignOptimizer can't be copied or pickled: it holds MPI communicators and shares memory with its model; "
            "save opt.state_dict(), or call opt.save(path), and load that into a new one"
        )

    @collective(meet=True)
    def save(self, path: str | Path, **extra: Any) -> None:
        """Writes x, all ranks' states and their models' buffers into one checkpoint, aside and renamed. Collective.

        extra: root's small values that load() returns, such as an epoch: None, numbers, strings, tensors, lists,
        tuples and dicts of these; numbers of numpy come back as Python's. Raises on all ranks: UsageError, before
        anything is written, for a value there or in a group that is no such one; StorageError.
        """
        self.gradients.copies.take_over()
        saving.save(Path(path), self, extra)

    @collective(meet=True)
    def load(self, path: str | Path) -> dict[str, Any]:
        """Goes on from a checkpoint that save() wrote, bit for bit: x, states, buffers, the groups. Collective.

        Returns the extra values. Raises UsageError on all ranks, with nothing changed, if it is damaged or of another
        job.
        """
        extra = saving.load(Path(path), self)
        self.gradients.copies.follow()
        return extra
