"""What a GPU changes besides its kernels, as far as a CPU can tell: feeding, precision, compiling, phases, choosing."""

import functools

import numpy as np
import pytest
import torch

from mpisign import bits, problems
from mpisign.engine.timing import Timer
from mpisign.errors import UsageError
from mpisign.parallel import device, launchers
from mpisign.parallel.mpi import Ranks
from mpisign.problems.base import Rows
from mpisign.problems.data.loader import DeviceLoader
from mpisign.problems.digits import Digits
from mpisign.problems.oracle import Oracle
from mpisign.storage.schema import PHASES
from tests.building import Setup, digest
from tests.cover import COVER, form_id, rest_is_slow
from tests.problems import Awkward
from tests.table import FORMS_BY_ROW

NOISY = ("noisy-signsgd", "noisy-median", "dp-sign", "z-signfedavg", "zo-signsgd")  # whose noise is the device's own


@pytest.fixture
def kernels_of_the_gpu():
    pytest.importorskip("triton", reason="Triton is not installed")
    from mpisign.bits import cuda

    bits.use_everywhere(cuda)
    yield
    bits.use_everywhere(None)


@pytest.mark.parametrize(("name", "hyper"), rest_is_slow(FORMS_BY_ROW, COVER[:24], form_id))
def test_every_entry_takes_the_same_steps_by_the_gpus_kernels(kernels_of_the_gpu, name, hyper):
    setup, steps = Setup(Awkward(), 2), 2
    algorithm = setup.algorithm(name, **hyper)
    by_gpu = setup.stepper(algorithm)
    for _ in range(steps):
        by_gpu.step(0.01, counting=True)
    bits.use_everywhere(None)
    by_cpu = setup.stepper(algorithm)
    for _ in range(steps):
        by_cpu.step(0.01, counting=True)
    if name in NOISY:
        torch.testing.assert_close(by_gpu.x, by_cpu.x, rtol=1e-3, atol=0.03)
    else:
        assert digest(by_gpu) == digest(by_cpu)
        assert by_gpu.exchange.counts == by_cpu.exchange.counts


# Feeding


def rows_of(count):
    rng = np.random.default_rng(0)
    return Rows(inputs=rng.standard_normal((count, 3)).astype(np.float32), labels=np.arange(count))


def test_rows_that_do_not_fit_come_batch_by_batch_each_ahead_of_its_turn(monkeypatch):
    feed, fetched = DeviceLoader(rows_of(40), torch.device("cpu"), resident=False), []
    fetch = feed._fetch
    monkeypatch.setattr(feed, "_fetch", lambda rows: fetched.append(rows) or fetch(rows))
    turns = [np.array(numbers) for numbers in ([3, 1, 2], [7, 8, 9], [39, 0, 4])]
    for now, then in zip(turns, [*turns[1:], None], strict=True):
        batch = feed.take(now, prefetch=then)
        assert torch.equal(batch["labels"], torch.from_numpy(now))
        assert torch.equal(batch["inputs"], feed["inputs"][now])
        assert feed.take(now, prefetch=then) is batch, "asked for again, as at a second point"
    assert len(fetched) == 3, "none was fetched twice"
    assert torch.equal(feed.take(slice(5, 9))["labels"], torch.arange(5, 9)), "what nobody foresaw comes, too"


def test_fetched_batches_are_those_of_resident_rows():
    setup = Setup(Digits(hidden=[8]), 1)
    pair = [
        Oracle(setup.problem, setup.layout, setup.rows[0], 0, setup.streams, batch_size=100, resident=resident)
        for resident in (True, False)
    ]
    for t in range(40):  # almost three passes
        gradients = []
        for oracle in pair:
            oracle.begin(t)
            oracle.gradient(setup.x, out := setup.layout.zeros())
            gradients.append(out)
        assert torch.equal(*gradients)
    full = [setup.layout.zeros(), setup.layout.zeros()]
    for oracle, out in zip(pair, full, strict=True):
        oracle.full_gradient(setup.x, out)
    assert torch.equal(*full)


# Precision and compiling


def loss_and_gradient(setup):
    oracle, out = setup.oracle(0), setup.layout.zeros()
    oracle.begin(0)
    oracle.gradient(setup.x, out)
    return oracle.loss, out


def test_bf16_is_for_the_forward_pass_alone():
    setup = Setup(Digits(hidden=[32]), 1, batch_size=64)
    loss, exact = loss_and_gradient(setup)
    setup.problem.use_precision("bf16")
    rough_loss, rough = loss_and_gradient(setup)
    assert rough.dtype == setup.x.dtype == torch.float32
    assert loss != rough_loss
    assert rough_loss == pytest.approx(loss, rel=0.02)
    assert torch.cosine_similarity(rough, exact, dim=0) > 0.99


def test_a_compiled_model_has_the_same_gradient(monkeypatch):
    # traced, but not made into machine code, which takes a minute
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    setup = Setup(Digits(hidden=[8], dropout=0.2), 1, batch_size=16)
    plain = loss_and_gradient(setup)
    setup.problem.compile()
    setup.problem.adopt(setup.problem.describe(setup.problem.read()))
    compiled = loss_and_gradient(setup)
    assert plain[0] == compiled[0]
    assert torch.equal(plain[1], compiled[1])


def test_a_problem_without_a_model_says_so():
    with pytest.raises(UsageError, match=r"run\.precision"):
        Awkward().use_precision("bf16")
    with pytest.raises(UsageError, match=r"run\.compile"):
        Awkward().compile()


# Devices


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device.select_device("auto", 3) == torch.device("cpu")
    with pytest.raises(UsageError, match=r"no GPU for this rank.*run\.device"):
        device.select_device("cuda", 0)
    with pytest.raises(UsageError, match="works on the CPU only"):
        problems.device_for(Awkward(), "cuda", Ranks())


def test_ranks_of_a_node_take_gpus_in_turns(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert [device.select_device("auto", rank).index for rank in range(5)] == [0, 1, 0, 1, 0]
    assert [d.index for d in chosen] == [0, 1, 0, 1, 0]
    assert problems.device_for(Awkward(), "auto", Ranks()) == torch.device("cpu"), (
        "where the problem has no use for one"
    )


@pytest.mark.parametrize(
    ("visible", "local", "wanted"),
    [("0,1,2", "4", "1"), ("GPU-a,GPU-b", "1", "GPU-b"), ("3", "5", "3"), ("", "1", ""), ("0,1", None, "0,1")],
)
def test_a_rank_takes_its_gpu_before_mpi_starts(monkeypatch, visible, local, wanted):
    for name in launchers.LOCAL_RANKS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(launchers.VISIBLE, visible)
    if local is not None:
        monkeypatch.setenv("SLURM_LOCALID", local)
    launchers.take_gpu()
    assert launchers.os.environ[launchers.VISIBLE] == wanted


def test_gpus_are_counted_where_nobody_lists_them(monkeypatch, tmp_path):
    monkeypatch.delenv(launchers.VISIBLE, raising=False)
    monkeypatch.setattr(launchers, "DRIVER", tmp_path)
    monkeypatch.setenv("MPI_LOCALRANKID", "3")
    launchers.take_gpu()
    assert launchers.VISIBLE not in launchers.os.environ
    for name in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / name).mkdir()
    launchers.take_gpu()
    assert launchers.os.environ[launchers.VISIBLE] == "1"
    monkeypatch.delenv(launchers.VISIBLE)


def test_phases_wait_for_the_device():
    calls = []
    timer = Timer(lambda: calls.append(1))
    with timer("estimate"), timer("sign"):
        pass
    assert len(calls) == 4
    assert len(timer.take()) == len(PHASES)


def test_memory_is_told():
    assert device.peak(torch.device("cpu")) > 1 << 26
