"""A step of one message by allgather, and the same chunk by chunk, on all ranks; and what follows a refused one."""

import pytest

from mpisign.errors import NumericalError
from tests.building import Setup, digest
from tests.cover import VOTERS, WIRES, algorithm_of, form_id, rest_is_slow
from tests.parallel.test_exchange import allowed
from tests.problems import Awkward
from tests.table import FORMS_BY_ROW
from tests.test_at_once import STEPS, both_ways, told

pytestmark = pytest.mark.mpi

SETUP = Setup(Awkward(), VOTERS)
GATHERED = [form for form in FORMS_BY_ROW if "allgather" in allowed(algorithm_of(form, SETUP))]


@pytest.fixture
def steppers(comm):
    """steppers(name, hyper): those that differ in the way; closed afterwards."""
    made = []

    def make(name, hyper):
        made.extend(both_ways(name, hyper, Awkward, comm))
        return made

    yield make
    for stepper in made:
        stepper.close()


@pytest.mark.parametrize(("name", "hyper"), rest_is_slow(GATHERED, WIRES, form_id))
def test_no_bit_depends_on_the_way(steppers, everywhere, name, hyper):
    quick, slow = steppers(name, hyper)
    for t in range(STEPS):
        found, expected = (told(stepper, counting=t != 1) for stepper in (quick, slow))
        everywhere(found == expected, f"{name}, step {t}")


@pytest.mark.parametrize("name", ["signsgd-mv", "sto-signsgd"])
def test_ranks_go_on_after_a_step_that_one_of_them_spoils(comm, steppers, everywhere, name):
    """x stays where it was, and the next step is taken: of methods whose estimates keep nothing of the spoiled one."""
    logs = []
    for stepper in steppers(name, {}):
        log, gradient = [], stepper.oracles[0].gradient

        def poisoned(x, out, *more, gradient=gradient, **options):
            gradient(x, out, *more, **options)
            out[3] = float("nan")

        for t in range(6):
            spoiled = t in (2, 3) and comm.Get_rank() == comm.Get_size() - 1
            stepper.oracles[0].gradient = poisoned if spoiled else gradient
            try:
                stepper.step(0.01, counting=True)
                log.append((t, digest(stepper), dict(vars(stepper.world.traffic))))
            except NumericalError as error:
                log.append((t, digest(stepper), dict(vars(stepper.world.traffic)), str(error)))
        everywhere(log[1][1] == log[2][1] == log[3][1] != log[4][1], f"{name}: x after a step that was refused")
        everywhere(len(log[2]) == len(log[3]) == 4 and len(log[4]) == 3, f"{name}: which steps were refused")
        logs.append(log)
    everywhere(logs[0] == logs[1], f"{name}: one way and the other")
