"""Whole steps and runs on a GPU: the words are those of the CPU, batches come ahead of their turn, ranks share it."""

import numpy as np
import pytest
import torch

from mpisign.engine.autotune import DryStepper
from mpisign.exchange import Choice
from mpisign.optim import SignOptimizer
from mpisign.parallel.world import Local
from mpisign.problems.base import Rows
from mpisign.problems.data.loader import DeviceLoader
from mpisign.storage.reader import Run
from tests.building import Setup
from tests.cover import form_id
from tests.problems import Awkward
from tests.running import mpisign
from tests.table import FORMS_BY_ROW

D, STEPS = 300_000, 3
# sums of floats over voters are torch's, whose rounding is that of the CPU; noise is the device's own
# and so are products of matrices
ELSEWHERE = ("noisy-signsgd", "noisy-median", "dp-sign", "z-signfedavg", "powersgd")


@pytest.mark.parametrize(("name", "hyper"), FORMS_BY_ROW, ids=[form_id(form) for form in FORMS_BY_ROW])
def test_the_same_estimates_move_x_alike(name, hyper):
    """Signs, votes and updates on the GPU and on the CPU, for given estimates."""
    stage = Setup(Awkward(), 3).algorithm(name, **hyper).stages[-1]
    sides = [DryStepper.of(Choice("local", ""), stage, Local(3), D, device=device) for device in ("cuda", "cpu")]
    for side in sides:
        for _ in range(STEPS):
            side.once()
    on_gpu, on_cpu = (side.x.cpu() for side in sides)
    if name in ELSEWHERE:
        torch.testing.assert_close(on_gpu, on_cpu, rtol=1e-3, atol=1e-3)
    else:
        torch.testing.assert_close(on_gpu, on_cpu, rtol=1e-6, atol=1e-7)
        signs = [side.exchange.decided[0].cpu() for side in sides]
        assert torch.equal(*signs)


def test_batches_that_do_not_fit_are_those_that_do():
    rng, device = np.random.default_rng(0), torch.device("cuda", 0)
    rows = Rows(inputs=rng.standard_normal((500, 7)).astype(np.float32), labels=np.arange(500))
    there, fetched = (DeviceLoader(rows, device, resident=resident) for resident in (True, False))
    turns = [rng.permutation(500)[:64] for _ in range(20)]
    for now, then in zip(turns, [*turns[1:], None], strict=True):
        one, other = there.take(now), fetched.take(now, prefetch=then)
        assert all(one[name].is_cuda and torch.equal(one[name], other[name]) for name in ("inputs", "labels"))


def test_parameters_have_storages_of_their_own():
    model = torch.nn.Linear(70, 3, device="cuda")
    optimizer = SignOptimizer(model, "signsgd-mv", lr=0.1)
    model(torch.ones(2, 70, device="cuda")).sum().backward()
    optimizer.step()
    views = optimizer.layout.views(optimizer.stepper.x)
    for name, p in model.named_parameters():
        assert torch.equal(p, views[name])
        assert p.untyped_storage().data_ptr() == p.data_ptr() == views[name].data_ptr()
        assert p.untyped_storage().nbytes() == 4 * p.numel()


@pytest.mark.parametrize("extra", [(), ("run.precision=bf16",), ("exchange.name=hierarchical", "exchange.node_size=2")])
def test_ranks_share_a_gpu(tmp_path, extra):
    file = tmp_path / "run.h5"
    settings = ("run.device=cuda", "run.epochs=40", f"run.file={file}", "checkpoint.every_steps=100", *extra)
    ended = mpisign("train", *(part for s in settings for part in ("--set", s)), n=4, timeout=300)
    assert ended.code == 0, ended.err
    run = Run(file)
    assert "cuda:0" in run["segments"]["device"][0]
    assert run["phases"]["memory"][-1] > 0
    assert run["eval"]["test_accuracy"][-1] > 0.8
