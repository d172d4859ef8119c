"""Steps that are taken back, and voters that are missing, without MPI."""

import numpy as np
import pytest
import torch

from mpisign import config
from mpisign.engine.snapshot import Snapshot
from mpisign.parallel import mpi
from mpisign.parallel.world import Local
from mpisign.run.plan import resolve
from mpisign.run.setup import set_up
from mpisign.run.survive import among
from tests.dying import simulated

JOB = ("problem.name=tests.dying:Dying", "run.steps=12", "schedule.lr=0.01")
ALGORITHMS = ("signum-mv", "dist-ef-signsgd", "ssvr-mv", "adam", "ef21", "saga", "sto-signsgd")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_step_that_is_taken_back_is_taken_again_bit_for_bit(algorithm):
    setup = set_up(resolve(config.load(None, (*JOB, f"algorithm.name={algorithm}")), 4), mpi.alone(4, 1), 4)
    stepper, unite = setup.stepper, lambda whole: None
    stepper.step(0.01, counting=True)
    stepper.step(0.01, counting=True)
    before = Snapshot(stepper)
    kept = {name: array.clone() for name, array in stepper.states().items()}
    first = stepper.step(0.01, counting=True), stepper.x.clone(), vars(stepper.exchange.counts)
    before.restore(stepper, stepper, unite)
    assert stepper.t == 2
    assert all(np.array_equal(array, kept[name]) for name, array in stepper.states().items())
    again = stepper.step(0.01, counting=True), stepper.x.clone(), vars(stepper.exchange.counts)
    assert first[0] == again[0]
    assert np.array_equal(first[1], again[1])
    assert first[2] == again[2]
    before.take(stepper)
    assert before.t == 3


def test_weights_of_the_living_add_up_to_their_number():
    job = (*JOB, "algorithm.name=sgd", "run.objective=rows", "partition.kind=dirichlet", "partition.alpha=0.3")
    setup = set_up(resolve(config.load(None, job), 3), mpi.alone(3, 1), 3)
    rows = setup.share.rows
    assert len(set(rows.tolist())) > 1
    living = among(Local(voters=(0, 2)), setup.stepper, setup.plan)
    assert living.weights[1] == 0
    assert np.allclose(living.weights[[0, 2]], 2 * rows[[0, 2]] / (rows[0] + rows[2]), rtol=1e-12)


def test_a_voter_that_is_missing_has_no_part_in_a_mean():
    """The first step of SGD without voter 1, against the mean of the other two's gradients."""
    job = (*JOB, "algorithm.name=sgd", "run.steps=1")
    setup = set_up(resolve(config.load(None, job), 3), mpi.alone(3, 1), 3)
    start = setup.stepper.x.clone()
    living = among(Local(voters=(0, 2)), setup.stepper, setup.plan)
    own = []
    for oracle in living.oracles:
        oracle.begin(0)
        own.append(torch.zeros_like(start))
        oracle.gradient(start, own[-1])
    after = simulated(job, 3, {1: [1]})
    lr = setup.plan.config.schedule.lr
    for name, wanted in living.layout.views(start - lr * (own[0] + own[1]) / 2).items():
        assert np.allclose(after[name].numpy(), wanted.numpy(), rtol=1e-5, atol=1e-7)


def test_residuals_keep_their_part_of_the_mean():
    """Without voter 1 of 4, a message weighs 1/3: so x - sum e_i / n stays what it was but for that voter's."""
    setup = set_up(resolve(config.load(None, (*JOB, "algorithm.name=dist-ef-signsgd")), 4), mpi.alone(4, 1), 4)
    stepper = setup.stepper
    for _ in range(3):
        stepper.step(0.01)
    before, own = Snapshot(stepper), {k: a.clone() for k, a in stepper.own().items()}
    for keep, share in ((True, 3 / 4), (False, 1.0)):
        living = among(Local(voters=(0, 2, 3)), stepper, setup.plan)
        before.restore(living, stepper, lambda whole: None, keep)
        for voter in (0, 2, 3):
            name = f"sign/residual/{voter}"
            assert own[name].abs().sum() > 0
            assert np.array_equal(living.own()[name], own[name] * share)
