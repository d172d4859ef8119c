"""A checkpoint is a matter of voters: written under one exchange, taken up under another, or in one process."""

import pytest
import torch

from mpisign.engine import state
from mpisign.engine.regroup import Regrouped
from mpisign.errors import StorageError, UsageError
from mpisign.parallel import mpi
from mpisign.storage import checkpoint
from mpisign.storage.checkpoint import Checkpoint
from tests.building import PROGRESS, Setup, digest
from tests.problems import Awkward

pytestmark = pytest.mark.mpi

ALGORITHMS = {
    "sto-signsgd": {"radius": 2.0, "error_feedback": True},
    "signsgd-fv": {"plain": 3},
    "dvr-q": {"snapshot_every": 4},
    "onebit-adam": {"warmup_steps": 3},
}


def rate(t):
    return 0.01 / (t + 1) ** 0.5


def steppers(name, comm, *exchanges):
    setup = Setup(Awkward(), comm.Get_size())
    algorithm = setup.algorithm(name, **ALGORITHMS[name])
    return setup, [setup.stepper(algorithm, exchange, comm) for exchange in exchanges]


@pytest.fixture
def folder(comm, tmp_path_factory):
    """One folder for all ranks."""
    return comm.bcast(tmp_path_factory.mktemp("shared") if comm.Get_rank() == 0 else None)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_any_exchange_goes_on_from_it(name, comm, everywhere, folder):
    ranks = mpi.start()
    setup, (first, same, other) = steppers(name, comm, "sharded", "sharded", "allgather")
    for t in range(7):
        first.step(rate(t), counting=True)
    state.save_state(folder / "c.h5", first, ranks, "", PROGRESS, None)
    for stepper in (same, other):
        opened = Checkpoint(folder / "c.h5") if ranks.root else None
        progress, kept = state.load_state(opened, stepper, ranks)
        everywhere(progress == PROGRESS and kept is None and stepper.t == 7, "what was told comes back")
    here = Setup(Awkward(), comm.Get_size()).stepper(setup.algorithm(name, **ALGORITHMS[name]))
    state.load_state(Checkpoint(folder / "c.h5"), here, mpi.alone(comm.Get_size()))
    for t in range(7, 12):
        flips = []
        for stepper in (first, same, other, here):
            stepper.step(rate(t), counting=True)
            flips.append(stepper.exchange.counts.flips)
        everywhere(digest(first) == digest(same) == digest(other) == digest(here), f"step {t} is the same")
        everywhere(not ranks.root or len(set(flips)) == 1, f"flips of step {t} are the same")


@pytest.mark.parametrize("more", [2, -1])
@pytest.mark.parametrize("name", ["sto-signsgd", "dvr-q", "onebit-adam", "dist-ef-signsgd", "ssvr-mv"])
def test_other_voters_go_on_from_it_as_a_simulation_does(name, more, comm, everywhere, folder):
    """A checkpoint of so many more voters than there are ranks, taken up by these and by as many in one process."""
    ranks, n = mpi.start(), comm.Get_size()
    setup, file = Setup(Awkward(), n), folder / f"{name}{more}.h5"
    algorithm = setup.algorithm(name, **ALGORITHMS.get(name, {}))
    if ranks.root:
        before = Setup(Awkward(), max(n + more, 1)).stepper(algorithm)
        for t in range(5):
            before.step(rate(t))
        state.save_state(file, before, mpi.alone(before.world.n), "[run]\n", PROGRESS, None)
    comm.Barrier()
    over, here = setup.stepper(algorithm, "sharded", comm), setup.stepper(algorithm)
    keep = name != "onebit-adam"
    state.load_state(Regrouped(Checkpoint(file), over, keep) if ranks.root else None, over, ranks)
    state.load_state(Regrouped(Checkpoint(file), here, keep), here, mpi.alone(n))
    mine = over.states().keys() - {k for k in over.states() if "vote/" in k}
    alike = all(torch.equal(over.states()[k], here.states()[k]) for k in mine)
    everywhere(alike, "each rank has the arrays of its voter")
    for t in range(5, 9):
        over.step(rate(t))
        here.step(rate(t))
        everywhere(digest(over) == digest(here), f"step {t} is the same")


def test_what_does_not_fit_is_refused_by_all(comm, everywhere, folder):
    ranks = mpi.start()
    _, (first,) = steppers("onebit-adam", comm, "sharded")
    state.save_state(folder / "c.h5", first, ranks, "", PROGRESS, None)
    _, (stranger,) = steppers("sto-signsgd", comm, "sharded")
    before = digest(stranger)
    with pytest.raises(UsageError, match="checkpoint of Stages"):
        state.load_state(Checkpoint(folder / "c.h5") if ranks.root else None, stranger, ranks)
    everywhere(digest(stranger) == before, "nothing has changed")


def test_a_checkpoint_that_cant_be_written_is_known_to_all(comm, everywhere, folder):
    ranks = mpi.start()
    _, (stepper,) = steppers("sto-signsgd", comm, "sharded")
    good = folder / "good" / "step-000000001.h5"
    state.save_state(good, stepper, ranks, "", PROGRESS, None)
    (folder / "file").touch()
    with pytest.raises(StorageError, match="can't write the checkpoint"):
        state.save_state(folder / "file" / "c.h5", stepper, ranks, "", PROGRESS, None)
    stepper.step(0.1)
    everywhere(checkpoint.Checkpoint(good).step == 0, "the one before is still whole")
