"""`mpisign bench` as a user meets it: every table is made, saved and read back; bad input gets one message."""

import math
import re
import time

import h5py
import pytest

from mpisign.algorithms.messages import Scratch
from mpisign.bench.explain import parts, pays_below, verdict
from mpisign.bench.table import Table, save
from mpisign.engine.autotune import LinkModel, Prediction, fastest
from mpisign.engine.timing import Timer
from mpisign.exchange import Choice
from mpisign.run.startup import Phases, age
from tests.running import BIN, ROOT, mpisign, run


def rows(out):
    return [line for line in out.splitlines() if line.startswith("| ")][1:]


def test_kernels(tmp_path):
    file = tmp_path / "k.h5"
    ended = mpisign("bench", "kernels", "-d", "1e5", "--repeats", "1", "--voters", "5", "--output", file, timeout=120)
    assert ended.code == 0, ended.err
    names = [row.split("|")[1].strip() for row in rows(ended.out)]
    assert {"pack", "stochastic pack", "scaled pack, error feedback", "count", "majority", "apply"} <= set(names)
    assert {f"{way} {kind}" for way in ("pack", "add") for kind in ("levels", "largest", "chosen")} <= set(names)
    with h5py.File(file) as saved:
        table = saved["kernels"]
        assert [name.decode() for name in table["kernel"]] == names
        assert (table["ns a coordinate"][()] > 0).all()
        assert table.attrs["voters"] == 5
        assert table.attrs["processor"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("exchange",), {"sharded", "allgather", "allreduce"}),
        pytest.param(("exchange", "--algorithm", "sgd"), {"dense", "dense-mpi"}, marks=pytest.mark.slow),
        pytest.param(
            ("exchange", "--algorithm", "dist-ef-signsgd", "--exchange", "sharded", "--progress", "thread"),
            {"sharded"},
            marks=pytest.mark.slow,
        ),
        (("explain",), {"20,000"}),
        pytest.param(("voters",), {"signum-mv, voters of 2 ranks, FSDP", "DDP float32, SGD"}, marks=pytest.mark.slow),
        pytest.param(("profile",), {"pack", "count and decide", "apply", "whole step"}, marks=pytest.mark.slow),
    ],
)
def test_over_ranks(arguments, expected):
    ended = mpisign("bench", *arguments, "-d", "2e4", "--repeats", "1", n=2, timeout=120)
    assert ended.code == 0, ended.err
    cells = {cell.strip() for row in rows(ended.out) for cell in row.split("|")}
    assert expected <= cells
    if arguments[0] == "explain":
        assert re.search(r"d = 20,000: kernels [\d.e-]+ ms, bytes [\d.e-]+, calls and latency ", ended.out)
        (said,) = re.findall(r"signsgd-mv pays against float32 on links (?:of any speed|below ([\d.e+-]+))", ended.out)
        assert said in ("", *[row.split("|")[-2].strip() for row in rows(ended.out)])


LINK = LinkModel(2e-5, 1e10)  # 80 Gbit/s


def predicted(name, byte, *seconds):
    return Prediction(Choice(name, ""), LINK, byte, sizes=[10**5, 10**7], seconds=list(seconds))


def test_a_link_is_slow_enough_at_one_size_and_not_at_another():
    vote, floats = predicted("sharded", 0.125, 0.5e-3, 4e-3), predicted("floats", 4.125, 0.1e-3, 10e-3)
    # behind by 0.4 ms for 400 kB less: 1 ns per byte on top of the link's 0.1
    small = pays_below([vote], floats, 10**5)
    assert small == pytest.approx(1 / 1.1e-9)
    assert verdict(small) == "pays against float32 on links below 7.27 Gbit/s per rank, if all else is as here"
    # ahead by 6 ms for 40 MB less, 0.15 ns per byte: more than bytes take here, so even if they took nothing
    assert pays_below([vote], floats, 10**7) == math.inf
    # the link that was found makes both alike
    slower = small / LINK.bandwidth
    extra = [p.bytes * 10**5 * (1 / slower - 1) / LINK.bandwidth for p in (vote, floats)]
    assert vote.at(10**5) + extra[0] == pytest.approx(floats.at(10**5) + extra[1])


@pytest.mark.parametrize("ours", [0.05e-3, 0.0999e-3, 0.1001e-3, 0.5e-3])
def test_what_is_faster_here_pays_on_this_link(ours):
    vote, floats = predicted("sharded", 0.125, ours, 1e-3), predicted("floats", 4.125, 0.1e-3, 1e-3)
    assert (pays_below([vote], floats, 10**5) >= LINK.bandwidth) == (ours < 0.1e-3)


def test_the_exchange_that_pays_first_decides_and_no_link_makes_up_for_bytes_that_are_not_saved():
    floats, slow = predicted("floats", 4.0, 0.1e-3, 1e-3), predicted("allgather", 2.0, 0.9e-3, 1e-3)
    few, many = predicted("sharded", 0.125, 0.5e-3, 1e-3), predicted("dense", 4.0, 0.05e-3, 1e-3)
    assert pays_below([slow, few, many], floats, 10**5) == pays_below([few], floats, 10**5)
    assert pays_below([many], floats, 10**5) is None
    assert "no matter of the link" in verdict(None)


def test_calls_and_latency_are_told_where_they_decide():
    vote = predicted("sharded", 1.0, 0.5e-3, 40e-3)
    assert parts(vote, 0.5, 10**5) == ("kernels 0.05 ms, bytes 0.01, calls and latency 0.44, which decide at this size")
    assert parts(vote, 3.5, 10**7) == "kernels 35 ms, bytes 1, calls and latency 4"


def test_a_start_is_told_by_all_phases_of_train():
    sources = [file.read_text() for file in (ROOT / "mpisign").rglob("*.py")]
    named = [phase for source in sources for phase in re.findall(r'PHASES\.end\("(.+?)"\)', source)]
    ended = mpisign("bench", "startup", n=2, environment={})  # by processes that have imported nothing yet
    assert ended.code == 0, ended.err
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows(ended.out)]
    seconds = {phase: float(median) for _, phase, median, *_ in cells}
    assert seconds["torch"] > 0.1
    *phases, whole = seconds
    assert (sorted(phases), whole) == (sorted(named), "whole")
    assert seconds["whole"] == pytest.approx(sum(seconds[phase] for phase in phases), abs=0.2)


def test_phases_leave_nothing_out():
    phases = Phases()
    phases.end("one")
    time.sleep(0.05)
    phases.end("two")
    phases.end("one")  # has ended
    assert list(phases.seconds) == ["one", "two"]
    assert phases.seconds["two"][0] >= 0.05
    assert sum(passed for passed, _ in phases.seconds.values()) == pytest.approx(age(), abs=0.05)


def test_bits_are_those_of_the_formula():
    ended = mpisign("bench", "exchange", "-d", "1e6", "--repeats", "1", n=3, timeout=120)
    header = next(line for line in ended.out.splitlines() if line.startswith("| n "))
    bits = [cell.strip() for cell in header.split("|")].index("bits")
    found = {row.split("|")[3].strip(): float(row.split("|")[bits]) for row in rows(ended.out)}
    assert found["sharded"] == pytest.approx(4 / 3, rel=0.01)
    assert found["allgather"] == pytest.approx(2, rel=0.01)


def test_peers():
    ended = mpisign("bench", "peers", "-d", "2e4", "--repeats", "1", "--no-ddp", n=2, timeout=120)
    assert ended.code == 0, ended.err
    assert any("gloo float32 all-reduce" in row for row in rows(ended.out))
    assert any("over gloo" in row for row in rows(ended.out))
    assert any("float32 Allreduce" in row for row in rows(ended.out))


@pytest.mark.parametrize(
    ("arguments", "n", "said"),
    [
        (("exchange",), 1, "an exchange needs ranks: mpirun -n 4"),
        (("exchange", "-d", "0.5"), 2, "-d 0.5: coordinates are a whole number"),
        pytest.param(
            ("exchange", "--exchange", "dense"),
            2,
            "--exchange dense can't carry signsgd-mv; use one of: sharded,",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ("profile", "--exchange", "nope"), 2, "--exchange nope can't carry signsgd-mv", marks=pytest.mark.slow
        ),
        pytest.param(("peers", "--algorithm", "nope"), 2, "nope", marks=pytest.mark.slow),
    ],
)
def test_bad_input_is_told_once(arguments, n, said):
    ended = mpisign("bench", *arguments, n=n, timeout=60)
    assert ended.code == 2
    assert ended.err.count(said) == 1, ended.err


def test_links_without_root(tmp_path):
    """Says so and stops."""
    pretender = tmp_path / "id"
    pretender.write_text("#!/bin/sh\necho 1000\n")
    pretender.chmod(0o755)
    import os

    path = {"PATH": f"{tmp_path}:{BIN}:{os.environ['PATH']}", "MPISIGN": str(BIN / "mpisign")}
    path["MPIRUN"] = str(BIN / "mpirun")
    ended = run(ROOT / "analysis/links.sh", "2", "200mbit", "train", environment=path)
    assert ended.code == 2
    assert "simulated hosts need root" in ended.err
    ended = run(ROOT / "analysis/links.sh", "two", "200mbit", "train", environment=path)
    assert ended.code == 2
    assert ended.err.startswith("links.sh: first say how many hosts")


def test_beyond_what_was_tried_bytes_decide_between_close_rivals():
    link, sizes = LinkModel(1e-4, 1e9), [100, 1000]
    lean = Prediction(Choice("sharded", ""), link, bytes=0.2, sizes=sizes, seconds=[2.0, 3.0])
    for far, at_once in ((3.3, False), (2.0, True)):
        quick = Prediction(Choice("allgather", ""), link, bytes=0.4, sizes=sizes, seconds=[1.0, far / 3.3 * 2.9])
        assert fastest([quick, lean], 1000) is quick
        assert (fastest([quick, lean], 1100) is quick) == at_once


def test_predictions_are_linear_between_and_bounded_beyond():
    p = Prediction(Choice("sharded", ""), LinkModel(1e-4, 1e6), bytes=0.25, sizes=[100, 300], seconds=[1.0, 3.0])
    assert p.at(200) == pytest.approx(2.0)
    assert p.at(50) == 1.0
    assert p.at(500) == pytest.approx(5.0)  # the slope goes on
    slow = Prediction(Choice("sharded", ""), LinkModel(1e-4, 10.0), bytes=0.25, sizes=[100, 300], seconds=[1.0, 1.1])
    assert slow.at(700) == pytest.approx(1.1 + 400 * 0.25 / 10.0)  # no faster than the link


def test_phases_within_phases_count_once(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    timer = Timer()
    with timer("exchange"):
        now[0] += 1
        with timer("sign"):
            now[0] += 10
        now[0] += 100
    assert timer.phases["exchange"].seconds == 101
    assert timer.phases["sign"].seconds == 10


def test_room_is_used_again():
    room = Scratch()
    first = room("plus", 3, 8)
    assert room("plus", 2, 8).data_ptr() == first.data_ptr()
    assert room("minus", 3, 8).data_ptr() != first.data_ptr()
    assert room.nbytes == 2 * 3 * 8 * 8


def test_a_table_shows_and_saves_what_is_missing(tmp_path):
    table = Table("t", {"name": "", "ms": ".1f"}, {"n": 2})
    table.add(name="a", ms=1.25)
    table.add(name="b")
    assert table.markdown().splitlines()[-1] == "| b | - |"
    save(tmp_path / "t.h5", [table])
    with h5py.File(tmp_path / "t.h5") as file:
        assert file["t/ms"][0] == 1.25
        assert file["t/ms"][1] != file["t/ms"][1]  # NaN
