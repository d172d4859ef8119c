"""Runs for pandas, xarray and notebooks; make test-trackers installs the two packages."""

import re
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from mpisign import results
from mpisign.errors import UsageError
from mpisign.results import Run, frame
from tests.test_simulate import here

COMMON = ("run.steps=20", "run.eval_every=5", "run.record_every=5", "problem.batch_size=4")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two rates of one method, with probes; and a run of a problem without held-out rows."""
    where = tmp_path_factory.mktemp("runs")
    for lr in (0.001, 0.01):
        here(*COMMON, f"schedule.lr={lr}", "probe.every=10", f"run.file={where}/{lr}.h5", n=3)
    here("problem.name=quadratic", "run.steps=20", f"run.file={where}/quadratic.h5", n=2)
    return where


def test_a_frame_has_a_row_per_run_and_the_settings_that_differ(folder):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed: make setup")
    files = [folder / "0.001.h5", folder / "0.01.h5"]
    table = frame(files)
    assert isinstance(table, pandas.DataFrame)
    assert table.index.tolist() == [str(file) for file in files]
    assert [name for name in table.columns if "." in name] == ["schedule.lr"]
    assert table["schedule.lr"].tolist() == [0.001, 0.01]
    for (_, row), run in zip(table.iterrows(), map(Run, files), strict=True):
        assert row["state"] == "complete"
        assert row["n"] == 3
        assert row["test_accuracy"] == run["eval"]["test_accuracy"][-1]
        assert row["best_test_accuracy"] == pytest.approx(run["eval"]["test_accuracy"].max(), abs=1e-6)
        assert row["train_loss"] == run["eval"]["train_loss"][-1]
        assert row["seconds"] == run["steps"]["seconds"][-1]
        assert row["bits_per_coordinate"] == run.bits_per_coordinate
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", row["began"])


def test_a_folder_of_unlike_runs_is_a_frame_too(folder, tmp_path):
    pytest.importorskip("pandas", reason="pandas is not installed: make setup")
    table = frame(folder, settings="all")
    assert len(table) == 3
    assert table.loc[str(folder / "quadratic.h5"), "problem.hidden"] is None
    assert np.isnan(table.loc[str(folder / "quadratic.h5"), "test_loss"])
    job = Run(folder / "0.01.h5").config
    names = {f"{name}.{key}" for name, keys in job.items() for key in keys} - {"run.file"}
    assert names <= set(table.columns)
    (tmp_path / "bad.h5").write_bytes(b"no run")
    with pytest.warns(UserWarning, match=r"left out: .*bad\.h5"):
        assert len(frame([folder / "0.01.h5", tmp_path])) == 1
    with pytest.warns(UserWarning, match="left out"), pytest.raises(UsageError, match="no run is left"):
        frame(tmp_path)
    with pytest.raises(UsageError, match="differing"):
        frame(folder, settings="some")


def test_without_pandas_or_xarray_one_is_told_what_to_do(folder, monkeypatch):
    run = Run(folder / "0.01.h5")
    for package, asked in (("pandas", lambda: results.frame(folder)), ("xarray", run.to_xarray)):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(UsageError, match=f"pip install {package}"):
            asked()


def test_a_table_becomes_a_dataset(folder):
    pytest.importorskip("xarray", reason="xarray is not installed: make setup")
    run = Run(folder / "0.01.h5")
    probes = run.to_xarray("probes")
    assert dict(probes.sizes) == {"step": len(run["probes"]["step"]), "bin": len(run["probes"]["snr"][0]), "voter": 3}
    (at,) = np.flatnonzero(run["probes"]["step"] == 20)
    assert probes["voter_success"].sel(step=20).values.tolist() == run["probes"]["voter_success"][at].tolist()
    assert run.to_xarray("eval")["train_loss"].values.tolist() == run["eval"]["train_loss"].tolist()
    assert probes.attrs == {name: run.attributes[name] for name in ("algorithm", "problem", "n", "seed")}


def test_phases_become_a_dataset_of_steps_and_ranks(folder):
    pytest.importorskip("xarray", reason="xarray is not installed: make setup")
    run = Run(folder / "0.01.h5")
    rows = run["phases"]
    rows |= {name: np.resize(column, 6) for name, column in rows.items()}
    rows |= {"step": np.repeat([10, 20], 3), "rank": np.tile(np.arange(3), 2), "exchange": np.arange(6.0)}
    phases = run.to_xarray("phases")
    assert dict(phases.sizes) == {"step": 2, "rank": 3}
    assert phases["exchange"].sel(step=20).values.tolist() == [3, 4, 5]
    assert phases["memory"].dtype == rows["memory"].dtype


def test_a_table_that_is_not_there_is_named_with_those_that_are(folder):
    run = Run(folder / "0.01.h5")
    for asked in (run.columns, run.to_xarray):
        with pytest.raises(KeyError, match=r"no table 'step'.*did you mean steps.*tables are: eval"):
            asked("step")


class Cells(HTMLParser):
    """The tags of a page, and the text in each of its cells."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.texts.append(data)


def test_a_notebook_shows_a_table_in_which_no_text_is_markup(folder, tmp_path):
    run = Run(folder / "0.01.h5")
    page = Cells(run._repr_html_())
    assert set(page.tags) == {"table", "caption", "tr", "th", "td"}
    assert page.texts[page.texts.index("n") + 1] == "3 voter(s)"
    assert page.texts[page.texts.index("tables (rows)") + 1].startswith("steps (4)")
    evil = "<script>alert('&')</script>"
    run.attributes["algorithm"] = evil
    run.path = tmp_path / f"{evil[:8]}.h5"
    page = Cells(run._repr_html_())
    assert "script" not in page.tags
    assert evil in page.texts
