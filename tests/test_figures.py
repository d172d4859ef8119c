"""The published counterexamples and identities: each job in jobs/figures against its bands."""

import math
import re

import pytest

from mpisign.storage.reader import Run
from tests.running import BIN, ROOT, mpisign, run
from tests.test_simulate import here

# cases of the two longest jobs that stand for the others; analysis/figures.py --run bands runs all
CASES = {
    "c1": ("vote-zero", "vote-coin", "vote-random", "vote-plus", "ssdm", "dist-ef", "one-voter-sign"),
    "c2": ("vote", "noisy-vote-5", "noisy-vote-20", "common-radius-average", "ssvr-1-radius-10", "ssvr-2-radius-10",
           "dvr-sign"),
}  # fmt: skip


def some_cases(name, folder):
    """A job of jobs/figures; of a long one only some of its cases, and of two seeds one."""
    job = ROOT / f"jobs/figures/{name}.toml"
    if name not in CASES:
        return job
    head, *cases = job.read_text().split("[[sweep.case]]")
    kept = [case for case in cases if re.search('name = "(.*)"', case)[1] in CASES[name]]
    assert len(kept) == len(CASES[name])
    text = "[[sweep.case]]".join([head, *kept])
    (folder / job.name).write_text(re.sub(r'"run.seed" = \[1, 2\]', '"run.seed" = [1]', text))
    return folder / job.name


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "name",
    [
        "c7",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("c1", "c2", "c3", "c5", "c6", "c8", "c13", "c14")),
    ],
)
def test_every_value_lies_in_its_band(name, tmp_path):
    job, folder = some_cases(name, tmp_path), ("--set", f"sweep.folder={tmp_path}/runs")
    # half of c2, and three seeds of c8, lie in the same bands
    fewer = {"c2": ("--set", "run.steps=20000"), "c8": ("--set", "sweep.run.seed=[1, 2, 3]")}.get(name, ())
    ended = mpisign("simulate", job, *folder, *fewer, timeout=380)
    assert ended.code == 0, ended.err
    bands = run(BIN / "python", ROOT / "analysis/bands.py", job, *folder, *fewer)
    assert bands.code == 0, bands.out + bands.err
    assert "measured" in bands.out


def test_a_value_outside_its_band_fails(tmp_path):
    job = tmp_path / "job.toml"
    text = (ROOT / "jobs/figures/c7.toml").read_text()
    job.write_text(text[: text.index("[[sweep.case]]")] + '[[sweep.case]]\nname = "n3"\n"run.voters" = 3\n'
                   'band = { what = "drift", expected = 0.2, low = 0.19, high = 0.21 }\n')  # fmt: skip
    folder = ("--set", f"sweep.folder={tmp_path}", "--set", "run.steps=50")
    missing = run(BIN / "python", ROOT / "analysis/bands.py", job, *folder)
    assert missing.code == 2
    assert "n3 is missing" in missing.err
    assert mpisign("simulate", job, *folder).code == 0
    bands = run(BIN / "python", ROOT / "analysis/bands.py", job, *folder)
    assert bands.code == 1
    assert "OUTSIDE" in bands.out


def test_the_bands_of_c7_are_the_papers_formulas():
    """2 I(rho; l, l) - 1 with l = floor((n + 1) / 2); Gauss' bound of Bernstein et al. 2018 lies above the truth."""
    from scipy.special import betainc
    from scipy.stats import binom

    def advantage(rho, n):
        half = (n + 1) // 2
        return 2 * betainc(half, half, rho) - 1

    for rho, n, expected in ((0.55, 3, 0.1495), (0.55, 9, 0.242842), (0.7, 3, 0.568), (0.7, 9, 0.802383)):
        assert advantage(rho, n) == pytest.approx(expected, abs=5e-5)
        for voters in (n, n + 1):
            exact = sum(binom.pmf(k, voters, rho) * ((2 * k > voters) - (2 * k < voters)) for k in range(voters + 1))
            assert exact == pytest.approx(advantage(rho, n), abs=1e-12)
    for s, bound, truth in ((0.5, 0.3557, 0.3085), (1.0, 0.2113, 0.1587), (2.0, 0.0556, 0.0228)):
        gauss = 2 / (9 * s * s) if s > 2 / math.sqrt(3) else 0.5 - s / (2 * math.sqrt(3))
        assert gauss == pytest.approx(bound, abs=5e-5)
        assert 0.5 * math.erfc(s / math.sqrt(2)) == pytest.approx(truth, abs=5e-5)


@pytest.mark.slow
def test_noise_repairs_what_the_plain_vote_cannot(tmp_path):
    """C12 on scikit-learn's digits: five voters with two exclusive classes each, full gradients."""
    accuracy = {}
    for noise in (0.0, 1e-3):
        file = tmp_path / f"{noise}.h5"
        here(
            "problem.batch_size=0", "problem.dropout=0.0", "partition.kind=labels", "partition.labels=2",
            "algorithm.name=noisy-signsgd", f"algorithm.noise={noise}", "schedule.kind=constant", "schedule.lr=0.001",
            "run.steps=800", f"run.file={file}", n=5,
        )  # fmt: skip
        accuracy[noise] = Run(file)["eval"]["test_accuracy"][-1]
    assert accuracy[0.0] < accuracy[1e-3] - 0.05
