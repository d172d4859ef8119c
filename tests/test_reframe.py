"""The test that ReFrame runs on a system, run here by mpirun as ReFrame starts it; make test-trackers installs it."""

import json
import os
import shutil

import pytest

from tests.running import BIN, ROOT, run

REFRAME = shutil.which("reframe", path=f"{BIN}:{os.environ['PATH']}")
pytestmark = pytest.mark.skipif(not REFRAME, reason="reframe is not installed: make test-trackers")

SITE = """
site_configuration = {
    "systems": [{
        "name": "here", "hostnames": [".*"],
        "partitions": [{"name": "default", "scheduler": "local", "launcher": "mpirun", "environs": ["plain"]}],
    }],
    "environments": [{"name": "plain", "cc": "cc"}],
}
"""


def checked(folder, mpirun=BIN, *options):
    """What ReFrame says of the test by the mpirun of a folder, and the cases of its report."""
    (folder / "site.py").write_text(SITE)
    places = ["-C", folder / "site.py", "-c", ROOT / "slurm/reframe_mpisign.py", "--prefix", folder / "reframe"]
    settings = ["-S", f"mpisign={BIN / 'mpisign'}", "-S", "num_tasks=2", "-S", "coordinates=20000"]
    report = folder / "report.json"
    environment = {"PATH": f"{mpirun}:/usr/bin:/bin"}
    command = [REFRAME, *places, *settings, *options, "--report-file", report, "-r"]
    ended = run(*command, cwd=folder, timeout=110, environment=environment)
    return ended, json.loads(report.read_text())["runs"][0]["testcases"]


def test_bits_and_bandwidth_are_told(tmp_path):
    ended, cases = checked(tmp_path)
    assert ended.code == 0, ended.out
    assert sorted(case["exchange"] for case in cases) == ["allgather", "sharded"]
    for case in cases:
        told = {name.rpartition(":")[2]: value for name, (value, *_) in case["perfvalues"].items()}
        assert told.keys() == {"bandwidth", "step"}
        assert min(told.values()) > 0


def test_tasks_that_are_no_job_of_mpi_fail(tmp_path):
    """As where the launcher belongs to another MPI."""
    (tmp_path / "mpirun").write_text('#!/bin/sh\nshift 2\nexec "$@"\n')
    (tmp_path / "mpirun").chmod(0o755)
    ended, cases = checked(tmp_path, tmp_path, "-n", "%exchange=sharded")
    assert ended.code == 1
    assert [case["fail_phase"] for case in cases] == ["sanity"]
    assert "no table of one exchange was printed" in cases[0]["fail_reason"]
