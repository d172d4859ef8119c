"""Scripts over run files: numbers in pictures and tables are those of the runs; bad files are named and skipped."""

import contextlib
import csv
import dataclasses
import importlib
import io
import re
import shutil
import sys

import numpy as np
import pytest
from matplotlib.text import Text

from mpisign import config
from mpisign.algorithms.registry import entries, find
from mpisign.bench.table import Table, save
from mpisign.errors import NumericalError, UsageError
from mpisign.run.train import simulate
from mpisign.storage.reader import Run, read_all
from tests.running import BIN, ROOT, mpisign, run
from tests.test_simulate import here

sys.path.insert(0, str(ROOT / "analysis"))
BROWSERS = ("chromium-headless-shell", "chromium", "google-chrome")


def script(name):
    """A module of analysis/."""
    return importlib.import_module(name)


def analyse(name, *arguments, **how):
    return run(BIN / "python", ROOT / f"analysis/{name}.py", *arguments, **how)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Votes of 3 and 5, two seeds each, with probes, and one run that sends floats."""
    where = tmp_path_factory.mktemp("runs")
    common = ("problem.name=quadratic", "run.steps=60", "run.eval_every=5", "run.record_every=1", "probe.every=20")
    for n in (3, 5):
        for seed in (1, 2):
            own = (
                "algorithm.name=signsgd-mv",
                "schedule.lr=0.05",
                f"run.seed={seed}",
                f"run.file={where}/{n}-{seed}.h5",
            )
            here(*common, *own, n=n)
    here(*common, "algorithm.name=sgd", "schedule.lr=0.1", f"run.file={where}/sgd.h5", n=3)
    return where


@pytest.fixture
def spoilt(folder, tmp_path):
    """The same with a damaged run file, one of another program, and a checkpoint, which is nobody's business."""
    where = tmp_path / "spoilt"
    shutil.copytree(folder, where)
    whole = (folder / "3-1.h5").read_bytes()
    (where / "cut.h5").write_bytes(whole[: len(whole) // 3])
    (where / "foreign.h5").write_bytes(b"not HDF5 at all" * 100)
    (where / "3-1.checkpoints").mkdir()
    (where / "3-1.checkpoints" / "step-000000010.h5").write_bytes(b"x")
    return where


def test_a_folder_is_read_and_what_is_bad_is_told(spoilt):
    runs, skipped = read_all([spoilt])
    assert [r.path.stem for r in runs] == ["3-1", "3-2", "5-1", "5-2", "sgd"]
    assert len(skipped) == 2
    assert all(any(name in message for message in skipped) for name in ("cut.h5", "foreign.h5"))
    with pytest.raises(UsageError, match="no file or folder"):
        read_all([spoilt / "nowhere"])


SCRIPTS = {
    "plot": (),
    "compare": ("--metric", "train_loss"),
    "plot --mean": ("--rows", "probes.success_vote", "--axes", "step"),
    "against": ("--x", "run.voters", "--y", "eval.train_loss", "--metric", "train_loss"),
    "vote": (),
    "report": (),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_bad_files_are_named_and_skipped(spoilt, tmp_path, name):
    output = tmp_path / ("out.html" if name == "report" else "out.png")
    script, *mode = name.split()
    ended = analyse(script, spoilt, *mode, *SCRIPTS[name], "--output", output)
    assert ended.code == 2, ended.err + ended.out
    skipped = [line for line in ended.err.splitlines() if line.startswith("skipped: ")]
    assert len(skipped) == 2
    assert "cut.h5" in ended.err
    assert "foreign.h5" in ended.err
    assert output.stat().st_size > 5_000
    assert not list(tmp_path.glob(".out*"))
    if name == "report":
        assert "foreign.h5" in output.read_text()


def test_good_files_exit_with_0(folder, tmp_path):
    assert analyse("vote", folder, "--output", tmp_path / "vote.svg").code == 0


def test_a_picture_holds_the_numbers_of_its_table_and_of_the_runs(folder):
    against = script("against")
    runs, _ = read_all([folder])
    how = {"y": "eval.train_loss", "tail": 0.5, "relative": True}
    found = against.points(runs, "train_loss", "run.voters", ["algorithm.name"], None, **how)
    figure = against.picture(found, "voters", "loss", "", False, 3.0)
    drawn = {c.get_label(): c for c in figure.axes[0].containers}
    (table,) = [r for r in against.rows(found, "voters") if r["line"] == "signsgd-mv"]
    for k, n in enumerate((3, 5)):
        losses = [Run(folder / f"{n}-{seed}.h5")["eval"]["train_loss"] for seed in (1, 2)]
        tails = [loss[-max(1, round(len(loss) / 2)) :].mean() / loss[0] for loss in losses]
        assert found["", "signsgd-mv"][n] == pytest.approx((np.mean(tails), np.std(tails, ddof=1), 2))
        assert drawn["signsgd-mv"].lines[0].get_ydata()[k] == pytest.approx(np.mean(tails))
        assert table[f"voters = {n}"] == f"{np.mean(tails):.4g} +- {np.std(tails, ddof=1):.2g}"


def test_jobs_that_one_line_would_mix_are_refused(folder):
    ended = analyse("against", folder, "--x", "run.voters", "--lines", "problem.name", "--metric", "train_loss", "--y",
                    "eval.train_loss")  # fmt: skip
    assert ended.code == 2
    assert "tell them apart" in ended.err
    ended = analyse("against", folder, "--x", "run.colour")
    assert ended.code == 2
    assert "'run.colour'; [run] has:" in ended.err
    assert "'voters'" in ended.err or " voters" in ended.err


def test_runs_that_diverged_before_their_first_row_are_the_worst(folder, tmp_path):
    settings = ("problem.name=quadratic", "algorithm.name=sgd", "run.steps=900", "run.record_every=900")
    for lr in (0.1, 1e9):
        with contextlib.suppress(NumericalError):
            here(*settings, f"schedule.lr={lr}", f"run.file={tmp_path}/{lr}.h5", n=2)
    assert Run(tmp_path / "1000000000.0.h5").status.startswith("error")
    (row,) = script("compare").table(read_all([tmp_path])[0], "train_loss")
    assert row.rate == 0.1
    assert analyse("report", tmp_path, "--output", tmp_path / "r.html").code == 0


def test_an_envelope_keeps_every_extreme():
    envelope, points = script("style").envelope, script("style").POINTS
    rng = np.random.default_rng(0)
    x, y = np.arange(100_000), rng.standard_normal(100_000)
    y[[777, 50_001]] = 50, -50
    y[1000:1400] = np.nan
    at, values = envelope(x, y)
    assert len(at) <= points
    assert (np.diff(at) >= 0).all()
    assert {50, -50} <= set(values)
    short = envelope(x[:100], y[:100])
    assert np.array_equal(short[1], y[:100])


def test_votes_are_drawn_as_recorded(folder):
    vote, (one, *_) = script("vote"), read_all([folder / "3-1.h5"])[0]
    figure = vote.picture([one])
    agreement, ties = (panel.get_lines()[0].get_ydata() for panel in figure.axes[:2])
    np.testing.assert_array_equal(agreement, one["steps"]["agreement"])
    np.testing.assert_allclose(ties, one["steps"]["ties"] / one.attributes["d"])
    meshes = [m for panel in figure.axes for m in panel.collections if hasattr(m, "get_coordinates")]
    np.testing.assert_array_equal(meshes[0].get_array(), one["probes"]["voter_agreement"].T)


def test_a_report_needs_nothing_but_itself(folder, tmp_path):
    page = tmp_path / "report.html"
    assert analyse("report", folder, "--output", page, "--title", "A <b> study").code == 0
    text = page.read_text()
    assert "A &lt;b&gt; study" in text
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", text)
    assert text.count("data:image/png;base64,") >= 3
    for one in read_all([folder])[0]:
        assert one.path.stem in text
        assert f"{one['eval']['train_loss'][-1]:.4g}" in text
    assert "signsgd-mv" in text
    assert "problem.name" in text


def test_a_report_opens_in_a_browser(folder, tmp_path):
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if not browser:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)}")
    page, picture = tmp_path / "report.html", tmp_path / "page.png"
    assert analyse("report", folder, "--output", page).code == 0
    # what the page itself logs, and what it could not load, is told as CONSOLE lines
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--virtual-time-budget=5000")
    command = [browser, *flags, f"--user-data-dir={tmp_path}/profile", "--window-size=1200,2000"]
    shot = run(*command, f"--screenshot={picture}", page.as_uri(), timeout=90)
    assert shot.code == 0, shot.err
    assert "CONSOLE" not in shot.err, shot.err
    assert picture.stat().st_size > 20_000
    tree = run(*command, "--dump-dom", page.as_uri(), timeout=90).out
    assert tree.count("<img") == page.read_text().count("<img")
    assert '<h2 id="environment">' in tree


def test_tables_as_csv(folder):
    ended = mpisign("show", folder / "3-1.h5", "--csv", "probes")
    assert ended.code == 0, ended.err
    rows = list(csv.DictReader(io.StringIO(ended.out)))
    probes = Run(folder / "3-1.h5")["probes"]
    assert [int(r["step"]) for r in rows] == probes["step"].tolist()
    np.testing.assert_array_equal([float(r["voter_success_2"]) for r in rows], probes["voter_success"][:, 2])
    wrong = mpisign("show", folder / "3-1.h5", "--csv", "stepz")
    assert wrong.code == 2
    assert "'steps'" in wrong.err
    for table in ("steps", "eval", "phases", "events", "segments", "probes", "trace"):
        columns = Run(folder / "3-1.h5").columns(table)
        assert all(c.ndim == 1 for c in columns.values())


def points(alpha, beta, rows=lambda n: 1024 // n):
    """Steps on a network of that latency and bandwidth, exact to the last bit, of two methods."""
    scaling = script("scaling")
    found = {}
    for name, exchange, bits in (("signum-mv", "sharded", 2), ("sgd", "dense", 64)):
        found[name] = []
        for n in (1, 2, 4, 8):
            sent, messages = bits * 1e6 / 8 * (n - 1) / n, 2 * (n - 1)
            phases = {"estimate": 1e-3 + 2e-5 * rows(n), "sign": 2e-4 * (bits == 2), "update": 3e-4}
            phases["exchange"] = alpha * messages + sent / beta
            found[name].append(scaling.Point(name, n, rows(n), sent, messages, exchange, phases))
    return found


def test_scaling_finds_latency_bandwidth_and_compute():
    scaling = script("scaling")
    found = points(4e-5, 2.5e7)
    fitted = scaling.fit(found)
    assert fitted.alpha == pytest.approx(4e-5)
    assert fitted.beta == pytest.approx(2.5e7)
    assert (fitted.overhead, fitted.a_row) == pytest.approx((1e-3, 2e-5))
    assert fitted.error < 1e-9
    first, last = found["sgd"][0], found["sgd"][-1]
    assert scaling.speed_up(found["sgd"])[-1] == pytest.approx(first.seconds / last.seconds)
    weak = points(4e-5, 2.5e7, lambda n: 128)["sgd"]
    assert scaling.speed_up(weak)[-1] == pytest.approx(8 * weak[0].seconds / weak[-1].seconds)
    assert not scaling.is_strong(weak)
    # 16 ranks on a network ten times as fast, by hand
    p = scaling.at(last, 16, strong=True)
    wanted = 1e-3 + 2e-5 * 64 + 3e-4 + 4e-6 * 30 + 8e6 * 15 / 16 / 2.5e8
    assert fitted.seconds(p, 4e-6, 2.5e8) == pytest.approx(wanted, rel=1e-9)


def test_signs_win_below_the_link_where_bytes_pay_for_packing():
    rows = script("scaling").break_even(found := points(0.0, 2.5e7), script("scaling").fit(found))
    (two,) = [r for r in rows if r["n"] == 2]
    # 62 bits * 1e6 * (n-1)/n saved, 0.2 ms of packing paid
    assert two["signs win"] == f"below {31e6 / 2e-4 / 1e6:,.0f} Mbit/s"


def test_no_network_is_known_but_the_users(folder):
    ended = analyse("scaling", folder)
    assert ended.code == 2
    assert "simulation" in ended.err
    options = type("O", (), {"predict": [16], "alpha": None, "beta": None, "interconnect": None})
    with pytest.raises(UsageError, match="--alpha and --beta"):
        script("scaling").text(points(1e-5, 1e9), options)
    options.interconnect = "hdr200"
    assert "hdr200" not in (told := script("scaling").text(points(1e-5, 1e9), options))
    assert "alpha 1.5 us and beta 200,000 Mbit/s" in told


def test_a_race_is_ranked_by_seconds_of_training(folder):
    race = script("studies.race")
    one = Run(folder / "3-1.h5")
    one["eval"]["test_accuracy"][:] = np.linspace(0, 1, len(one["eval"]["step"]))
    row = script("compare").first(one, "test_accuracy", 0.5)
    step = one["eval"]["step"][row]
    evaluating = one["phases"]["evaluate"][one["phases"]["step"] <= step].sum() / 3
    assert race.steps(one, 0.5) == step
    assert race.seconds(one, 0.5) == pytest.approx(one["eval"]["seconds"][row] - evaluating)
    assert race.seconds(one, 1.5) == np.inf
    ranked = race.rows({"50mbit": {"slow": [3.0, 5.0], "fast": [1.0, 1.0], "never": [np.inf, 2.0]}})
    assert [r["method"] for r in ranked] == ["fast", "slow", "never"]
    assert ranked[1]["seconds"] == "4.00 +- 1.41"  # ddof = 1
    assert ranked[2]["seconds"] == "not reached"


def test_a_frontier_holds_the_numbers_of_its_table_and_of_the_runs(folder):
    frontier, style = script("frontier"), script("style")
    runs = read_all([folder])[0]
    accuracies = {"3-1": 0.90, "3-2": 0.94, "5-1": 0.80, "5-2": 0.81, "sgd": 0.95}
    for one in runs:
        one["eval"]["test_accuracy"][-1] = accuracies[one.path.stem]
    panels = frontier.panels(runs)
    assert [[row.method for row in rows] for rows in panels.values()] == [["signsgd-mv", "sgd"], ["signsgd-mv"]]
    table = frontier.cells(panels)
    figure = frontier.picture(panels)
    files = {"signsgd-mv voters 3": ("3-1", "3-2"), "sgd voters 3": ("sgd",), "signsgd-mv voters 5": ("5-1", "5-2")}
    drawn = [bar for axes in figure.axes for bar in axes.containers]
    for cells, bar, names in zip(table, drawn, files.values(), strict=True):
        own = [Run(folder / f"{name}.h5") for name in names]
        sent = np.mean([run["eval"]["bytes_up"][-1] + run["eval"]["bytes_down"][-1] for run in own]) / 1e6
        accuracy = np.mean([accuracies[name] for name in names])
        assert bar.lines[0].get_xydata() == pytest.approx(np.array([[sent, accuracy]]))
        assert cells["MB per rank"] == f"{sent:.3g}"
        bits = 8e6 * sent / own[0].attributes["d"] / own[0]["steps"]["step"][-1]
        assert cells["bits per coordinate and step"] == f"{bits:.3g}"
        assert f"{accuracy:.4f}" in cells["held-out accuracy"]
    assert table[0]["held-out accuracy"] == f"**0.9200 +- {style.deviation((0.90, 0.94)):.4f}**"
    assert [cells["sends"] for cells in table] == ["signs", "floats", "signs"]


def test_a_run_that_diverged_is_told_and_not_drawn(folder):
    frontier = script("frontier")
    runs = [one for one in read_all([folder])[0] if one.attributes["n"] == 3]
    for one in runs:
        one["eval"]["test_accuracy"][-1] = np.nan if one.path.stem == "sgd" else 0.9
    panels = frontier.panels(runs)
    told = {cells["method"]: cells["held-out accuracy"] for cells in frontier.cells(panels)}
    assert told == {"signsgd-mv": "**0.9000 +- 0.0000**", "sgd": "diverged"}
    (axes,) = frontier.picture(panels).axes
    assert [text.get_text() for text in axes.texts] == ["signsgd-mv"]


def test_nothing_beats_what_is_on_the_frontier():
    points = [tuple(p) for p in np.random.default_rng(0).integers(0, 12, (40, 2)).tolist()]
    found = [points[k] for k in script("frontier").pareto(points)]
    beaten = lambda p: any(q != p and q[0] <= p[0] and q[1] >= p[1] for q in points)  # noqa: E731
    assert found == sorted({p for p in points if not beaten(p)})


def test_every_entry_has_the_family_of_its_messages():
    frontier = script("frontier")
    found = {entry.name: frontier.family(repr(entry.build())) for entry in entries()}
    wanted = {"quantised": "quantised", "sparse": "sparse", "low_rank": "low rank"}
    for entry in entries():
        module = entry.make.__module__.rpartition(".")[2]
        if module in wanted and entry.name not in ("doublesqueeze", "ef21"):  # their code is an argument
            assert found[entry.name] == wanted[module], entry.name
    assert found["doublesqueeze"] == found["signum-mv"] == found["onebit-adam"] == "signs"
    assert found["sgd"] == found["adam"] == "floats"
    assert found["ef21"] == frontier.family(repr(find("doublesqueeze").build(up="topk", down="topk"))) == "sparse"


def test_names_beside_points_do_not_meet():
    style, labels = script("style"), script("labels")
    figure, ((axes,),) = style.panels(1, 1, 8.0, 5.0)
    points = [tuple(p) for p in np.random.default_rng(1).normal(0, 1, (30, 2)).tolist()]
    axes.set(xlim=(-4, 4), ylim=(-4, 4))
    texts = labels.beside(axes, points, [f"method number {k}" for k in range(30)], [0.1] * 30)
    figure.canvas.draw()
    boxes = [Text.get_window_extent(text) for text in texts]
    frame, at = axes.get_window_extent(), axes.transData.transform(points)
    assert [text.get_text() for text in texts] == [f"method number {k}" for k in range(30)]
    for k, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:k])
        assert not any(box.contains(*point) for point in at)
        assert frame.contains(box.x0, box.y0)
        assert frame.contains(box.x1, box.y1)


def test_a_key_that_means_nothing_to_a_run_does_not_tell_it_apart():
    grouping = script("grouping")
    one = {"algorithm.name": "doublesqueeze", "algorithm.up": "signs", "algorithm.zeros": "coin"}
    other = one | {"algorithm.up": "topk", "algorithm.zeros": "auto"}
    assert [grouping.telling(job, [one, other]) for job in (one, other)] == [["algorithm.up"]] * 2


def test_figures_name_what_makes_their_runs(tmp_path, capfd):
    figures = script("figures")
    for figure in figures.FIGURES:
        assert figure.data in ("", *figures.DATA), figure
        assert ("$DATA" in figure.make) == bool(figure.data) or figure.job, figure
        assert not figure.job or (ROOT / f"jobs/{figure.job}.toml").exists(), figure
        assert (ROOT / figure.folder).is_dir(), figure
        files = re.findall(r"\b(?:analysis|jobs)/[\w/]+\.(?:py|sh|toml)\b", figures.SHELL + figure.draw + figure.make)
        assert all((ROOT / file).exists() for file in files), figure
        # bash can read it
        assert run("bash", "-n", "-c", figures.SHELL + figure.draw + "\n" + figure.make, timeout=10).code == 0, figure
    mine = figures.Figure("x", "echo $RUNS", "", "mkdir $RUNS; echo made of $DATA", str(tmp_path / "nowhere"), "MNIST")
    assert "make it by: python analysis/figures.py --run x --data MNIST" in figures.make(mine, None, run=False)
    assert figures.make(mine, tmp_path, run=True) == ""
    assert capfd.readouterr().out.splitlines() == [f"made of {tmp_path}", mine.runs]
    assert "could not be made (exit code 1)" in figures.make(mine, None, run=True)
    assert analyse("figures", "no-such").code == 2
    missing = analyse("figures", "--run", "heterogeneity")
    assert missing.code == 2
    assert "--run needs one --data at a time; it is the folder of MNIST's IDX files" in missing.err


def test_a_figure_is_made_with_its_runs(tmp_path, monkeypatch):
    """A short stand-in for a study: its job is simulated, and the picture and the table beside it are drawn."""
    figures = script("figures")
    monkeypatch.setattr(figures, "ROOT", tmp_path)
    (tmp_path / "analysis").symlink_to(ROOT / "analysis")
    (tmp_path / "jobs/studies").mkdir(parents=True)
    head = '[run]\nsteps = 5\nvoters = 3\n[problem]\nname = "quadratic"\n[sweep]\n'
    lists = '"adversary.voters" = [0, 1]\n"adversary.kind" = ["invert"]\n"run.seed" = [1, 2]\n'
    (tmp_path / "jobs/studies/breakdown.toml").write_text(head + lists)
    (study,) = (figure for figure in figures.FIGURES if figure.name == "breakdown")
    made = dataclasses.replace(study, folder="pictures")
    assert figures.make(made, None, run=True) == ""
    assert (tmp_path / "pictures/breakdown.png").stat().st_size > 5_000
    assert "+-" in (tmp_path / "pictures/breakdown.md").read_text()


def test_torch_takes_the_same_steps():
    """The rows that need no code of others but torch's."""
    ended = analyse("others/same_steps")
    assert ended.code == 0, ended.out + ended.err
    found = re.findall(r"^\| `(\w+)` \| torch, (\w+) .*\| (?:0|[1-9]\.\de-0[78]) \|", ended.out, re.MULTILINE)
    assert found == [
        ("sgd", "SGD"),
        ("sgd", "SGD"),
        ("adam", "AdamW"),
        ("adagrad", "Adagrad"),
        ("adadelta", "Adadelta"),
    ]


def test_a_clone_that_is_not_there_is_named(tmp_path):
    ended = analyse("others/same_steps", "--dgc", tmp_path)
    assert ended.code == 2
    assert f"git clone https://github.com/synxlin/deep-gradient-compression {tmp_path}" in ended.err


@pytest.mark.parametrize("found", [pytest.param("1e-3", marks=pytest.mark.slow), "float('nan')"])
def test_other_steps_than_those_of_others_are_an_error(found):
    swapped = f"same_steps.of_torch = lambda: [same_steps.Row('x', '', '', {found})]"
    program = (
        f"import sys; sys.path.insert(0, 'analysis/others'); import same_steps; {swapped}; sys.exit(same_steps.main())"
    )
    ended = run(BIN / "python", "-c", program)
    assert ended.code == 1, ended.err
    assert ended.out.endswith("**too much** |  |\n")


def test_ddp_takes_the_steps_of_sgd(tmp_path):
    """The same model, start, rows and batches: float32 gradients averaged by gloo are our baseline up to rounding."""
    job, ours, theirs = tmp_path / "job.toml", tmp_path / "ours.h5", tmp_path / "theirs.h5"
    job.write_text('[run]\nsteps = 30\neval_every = 10\nvoters = 2\n[problem]\nname = "digits"\nbatch_size = 16\n')
    settings = ("algorithm.name=sgd", "algorithm.momentum=0.9", "schedule.lr=0.1", f"run.file={ours}")
    simulate(config.load(job, settings), quiet=True)
    ended = run(BIN / "mpirun", "-n", 2, BIN / "python", ROOT / "analysis/studies/ddp.py", job, "--lr", 0.1,
                "--file", theirs, timeout=90)  # fmt: skip
    assert ended.code == 0, ended.err
    one, other = Run(ours), Run(theirs)
    assert other.complete
    assert other.attributes["algorithm"] == "ddp-float32-sgd"
    for column in ("train_loss", "test_accuracy"):
        np.testing.assert_allclose(one["eval"][column], other["eval"][column], rtol=2e-3, err_msg=column)


def test_predictions_are_told_of_what_auto_picked(tmp_path):
    table = Table("exchanges", dict.fromkeys(("exchange", "ms", "error", "auto"), "") | {"d": "d"})
    for d, name, ms, auto in ((10, "sharded", 3.0, ""), (10, "allgather", 2.0, "*"), (99, "sharded", 9.0, "*")):
        table.add(d=d, exchange=name, ms=ms, error=-0.25, auto=auto)
    save(tmp_path / "exchange-here.h5", [table])
    out = analyse("studies/predictions", tmp_path / "exchange-here.h5").out
    assert "| here | 10 | allgather | allgather | +0% | 25% |" in out
    assert "| here | 99 | sharded | sharded | +0% | 25% |" in out
    assert "2 of 2 (100%)" in out
