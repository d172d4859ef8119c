"""The byte-level GPT of jobs/gpt: each way trains, and learns something of a text of one line."""

import sys

import pytest

from tests.running import BIN, ROOT, run

SIZE = ("--width", 32, "--heads", 2, "--depth", 2, "--window", 32, "--steps", 60, "--lr", 0.003)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("way", ["node", *(pytest.param(way, marks=pytest.mark.slow) for way in ("rank", "adamw"))])
def test_each_way_learns_a_line(way, tmp_path):
    (tmp_path / "line.txt").write_text("To be, or not to be, that is the question: " * 200)
    script, text = ROOT / "jobs/gpt/train.py", ("--text", tmp_path / "line.txt")
    ended = run(BIN / "mpirun", "-n", 4, sys.executable, script, *text, "--by", way, *SIZE, timeout=280)
    assert ended.code == 0, ended.err
    *_, last = ended.out.splitlines()
    assert last.startswith("held out: ")
    assert float(last.split()[2]) < 3.5  # 8 bits where nothing is known
