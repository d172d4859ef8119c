"""torch.distributed in MPI's place: the bits, torchrun with scripts as they are, and what is told without MPI."""

import sys

import pytest

from tests.cover import rest_is_slow
from tests.running import BIN, ROOT, run


def forked(n, part, timeout=100):
    """What rank 0 of tests/groups.py found."""
    ended = run(BIN / "python", ROOT / "tests/groups.py", n, part, timeout=timeout)
    assert ended.code == 0, f"{ended.out}\n{ended.err}"
    found = ended.values
    assert found.pop("without MPI") == "True"
    return found


PARTS = [(2, "four"), (3, "four"), (4, "four"), (3, "others")]


@pytest.mark.parametrize(("n", "part"), rest_is_slow(PARTS, PARTS[1::2]))
def test_the_bits_are_those_of_one_process(n, part):
    found = forked(n, part)
    assert len(found) >= 4
    assert [case for case, equal in found.items() if equal != "True"] == []


@pytest.mark.parametrize("part", ["calls", "default", "overlap", "saved"])
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


def test_groups_that_were_destroyed_are_named():
    told = forked(2, "destroyed")["save"]
    assert told.startswith("torch.distributed has ended")
    assert told.endswith("call destroy_process_group() after its last step() and save()")


def test_a_rank_that_never_makes_the_optimiser_is_not_waited_for_without_a_limit():
    ended = run(BIN / "python", ROOT / "tests/groups.py", 2, "alone", timeout=50)
    assert ended.code != 0
    assert "all ranks of the process group" in ended.err
    assert "has not ended after 3 s" in ended.err
    assert "the optimiser's watchdog" in ended.err


# By torchrun itself


def torchrun(n, script, *arguments, **how):
    return run(BIN / "torchrun", "--nproc-per-node", n, script, *arguments, timeout=100, **how)


@pytest.mark.parametrize(("script", "steps"), [("voted", 50), pytest.param("sharded", 10, marks=pytest.mark.slow)])
def test_the_example_trains_under_either_launcher_as_it_stands(script, steps):
    """Without MPI where torchrun starts it: a library that is not there is not missed."""
    example, steps = ROOT / f"jobs/transformer/{script}.py", ("--steps", steps)
    by_mpi = run(BIN / "mpirun", "-n", 4, sys.executable, example, *steps, timeout=100)
    by_torch = torchrun(4, example, *steps, environment={"MPI4PY_LIBMPI": "/nowhere/libmpi.so"})
    assert by_mpi.code == by_torch.code == 0, by_mpi.err + by_torch.err
    assert by_torch.out == by_mpi.out
    assert len(by_torch.out.splitlines()) == 2


LOOP = """
import os, sys
import torch
from mpisign.optim import SignOptimizer
model = torch.nn.Linear(20, 20)
optimizer = SignOptimizer(model, "signum-mv", lr=0.01)
rank = optimizer.ranks.rank
for step in range(20):
    optimizer.zero_grad()
    model(torch.ones(1, 20)).sum().backward()
    if step == 5 and rank == 1:
        {what}
    optimizer.step()
"""


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("break", "rank 1/2 has left after step 4: its program ended, but rank 0 is in step() at step 5"),
        pytest.param("os.kill(os.getpid(), 9)", "rank 0/2: torch.distributed failed (", marks=pytest.mark.slow),
        pytest.param("raise KeyError('lost')", "KeyError: 'lost'", marks=pytest.mark.slow),
        pytest.param("model.weight.grad = None", "no gradient on rank(s) [1]", marks=pytest.mark.slow),
    ],
)
def test_a_rank_that_leaves_ends_the_others(tmp_path, what, words):
    (tmp_path / "script.py").write_text(LOOP.format(what=what))
    ended = torchrun(2, tmp_path / "script.py")
    assert ended.code == 1, ended.err  # torchrun's own
    assert words in ended.err


def test_the_program_says_that_it_needs_mpi(tmp_path):
    launched = {"RANK": "0", "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "none"}
    ended = run(BIN / "mpisign", "train", environment=launched, cwd=tmp_path)
    assert ended.code == 2
    assert "torchrun" in ended.err
    assert "mpirun -n 2" in ended.err


def test_a_launcher_that_is_not_known_asks_for_the_process_group(tmp_path):
    (tmp_path / "script.py").write_text(LOOP.format(what="break"))
    ended = run(BIN / "python", tmp_path / "script.py", environment={"RANK": "0", "WORLD_SIZE": "2"})
    assert ended.code == 2
    assert "call torch.distributed.init_process_group() first" in ended.err
