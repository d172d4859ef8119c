"""What the zoo says of its papers."""

import re

import numpy as np
import pytest
import torch

from mpisign.algorithms import zoo
from mpisign.algorithms.listing import describe
from mpisign.algorithms.registry import entries
from mpisign.problems import Problem
from mpisign.problems.base import Rows, Tables
from tests.building import Setup
from tests.running import mpisign

assert zoo


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.name)
def test_every_entry_names_authors_and_year_and_says_what_is_reconstructed(entry):
    if not entry.paper.startswith("baseline"):
        assert re.match(r"[A-Z][\w&, .-]+ (19|20)\d\d, ", entry.paper), entry.paper
    assert "recalled" not in describe(entry)


class LogCosh(Problem):
    """f_1 = f_2 = 1/2 log cosh x + x/4 and f_3 = 1/2 log cosh x - x/2, a voter each: the mean is least at 0."""

    offers = frozenset({"finite sum", "two points"})

    def read(self):
        return Tables(train=Rows(inputs=np.array([[0.25], [0.25], [-0.5]], dtype=np.float32)), classes=np.arange(3))

    def initial(self, generator):
        return {"x": torch.zeros(1)}

    def gradient(self, parameters, batch, out):
        out["x"].copy_(torch.tanh(parameters["x"]) / 2 + batch["inputs"].mean())
        return 0.0


def floors(radius):
    """The slope at which the three stochastic signs are as often up as down: what ssvr-mv stays at."""
    slopes = np.linspace(-0.25, 0.25, 1_000_001)
    own = [slopes + 0.25, slopes + 0.25, slopes - 0.5]
    reach = np.max(np.abs(own), axis=0) if radius == "max" else radius
    p, q = own[0] / reach, own[2] / reach
    # of three signs with those means, the mean majority
    return abs(slopes[np.abs(2 * p + q - p * p * q).argmin()])


def test_the_floor_of_ssvr_mv_depends_on_its_radius():
    assert floors(4.0) == pytest.approx(1 / 1542, rel=5e-3)
    assert floors("max") == pytest.approx(0.0303, abs=1e-4)
    assert "1/1542" in describe(next(e for e in entries() if e.name == "ssvr-mv"))
    setup = Setup(LogCosh(), 3, kind="sorted", batch_size=1)
    stepper, slopes = setup.stepper(setup.algorithm("ssvr-mv", refresh=1)), []
    for _ in range(2000):
        stepper.step(3e-3)
        slopes.append(np.tanh(float(stepper.x[0])) / 2)
    assert np.mean(slopes[300:]) == pytest.approx(-0.0303, abs=0.012)


def test_a_dry_run_shows_what_the_preset_chose():
    flags = ("problem.name=quadratic", "run.steps=100", "algorithm.name=signsgd-mv", "theory.gap=2.0",
             "theory.smoothness_l1=8.0")  # fmt: skip
    ended = mpisign("simulate", "-n", 3, "--dry-run", "--preset", "theory", *(p for f in flags for p in ("--set", f)))
    assert ended.code == 0, ended.err
    assert ended.values["preset"].startswith("theory: schedule.lr = 0.05; Bernstein et al. 2019, thm. 1")
