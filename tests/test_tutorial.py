"""The tutorial, run as it stands in an empty folder."""

import re

from tests.running import BIN, ROOT, run


def test_the_tutorial_makes_its_runs_and_pictures(tmp_path):
    script = ROOT / "analysis/tutorial.py"
    ended = run(BIN / "python", script, cwd=tmp_path, timeout=110, environment={"MPLBACKEND": "Agg"})
    assert ended.code == 0, ended.err
    folder = tmp_path / "runs/tutorial"
    assert {file.name for file in folder.glob("*.png")} == {"compared.png", "votes.png"}
    assert all(file.stat().st_size > 20_000 for file in folder.glob("*.png"))
    by_hand, rows, recorded = re.search(r"module: ([\d.]+) of (\d+) rows, in the run file ([\d.]+)", ended.out).groups()
    assert by_hand == recorded
    assert rows == "359"
    found = {name: float(accuracy) for name, accuracy in re.findall(r"^(\S+) +accuracy ([\d.]+)", ended.out, re.M)}
    assert found.keys() == {"signum-mv", "dist-ef-signsgd"}
    # what the tutorial is about
    assert found["signum-mv"] < found["dist-ef-signsgd"]
