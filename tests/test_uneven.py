"""Jobs whose voters are not alike: votes by rows, batches of each rank's own, listed or by measured speed."""

import itertools
import json
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpisign import config
from mpisign.algorithms.weights import in_lowest_terms, weights_of
from mpisign.errors import UsageError
from mpisign.run.plan import resolve
from mpisign.run.speed import deal, distinct
from mpisign.storage.reader import Run, load_parameters
from tests.cover import rest_is_slow
from tests.running import BIN, ROOT, mpisign, run, train
from tests.test_commands import refused
from tests.test_simulate import here, simulate

SMALL = ("run.steps=20", "problem.hidden=[16]", "run.eval_every=10")


def settings_of(file, *settings):
    return (*SMALL, f"run.file={file}", *settings)


def model_of(file):
    return load_parameters(file.with_suffix(".model"))


def assert_same_model(one, other):
    x, y = model_of(one), model_of(other)
    assert all(np.array_equal(x[name], y[name]) for name in x)


# the bits of the others are compared in parallel/
@pytest.mark.parametrize(
    "carrier", rest_is_slow(["sharded", "allreduce", "hierarchical", "butterfly"], ["hierarchical"])
)
def test_a_simulation_tells_what_ranks_of_unequal_weight_do(carrier, tmp_path):
    one, other = tmp_path / "mpirun.h5", tmp_path / "simulate.h5"
    uneven = (
        'algorithm.weights="rows"', "problem.batch_sizes=[3,8,5]", f"exchange.name={carrier}", "exchange.node_size=2",
    )  # fmt: skip
    ended = train(*settings_of(one, *uneven), n=3)
    assert ended.code == 0, ended.err
    here(*settings_of(other, *uneven), n=3)
    runs = Run(one), Run(other)
    for table in ("steps", "eval"):
        for column in set(runs[0][table]) - {"seconds"}:
            np.testing.assert_array_equal(runs[0][table][column], runs[1][table][column], err_msg=column)
    assert_same_model(one, other)
    weights = in_lowest_terms(weights_of(runs[0].partition["rows"].tolist()))
    assert f"weights={weights}" in str(runs[0].attributes["definition"])


@pytest.mark.parametrize(
    ("setting", "weights"), [('"batches"', (6, 15, 9)), ("[2,4,6]", (1, 2, 3)), ("[5,5,5]", None), ('"rows"', None)]
)
def test_weights_are_those_the_job_says(setting, weights, tmp_path):
    """By batches, as listed, and none where all have as many rows."""
    file = tmp_path / "r.h5"
    here(*settings_of(file, f"algorithm.weights={setting}", "problem.batch_sizes=[6,15,9]", "partition.kind=iid"), n=3)
    definition = str(Run(file).attributes["definition"])
    assert ("Weighted(" in definition) == (weights is not None)
    if weights:
        assert f"weights={in_lowest_terms(weights)}" in definition


def test_each_voter_has_its_own_batch(tmp_path):
    file = tmp_path / "r.h5"
    ended = simulate(*settings_of(file, "problem.batch_sizes=[3,8,5]", "partition.kind=iid"), n=3)
    assert "16 rows each, all voters together" in ended.out
    assert float(ended.values["gradient_evaluations"]) == 20 * (3 + 8 + 5)


def test_equal_batches_are_those_of_one_size(tmp_path):
    one, other = tmp_path / "list.h5", tmp_path / "size.h5"
    here(*settings_of(one, "problem.batch_sizes=[5,5,5]"), n=3)
    here(*settings_of(other, "problem.batch_size=5"), n=3)
    assert_same_model(one, other)


@pytest.mark.slow
def test_batches_by_speed_are_measured_once(tmp_path):
    """The run file has them: resumed, queued again and simulated the run has the bits of one that was not disturbed."""
    file, whole = tmp_path / "r.h5", tmp_path / "whole.h5"
    job = ("checkpoint.every_steps=5", "partition.kind=iid", 'algorithm.weights="batches"', "exchange.name=sharded")
    measured = settings_of(file, 'problem.batch_sizes="speed"', "problem.global_batch_size=37", *job)
    flags = [part for s in measured for part in ("--set", s)]
    first = mpisign("train", "--resume", "auto", *flags, "--max-time", 1e-5, n=3)
    assert first.code == 75, first.err
    sizes = Run(file).config["problem"]["batch_sizes"]
    assert sum(sizes) == 37
    assert min(sizes) >= 1
    again = mpisign("train", "--resume", "auto", *flags, n=3)
    assert again.code == 0, again.err
    assert "resumed from" in again.out
    done = mpisign("train", "--resume", "auto", *flags, n=3)
    assert "nothing to go on with" in done.out
    here(*settings_of(whole, *job, f"problem.batch_sizes={json.dumps(sizes)}"), n=3)
    assert_same_model(file, whole)


WRONG = [
    (("problem.batch_sizes=[1,2]",), ("problem.batch_sizes = [1, 2]", "2 value(s)", "3 voter(s)")),
    (("problem.batch_sizes=[1,0,2]",), ("problem.batch_sizes = [1, 0, 2]", "greater than or equal to 1")),
    (("problem.batch_sizes=fast",), ("problem.batch_sizes = 'fast'", "'speed'")),
    (("problem.batch_sizes=[1,2,3]", "problem.global_batch_size=7"), ("add up to 6", "= 7")),
    (("problem.batch_sizes=speed",), ("problem.global_batch_size = 0", "3 ranks")),
    (("algorithm.weights=[1,2]",), ("algorithm.weights = [1, 2]", "2 value(s)", "3 voter(s)")),
    (("algorithm.weights=[1,2,16]",), ("algorithm.weights", "less than or equal to 15")),
    (("algorithm.weights=rank",), ("algorithm.weights = 'rank'", "'rows' or 'batches'")),
    (("algorithm.name=dist-ef-signsgd", "algorithm.weights=rows"), ("dist-ef-signsgd", "signum-mv")),
    (("problem.global_batch_size=7",), ("multiple of 3", "problem.batch_sizes")),
]


@pytest.mark.parametrize(("settings", "words"), WRONG)
def test_what_does_not_fit_is_refused(settings, words):
    with pytest.raises(UsageError) as refusal:
        resolve(config.load(None, [*SMALL, *settings]), 3)
    assert all(word in str(refusal.value) for word in words), refusal.value


def test_what_only_the_data_tell_is_refused(tmp_path):
    file = tmp_path / "r.h5"
    simulated = ("problem.batch_sizes=speed", "problem.global_batch_size=9")
    refused(simulate(*settings_of(file, *simulated), n=3), "simulated voters have no speed")
    synthetic = ("problem.name=quadratic", "algorithm.weights=rows")
    refused(simulate("run.steps=5", f"run.file={file}", *synthetic, n=3), "'quadratic' has no rows", "list the weights")
    many = ("problem.batch_sizes=speed", "problem.global_batch_size=5000")
    refused(train(*settings_of(file, *many), n=2), "global_batch_size = 5000", "rows; set it lower")


@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(1, 30)), min_size=1, max_size=6).flatmap(
        lambda ranks: st.tuples(st.just(ranks), st.integers(len(ranks), sum(rows for _, rows in ranks)))
    )
)
def test_a_batch_dealt_by_speed_is_over_soonest(case):
    """No row that a rank has would be done with sooner by another one that has room for it."""
    ranks, whole = case
    speeds, rows = (list(values) for values in zip(*ranks, strict=True))
    sizes = deal(whole, speeds, rows)
    assert sum(sizes) == whole
    assert all(1 <= size <= most for size, most in zip(sizes, rows, strict=True))
    last = max((Fraction(size, speed) for size, speed in zip(sizes, speeds, strict=True) if size > 1), default=0)
    room = [Fraction(size + 1, speed) for size, speed, most in zip(sizes, speeds, rows, strict=True) if size < most]
    assert all(later >= last * Fraction(10**9 - 1, 10**9) for later in room)


def test_older_runs_have_the_same_job(tmp_path):
    """What nobody sets is not in the file: a run of before this was a choice goes on."""
    file = tmp_path / "r.h5"
    here(*settings_of(file), n=3)
    stored = Run(file).config
    assert "weights" not in stored["algorithm"]
    assert "batch_sizes" not in stored["problem"]


def test_the_study_tells_weighed_votes_from_plain_ones(tmp_path):
    found = {}
    for seed, (weights, setting) in itertools.product(
        (1, 2), (("alike", ()), ("by rows", ('algorithm.weights="rows"',)))
    ):
        file = tmp_path / f"{seed}-{weights}.h5"
        here(*settings_of(file, f"run.seed={seed}", *setting), n=3)
        found.setdefault(weights, []).append(Run(file)["eval"]["test_accuracy"][-1])
    ended = run(BIN / "python", ROOT / "analysis/studies/weights.py", tmp_path)
    lines = [line for line in ended.out.splitlines() if line.startswith("| `signum-mv`")]
    for line, (weights, values) in zip(lines[:2], found.items(), strict=True):
        assert line.startswith(f"| `signum-mv` | {weights} | " + " | ".join(f"{value:.3f}" for value in values))
    assert lines[1].endswith(
        f"{np.mean(found['by rows']) - np.mean(found['alike']):+.3f} +- "
        f"{np.std(np.subtract(found['by rows'], found['alike']), ddof=1):.3f} |"
    )


def test_ranks_whose_speeds_cant_be_told_apart_are_alike():
    assert distinct([[10.0, 12.0, 11.0], [13.0, 10.5, 12.0]]) == [1.0, 1.0]
    assert distinct([[10.0, 12.0, 11.0], [22.0, 23.0, 21.0]]) == [11.0, 22.0]
