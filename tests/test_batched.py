"""Asked all at once, voters take the same steps, bit for bit, as asked one by one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpisign.algorithms.registry import find
from mpisign.bits import cpu, reference
from mpisign.bits.rng import Draw, Streams
from mpisign.problems import OFFERS
from mpisign.problems.synthetic import Quadratic
from mpisign.problems.toys import Linear, Targets, TwoPlanes
from tests.building import Setup, digest
from tests.cover import COVER
from tests.problems import Awkward
from tests.table import FORMS_BY_ROW

# every form on one problem, and each class of a slot on every problem
ENTRIES = [(name, hyper) for name, hyper in FORMS_BY_ROW if not hyper.keys() & {"every", "snapshot_every", "clip_rows"}]
PROBLEMS = {
    "quadratic": (lambda: Quadratic(dimension=133, noisy=70), 5),
    "linear": (lambda: Linear(dimension=67, law="coin"), 5),
    "normal": (lambda: Linear(dimension=67), 4),
    "targets": (lambda: Targets(targets=[1.0, 2.0, 10.0], dimension=5), 3),
    "two-planes": (TwoPlanes, 2),
}
CASES = [
    pytest.param(
        problem, name, hyper, id=f"{name}-{k}-{problem}",
        marks=() if problem == "quadratic" or (name, hyper) in COVER else pytest.mark.slow,
    )
    for k, (name, hyper) in enumerate(ENTRIES)
    for problem, (make, _) in PROBLEMS.items()
    if find(name).build(**hyper).needs <= make().offers | OFFERS
]  # fmt: skip


@pytest.mark.parametrize(("problem", "name", "hyper"), CASES)
def test_together_equals_one_by_one(problem, name, hyper):
    make, n = PROBLEMS[problem]
    setup = Setup(make(), n, kind="sorted")
    algorithm = setup.algorithm(name, **hyper)
    together, alone = setup.stepper(algorithm), setup.stepper(algorithm)
    assert together.batched is not None
    able = [slots.estimator.elementwise and slots.sign.elementwise for slots in algorithm.stages]
    assert [stage.together for stage in together.stages] == able
    for stage in alone.stages:
        stage.together = False
    for t in range(12):
        outcomes = [stepper.step(0.1 / (t + 1)) for stepper in (together, alone)]
        assert outcomes[0] == outcomes[1]
        assert digest(together) == digest(alone)
    spent = [sum(oracle.evaluations for oracle in stepper.oracles) for stepper in (together, alone)]
    assert spent[0] == spent[1]


def test_voters_with_batches_of_their_own_are_asked_one_by_one():
    assert Setup(Awkward(size=77), 3).stepper(Setup(Awkward(size=77), 3).algorithm("signum-mv")).batched is None


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 5), st.integers(1, 200), st.sampled_from([0, 64, 640]), st.integers(0, 2**32), st.booleans())
def test_kernels_on_rows_are_the_kernels_on_each(n, d, at, seed, wide):
    rng = np.random.default_rng(seed)
    v = rng.integers(-2, 3, (n, d + 7)).astype(np.float32) / 2
    v = v[:, :d] if wide else np.ascontiguousarray(v[:, :d])
    words = -(-d // 64)
    radii = np.abs(rng.standard_normal((n, d))).astype(np.float32)
    draw = Streams(seed).coin("zero", 3, 2)
    half = d // 128 * 64
    parts = np.array([[at, at + half], [at + half, at + d], [0, 1]])
    one = np.array([1.0, 0.5], dtype=np.float32)
    for name, more in (("pack", ("coin",)), ("pack_stochastic", (radii, True)), ("pack_stochastic", (one, False))):
        got = np.zeros((1, n, words), dtype=np.uint64)
        if name == "pack":
            cpu.pack_rows(v, parts, at, *more, draw, got)
        else:
            cpu.pack_stochastic_rows(v, *more, parts, at, draw, got)
        for r in range(n):
            own = Draw(draw.key, draw.step, draw.voter + r, draw.stream, draw.negate)
            expected = np.zeros((1, words), dtype=np.uint64)
            if name == "pack":
                reference.pack_parts(v[r], parts, at, "coin", own, expected)
            else:
                limits = radii[r] if more[1] else one
                reference.pack_stochastic_parts(v[r], limits, more[1], parts, at, own, expected)
            np.testing.assert_array_equal(got[:, r], expected)
    noisy = v.copy()
    cpu.add_normal_rows(noisy, 0.5, at, draw)
    for r in range(n):
        one = v[r].copy()
        reference.add_normal(one, 0.5, at, Draw(draw.key, draw.step, draw.voter + r, draw.stream))
        np.testing.assert_array_equal(noisy[r], one)


def test_uniforms_are_those_of_the_stochastic_sign():
    draw, found = Streams(4).draw("noise", 1, 0), np.zeros((3, 30), dtype=np.float32)
    cpu.uniform_rows(found, draw)
    for r in range(3):
        own = Draw(draw.key, draw.step, r, draw.stream)
        np.testing.assert_array_equal(found[r], reference.uniform(own, 0, 30))
