"""torch.distributed in MPI's place: the bits, torchrun with scripts as they are, and what is told without MPI."""

import pytest

from tests.running import BIN, ROOT, run

TORCHRUN = BIN / "torchrun"


def forked(n, part, timeout=100):
    """What rank 0 of tests/groups.py found."""
    ended = run(BIN / "python", ROOT / "tests/groups.py", n, part, timeout=timeout)
    assert ended.code == 0, f"{ended.out}\n{ended.err}"
    found = ended.values
    assert found.pop("without MPI") == "True"
    return found


@pytest.mark.parametrize(("n", "part"), [(2, "four"), (3, "four"), (4, "four"), (3, "others")])
def test_the_bits_are_those_of_one_process(n, part):
    found = forked(n, part)
    assert len(found) >= 4
    assert [case for case, equal in found.items() if equal != "True"] == []


@pytest.mark.parametrize("part", ["calls", "overlap", "saved"])
def test_what_else_goes_by_a_group(part):
    found = forked(3, part)
    assert found
    assert set(found.values()) == {"True"}


def test_a_part_of_the_ranks_may_have_an_optimiser():
    assert "does not belong to" in forked(3, "parts")["outside"]


def test_what_needs_mpi_says_so():
    found = forked(2, "refused")
    assert found.pop("one rank's fault").startswith("parameter 'layer0.weight' has no gradient on rank(s) [1]")
    assert found.pop("refused number").startswith("comm = 3: neither")
    for told in found.values():
        assert "needs MPI" in told
    assert found["refused butterfly"].endswith("use one of: allgather, allreduce, sharded, auto")
    assert found["refused dense-mpi"].endswith("use one of: dense, auto")
