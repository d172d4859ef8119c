"""Scripts over run files: numbers in pictures and tables are those of the runs; bad files are named and skipped."""

import dataclasses
import importlib
import re
import sys

import numpy as np
import pytest
from matplotlib.text import Text

from mpisign import config
from mpisign.algorithms.registry import entries, find
from mpisign.bench.table import Table, save
from mpisign.errors import UsageError
from mpisign.figures import grid, style, tables
from mpisign.figures.scaling import Point, is_strong, speed_up
from mpisign.run.train import simulate
from mpisign.storage.reader import Run, read_all
from tests.running import BIN, ROOT, run
from tests.test_views import runs_of_votes

sys.path.insert(0, str(ROOT / "analysis"))


def script(name):
    """A module of analysis/."""
    return importlib.import_module(name)


def analyse(name, *arguments, **how):
    return run(BIN / "python", ROOT / f"analysis/{name}.py", *arguments, **how)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return runs_of_votes(tmp_path_factory.mktemp("runs"))


@pytest.mark.parametrize("more", [(), ("damaged.h5",)])
def test_a_script_names_bad_files(folder, tmp_path, more):
    for name in more:
        (tmp_path / name).write_bytes(b"not HDF5 at all" * 100)
    files = [tmp_path / name for name in more]
    how = ("--x", "run.voters", "--y", "eval.train_loss", "--metric", "train_loss", "--output", tmp_path / "a.png")
    ended = analyse("against", folder, *files, *how)
    assert ended.code == (2 if more else 0), ended.err
    assert all(name in ended.err for name in more)
    assert (tmp_path / "a.png").stat().st_size > 5_000
    alone = analyse("against", ROOT / "README.md", *how)
    assert (alone.code, alone.err.count("\n")) == (2, 1)
    assert alone.err.startswith("against.py: ")


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


def points(alpha, beta, rows=lambda n: 1024 // n):
    """Steps on a network of that latency and bandwidth, exact to the last bit, of two methods."""
    found = {}
    for name, exchange, bits in (("signum-mv", "sharded", 2), ("sgd", "dense", 64)):
        found[name] = []
        for n in (1, 2, 4, 8):
            sent, messages = bits * 1e6 / 8 * (n - 1) / n, 2 * (n - 1)
            phases = {"estimate": 1e-3 + 2e-5 * rows(n), "sign": 2e-4 * (bits == 2), "update": 3e-4}
            phases["exchange"] = alpha * messages + sent / beta
            found[name].append(Point(name, n, rows(n), sent, messages, exchange, phases))
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
    assert speed_up(found["sgd"])[-1] == pytest.approx(first.seconds / last.seconds)
    weak = points(4e-5, 2.5e7, lambda n: 128)["sgd"]
    assert speed_up(weak)[-1] == pytest.approx(8 * weak[0].seconds / weak[-1].seconds)
    assert not is_strong(weak)
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
    row = grid.first(one, "test_accuracy", 0.5)
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
    frontier = script("frontier")
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
    assert table[0]["held-out accuracy"] == f"**0.9200 +- {tables.deviation((0.90, 0.94)):.4f}**"
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
    labels = script("labels")
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
