"""Checkpoints in memory: what lies there, what of it is taken up, and that the run goes on bit for bit."""

import itertools
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from mpisign import config
from mpisign.cli import doctor
from mpisign.engine import state
from mpisign.errors import UsageError
from mpisign.parallel import memory, mpi
from mpisign.run import mirror, survive
from mpisign.run.plan import resolve
from mpisign.run.resume import ResumeOptions
from mpisign.run.train import resume as resume_here
from mpisign.run.train import simulate
from mpisign.storage import checkpoint, parts
from mpisign.storage.checkpoint import Checkpoint, Writer
from mpisign.storage.reader import Run
from tests import endure
from tests.building import PROGRESS, Setup
from tests.comparing import differing
from tests.cover import rest_is_slow
from tests.problems import Awkward, Layered
from tests.running import BIN, ROOT, mpisign, run

pytestmark = pytest.mark.timeout(300)  # some start three runs of ranks, one after the other

STEPS = ("run.steps=40", "run.record_every=1", "run.check_every=10", "run.eval_every=7", "exchange.name=sharded")
JOB = ("problem.name=tests.problems:Faulty", *STEPS, "algorithm.name=dist-ef-signsgd", "run.keep=best")
MEMORY = "checkpoint.memory_every=4"
N = 3


@pytest.fixture
def shared(tmp_path, monkeypatch):
    """A memory of this test's own, for runs in this process."""
    folder = tmp_path / "shm"
    folder.mkdir()
    monkeypatch.setattr(memory, "SHARED", str(folder))
    return folder


def here(*settings, n=N, options=ResumeOptions()):  # noqa: B008
    simulate(config.load(None, settings), n, quiet=True, options=options)


def failing(file, *settings, at=20, n=N):
    """A job whose ranks fail once in their at-th step; in one process, a rank takes the gradients of n voters."""
    marker = f"problem.marker={file.with_suffix('.marker')}"
    return (*JOB, MEMORY, "problem.fault=raise", f"problem.at={at * n}", "problem.on=0", marker, f"run.file={file}",
            *settings)  # fmt: skip


def failed(file, *settings, at=20, n=N):
    """The same, run in this process until it has failed."""
    job = failing(file, *settings, at=at, n=n)
    with pytest.raises(RuntimeError, match="on fire"):
        here(*job, n=n)
    return job


def undisturbed(file, job, n=N):
    whole = file.with_name("whole.h5")
    here(*job, f"run.file={whole}", "checkpoint.memory_every=0", f"problem.marker={file}", n=n)
    return whole


def resumed_from(file):
    """What the last event of the kind tells."""
    events = Run(file)["events"]
    return events["text"][events["kind"] == "resume"][-1]


# One process


@pytest.mark.parametrize("algorithm", ["signum-mv", "dist-ef-signsgd", "ssvr-mv", "adam"])
def test_a_run_that_failed_goes_on_from_memory(algorithm, tmp_path, shared):
    file = tmp_path / "r.h5"
    exchange = "dense" if algorithm == "adam" else "sharded"
    job = failed(file, f"algorithm.name={algorithm}", f"exchange.name={exchange}")
    (folder,) = shared.iterdir()
    step = 8 if algorithm == "ssvr-mv" else 16  # it takes two gradients a step
    assert sorted(p.name for p in folder.iterdir()) == [f"step-{s:09d}.rank-0" for s in (step - 4, step)]
    assert not checkpoint.saved(file)
    resume_here(file)
    assert f"step-{step:09d}.h5; step {step} was put together from parts in memory" in resumed_from(file)
    assert not differing(undisturbed(file, job), file)
    assert Run(file)["steps"]["step"].tolist() == list(range(1, 41))
    assert not [*shared.iterdir()]  # the run is complete


def test_without_a_checkpoint_on_disk_auto_goes_on_too(tmp_path, shared):
    file = tmp_path / "r.h5"
    job = failed(file)
    here(*job, options=ResumeOptions("auto"))
    assert "step 16 was put together" in resumed_from(file)
    assert not differing(undisturbed(file, job), file)


def test_it_is_the_same_checkpoint_as_on_disk(tmp_path, shared):
    file, other = tmp_path / "r.h5", tmp_path / "other.h5"
    failed(file)
    failed(other, "checkpoint.every_steps=16", "checkpoint.memory_every=0")
    with pytest.raises(UsageError, match="another job"):
        resume_here(file, ("schedule.lr=0.9",))  # what is in memory is on disk by now
    with Checkpoint(checkpoint.path_at(file, 16)) as one, Checkpoint(checkpoint.path_at(other, 16)) as two:
        assert sorted(one.names()) == sorted(two.names())
        assert all(np.array_equal(one[name], two[name]) for name in one.names())
        assert (one.attributes, one.layout) == (two.attributes, two.layout)
        assert one.progress["rows"] == two.progress["rows"]


def test_a_damaged_part_is_told_and_the_older_one_taken(tmp_path, shared):
    file = tmp_path / "r.h5"
    job = failed(file)
    newest = max(shared.rglob("step-*"))
    raw = bytearray(newest.read_bytes())
    raw[len(raw) // 2] ^= 1
    newest.write_bytes(raw)
    resume_here(file)
    told = resumed_from(file)
    assert "step-000000012.h5" in told
    assert f"{newest}: damaged: its checksum" in told
    assert not differing(undisturbed(file, job), file)


def test_the_newer_of_disk_and_memory_is_taken(tmp_path, shared):
    file = tmp_path / "r.h5"
    job = failed(file, "checkpoint.every_steps=18")
    assert not [*shared.iterdir()]  # what is on disk takes the place of what was in memory
    resume_here(file)
    assert "step-000000018.h5" in resumed_from(file)
    again = tmp_path / "again.h5"
    failed(again, "checkpoint.every_steps=10", at=17)
    assert "step-000000016" in str(max(shared.rglob("step-*")))
    resume_here(again)
    assert "step-000000016.h5" in resumed_from(again)
    assert not differing(undisturbed(file, job), again)


def test_a_checkpoint_that_is_named_is_taken_whatever_memory_has(tmp_path, shared):
    file = tmp_path / "r.h5"
    job = failed(file, "checkpoint.every_steps=10", at=17)
    resume_here(file, checkpoint=checkpoint.path_at(file, 10))
    assert "put together" not in resumed_from(file)
    assert not differing(undisturbed(file, job), file)


def test_parts_of_another_run_of_that_name_are_left_alone(tmp_path, shared):
    file = tmp_path / "r.h5"
    failed(file)
    before = tmp_path / "before"
    shutil.copytree(shared, before)
    file.with_suffix(".marker").unlink()
    job = failed(file, "run.overwrite=true", at=3)  # another run, before its first checkpoint
    assert not [*shared.iterdir()]
    shutil.copytree(before, shared, dirs_exist_ok=True)  # as from a node that was away meanwhile
    with pytest.raises(UsageError, match="no checkpoint"):
        resume_here(file)
    here(*job, options=ResumeOptions("auto"))
    assert Run(file)["events"]["kind"].tolist() == ["start", "complete"]


@pytest.mark.parametrize("fault", ["usr1", "poison"])
def test_what_stops_in_order_leaves_nothing_in_memory_and_what_fails_does(fault, tmp_path, shared):
    file = tmp_path / "r.h5"
    ended = on_nodes(1, shared, "train", *flags(*failing(file, n=1), f"problem.fault={fault}"), n=1)
    assert ended.code == {"usr1": 75, "poison": 3}[fault], ended.err
    assert len([*shared.glob("node0/*")]) == {"usr1": 0, "poison": 1}[fault]


# Ranks, on simulated nodes


def on_nodes(size, folder, *arguments, n=4):
    """mpisign on n ranks, `size` of which are a node with a memory of its own in a folder."""
    return run(BIN / "mpirun", "-n", n, sys.executable, "-m", "tests.on_nodes", size, folder, *arguments, timeout=120)


def flags(*settings):
    return [part for setting in settings for part in ("--set", setting)]


def killed(file, *settings, size=2, n=4):
    """A run whose rank 1 is killed in its step 19: those of its mates and copies are there."""
    job = failing(file, *settings, "problem.fault=kill", "problem.on=1", n=1, at=19)
    ended = on_nodes(size, file.parent / "shm", "train", *flags(*job), n=n)
    assert ended.code not in (0, 75), ended.err
    return job


LOSSES = [(4, 2, [0]), (4, 2, [1]), (5, 2, [2]), (3, 1, [1]), (5, 2, [])]  # ranks, of a node, nodes


@pytest.mark.parametrize(("n", "size", "lost"), rest_is_slow(LOSSES, LOSSES[1:2]))
def test_a_rank_is_killed_and_its_node_is_lost_too(n, size, lost, tmp_path):
    file, shm = tmp_path / "r.h5", tmp_path / "shm"
    job = killed(file, n=n, size=size)
    made = {path.name.partition(".")[2] for path in (shm / "node0").rglob("step-000000016.*")}
    assert int((shm / "taken").read_text()) == 18
    before = range(n - 1 - (n - 1) % size, n)  # the ranks of the last node have their copies on the first
    assert made == {f"rank-{rank}" for rank in (*range(size), *before)}
    for node in lost:
        shutil.rmtree(shm / f"node{node}")
    ended = on_nodes(size, shm, "resume", file, n=n)
    assert ended.code == 0, ended.err
    assert "step 16 was put together" in ended.out
    assert not differing(undisturbed(file, job, n), file)
    assert not [*shm.rglob("step-*")]


@pytest.mark.slow
def test_two_neighbours_are_lost_and_what_is_on_disk_is_taken(tmp_path):
    file, shm = tmp_path / "r.h5", tmp_path / "shm"
    job = killed(file, "checkpoint.every_steps=10", n=3, size=1)
    for node in (1, 2):
        shutil.rmtree(shm / f"node{node}")
    ended = on_nodes(1, shm, "resume", file, n=3)
    assert ended.code == 0, ended.err
    assert "step-000000010.h5" in resumed_from(file)
    assert not differing(undisturbed(file, job, 3), file)


def test_a_damaged_part_is_told_and_its_copy_taken(tmp_path):
    file, shm = tmp_path / "r.h5", tmp_path / "shm"
    job = killed(file)
    (damaged,) = (shm / "node1").rglob("step-000000016.rank-2")
    damaged.write_bytes(damaged.read_bytes()[:-7])
    ended = on_nodes(2, shm, "resume", file)
    assert ended.code == 0, ended.err
    assert "step 16 was put together" in ended.out
    assert f"{damaged}: damaged" in ended.out
    assert not differing(undisturbed(file, job, 4), file)


@pytest.mark.slow
def test_other_hosts_and_another_number_of_ranks_go_on(tmp_path):
    file, shm, disk = tmp_path / "r.h5", tmp_path / "shm", tmp_path / "disk.h5"
    killed(file)
    shutil.rmtree(shm / "node0")
    (shm / "node1").rename(shm / "node2")  # which is the last of three
    killed(disk, "checkpoint.every_steps=16")
    for one in (file, disk):
        ended = on_nodes(1, shm, "resume", one, "--ranks-changed", "--set", "checkpoint.every_steps=0", n=3)
        assert ended.code == 0, ended.err
        assert "step-000000016.h5" in resumed_from(one)
    assert "put together" in resumed_from(file)
    assert "put together" not in resumed_from(disk)
    assert not differing(file, disk)


@pytest.mark.parametrize("mode", rest_is_slow(["all ranks", "mpirun"], ["all ranks"]))
def test_all_are_killed(mode, tmp_path):
    file, mark = tmp_path / "r.h5", f"{tmp_path}"
    job = (*JOB, MEMORY, "run.steps=200", "problem.fault=none", f"run.file={file}")
    command = [BIN / "mpirun", "-n", "3", BIN / "mpisign", "train", *flags(*job)]
    environment = os.environ | {endure.MARK: mark, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    launcher = subprocess.Popen(command, env=environment, **quiet)
    folder = Path(memory.SHARED) / parts.folder_name(file)
    try:
        while launcher.poll() is None and not [*folder.glob("step-0000001*.rank-0")]:
            time.sleep(0.01)
        endure.kill(mode, mark, launcher, random.Random(1))
        assert endure.seconds_until_gone(mark) < 30
        launcher.wait()
        kept = max(parts.held(folder, repr(Run(file)["events"]["time"][0].item()), slice(None))[0])
        ended = mpisign("train", "--resume", "auto", *flags(*job), n=3)
        assert ended.code == 0, ended.err
        assert f"step {kept[0]} was put together" in ended.out
        assert not differing(undisturbed(file, job), file)
        assert not folder.exists()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# Room


FORMS = [("signum-mv", Awkward), ("dist-ef-signsgd", Awkward), ("powersgd", Layered), ("adam", Awkward)]


@pytest.mark.parametrize(("name", "problem"), FORMS)
@pytest.mark.parametrize("steps", [0, 3])
def test_sizes_are_foretold(name, problem, steps, tmp_path):
    setup = Setup(problem(), N)
    stepper, ranks = setup.stepper(setup.algorithm(name)), mpi.alone(N)
    foretold = state.part_size(stepper, "[run]", {"x": stepper.x})
    for _ in range(steps):
        stepper.step(0.01, counting=True)
    facts = {"run": "1.0", "file": "r.h5"}
    state.save_part(tmp_path / "f" / "p", stepper, ranks, facts, "[run]", PROGRESS, {"x": stepper.x})
    written = (tmp_path / "f" / "p").stat().st_size
    assert written <= foretold <= written + 32 * 1024


def test_the_dry_run_tells_them(tmp_path):
    settings = flags(*JOB, MEMORY, f"run.file={tmp_path}/r.h5")
    told = on_nodes(2, tmp_path, "train", "--dry-run", *settings, n=3)
    per_rank, per_node = (int(told.values[f"shared_memory_per_{what}"]) for what in ("rank", "node"))
    # of nodes with two ranks and one, each keeps the parts of all three: the rank that is alone by itself
    assert per_node == per_rank > 100_000
    assert "shared_memory" not in mpisign("train", "--dry-run").out


def test_a_memory_that_is_too_small_is_refused(tmp_path, shared, monkeypatch):
    monkeypatch.setattr(memory, "shared_free", lambda: 30_000)
    with pytest.raises(UsageError, match=r"checkpoint\.memory_every: .*MiB free .*needed; set it to 0"):
        here(*JOB, MEMORY, f"run.file={tmp_path}/r.h5")
    assert not (tmp_path / "r.h5").exists()
    here(*JOB, f"run.file={tmp_path}/r.h5")


ODD = [("missing", "there is no"), ("read-only", "can't be written"), ("taken", "is not a folder of yours")]


@pytest.mark.parametrize(("what", "words"), ODD)
def test_a_memory_that_is_odd_is_refused(what, words, tmp_path, shared, monkeypatch):
    file = tmp_path / "r.h5"
    if what == "missing":
        shared.rmdir()
    elif what == "read-only":  # whoever runs this may be root, who may write anything
        monkeypatch.setattr(parts.os, "access", lambda path, mode: path != shared)
    else:
        (shared / parts.folder_name(file)).symlink_to(tmp_path)
    with pytest.raises(UsageError, match=words):
        here(*JOB, MEMORY, f"run.file={file}")
    assert not file.exists()


def test_a_memory_that_fills_up_is_told_once_and_the_run_goes_on(tmp_path, shared, monkeypatch):
    file, save, calls = tmp_path / "r.h5", parts.save, itertools.count(1)

    def full(*how):
        if next(calls) in (3, 4):
            raise OSError(28, "No space left on device")
        save(*how)

    monkeypatch.setattr(parts, "save", full)
    failed(file, at=19)  # steps 4 and 8 were kept, 12 and 16 were not
    assert sorted(p.name for p in shared.rglob("step-*")) == ["step-000000008.rank-0"]
    events = Run(file)["events"]
    (told,) = np.flatnonzero(events["kind"] == "memory")
    assert (events["step"][told], "No space left" in events["text"][told]) == (12, True)
    resume_here(file)
    assert "step 8 was put together" in resumed_from(file)


def test_survivors_do_without(tmp_path, monkeypatch):
    monkeypatch.setattr(survive.lost, "require_survivors", lambda key: None)  # whatever the MPI of these tests
    settings = (*JOB, MEMORY, "run.lost_ranks=vote on", f"run.file={tmp_path}/r.h5")
    with pytest.raises(UsageError, match=r"vote on\" does not go with checkpoint\.memory_every = 4; set it to 0"):
        survive.check_survivors(resolve(config.load(None, settings), 2))


def test_the_doctor_names_what_killed_runs_left(tmp_path, shared):
    file = tmp_path / "r.h5"
    failed(file)
    (folder,) = shared.iterdir()
    left = parts.leftovers(shared)
    assert left == {folder: (str(file), parts.occupied(folder))}
    facts = [{"host": "h1", "shm": 1 << 30, "left": {}, "removed": [], "parts": left}]
    note = str(doctor._memory(facts)[1])
    assert str(file) in note
    assert f"rm -r {folder}" in note


# The format


def test_a_part_gives_what_it_was_given(tmp_path):
    rng = np.random.default_rng(3)
    x, z = rng.standard_normal(70).astype(np.float32), rng.standard_normal((2, 96)).astype(np.float32)
    paths = [tmp_path / "f" / f"step-000000007.rank-{r}" for r in range(2)]

    def fill(rank):
        def filled(writer):
            if rank == 0:
                writer.put("x", x)
            for lo in range(32 * rank, 96, 64):
                writer.place("stage1/vote/z", 96, lo, z[:, lo : lo + 32])

        return filled

    for rank, path in enumerate(paths):
        parts.save(path, fill(rank), {"config": "c"} if rank == 0 else {}, {"run": "1", "step": 7, "rank": rank,
                                                                           "ranks": 2, "file": "r.h5"})  # fmt: skip
    assert parts.held(tmp_path / "f", "1", slice(None)) == ({(7, 0): 2, (7, 1): 2}, [])
    assert parts.held(tmp_path / "f", "2", slice(None)) == ({}, [])
    assert parts.held(tmp_path / "f", "1", slice(1, None, 2)) == ({(7, 1): 2}, [])
    with h5py.File(tmp_path / "c.h5", "w") as file:
        writer = Writer(file)
        for path in paths:
            with parts.Part(parts.in_bytes(path)) as part:
                part.give(writer)
                assert part.attributes == {"step": 7}
        np.testing.assert_array_equal(file["arrays/x"], x)
        np.testing.assert_array_equal(file["arrays/stage1/vote/z"], z)
    for at in (20, 600, -1):
        raw = bytearray(paths[0].read_bytes())
        raw[at] ^= 8
        parts.write(paths[1], np.frombuffer(raw, np.uint8))
        found, wrong = parts.held(tmp_path / "f", "1", slice(None))
        assert (found, len(wrong)) == ({(7, 0): 2}, 1)


@pytest.mark.parametrize("sizes", [(4,), (2, 2), (3, 1), (1, 3), (2, 2, 1), (1, 4, 2)])
def test_each_part_has_its_copy_on_another_node(sizes):
    ends = [0, *itertools.accumulate(sizes)]
    node = {rank: tuple(range(lo, hi)) for lo, hi in itertools.pairwise(ends) for rank in range(lo, hi)}
    partners = mirror.partners([node[rank] for rank in range(sum(sizes))])
    if len(sizes) == 1:
        assert partners == list(range(sum(sizes)))
    else:
        assert all(partner not in node[rank] for rank, partner in enumerate(partners))
        assert max(partners.count(rank) for rank in partners) <= -(-max(sizes) // min(sizes))
