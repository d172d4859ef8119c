"""Every entry of the zoo against its slow reference and its claim, with all voters in one process.

parallel/test_exchange.py shows that every exchange on 1, 2, 3, 4, 5 and 8 ranks takes the same steps, bit for bit.
"""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from mpisign.engine import state
from mpisign.parallel import mpi
from mpisign.problems.logistic import Logistic
from mpisign.storage.checkpoint import Checkpoint
from tests.building import PROGRESS, Setup, digest
from tests.cover import COVER, WIRES, form_id, rest_is_slow
from tests.problems import Awkward, Regression
from tests.reference import arithmetic
from tests.table import FORMS_BY_ROW, TABLE

BITWISE = [(name, hyper) for name, hyper in FORMS_BY_ROW if TABLE[name].bitwise]
# every form by three voters; by one and by four those in which each class of a slot is at work
VOTERS = [(*form, n) for form in FORMS_BY_ROW for n in (1, 3, 4)]
SHORT = [(*form, n) for form, n in itertools.product(FORMS_BY_ROW, (1, 3, 4)) if n == 3 or form in COVER]
BITWISE_VOTERS = [(*form, n) for form in BITWISE for n in (1, 4)]
BITWISE_SHORT = [(*form, 4) for form in BITWISE if form in COVER]


def voters_id(case):
    return f"{form_id(case[:2])}-{case[2]}"


AGREED = 2e-6  # of the largest of what the reference agreed to: how far a product of float32 matrices may be off
KEPT = ("factors", "residual")  # arrays of estimators that agree, by the names that the reference has for them


def kept_by_agreement(stepper, reference):
    """(arrays that agreement moves, slow estimator that has the same) of each voter."""
    slow = reference.stages[0]["estimator"]
    for arrays, estimator in zip(stepper.stage.estimator_states, slow, strict=True):
        yield {name: array for name, array in arrays.items() if name in KEPT}, estimator


def force_what_agreement_keeps(stepper, reference):
    """The reference goes on from the stepper's arrays: rounding grows from step to step where a factor is iterated."""
    for own, slow in kept_by_agreement(stepper, reference):
        for name, array in own.items():
            setattr(slow, name, array.numpy().copy())


def assert_agreed_alike(got, wanted, bitwise):
    if bitwise:
        np.testing.assert_array_equal(got, wanted)
    else:
        assert np.abs(got - wanted).max() <= AGREED * np.abs(wanted).max()


def rates(t, name):
    return TABLE[name].scale * 0.01 / (1 + t) ** 0.5


def exactly(setup, stepper, reference):
    return digest(stepper) == setup.layout.digest(torch.from_numpy(reference.x))


def sent(stepper):
    """Signs (n, d) in -1, 0, +1 of the words that travel, or the raw floats, or those that a code stands for."""
    if stepper.exchange.up.coded:
        return decoded(stepper)
    parts = [m.numpy() for m in stepper.exchange._messages]
    if stepper.exchange.up.raw:
        return np.concatenate([p[0] for p in parts], axis=1)
    bits = [np.unpackbits(p.view(np.uint8), axis=-1, bitorder="little").astype(int) for p in parts]
    whole = np.concatenate(bits, axis=2)
    signs = 2 * whole[0] - 1
    return signs * whole[1] if len(whole) == 2 else signs


def decoded(stepper):
    """What the codes of all voters (n, d) say, in the step that was taken last."""
    exchange, taken = stepper.exchange, replace(stepper.at_hand(stepper.layout), t=stepper.t - 1)
    floats = torch.zeros(stepper.world.n, stepper.layout.length)
    for (lo, hi), messages in zip(exchange.chunks, exchange._messages, strict=True):
        for voter, v in enumerate(floats):
            exchange.up.add(messages[:, voter], v[lo:hi], lo, taken)
    return floats.numpy()


@pytest.mark.parametrize(("name", "hyper", "n"), rest_is_slow(VOTERS, SHORT, voters_id))
def test_words_and_steps_equal_the_reference_that_is_given_v(name, hyper, n):
    """Teacher-forced: the reference gets v and the draws at every one of 24 steps, and the point to start from."""
    setup = Setup(Awkward(size=77), n)
    algorithm = setup.algorithm(name, **hyper)
    stepper, reference = setup.stepper(algorithm), setup.reference(algorithm)
    estimates, estimate, here, v = [], stepper._estimate, reference.coordinates, {}
    stepper._estimate = lambda i, step: estimates.append(v.setdefault(i, estimate(i, step)).numpy().copy()) or v[i]
    for t in range(24):
        estimates.clear()
        v.clear()
        before = stepper.x.numpy().copy()
        reference.x = before.copy()
        force_what_agreement_keeps(stepper, reference)
        stepper.step(rates(t, name))
        reports = stepper.stage.algorithm.estimator.reports
        told = [state["told"].numpy() for state in stepper.stage.estimator_states] if reports else None
        agreed = [v[i].numpy() for i in range(n)]
        reference.step(rates(t, name), list(estimates), told, agreed)
        for got, wanted in zip(agreed, reference.agreed, strict=True):
            assert_agreed_alike(got[here], wanted[here], TABLE[name].bitwise)
        for own, slow in kept_by_agreement(stepper, reference):
            for array in own:
                assert_agreed_alike(own[array].numpy(), getattr(slow, array), TABLE[name].bitwise)
        expected = [m.raw if m.signs is None else m.signs for m in reference.messages]
        np.testing.assert_array_equal(sent(stepper)[:, here], np.array(expected)[:, here])
        if TABLE[name].bitwise:
            np.testing.assert_array_equal(stepper.x.numpy()[here], reference.x[here])
        else:
            # in the last place of the largest of old, new and a step of Adam: close to 0 few places are left of a
            # difference
            got = stepper.x.numpy()
            unit = np.spacing(np.maximum(np.maximum(np.abs(before), np.abs(got)), np.float32(rates(t, name))))
            assert (np.abs(got - reference.x) <= 4 * unit)[here].all()


@pytest.mark.parametrize(("name", "hyper", "n"), rest_is_slow(BITWISE_VOTERS, BITWISE_SHORT, voters_id))
def test_trajectory_equals_the_reference(name, hyper, n):
    """The reference works out v too."""
    setup = Setup(Awkward(size=77), n)
    algorithm = setup.algorithm(name, **hyper)
    stepper, reference = setup.stepper(algorithm), setup.reference(algorithm)
    for t in range(30):
        stepper.step(rates(t, name))
        reference.step(rates(t, name))
        assert exactly(setup, stepper, reference), f"differ after step {t + 1}"


def test_rows_are_clipped_one_by_one():
    setup = Setup(Awkward(size=77), 2, batch_size=5)
    algorithm = setup.algorithm("dp-sign", clip_rows=0.5)
    stepper, slow = setup.stepper(algorithm), setup.reference(algorithm).oracle
    stepper.step(0.01)
    v = stepper.stage.estimator_states[1]["g"].numpy()
    np.testing.assert_allclose(v, slow.clipped(1, 0, setup.x.numpy(), 0.5), rtol=1e-4, atol=1e-6)
    assert stepper.oracles[1].clipped == stepper.oracles[1].evaluations == 5


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("name", ["sag", "saga"])
def test_tables_equal_those_of_whole_gradients(name, accumulate, tmp_path):
    """For three voters with unlike numbers of rows, over passes that meet within a batch, with a regulariser."""
    rng = np.random.default_rng(3)
    lines = [f"{rng.choice([-1, 1])} " + " ".join(f"{k}:{rng.normal():.3f}" for k in range(1, 8)) for _ in range(20)]
    (tmp_path / "rows.svm").write_text("\n".join(lines))
    setup = Setup(Logistic(tmp_path / "rows.svm", l2=0.1, nonconvex=0.1), 3, batch_size=3, accumulate=accumulate)
    algorithm = setup.algorithm(name)
    stepper, slow = setup.stepper(algorithm), setup.reference(algorithm)
    for _ in range(12):
        slow.x = stepper.x.numpy().copy()
        expected = [voter.estimate() for voter in slow.stages[0]["estimator"]]
        stepper.step(0.1)
        slow.t += 1
        for kept, v in zip(stepper.stage.estimator_states, expected, strict=True):
            np.testing.assert_allclose(kept["v"].numpy(), v, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["ssdm", "dist-ef-signsgd", "ssvr-mv", "dvr-q"])
def test_sums_over_more_than_a_tile_equal_the_reference(name):
    setup = Setup(Awkward(), 3)
    algorithm = setup.algorithm(name, **TABLE[name].hyper)
    stepper, reference = setup.stepper(algorithm, chunk=512), setup.reference(algorithm)
    for t in range(3):
        stepper.step(rates(t, name))
        reference.step(rates(t, name))
    assert exactly(setup, stepper, reference)


RULED = ["signum-mv", "dist-ef-signsgd", "signsgd-fv", "noisy-signsgd", "dvr-sign"]


RULES = [*itertools.product(("coin", "random", "plus", "abstain"), ("coin", "random", "plus", "zero"))]


@pytest.mark.parametrize(("zeros", "ties"), [*RULES, ("minus", "minus")])
@pytest.mark.parametrize("name", RULED)
def test_rules_for_zeros_and_ties_equal_the_reference(name, zeros, ties):
    setup = Setup(Awkward(size=77), 4)
    zeros = "auto" if name == "dvr-sign" else zeros
    algorithm = setup.algorithm(name, zeros, ties, **TABLE[name].hyper)
    stepper, reference = setup.stepper(algorithm), setup.reference(algorithm)
    for t in range(12):
        stepper.step(rates(t, name))
        reference.step(rates(t, name))
    assert exactly(setup, stepper, reference)


# a row per family; what all others do at a step is compared with the reference anyway
CLAIMING = (
    "signsgd-mv",
    "ssdm",
    "ssvr-mv",
    "dvr-sign",
    "dist-ef-signsgd",
    "onebit-adam",
    "qsgd",
    "topk",
    "powersgd",
    "sgd",
)


@pytest.mark.parametrize("n", rest_is_slow((1, 3, 4), (3,)))
@pytest.mark.parametrize("name", rest_is_slow(TABLE, CLAIMING))
def test_the_claim_holds(name, n):
    claim, problem = TABLE[name].claim, Regression()
    setup = Setup(problem, n, batch_size=4)
    stepper = setup.stepper(setup.algorithm(name, **claim.hyper))
    for t in range(claim.steps):
        stepper.step(claim.rate(t))
    x = np.concatenate([p.numpy().ravel() for p in setup.layout.views(stepper.x).values()])
    assert problem.gap(x.astype(float)) <= claim.gap


@pytest.mark.parametrize(("name", "hyper"), rest_is_slow(FORMS_BY_ROW, WIRES, form_id))
def test_saved_states_go_on_the_same(name, hyper, tmp_path):
    setup = Setup(Awkward(size=77), 4)
    stepper = setup.stepper(setup.algorithm(name, **hyper))
    for t in range(5):
        stepper.step(rates(t, name))
    file, alone = tmp_path / "state.h5", mpi.alone(4)
    state.save_state(file, stepper, alone, "", PROGRESS, None)
    restored = setup.stepper(setup.algorithm(name, **hyper))
    state.load_state(Checkpoint(file), restored, alone)
    for t in range(5, 15):
        stepper.step(rates(t, name))
        restored.step(rates(t, name))
        assert digest(stepper) == digest(restored)


@pytest.mark.parametrize(("name", "hyper"), rest_is_slow(FORMS_BY_ROW, WIRES, form_id))
def test_chunks_do_not_matter(name, hyper):
    setup = Setup(Awkward(), 4)
    whole, pieces = (setup.stepper(setup.algorithm(name, **hyper), chunk=c) for c in (1 << 20, 512))
    assert len(pieces.exchange.chunks) > 1 or pieces.exchange.up.varies
    for t in range(8):
        whole.step(rates(t, name))
        pieces.step(rates(t, name))
    assert digest(whole) == digest(pieces)


@pytest.mark.parametrize(("name", "hyper"), rest_is_slow(FORMS_BY_ROW, COVER, form_id))
def test_evaluations_are_those_foretold(name, hyper):
    setup = Setup(Awkward(size=77), 3)
    stepper = setup.stepper(setup.algorithm(name, **hyper))
    foretold = values = 0
    for t in range(12):
        estimator = stepper.algorithm.stages[stepper.algorithm.stage(t)].estimator
        foretold += sum(estimator.evaluations(2, rows.count, t) for rows in setup.rows)
        update = stepper.algorithm.stages[stepper.algorithm.stage(t)].update
        values += sum(estimator.values(2, rows.count, t) + update.values(rows.count, t) for rows in setup.rows)
        stepper.step(rates(t, name))
        assert sum(oracle.evaluations for oracle in stepper.oracles) == foretold
        assert sum(oracle.values for oracle in stepper.oracles) == values


@pytest.mark.parametrize("name", ["signum-mv", "ssvr-mv", "dist-ef-signsgd"])
def test_accumulation_and_clipping_work(name):
    setup = Setup(Awkward(size=77), 3, accumulate=3, clip=0.5)
    stepper = setup.stepper(setup.algorithm(name))
    stepper.step(0.01)
    oracle = stepper.oracles[0]
    assert oracle.evaluations == 2 * 3
    assert oracle.clipped == 1
    g = setup.layout.zeros()
    oracle.gradient(stepper.x, g)
    assert setup.layout.norm(g) == pytest.approx(0.5, rel=1e-5)


def test_accumulated_gradient_is_the_mean_of_its_minibatches():
    x = Setup(Awkward(size=77), 1).x
    whole, parts = Setup(Awkward(size=77), 1, batch_size=6), Setup(Awkward(size=77), 1, accumulate=3)
    gradients = []
    for setup in (whole, parts):
        g = setup.layout.zeros()
        setup.oracle(0).gradient(x, g)
        gradients.append(g.numpy())
    np.testing.assert_allclose(*gradients, rtol=1e-4, atol=1e-5)


def test_the_references_norm_is_the_norm():
    v = np.random.default_rng(0).standard_normal(9000).astype(np.float32)
    assert arithmetic.norm(v, [(0, 9000)]) == pytest.approx(np.linalg.norm(v.astype(float)), rel=1e-12)
