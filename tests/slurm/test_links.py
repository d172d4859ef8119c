"""analysis/links.sh: each rank on a host of its own behind a link; true bytes, and nothing left behind."""

import os
import re
from pathlib import Path

import pytest

from tests.running import BIN, ROOT, run
from tests.slurm.conftest import missing

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "can run")
ENVIRONMENT = {"MPISIGN": str(BIN / "mpisign"), "MPIRUN": str(BIN / "mpirun"), "PATH": f"{BIN}:{os.environ['PATH']}"}


def links(*arguments):
    return run(ROOT / "analysis/links.sh", *arguments, timeout=110, environment=ENVIRONMENT)


@pytest.fixture(autouse=True)
def nothing_left():
    yield
    assert not Path("/sys/class/net/lab0").exists()


def test_bits_on_the_wire():
    ended = links("4", "100mbit", "bench", "exchange", "-d", "2e6", "--exchange", "sharded", "--repeats", "2")
    assert ended.code == 0, ended.err
    header, (row,) = (
        [line.split("|") for line in ended.out.splitlines() if line.startswith(begin)] for begin in ("| n ", "| 4 ")
    )
    found = dict(zip([cell.strip() for cell in header[0]], row, strict=True))
    # the interfaces count the headers of TCP and IP, too
    assert float(found["bits by the OS"]) == pytest.approx(1.5, rel=0.02)
    assert len(re.findall(r"^h\d sent [\d.]+ MB", ended.err, re.MULTILINE)) == 4
    assert float(found["ms"]) > 0.8 * 1.5 * 2e6 / 100e6 * 1e3  # no faster than the link


def test_a_failed_command_leaves_nothing():
    ended = links("2", "200mbit", "train", "--set", "run.nonsense=1")
    assert ended.code == 2
    assert "nonsense" in ended.err


def test_a_rate_that_is_none():
    ended = links("2", "fast", "train")
    assert ended.code == 2
    assert "could not be set up at rate fast" in ended.err
