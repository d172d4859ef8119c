"""A node that has not the memory that its ranks would share: said on all ranks, or done without."""

import pytest

from mpisign import exchange
from mpisign.algorithms import zoo
from mpisign.algorithms.registry import find
from mpisign.engine import autotune
from mpisign.errors import UsageError
from mpisign.exchange.nodes import Shared, nodes_of
from mpisign.layout import Layout
from mpisign.parallel import memory
from mpisign.parallel.world import Mpi

pytestmark = pytest.mark.mpi

D = 1 << 16


def test_a_window_that_does_not_fit_is_refused_on_all_ranks(comm, everywhere, monkeypatch):
    node = nodes_of(comm).node
    for name, value in (("shared_free", lambda: 1 << 10), ("lacking_shared", lambda amount: "")):
        with monkeypatch.context() as patch:
            # what a look tells beforehand, and what the system gives when asked
            patch.setattr(memory, name, value)
            patch.setattr("mpisign.exchange.nodes.lacking_shared", memory.lacking_shared)
            patch.setattr("mpisign.exchange.nodes.populate", lambda *_, there=name == "shared_free": there)
            with pytest.raises(UsageError) as refused:
                Shared(comm, node, [1 << 12], 4)
        everywhere(refused.value.agreed, "agreed")
        everywhere("exchange.name" in str(refused.value) and "/dev/shm" in str(refused.value), "a remedy")
    window = Shared(comm, node, [1 << 12], 4)
    everywhere(window.whole.sum() == 0, "and the next one is whole")
    window.close()


@pytest.mark.mpi(min_size=2)
def test_auto_does_without_what_does_not_fit(comm, everywhere, monkeypatch):
    assert zoo  # its entries are in the registry
    algorithm = find("signum-mv").build()
    wanted = exchange.choose("auto", algorithm, comm.Get_size())
    monkeypatch.setattr(autotune, "useful", lambda stage, comm, size: ("sharded", "hierarchical"))
    monkeypatch.setattr(autotune, "fastest", lambda found, d: found[-1])
    free = autotune.autotune(wanted, algorithm.stages, comm, D)
    everywhere(free[0].name == "hierarchical", "taken where it fits")
    # enough for what is tried, and not for x
    monkeypatch.setattr(memory, "shared_free", lambda: 8 << 20)
    short = autotune.autotune(wanted, algorithm.stages, comm, 1 << 30)
    everywhere(short[0].name == "sharded", "not taken where it does not")
    everywhere("not hierarchical: /dev/shm has 8.0 MiB" in short[0].reason, "and why")
    monkeypatch.setattr(memory, "shared_free", lambda: 1 << 10)
    everywhere(autotune.autotune(wanted, algorithm.stages, comm, D)[0].name == "sharded", "not even tried")
    chosen = exchange.choose("hierarchical", algorithm, comm.Get_size())
    with pytest.raises(UsageError, match=r"exchange\.name"):
        exchange.make_exchanges(chosen, Mpi(comm), Layout({"x": (D,)}), algorithm)


def test_pages_that_are_given(comm, everywhere):
    everywhere(memory.populate(memory.ctypes.addressof(block := memory.ctypes.create_string_buffer(1 << 20)), 1 << 20),
               "memory of this process")  # fmt: skip
    everywhere(len(block) == 1 << 20, "still there")
