"""How many threads torch gets where a job does not say: no more than a step keeps busy, and the same in every run."""

import os

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mpisign import config
from mpisign.errors import Stopped
from mpisign.parallel import mpi
from mpisign.run import threads
from mpisign.run.plan import resolve
from mpisign.run.setup import set_up, use_threads
from mpisign.run.threads import PER_THREAD, Operations, threads_for
from mpisign.run.train import resume, simulate
from mpisign.storage.reader import Run

JOB = ("run.steps=3", "run.eval_every=3")


@pytest.fixture(autouse=True)
def a_node_of_64_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    yield
    use_threads(1)


def job(tmp_path, *settings):
    return config.load(None, (*JOB, f"run.file={tmp_path}/run.h5", *settings))


def threads_of(path):
    return Run(path)["segments"]["threads"].tolist()


def test_a_thread_for_every_so_many_operations():
    assert [threads_for(PER_THREAD * k // 2, 64) for k in (0, 1, 2, 3, 4, 9, 1000)] == [1, 1, 1, 1, 2, 4, 64]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 5)])
def test_products_are_counted_as_torch_itself_counts_them(monkeypatch, shape, bias):
    monkeypatch.setattr(threads, "PER_ELEMENT", 0)
    torch.manual_seed(0)
    linear, x = torch.nn.Linear(5, 7, bias=bias), torch.randn(*shape, requires_grad=True)
    same_as_torch(lambda: linear(x).square().sum().backward())


def test_convolutions_and_attention_are_counted_as_torch_itself_counts_them(monkeypatch):
    monkeypatch.setattr(threads, "PER_ELEMENT", 0)
    convolution, image = torch.nn.Conv2d(3, 8, 3, padding=1, groups=1), torch.randn(2, 3, 9, 9, requires_grad=True)
    same_as_torch(lambda: convolution(image).square().sum().backward())
    query, key, value = (torch.randn(2, 4, 6, 8, requires_grad=True) for _ in range(3))
    with Operations() as counted:
        out = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    assert counted.total == 2 * 2 * (2 * 4) * 6 * 6 * 8  # products of queries and keys, and of weights and values
    with Operations() as counted:
        out.sum().backward()
    assert counted.total == 5 * 2 * (2 * 4) * 6 * 6 * 8  # the weights anew, and two products for each of both


def same_as_torch(work):
    with FlopCounterMode(display=False) as flops:
        work()
    with Operations() as counted:
        work()
    assert counted.total == flops.get_total_flops() > 0


def test_a_small_job_has_one_thread_of_many_cores_and_says_why(tmp_path, capsys):
    simulate(job(tmp_path), voters=1)
    assert threads_of(tmp_path / "run.h5") == [1]
    assert "device: cpu, 1 thread(s) per rank (of 64 cores; a step has " in capsys.readouterr().out


def test_run_threads_is_taken_as_asked_for(tmp_path, capsys):
    simulate(job(tmp_path, "run.threads=3"), voters=1)
    assert threads_of(tmp_path / "run.h5") == [3]
    assert "3 thread(s) per rank (as run.threads says)" in capsys.readouterr().out


def test_what_is_to_be_compiled_is_not_looked_into_and_keeps_its_cores(monkeypatch):
    monkeypatch.setattr(Operations, "__enter__", lambda self: pytest.fail("counted"))
    ranks = mpi.alone(1)
    set_up(resolve(config.load(None, (*JOB, "run.compile=true")), 1), ranks, 1)
    assert ranks.threads == 64


def operations(monkeypatch, *settings, voters=1):
    """What a job's threads are chosen by, as a multiple of the operations of a minibatch of one row."""
    told = []
    monkeypatch.setattr("mpisign.run.setup.threads_for", lambda most, cores: told.append(most) or 1)
    set_up(resolve(config.load(None, (*JOB, *settings)), voters), mpi.alone(voters), voters)
    return told[0]


def test_work_counts_and_not_parameters_and_the_largest_minibatch_does(monkeypatch):
    one, many = (operations(monkeypatch, f"problem.batch_size={size}", "problem.dropout=0.0") for size in (1, 256))
    # of each row the products of both layers, forwards and for their weights, and for what is between them
    products = 255 * 2 * (2 * 64 * 128 + 3 * 128 * 10)
    assert products < many - one < 1.3 * products
    uneven = operations(
        monkeypatch, "problem.batch_sizes=[1, 256]", "problem.dropout=0.0", "partition.kind=iid", voters=2
    )
    assert uneven == many
    # minibatches of a gradient come one after the other, and share only what does not depend on their rows
    several = ("problem.batch_size=256", "algorithm.accumulate=4")
    assert many - one < operations(monkeypatch, *several, "problem.dropout=0.0") < many


def test_a_method_without_gradients_is_asked_for_values(monkeypatch):
    settings = ("problem.dropout=0.0", "problem.batch_size=64")
    values = operations(monkeypatch, *settings, "algorithm.name=zo-signsgd")
    assert values < operations(monkeypatch, *settings)


def test_a_run_that_goes_on_keeps_its_threads(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(threads, "PER_THREAD", 100_000)
    stopping = ("checkpoint.every_steps=1", "run.steps=400", "run.max_minutes=1e-9")
    with pytest.raises(Stopped):
        simulate(job(tmp_path, *stopping), voters=1)
    (first,) = threads_of(tmp_path / "run.h5")
    assert 1 < first < 64
    monkeypatch.setattr(threads, "PER_THREAD", PER_THREAD)
    resume(tmp_path / "run.h5", ("run.max_minutes=1000",))
    assert threads_of(tmp_path / "run.h5") == [first, first]
    assert f"{first} thread(s) per rank (as before)" in capsys.readouterr().out
