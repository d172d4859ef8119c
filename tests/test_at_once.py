"""A step of one message, and the same step chunk by chunk: the same x, arrays, counts, losses, bytes and errors."""

import pytest
import torch

from mpisign.errors import NumericalError
from tests.building import Setup
from tests.cover import form_id
from tests.problems import Awkward, Regression
from tests.table import FORMS_BY_ROW, TABLE

STEPS = 4


def both_ways(name, hyper, problem=Regression, comm=None):
    """Steppers of one voter, or of the ranks of a communicator by allgather, which take a step at once or by chunks."""
    setup, made = Setup(problem(), comm.Get_size() if comm else 1), []
    for at_once in (True, False):
        stepper = setup.stepper(setup.algorithm(name, **hyper), "allgather" if comm else "auto", comm)
        for stage in stepper.stages:
            for channel in stage.channels:
                channel.exchange.at_once &= at_once
        made.append(stepper)
    return made


def told(stepper, counting):
    """All that a step tells, and the arrays that it leaves, by their bits."""
    outcome = stepper.step(0.01 * TABLE[stepper.algorithm.name].scale, counting=counting, request=7)
    found = [outcome, stepper.exchange.counts, dict(vars(stepper.world.traffic)), dict(vars(stepper.world.cost))]
    return found, {name: array.view(torch.uint8).numpy().tobytes() for name, array in stepper.states().items()}


@pytest.mark.parametrize("form", FORMS_BY_ROW, ids=form_id)
def test_no_bit_depends_on_the_way(form):
    quick, slow = both_ways(*form)
    ways = set()
    for t in range(STEPS):
        found, expected = (told(stepper, counting=t != 1) for stepper in (quick, slow))
        assert found == expected
        ways |= {(quick.stage.at_once, slow.stage.at_once)}
    assert not any(by_chunks for _, by_chunks in ways)


def test_most_methods_go_at_once():
    at_once = [name for name in TABLE if both_ways(name, {})[0].stage.at_once]
    assert {"signsgd-mv", "signum-mv", "lion", "ssdm", "sto-signsgd"} <= {*at_once}
    assert len(at_once) > len(TABLE) / 2


@pytest.mark.parametrize("name", ["signsgd-mv", "signum-mv"])
def test_what_is_not_finite_stops_both_alike(name):
    errors = []
    for stepper in both_ways(name, {}):
        stepper.x[3] = float("nan")
        before = stepper.x.clone()
        with pytest.raises(NumericalError) as error:
            stepper.step(0.01)
        errors.append(str(error.value))
        assert torch.equal(stepper.x.view(torch.uint8), before.view(torch.uint8))
        assert stepper.t == 0
    assert errors[0] == errors[1]


def test_a_check_that_raises_leaves_x_where_it_was():
    def refuse(requests):
        raise LookupError(f"{requests.tolist()}")

    for stepper in both_ways("signsgd-mv", {}):
        before = stepper.x.clone()
        with pytest.raises(LookupError, match=r"\[5.0\]"):
            stepper.step(0.01, request=5, check=refuse)
        assert torch.equal(stepper.x, before)
        assert stepper.t == 0


def test_who_looks_at_messages_sees_them():
    quick, _ = both_ways("signsgd-mv", {})
    assert quick.stage.at_once
    seen = []

    class Probe:
        def sending(self, exchange, c):
            seen.append(c)

        def decided(self, direction):
            seen.append((direction.lo, direction.hi))

    quick.exchange.probe = Probe()
    quick.step(0.01)
    assert seen == [0, (0, quick.layout.length)]


@pytest.mark.parametrize("zeros", ["abstain", "plus"])
def test_a_lone_voter_agrees_with_itself_where_it_votes(zeros):
    setup = Setup(Awkward(), 1)
    stepper = setup.stepper(setup.algorithm("signsgd-mv", zeros))
    assert stepper.stage.at_once
    for t in range(STEPS):
        estimate = setup.layout.zeros()
        oracle = setup.oracle(0)
        oracle.begin(t)
        oracle.gradient(stepper.x.clone(), estimate)
        outcome = stepper.step(0.01, counting=True)
        silent = [int((part == 0).sum()) for part in setup.layout.views(estimate).values()]
        tied = sum(silent) if zeros == "abstain" else 0
        counts = stepper.exchange.counts
        assert (counts.agreement, counts.ties) == (setup.layout.size - tied, tied)
        assert outcome.zeros == sum(silent)
    assert sum(silent)
