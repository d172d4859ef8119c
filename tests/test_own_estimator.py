"""An estimator that communicates: it takes a mean over the voters in `agree`, under mpirun and simulated."""

import sys

import numpy as np
import pytest

from mpisign.algorithms.estimators import Momentum
from mpisign.algorithms.registry import REGISTRY, find
from mpisign.storage.reader import Run, load_parameters
from tests.building import Setup
from tests.comparing import differing
from tests.problems import Awkward
from tests.running import train
from tests.test_simulate import here

PULLED = "tests.own_estimator:pulled"


@pytest.fixture(autouse=True)
def _only_mpisigns_own():
    yield
    REGISTRY.pop("pulled", None)
    sys.modules.pop("tests.own_estimator", None)


@pytest.mark.parametrize("problem", [pytest.param("digits", marks=pytest.mark.slow), "quadratic"])
def test_the_mean_of_estimates_has_the_same_bits_simulated(problem, tmp_path):
    settings = ("run.steps=20", "run.eval_every=5", "run.record_every=1", f"problem.name={problem}")
    settings += ("exchange.name=sharded",)  # bytes are compared, too
    files = [tmp_path / f"{name}.h5" for name in ("mpirun", "simulated", "alone")]
    ended = train(*settings, f"algorithm.name={PULLED}", f"run.file={files[0]}", n=3)
    assert ended.code == 0, ended.err
    here(*settings, f"algorithm.name={PULLED}", f"run.file={files[1]}", n=3)
    assert not differing(files[0], files[1])
    # and the mean decides: without it x goes elsewhere
    here(*settings, "algorithm.name=signsgd-mv", f"run.file={files[2]}", n=3)
    kept = [load_parameters(file.with_suffix(".model")) for file in files[1:]]
    assert not all(np.array_equal(kept[0][name], kept[1][name]) for name in kept[0])
    # floats up and down for the mean, and a bit each way for the vote
    assert Run(files[1]).summary()["bits_per_coordinate"] == pytest.approx(33 * 4 / 3, rel=1e-3)


def test_it_needs_whole_estimates():
    setup = Setup(Awkward(), 3)
    with pytest.raises(ValueError, match="inside of a moving average"):
        Momentum(of=find(PULLED).build().estimator)
    assert "agree on whole estimates" in find(PULLED).build().needs_whole
    assert setup.stepper(setup.algorithm(PULLED)).open(np.ones(4)) is None
    assert setup.stepper(setup.algorithm("signsgd-mv")).open(np.ones(4)) is not None
