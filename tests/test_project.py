"""`mpisign project`: its schedules are what MPI is given in a run, and what it simulates takes what formulas say."""

import json
import math
import sys
from collections import Counter

import pytest

from mpisign.algorithms import zoo
from mpisign.algorithms.dense import with_averaging
from mpisign.algorithms.registry import find
from mpisign.bench import project, simgrid
from mpisign.bench.project import HALVING, RING, Network, Projection, Sampling, Simulator, Subject, Wire, Work
from mpisign.bench.simgrid import Traffic
from mpisign.bench.table import Table, load, save
from mpisign.bench.topology import topology
from mpisign.cli import cli
from mpisign.cli import project as project_command
from mpisign.engine.autotune import LinkModel
from mpisign.errors import UsageError
from mpisign.exchange import REGISTRY, candidates, coordinates_of
from mpisign.exchange.costs import Sizes, chunks_of
from mpisign.exchange.schedule import Doubling, Level, halving_doubling, ring
from mpisign.layout import Layout, SegmentOptions
from tests.running import BIN, ROOT, run

assert zoo
pytestmark = pytest.mark.timeout(60)
needs_smpirun = pytest.mark.skipif(
    not simgrid.installed(), reason="NOT TESTED: smpirun is missing (apt-get install libsimgrid-dev)"
)
GBIT = 1e9 / 8


def subject(name="signsgd-mv", d=40_000, chunk=0, node_size=1):
    stage = find(name).build().stages[-1]
    return Subject(Layout({"x": (d,)}), lambda n: stage.with_rules("auto", "auto", n), name, chunk, node_size)


def messages(phases, rank):
    """(kind, to, bytes) -> how many a rank sends."""
    return Counter((p.name, *one) for p in phases for one in simgrid.sent(p, rank, range(p.rounds), False))


# What is sent

# exchange, algorithm, d, bytes of a plane in a chunk, ranks of a node: 0 where it has no part in it
CASES = [
    ("sharded", "signsgd-mv", 40_000, 1024, 0),
    ("sharded", "onebit-sgd", 30_000, 0, 0),
    ("sharded", "dist-ef-signsgd", 50_000, 1024, 0),
    ("sharded", "signsgd-mv", 100, 0, 0),
    ("allgather", "signsgd-mv", 40_000, 1024, 0),
    ("allgather", "strom", 40_000, 1024, 0),
    ("allgather", "signsgd-mv", 40_000, 0, 0),
    ("allgather", "ssdm", 40_000, 2560, 0),
    ("hierarchical", "signsgd-mv", 40_000, 1024, 2),
    ("hierarchical", "signsgd-mv", 40_000, 1024, 3),
    ("hierarchical", "signsgd-mv", 40_000, 1024, 4),
    ("butterfly", "signsgd-mv", 40_000, 1024, 0),
    ("butterfly", "strom", 40_000, 1024, 0),
    ("dense", "sgd", 9_999, 16384, 0),
]


@pytest.fixture(scope="module")
def counted():
    """For each case what four ranks gave MPI in a step, and the bytes that each counted."""
    command = [BIN / "mpirun", "-n", 4, sys.executable, "-m", "tests.sent_messages", json.dumps(CASES)]
    ended = run(*command, timeout=60)
    assert ended.code == 0, ended.err
    return dict(zip(CASES, json.loads(ended.out), strict=True))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[1]}-{case[2]}-{case[4]}")
def test_a_trace_has_the_messages_that_mpi_is_given(counted, case):
    name, algorithm, d, chunk, node_size = case
    phases, _ = subject(algorithm, d, chunk, node_size or 1).schedule(name, 4)
    headers = [p for p in phases if isinstance(p, Doubling)]
    others = [p for p in phases if p not in headers]
    for rank, (given, total) in enumerate(counted[case]):
        wanted = Counter(
            {(kind.replace("counts", "messages"), *key): k for (kind, *key), k in messages(others, rank).items()}
        )
        found = Counter({(kind, to, size): k for kind, to, size, k in given if kind != "headers"})
        assert found == wanted, rank
        # each rank's header goes to all others, of whom some pass it on
        sent = sum(size * k for (_, _, size), k in messages(phases, rank).items())
        assert sent == total, rank
        each = sum(p.each for p in headers)
        assert sum(size * k for kind, _, size, k in given if kind == "headers") == 3 * each


@pytest.mark.parametrize("case", CASES, ids=str)
def test_headers_travel_alone_or_with_what_travels_anyway(case):
    name, algorithm, d, chunk, node_size = case
    phases, chunks = subject(algorithm, d, chunk, node_size or 1).schedule(name, 4)
    together = (name == "allgather" and chunks <= 2) or node_size == 4
    assert any(isinstance(p, Doubling) for p in phases) != together


@pytest.mark.parametrize("n", [2, 3, 5, 8])
@pytest.mark.parametrize("name", ["signsgd-mv", "ssdm", "ef-signsgd", "qsgd", "sgd"])
def test_bytes_are_those_of_the_formulas(name, n):
    for carrier in candidates(find(name).build().stages[-1]):
        whole = subject(name, 30_017, 1024)
        stage = whole.algorithm(n)
        up, length = stage.sign.up(), 30_080
        chunks = chunks_of(length, coordinates_of(1024, length, up.raw), up)
        sizes = Sizes(chunks, up, stage.vote.down(up, n), stage.vote, n)
        phases = REGISTRY[carrier].schedule(sizes)
        sent = sum(size * k for rank in range(n) for (_, _, size), k in messages(phases, rank).items())
        # those of a ring are a whole number per rank, and its blocks may differ by a word
        slack = 16 * n if carrier in ("allreduce", "dense-mpi") else 0
        assert sent == pytest.approx(sum(REGISTRY[carrier].cost(sizes)), abs=slack), carrier


@pytest.mark.parametrize("n", [2, 3, 4, 6, 7, 8, 13])
def test_what_one_sends_another_expects_and_sums_reach_everyone(n):
    whole = subject()
    schedules = [whole.schedule(name, n)[0] for name in ("sharded", "allgather", RING, HALVING)]
    for phases in (*schedules, subject(node_size=3).schedule("hierarchical", n)[0]):
        for p in phases:
            for k in range(p.rounds):
                pairs = {(rank, p.to(rank, k)) for rank in range(n)}
                assert {(a, b) for a, b in pairs if b is not None} == {
                    (p.source(rank, k), rank) for rank in range(n) if p.source(rank, k) is not None
                }
    for phases in (halving_doubling(1000, n), ring(1000, n), [Doubling("headers", n, each=1)]):
        known = [{rank} for rank in range(n)]
        for p in phases:
            for k in range(p.rounds):
                came = {p.to(rank, k): known[rank] for rank in range(n) if p.to(rank, k) is not None}
                known = [known[rank] | came.get(rank, set()) for rank in range(n)]
        assert known == [set(range(n))] * n


GOLDEN = """0 init
0 irecv 2 0 16
0 irecv 1 0 16
0 isend 1 0 16
0 isend 2 0 16
0 waitall
0 irecv 1 1 24
0 isend 2 1 24
0 waitall
0 irecv 2 1 24
0 isend 1 1 24
0 waitall
0 irecv 2 2 16
0 irecv 1 2 16
0 isend 1 2 16
0 isend 2 2 16
0 waitall
0 finalize
"""


def whole_traffic(phases, n, **how):
    return Traffic(tuple((p, range(p.rounds)) for p in phases), n, 1, topology("star", n), GBIT, 1e-6, **how)


def test_golden_trace():
    phases, chunks = subject(d=384).schedule("sharded", 3)
    lines = list(simgrid.trace(whole_traffic(phases, 3)))
    assert chunks == 1
    assert "".join(line for line in lines if line.startswith("0 ")) == GOLDEN
    assert len(lines) == 3 * len(GOLDEN.splitlines())
    goal = "".join(simgrid.goal(whole_traffic(phases, 3)))
    assert goal.startswith("num_ranks 3\nrank 0 {\nl0: calc 0\nl1: recv 16b from 2 tag 0\nl1 requires l0\n")
    assert goal.count(": send 16b to ") == goal.count(": recv 16b from ") == 12
    assert "l5: calc 0\nl5 requires l1\nl5 requires l2\nl5 requires l3\nl5 requires l4\nl6: recv 24b" in goal


def test_messages_are_joined_or_cut_where_they_must():
    phases, chunks = subject(d=40_000, chunk=1024).schedule("sharded", 2)
    assert chunks == 5
    apart, joined = (list(simgrid.sent(phases[0], 0, [0], how)) for how in (False, True))
    assert len(apart) == 5
    assert joined == [(1, sum(size for _, size in apart))]
    (long, *_), _ = subject("sgd", d=2 * 10**9).schedule(RING, 2)
    sizes = [size for _, size in simgrid.sent(long, 0, [0], False)]
    assert max(sizes) < 2**31
    assert sum(sizes) == 4 * 10**9


# Networks


@pytest.mark.parametrize(
    ("text", "nodes", "parameters", "hosts"),
    [
        ("star", 7, "", 7),
        ("fat-tree", 8, "1;8;1;1", 8),
        ("fat-tree", 1024, "2;32,32;1,32;1,1", 1024),
        ("fat-tree:4", 1000, "2;32,32;1,8;1,1", 1024),
        ("fat-tree", 10_000, "3;32,32,10;1,32,32;1,1,1", 10_240),
        ("fat-tree:2;16,16;1,4;1,1", 200, "2;16,16;1,4;1,1", 256),
        ("dragonfly", 8, "1,1;1,3;2,1;4", 8),
        ("dragonfly", 4096, "11,96;6,3;16,1;4", 4224),
        ("torus", 4096, "16,16,16", 4096),
        ("torus:4,4", 9, "4,4", 16),
    ],
)
def test_topologies(text, nodes, parameters, hosts):
    made = topology(text, nodes)
    assert (made.parameters, made.hosts) == (parameters, hosts)
    platform = made.platform(12.5e9, 1e-6, 1000)
    assert f'radical="0-{hosts - 1}"' in platform
    assert 'bw="12500000Bps" lat="0.001s"' in platform
    assert (f'topo_parameters="{parameters}"' in platform) == bool(parameters)


BAD = [
    (("--topology", "ring"), "--topology ring: use one of: dragonfly, fat-tree, star, torus"),
    (("--topology", "star:3"), "a star takes no parameters"),
    (("--topology", "fat-tree:5"), "oversubscribed by one of 1, 2, 4, 8, 16, 32"),
    (("--topology", "fat-tree:2;4;4,4"), "not as SimGrid's topo_parameters are"),
    (("--topology", "torus:0,8"), "not as SimGrid's topo_parameters are"),
    (("--topology", "torus:2,2", "--nodes", "5"), "it has 4 nodes, and --nodes asks for 5"),
    (("--topology", "dragonfly", "--nodes", "40000"), "40,000 nodes are 105 groups"),
    (("--nodes", "8,x"), "--nodes 'x': whole numbers from 1 to 100,000"),
    (("--nodes", "200000"), "--nodes '200000': whole numbers"),
    (("--nodes", "1"), "one rank sends nothing"),
    (("--limit", "1e400s"), "--limit 1e400s: at most 1,000,000s; for example --limit 1us"),
    (("--node-size", "200000"), "--node-size 200000: at most 50,000 (100,000 ranks in all on two nodes)"),
    (("--link", "10"), "--link 10: a number above 0 and its unit"),
    (("--link", "0gbit"), "--link 0gbit: a number above 0"),
    (("--latency", "1h"), "--latency 1h: a number, 0 or more, and its unit"),
    (("--work", "-1"), "--work -1.0: nanoseconds per coordinate, 0 or more"),
    (("--exchange", "nope"), "--exchange nope: can't carry signsgd-mv"),
    (("--algorithm", "powersgd"), "powersgd can't be projected"),
    (("--algorithm", "nope"), "unknown algorithm 'nope'"),
    (("--goal",), "--goal writes GOAL text beside a trace"),
    (("-d", "0.5"), "-d 0.5: coordinates are a whole number"),
    (("-d", "-3"), "-d -3: coordinates are a whole number"),
    (("-d", "0"), "-d 0: coordinates are a whole number"),
    (("--nodes", "abc"), "--nodes 'abc': whole numbers"),
    (("jobs/quadratic.toml",), "both say how many coordinates"),
    (("--check-link", "1gbit"), "--check-link says something of what was measured: add --check FILE"),
    (("--check-free", "tcp.h5"), "--check-free says something of what was measured: add --check FILE"),
    (("--check", "missing.h5"), "no file missing.h5"),
    (("--check", "missing.h5", "-d", "1e5", "--topology", "ring"), "--topology ring: use one of"),
]


def here(*arguments):
    """The command, in this process."""
    work = () if "--work" in arguments else ("--work", "0.6")
    size = () if {"-d", "--check"} & set(arguments) else ("-d", "1e5")
    cli.main(["project", *map(str, (*size, *work, "--float-work", "0.9", *arguments))], standalone_mode=False)


@pytest.mark.parametrize(
    ("arguments", "said"), BAD, ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_bad_input_is_told_before_what_the_machine_lacks(monkeypatch, arguments, said):
    monkeypatch.setattr(simgrid, "installed", lambda: False)
    monkeypatch.setattr(simgrid, "run", lambda *_: pytest.fail("simulated"))
    with pytest.raises(UsageError) as error:
        here(*arguments)
    assert said in str(error.value)
    assert error.value.exit_code == 2


def test_without_smpirun_one_line_names_the_package(monkeypatch, tmp_path):
    monkeypatch.setattr(simgrid, "installed", lambda: False)
    with pytest.raises(UsageError, match=r"smpirun is not installed.*apt-get install libsimgrid-dev.*--trace FOLDER"):
        here("--nodes", "4")
    with pytest.raises(UsageError, match=f"traces and platforms are in {tmp_path}"):
        here("--nodes", "4", "--trace", tmp_path, "--goal")
    written = {path.name for path in (tmp_path / "sharded-4").iterdir()}
    assert written == {"platform.xml", "hosts", "trace.txt", "trace.idx", "trace.goal"}
    lines = (tmp_path / "sharded-4/trace.txt").read_text().splitlines()
    phases, _ = subject(d=100_000).schedule("sharded", 4)
    assert sum(" isend " in line for line in lines) == sum(messages(phases, r).total() for r in range(4))


# Arithmetic without a simulation


def by_rate(seconds, fixed=0.0):
    """A wire of which a part no link shortens."""
    faster = project.FASTER
    fast, slow = ((seconds - fixed) / by + fixed for by in (faster, 1 / faster))
    return Wire(seconds, 0.0, "all", fast, slow)


def test_the_shorter_of_wire_and_core_hides_behind_the_longer():
    wire = by_rate(0.8, 0.2)
    assert Projection(wire, 0.4, 8).seconds() == pytest.approx(0.8 + 0.4 / 8)
    assert Projection(wire, 0.4, 1).seconds() == pytest.approx(1.2)
    assert Projection(wire, 0.4, 8).seconds(faster=6) == pytest.approx(0.4 + 0.3 / 8)


def test_the_link_below_which_a_vote_pays():
    vote = Projection(by_rate(1.0), 3.0, 10**9)
    floats = [Projection(by_rate(32.0), 1.0, 1), Projection(by_rate(64.0), 1.0, 1)]
    assert project.break_even(vote, floats) == pytest.approx(16.0)  # 32/16 + 1 = 3
    assert project.break_even(Projection(by_rate(1.0), 0.5, 1), floats) == math.inf
    assert project.break_even(Projection(by_rate(99.0), 0.5, 1), floats) == 0.0


def test_links_are_read_as_they_are_told():
    link = LinkModel(73e-6, 1234e6 / 8)
    assert LinkModel.parse(str(link)) == link
    with pytest.raises(ValueError):
        LinkModel.parse("fast")


def test_the_picture_and_its_table(tmp_path):
    about = {"algorithm": "signsgd-mv", "d": 10**6, "topology": "star", "node size": 1, "link Gbit/s": 1.0}
    table = Table("projection", project.COLUMNS, about | {"latency us": 25.0, "gradient s": 0.1})
    for nodes in (8, 64):
        for name, step in (("sharded", 101.0), (RING, 130.0)):
            row = {"n": nodes, "exchange": name, "step ms": step, "+-": 0.5, "efficiency": 100 / step}
            table.add(**row, **{"faster than ring": 30 / (step - 100)})
    save(tmp_path / "p.h5", [table])
    script, picture = ROOT / "analysis/projection.py", tmp_path / "p.png"
    ended = run(BIN / "python", script, tmp_path / "p.h5", tmp_path / "p.h5", "--output", picture)
    assert ended.code == 0, ended.err
    assert picture.stat().st_size > 10_000
    assert (
        "| star, 1 Gbit/s, 25 us | 64 | sharded | 101 | 0.5 | - | - | 30 | - | - | 99% |"
        in (tmp_path / "p.md").read_text()
    )
    save(tmp_path / "other.h5", [Table("exchanges", {"n": ""})])
    refused = run(BIN / "python", script, tmp_path / "other.h5", "--output", picture)
    assert refused.code == 2
    assert "no table 'projection' of mpisign bench --output, but: exchanges" in refused.err


# With SimGrid


def simulator(text="star", gbit=1.0, latency=1e-6, **how):
    return Simulator(Network(text, gbit * GBIT, latency), Sampling(**how), 60)


@needs_smpirun
@pytest.mark.parametrize("name", ["sharded", "allgather", RING, HALVING])
def test_a_star_takes_what_its_links_say(name):
    n, whole = 4, subject(d=4_000_000)
    phases, _ = whole.schedule(name, n)
    took = simulator(latency=0).wire(name, phases, n, 1)
    sent = project.per_rank(phases)[0]
    assert took.seconds == pytest.approx(sent / (0.95 * GBIT), rel=0.02)
    assert took.at(1e9) < 0.02 * took.seconds
    slow = simulator(latency=1e-3).wire(name, phases, n, 1)
    rounds = sum(-(-p.rounds // p.batch) for p in phases)
    # two links a path, and each batch waits for the one before it
    assert slow.seconds - took.seconds == pytest.approx(2e-3 * rounds, rel=0.05)
    assert slow.at(1e9) == pytest.approx(2e-3 * rounds, rel=0.1)
    assert slow.at(0.01) == pytest.approx(2e-3 * rounds + 100 * sent / (0.95 * GBIT), rel=0.02)


@needs_smpirun
def test_sampled_shifts_stand_for_all(monkeypatch):
    phases, _ = subject(d=4_000_000).schedule("sharded", 24)
    exact = simulator("fat-tree:8").wire("exact", phases, 24, 1)
    monkeypatch.setattr(project, "FLOWS", 16)
    sampled = simulator("fat-tree:8", shifts=3, samples=3).wire("sampled", phases, 24, 1)
    assert (exact.simulated, sampled.simulated) == ("all", "3 of 23 shifts, 3 times")
    assert sampled.seconds == pytest.approx(exact.seconds, rel=0.05)


@needs_smpirun
def test_nodes_share_their_link_and_oversubscription_costs():
    whole = subject(d=4_000_000, node_size=2)
    flat, counts = (simulator().wire(name, whole.schedule(name, 8)[0], 8, 2) for name in ("sharded", "hierarchical"))
    # of 4 nodes of 2: 2 * 2 * 6/8 bits leave a node, or (2 + 1) * 3/4
    assert flat.seconds / counts.seconds == pytest.approx(3 / 2.25, rel=0.03)
    assert flat.slow / flat.seconds == pytest.approx(project.FASTER, rel=0.03)
    full, saved = (
        simulator(text).wire(text, subject(d=4_000_000).schedule("sharded", 4)[0], 4, 1)
        for text in ("fat-tree:2;2,2;1,2;1,1", "fat-tree:2;2,2;1,1;1,1")
    )
    assert saved.seconds > 1.3 * full.seconds


@needs_smpirun
def test_the_command_prints_saves_and_checks_itself(tmp_path, capsys):
    measured = Table("exchanges", dict.fromkeys(("n", "d", "exchange", "chunk", "ms", "work ns"), ""))
    measured.about |= {
        "algorithm": "signsgd-mv",
        "link": str(LinkModel(50e-6, 0.19 * GBIT)),
        "node_size": 1,
    }
    ideal = {2: 42.0, 4: 63.0}  # ms of 2(n-1)/n bits at 200 Mbit/s
    for n, ms in ideal.items():
        for name, value in (("sharded", ms), ("allreduce", 1.0)):
            measured.add(n=n, d=8_400_000, exchange=name, chunk=262_656, ms=value, **{"work ns": 0.5})
    save(tmp_path / "measured.h5", [measured])
    check = ("--check", tmp_path / "measured.h5", "--check-link", "200mbit")
    here("-d", "1e6", "--nodes", "2,8", "--gradient", "10ms", *check, "--output", tmp_path / "p.h5")
    out = capsys.readouterr().out
    rows = load(tmp_path / "p.h5", "projection").rows
    assert {(row["nodes"], row["exchange"]) for row in rows} == {
        (n, e) for n in (2, 8) for e in ("sharded", RING, HALVING)
    }
    first = rows[0]
    assert first["efficiency"] == pytest.approx(10 / first["step ms"])
    assert first["speed-up"] == pytest.approx(2 * first["efficiency"])
    assert first["faster than ring"] > 1
    errors = [row["error"] for row in load(tmp_path / "p.h5", "check").rows]
    assert len(errors) == 2
    assert all(0 < error < 0.1 for error in errors)
    assert first["checked"] == f"{min(errors):+.0%} to {max(errors):+.0%}"
    assert f"| {first['checked']} |" in out
    # where the cores take as long without a limit of links, the links hide behind them
    for row in measured.rows:
        row["ms"] = 100.0
    save(tmp_path / "free.h5", [measured])
    here(*check, "--check-free", tmp_path / "free.h5", "--output", tmp_path / "c.h5")
    for row in load(tmp_path / "c.h5", "check").rows:
        assert row["core ms"] == 100
        assert row["projected ms"] == pytest.approx(100 + row["wire ms"] / 4)  # x travels in four chunks
    measured.rows[0]["chunk"] = 131_072
    save(tmp_path / "free.h5", [measured])
    with pytest.raises(UsageError, match=r"--check-free: no row is of sharded on 2 ranks .* chunks of 262,656 bytes"):
        here(*check, "--check-free", tmp_path / "free.h5")


def test_a_job_is_projected_as_it_runs(tmp_path):
    """Its exchange, chunks, nodes, and the parameters that it averages: from the job, and from its run file."""
    given = ("problem.name=quadratic", "problem.dimension=5000", "algorithm.name=ssdm", "run.steps=1")
    exchange = ("exchange.name=hierarchical", "exchange.chunk=512", "exchange.node_size=4")
    file = tmp_path / "run.h5"
    settings = [word for one in (*given, *exchange, f"run.file={file}") for word in ("--set", one)]
    cli.main(["simulate", "-n", "8", str(ROOT / "jobs/quadratic.toml"), *settings], standalone_mode=False)
    none = {"name": None, "size": None, "chunk": None, "node_size": None}
    whole, names = project_command._subject(file, (), none)
    assert (names, whole.chunk, whole.node_size, whole.d) == (("hierarchical",), 512, 4, 5000)
    other, names = project_command._subject(file, ("sharded",), none | {"chunk": 1024, "node_size": 2})
    assert (names, other.chunk, other.node_size) == (("sharded",), 1024, 2)


def test_averaged_parameters_travel_as_floats():
    stage = with_averaging(find("ef-signsgd").build()).stages[-1]
    options = {"b": SegmentOptions(vote=False)}
    mixed = Subject(Layout({"a": (30_000,), "b": (1000,)}, options), lambda n: stage.with_rules("auto", "auto", n), "")
    alone = Subject(Layout({"a": (30_000,)}), mixed.algorithm, "")
    both, voted = mixed.schedule("sharded", 4)[0], alone.schedule("sharded", 4)[0]
    assert [p.name for p in both[: len(voted)]] == [p.name for p in voted]
    # 3/4 of 1000 float32 go out, and 3 times a quarter of their mean, plus the scale of another tensor's header
    assert project.per_rank(both[len(voted) :])[0] == pytest.approx(2 * 3 / 4 * 4000, rel=0.1)


def test_what_voters_agree_on_is_told_to_be_left_out():
    assert subject("terngrad").left_out() == "the largest value of each tensor, a float32 up and down"
    assert not subject("signsgd-mv").left_out()


def test_levels_of_unlike_radices_are_sampled_as_often():
    """Each sample takes shifts of every level; a level of two rounds has two samples, which come again."""
    sampling = Sampling(shifts=1, samples=4)
    simulator = Simulator(Network("star", GBIT, 1e-6), sampling, 60.0, dry=True)
    radices = (("a", 3, 1), ("b", 40, 3))
    phases = [Level(name, 120, radix=r, stride=s, bytes_of=lambda *_: [8]) for name, r, s in radices]
    draws = []
    simulator._sampled = lambda phase: True
    simulator._samples = lambda label, groups, draw, *rest: draws.append(draw) or 1.0
    found = simulator.wire("x", phases, 120, 1, split=False)
    assert len(draws) == 4
    assert {len(draw) for draw in draws} == {2}
    assert found.simulated == "1 of 2 shifts, 2 times; 1 of 39 shifts, 4 times"


@needs_smpirun
def test_jobs_and_run_files(tmp_path, capsys):
    job = tmp_path / "job.toml"
    job.write_text('[run]\nsteps = 2\n[problem]\nname = "quadratic"\ndimension = 5000\n[algorithm]\nname = "ssdm"\n')
    file = tmp_path / "run.h5"
    cli.main(["simulate", "-n", "2", str(job), "--set", f"run.file={file}"], standalone_mode=False)
    found = []
    for source in (job, file):
        capsys.readouterr()
        cli.main(["project", str(source), "--nodes", "3", "--work", "1", "--float-work", "1"], standalone_mode=False)
        found.append(capsys.readouterr().out)
    assert "algorithm ssdm, d 5000" in found[0]
    numbers = [[line.split("|")[1:9] for line in text.splitlines() if line.startswith("| 3")] for text in found]
    assert numbers[0] == numbers[1]


@needs_smpirun
def test_a_simulation_that_takes_too_long_is_given_up():
    phases, _ = subject(d=10**6).schedule("sharded", 64)
    with pytest.raises(UsageError, match="did not end within --limit"):
        Simulator(Network("star", GBIT, 1e-6), Sampling(), 1e-3).wire("late", phases, 64, 1)


def test_work_counts_kernels_and_messages():
    work = Work(vote=0.5, floats=2.0, message=1e-6)
    assert project.core_seconds(10**6, "sharded", 10, work) == pytest.approx(0.5e-3 + 20e-6)
    assert project.core_seconds(10**6, RING, 10, work) == pytest.approx(2e-3 + 20e-6)
