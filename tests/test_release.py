"""What an installed package says of itself, and the jobs that come with it."""

import re
from pathlib import Path

import pytest

import mpisign as package
from mpisign import paths
from mpisign.errors import UsageError
from tests.running import ROOT, mpisign


def test_the_citation_is_of_this_version():
    assert re.findall(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE) == [package.__version__]


@pytest.mark.parametrize("name", ["digits", "figures/c1", "papers/ssvr_mnist"])
def test_a_job_is_known_by_its_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert paths.job_file(Path(name)) == ROOT / f"jobs/{name}.toml"


def test_a_file_goes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("digits").write_text("")
    for given in ("digits", "other.toml", "/digits"):
        assert paths.job_file(Path(given)) == Path(given)


def test_an_unknown_job_is_told_with_those_that_there_are():
    with pytest.raises(UsageError, match=r"no job 'digit' \(did you mean digits\?\).*one of: cifar10, digits"):
        paths.job_file(Path("digit"))


def test_the_command_line_takes_a_name(tmp_path):
    wanted = ("--dry-run", "--set", "run.epochs=1")
    by_name, by_path = (mpisign("train", job, *wanted, cwd=tmp_path) for job in ("digits", ROOT / "jobs/digits.toml"))
    assert by_name.code == 0, by_name.err
    assert by_name.out == by_path.out
    refused = mpisign("simulate", "no_such_job", cwd=tmp_path)
    assert (refused.code, refused.out) == (2, "")
    assert refused.err.startswith("mpisign: no job 'no_such_job': give the path of a TOML file, or one of: ")
