"""Going on with another number of voters: what goes along, and what can't and says why."""

import re

import numpy as np
import pytest
import torch

from mpisign.algorithms import Algorithm, Estimator
from mpisign.algorithms.estimators import Minibatch
from mpisign.algorithms.registry import find
from mpisign.algorithms.signs import Sign
from mpisign.algorithms.slots import Vote
from mpisign.algorithms.updates import Descent
from mpisign.engine import state
from mpisign.engine.regroup import Regrouped, bound, places
from mpisign.parallel import mpi
from mpisign.storage.checkpoint import Checkpoint
from tests.building import PROGRESS, Setup, digest
from tests.cover import COVER, rest_is_slow
from tests.problems import Awkward, Layered
from tests.table import FORMS_BY_ROW, TABLE


def rate(name, t):
    return 0.01 * TABLE[name].scale / (t + 1) ** 0.5


def ids(form):
    return re.sub(r"\W+", "-", f"{form[0]} {form[1]}").strip("-")


def stepped(name, hyper, n, steps=5, problem=Awkward):
    """A Stepper of n voters after some steps."""
    setup = Setup(problem(), n)
    stepper = setup.stepper(setup.algorithm(name, **hyper))
    for t in range(steps):
        stepper.step(rate(name, t))
    return stepper


def switched(stepper, n, file, keep_debts=True, problem=Awkward):
    """What n voters make of a Stepper's state."""
    state.save_state(file, stepper, mpi.alone(stepper.world.n), "[run]\n", PROGRESS, None)
    setup = Setup(problem(), n)
    other = setup.stepper(stepper.algorithm)
    state.load_state(Regrouped(Checkpoint(file), other, keep_debts), other, mpi.alone(n))
    return other


def problem_of(name):
    """PowerSGD needs matrices."""
    return Layered if name == "powersgd" else Awkward


def of_voters(stepper):
    """Arrays by (name, voter), and all others by name."""
    arrays = {name: array.numpy().copy() for name, array in stepper.states().items()}
    own = {tuple(name.rsplit("/", 1)): a for name, a in arrays.items() if name in stepper.own()}
    return {(name, int(voter)): a for (name, voter), a in own.items()}, {
        name: a for name, a in arrays.items() if name not in stepper.own()
    }


# What each method of the zoo does, found by its slots

BOUND = {
    "signsgd": "BetterPoint",
    "rprop": "ImprovedRprop",
    "ssvr-fs": "SnapshotStorm",
    "signsvrg": "Svrg",
    "signrvr": "Svrg",
    "signrvm": "Momentum",
    "dist-signrvr": "Svrg",
    "dist-signrvm": "Momentum",
    "signsgd-fv": "LearnedWeights",
    "diana": "MemoryMean",
    "ef21": "MemoryMean",
    **dict.fromkeys(("ef21-muonusign", "ef21-muonsign", "ef21-signmuon"), "MemoryMean"),
    "sag": "Sag",
    "saga": "Saga",
}


# forms of theirs that keep no value of f
FREE = {
    "signsgd": [{"weight_decay": 0.1}, {"grow_every": 2}],
    "rprop": [{"least": 1e-4, "most": 0.5}, {"least": 1e-4, "most": 0.5, "backtrack": "always"}],
}

# arrays that are the same for all voters, and written anew at every step
ANEW = {
    ("terngrad", "sign/radii"),
    ("powersgd", "estimator/g"),
    ("feedsign", "estimator/told"),  # of few voters the signs may all be one
    ("compsgd-mv", "estimator/told"),
}

# what each voter counts from 0 on, so that those that go on from the start have counted alike
COUNTED = {"estimator/taken"}


def _has_scratch(form):
    slots = (slot for s in find(form[0]).build(**form[1]).stages for slot in (s.estimator, s.sign, s.update))
    return any(slot.scratch for slot in slots)


CHANGES = [(*form, before, now) for form in FORMS_BY_ROW for before, now in ((4, 3), (3, 5))]


def change_id(case):
    return f"{ids(case)}-{case[2]}-{case[3]}"


FIRST = [case for case in CHANGES if case[3] == 3 or case[:2] in COVER]


@pytest.mark.parametrize(("name", "hyper", "before", "now"), rest_is_slow(CHANGES, FIRST, change_id))
def test_each_method_goes_on_or_says_why_not(name, hyper, before, now, tmp_path):
    algorithm = Setup(Awkward(), before).algorithm(name, **hyper)
    if why := bound(algorithm, before, now):
        slot = "Differences" if name == "signsgd-free" else BOUND[name]
        # option 1 keeps no value of f, and both points of a batch no gradient before
        assert why.startswith(f"{slot} keeps "), why
        return
    assert name not in BOUND or hyper in FREE[name]
    problem = problem_of(name)
    first = stepped(name, hyper, before, problem=problem)
    own, common = of_voters(first)
    one, two = (switched(first, now, tmp_path / "c.h5", problem=problem) for _ in range(2))
    own_now, common_now = of_voters(one)
    assert (one.t, one.begun) == (first.t, first.begun)
    assert common_now.keys() == common.keys()
    for array in common:  # x, the vote's arrays in coordinate order, the update's
        np.testing.assert_array_equal(common_now[array], common[array], err_msg=array)
    debts, alike = declared(first)
    assert {array for array, _ in own_now} == {array for array, _ in own}
    # what all voters have in common is said to be so, or new ones would begin with other values
    same = {a for a, _ in own if all(np.array_equal(own[a, 0], own[a, v]) for v in range(before)) and own[a, 0].any()}
    assert {a for a in same - COUNTED if (name, a) not in ANEW} <= alike
    for array, voter in own_now:
        wanted = slow(array, voter, own, before, now, debts, alike)
        np.testing.assert_array_equal(own_now[array, voter], wanted, err_msg=f"{array} of voter {voter}")
    for t in range(first.t, first.t + 4):
        one.step(rate(name, t))
        two.step(rate(name, t))
    assert digest(one) == digest(two)
    assert torch.isfinite(one.x).all()


SCRATCH = [form for form in FORMS_BY_ROW if _has_scratch(form)]


@pytest.mark.parametrize(("name", "hyper"), SCRATCH, ids=map(ids, SCRATCH))
def test_scratch_is_not_saved_and_holds_nothing_between_steps(name, hyper, tmp_path):
    """What is left in it may be anything: the next steps are the same bits."""
    problem = problem_of(name)
    whole, poisoned = (stepped(name, hyper, 3, steps=3, problem=problem) for _ in range(2))
    scratch = {f"{poisoned.prefix(k)}{n}": a for k, s in enumerate(poisoned.stages) for n, a in s.scratch().items()}
    assert scratch
    for array in scratch.values():
        array.fill_(torch.nan)
    state.save_state(tmp_path / "c.h5", poisoned, mpi.alone(3), "[run]\n", PROGRESS, None)
    with Checkpoint(tmp_path / "c.h5") as opened:
        saved = set(opened.names())
    assert saved >= whole.states().keys()
    assert not saved & scratch.keys()
    for t in range(3, 6):
        whole.step(rate(name, t))
        poisoned.step(rate(name, t))
    assert digest(whole) == digest(poisoned)


def declared(stepper):
    """The names of arrays that are owed, and of those that are alike, as the slots declare them."""
    named = {"debts": set(), "alike": set()}
    for k, stage in enumerate(stepper.algorithm.stages):
        for slot in ("estimator", "sign"):
            for kind, names in named.items():
                prefix = f"{stepper.prefix(k)}{slot}/"
                names |= {prefix + name for name in getattr(getattr(stage, slot), kind)}
    return named["debts"], named["alike"]


def slow(array, voter, own, before, now, debts, alike):
    """The array of a voter as the rules have it: new ones begin with nothing, debts are paid as they would have been.

    Residuals: x lacks (1/n) * sum of e; the same with m voters, s of them known: e' = m/n * (e + (sum of others)/s).
    """
    if array in alike:
        return own[array, 0]
    if voter >= before:
        return np.zeros_like(own[array, 0])
    e = own[array, voter]
    if array not in debts:
        return e
    survivors, out = min(before, now), np.empty_like(e)
    for i in range(len(e)):
        lost = 0.0
        for leaver in range(now, before):
            lost = lost + float(own[array, leaver][i])
        out[i] = np.float32(now / before * (float(e[i]) + lost / survivors))
    return out


def test_the_list_of_what_is_bound_is_whole():
    for name, slot in BOUND.items():
        hyper = dict(FORMS_BY_ROW)[name] if name != "signsgd" else {"option": 2}
        assert bound(find(name).build(**hyper), 8, 6).startswith(f"{slot} keeps ")


@pytest.mark.parametrize("name", ["dist-ef-signsgd", "topk", "dgc", "powersgd", "strom"])
@pytest.mark.parametrize(("before", "now"), [(8, 6), (6, 8), (3, 1)])
def test_the_mean_residual_stays_what_it_was(name, before, now, tmp_path):
    problem = problem_of(name)
    first = stepped(name, {}, before, problem=problem)
    debts, _ = declared(first)
    (debt,) = debts
    mean = lambda arrays, n: np.mean([arrays[debt, v].astype(np.float64) for v in range(n)], axis=0)  # noqa: E731
    was = mean(of_voters(first)[0], before)
    kept = of_voters(switched(first, now, tmp_path / "c.h5", problem=problem))[0]
    np.testing.assert_allclose(mean(kept, now), was, rtol=1e-6, atol=1e-7 * np.abs(was).max())
    assert np.abs(was).max() > 0
    # without that, survivors keep theirs as they are
    dropped = of_voters(switched(first, now, tmp_path / "c.h5", keep_debts=False, problem=problem))[0]
    own = of_voters(first)[0]
    for voter in range(now):
        wanted = own[debt, voter] if voter < before else np.zeros_like(own[debt, 0])
        np.testing.assert_array_equal(dropped[debt, voter], wanted)


class _Reputation(Vote):
    """Another package's vote, which keeps an array for each voter and says nothing of that."""

    stateful = True

    def init(self, layout, owned, voters):
        return {"reputation": torch.ones(voters, owned)}


class _Rows(Estimator):
    """Another package's estimator, with a number a row."""

    tables = ("latest",)


def test_slots_of_other_packages_are_found_by_what_they_keep():
    assert "'reputation'" in bound(Algorithm(Minibatch(), Sign(), _Reputation(), Descent()), 8, 6)
    assert "own rows" in bound(Algorithm(_Rows(), Sign(), Vote(), Descent()), 8, 6)
    assert not bound(Algorithm(Minibatch(), Sign(), Vote(), Descent()), 8, 6)


class Gathering(Awkward):
    """A model with running statistics."""

    def statistics(self):
        return {"mean": torch.zeros(3), "count": torch.zeros(1, dtype=torch.int64)}


def test_statistics_of_new_voters_begin_with_the_mean(tmp_path):
    first = stepped("signum-mv", {}, 3, steps=0, problem=Gathering)
    for oracle in first.oracles:
        oracle.statistics["mean"] += torch.tensor([1.0, 2.0, 4.0]) * (oracle.voter + 1)
        oracle.statistics["count"] += 5 + oracle.voter
    more = of_voters(switched(first, 5, tmp_path / "c.h5", problem=Gathering))[0]
    assert more["oracle/mean", 1].tolist() == [2, 4, 8]
    assert more["oracle/mean", 4].tolist() == [2, 4, 8]
    assert more["oracle/count", 4].tolist() == [6]
    fewer = of_voters(switched(first, 2, tmp_path / "c.h5", problem=Gathering))[0]
    assert fewer["oracle/mean", 1].tolist() == [2, 4, 8]
    assert fewer["oracle/count", 0].tolist() == [5]


@pytest.mark.parametrize(
    ("before", "now", "taken"),
    [
        ([0, 1, 2, 3], 3, {0: 0, 1: 1, 2: 2}),
        ([0, 1, 2], 4, {0: 0, 1: 1, 2: 2}),
        ([0, 2, 3], 4, {0: 0, 2: 2, 3: 3}),  # voter 1 was lost, and is new
        ([0, 2, 3], 3, {0: 0, 2: 2, 1: 3}),
        ([2, 3], 3, {2: 2, 0: 3}),
        ([1, 4, 5, 6], 3, {1: 1, 0: 4, 2: 5}),
    ],
)
def test_who_goes_on_in_whose_place(before, now, taken):
    assert places(before, now) == taken
