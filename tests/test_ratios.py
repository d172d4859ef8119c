"""Ratios of what mpisign takes over what something plain takes: measured, kept run by run, compared."""

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from mpisign.bench.compare import LEVEL, TITLE, compare, compare_runs, holm, rank_test, too_few
from mpisign.bench.table import Table, load, machine, save
from mpisign.errors import UsageError
from tests.running import mpisign

COLUMNS = {"ratio": "", "run": "d", "repeat": "d", "ms": ".4f", "reference ms": ".4f"}


def table(runs, about=None):
    """Measurements: for each ratio the quotient of each run, which its repeats have, whatever each of them takes."""
    made = Table(TITLE, COLUMNS, about or {})
    for name, quotients in runs.items():
        for run, quotient in enumerate(quotients):
            for repeat, reference in enumerate((1.0, 2.0, 1.5)):
                made.add(ratio=name, run=run, repeat=repeat, ms=quotient * reference, **{"reference ms": reference})
    return made


def saved(path, runs):
    save(path, [table(runs)])
    return path


def moved(tmp_path, old, new, least=0.03):
    compared = compare(saved(tmp_path / "old.h5", old), saved(tmp_path / "new.h5", new), least)
    return {row["ratio"]: row["moved"] for row in compared.rows}


def around(middle, runs=7, spread=0.02):
    return middle * (1 + np.linspace(-spread, spread, runs))


def test_what_lies_beyond_the_noise_moved(tmp_path):
    old = {"pack": around(0.7), "count": around(0.2), "apply": around(1.5), "vote": around(0.1)}
    new = {"pack": around(0.8), "count": around(0.15), "apply": around(1.51), "step": around(1.0)}
    expected = {"pack": "slower", "count": "faster", "apply": "", "vote": "only in old", "step": "only in new"}
    assert moved(tmp_path, old, new) == expected


def test_a_change_within_the_noise_or_too_small_did_not_move(tmp_path):
    assert moved(tmp_path, {"pack": around(1.0, spread=0.1)}, {"pack": around(1.05, spread=0.1)}) == {"pack": ""}
    tight = {"pack": around(1.0, spread=1e-4)}, {"pack": around(1.01, spread=1e-4)}
    assert moved(tmp_path, *tight) == {"pack": ""}
    assert moved(tmp_path, *tight, least=0.005) == {"pack": "slower"}


def test_the_same_program_rarely_seems_to_have_moved():
    """In 200 comparisons of 30 ratios without a difference, hardly more than the level have any that moved."""
    generator, called = np.random.default_rng(0), 0
    for _ in range(200):
        old, new = ({str(k): list(generator.lognormal(sigma=0.05, size=7)) for k in range(30)} for _ in range(2))
        called += any(row["moved"] for row in compare_runs(old, new, least=0.0).rows)
    assert called <= 200 * LEVEL + 9  # three standard deviations


def test_the_rank_test_is_that_of_scipy():
    generator = np.random.default_rng(1)
    for a, b in ((1, 1), (3, 5), (7, 7), (4, 9)):
        x, y = list(generator.normal(size=a)), list(generator.normal(0.5, size=b))
        assert rank_test(x, y) == pytest.approx(mannwhitneyu(x, y, method="exact").pvalue, rel=1e-12)
    # what is equal tells nothing
    assert rank_test([1.0, 1.0], [1.0, 1.0]) == 1.0


def test_holm_is_what_the_paper_says():
    # 0.01 <= 0.05/4, 0.013 <= 0.05/3, 0.04 > 0.05/2: that one and all greater ones don't count
    assert holm([0.04, 0.01, 0.3, 0.013]) == [False, True, False, True]
    assert holm([0.06]) == [False]


def test_too_few_runs_are_told(tmp_path):
    assert too_few(7, 7, 30) == ""
    # two orders of 20 separate three from three; 2 of 70 are fewer than 1 in 20
    assert too_few(3, 3, 1) == "nothing can count as moved with so few runs; 4 in each file can tell"
    few = [saved(tmp_path / name, {"pack": around(middle, 3)}) for name, middle in (("a.h5", 1.0), ("b.h5", 2.0))]
    ended = mpisign("bench", "compare", *few)
    assert ended.code == 0, ended.err
    assert "but nothing can count as moved with so few runs; 4 in each file can tell" in ended.out


def test_fail_is_for_what_became_slower(tmp_path):
    slow, quick = (saved(tmp_path / name, {"pack": around(m)}) for name, m in (("slow.h5", 1.2), ("quick.h5", 1.0)))
    assert mpisign("bench", "compare", quick, slow).code == 0
    failed = mpisign("bench", "compare", quick, slow, "--fail")
    assert failed.code == 1
    assert "| pack | 1.000 | 1.200 | +20.0% | 2.0% | 0.0006 | slower |" in failed.out
    assert mpisign("bench", "compare", slow, quick, "--fail").code == 0


def test_files_that_have_nothing_in_common_are_refused(tmp_path):
    first, second = (saved(tmp_path / f"{name}.h5", {name: around(1.0)}) for name in ("pack", "count"))
    refused = mpisign("bench", "compare", first, second)
    assert (refused.code, refused.err) == (2, f"mpisign: {first} and {second}: no ratio is in both\n")
    save(tmp_path / "other.h5", [Table("kernels", {"kernel": ""})])
    refused = mpisign("bench", "compare", first, tmp_path / "other.h5")
    assert refused.code == 2
    assert "no table 'ratios' of mpisign bench --output, but: kernels" in refused.err


def test_runs_are_added_to_a_file_of_their_like(tmp_path):
    from mpisign.bench.ratios import add_to

    about = machine() | {"n": 2, "d": 100, "threads": 1}
    path = tmp_path / "runs.h5"
    for quotient in (1.0, 1.1, 1.2):
        save(path, [add_to(path, table({"pack": [quotient]}, about))])
    rows = load(path, TITLE).rows
    assert [(row["run"], row["ms"]) for row in rows if row["repeat"] == 0] == [(0, 1.0), (1, 1.1), (2, 1.2)]
    with pytest.raises(UsageError, match=r"its runs are of d 100(\.0)?, this one of d 200; name another --output"):
        add_to(path, table({"pack": [1.0]}, about | {"d": 200}))


@pytest.mark.slow
def test_measured_over_ranks(tmp_path):
    path = tmp_path / "ratios.h5"
    for runs in (1, 2):
        ended = mpisign("bench", "ratios", "-d", "2e4", "--repeats", "1", "--output", path, n=2, timeout=110)
        assert ended.code == 0, ended.err
        measured = load(path, TITLE)
        assert {row["run"] for row in measured.rows} == set(range(runs))
    assert all(row["ms"] > 0 and row["reference ms"] > 0 for row in measured.rows)
    names = {row["ratio"] for row in measured.rows}
    expected = {
        "pack / copy",
        "signsgd-mv by sharded / gloo float32 all-reduce, SGD step",
        "SignOptimizer.step / torch.optim.SGD.step",
        "mpisign --version / import torch",
        "a run of one step / import torch",
    }
    assert expected <= names
    assert all(f"| {name} | 2 |" in ended.out for name in expected)
