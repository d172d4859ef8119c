"""What parallel tests use: the communicator, and assertions that fail on all ranks together."""

import pytest


@pytest.fixture(scope="session")
def comm():
    from mpi4py import MPI

    return MPI.COMM_WORLD


@pytest.fixture(scope="session")
def everywhere(comm):
    """everywhere(ok, what): fails on every rank, naming those where it does not hold."""

    def check(ok, what):
        bad = [rank for rank, fine in enumerate(comm.allgather(bool(ok))) if not fine]
        assert not bad, f"{what}: does not hold on rank(s) {bad}"

    return check


@pytest.fixture(autouse=True)
def _together(comm):
    """A barrier after each test, so that one that is not collective is found where it stands."""
    yield
    comm.Barrier()
