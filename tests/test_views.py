"""Commands that look at runs: numbers in pictures and tables are those of the runs; bad files are named and skipped."""

import contextlib
import csv
import io
import json
import os
import re
import shutil
import sys
from pathlib import Path

import h5py
import matplotlib
import numpy as np
import pytest
from click.testing import CliRunner

from mpisign.cli import cli
from mpisign.errors import MpisignError, NumericalError, Stopped, UsageError
from mpisign.figures import curves, dots, grid, grouping, listing, report, style, votes
from mpisign.storage.reader import Run, read_all
from tests.running import ROOT, mpisign, run
from tests.test_simulate import here

BROWSERS = ("chromium-headless-shell", "chromium", "google-chrome")


def runs_of_votes(where):
    """Votes of 3 and 5, two seeds each, with probes, and one run that sends floats; returns the folder."""
    common = ("problem.name=quadratic", "run.steps=60", "run.eval_every=5", "run.record_every=1", "probe.every=20")
    for n in (3, 5):
        for seed in (1, 2):
            own = ("schedule.lr=0.05", f"run.seed={seed}", f"run.file={where}/{n}-{seed}.h5")
            here(*common, "algorithm.name=signsgd-mv", *own, n=n)
    here(*common, "algorithm.name=sgd", "schedule.lr=0.1", f"run.file={where}/sgd.h5", n=3)
    return where


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return runs_of_votes(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def spoilt(folder, tmp_path):
    """The same with a damaged run file, one of another program, and what is nobody's business.

    That is a checkpoint, and what lies in hidden folders and environments of Python.
    """
    where = tmp_path / "spoilt"
    shutil.copytree(folder, where)
    whole = (folder / "3-1.h5").read_bytes()
    (where / "cut.h5").write_bytes(whole[: len(whole) // 3])
    (where / "foreign.h5").write_bytes(b"not HDF5 at all" * 100)
    (where / "3-1.checkpoints").mkdir()
    (where / "3-1.checkpoints" / "step-000000010.h5").write_bytes(b"x")
    for name in (".cache", "venv"):
        (where / name / "lib").mkdir(parents=True)
        (where / name / "lib" / "data.h5").write_bytes(b"x")
    (where / "venv" / "pyvenv.cfg").touch()
    return where


def test_a_folder_is_read_and_what_is_bad_is_told(spoilt):
    runs, skipped = read_all([spoilt])
    assert [r.path.stem for r in runs] == ["3-1", "3-2", "5-1", "5-2", "sgd"]
    assert len(skipped) == 2
    assert all(any(name in message for message in skipped) for name in ("cut.h5", "foreign.h5"))
    with pytest.raises(UsageError, match="no file or folder"):
        read_all([spoilt / "nowhere"])


VIEWS = {
    "plot": (),
    "plot --mean": ("--rows", "probes.success_vote", "--axes", "step"),
    "plot --votes": (),
    "compare": ("--metric", "train_loss"),
    "report": (),
}


@pytest.mark.parametrize("name", VIEWS)
def test_bad_files_are_named_and_skipped(spoilt, tmp_path, name):
    output = tmp_path / ("out.html" if name == "report" else "out.png")
    command, *mode = name.split()
    ended = mpisign(command, spoilt, *mode, *VIEWS[name], "--output", output)
    assert ended.code == 2, ended.err + ended.out
    skipped = [line for line in ended.err.splitlines() if line.startswith("skipped: ")]
    assert len(skipped) == 2
    assert "cut.h5" in ended.err
    assert "foreign.h5" in ended.err
    assert output.stat().st_size > 5_000
    assert not list(tmp_path.glob(".out*"))
    if name == "report":
        assert "foreign.h5" in output.read_text()


def test_axes_are_those_that_say_anything_of_all_rows(folder):
    runs = read_all([folder / "3-1.h5"])[0]
    assert curves.telling(runs, ["eval.train_loss"])[:1] == ["step"]
    assert {"bytes", "wire"} < set(curves.telling(runs, ["eval.train_loss", "steps.agreement"]))
    # rows of /probes have neither bytes nor seconds, and an epoch only where there are rows of data
    assert curves.telling(runs, ["probes.success_vote", "steps.agreement"]) == ["step"]


@pytest.mark.parametrize("command", ["plot", "compare", "report", "list"])
def test_errors_are_one_line_that_says_what_is_valid(command, folder, tmp_path):
    (tmp_path / "empty").mkdir()
    nothing = f"no run file (*.h5) in the folder {tmp_path}/empty"
    cases = [((tmp_path / "nowhere",), "no file or folder"), ((tmp_path / "empty",), nothing)]
    if command == "list":
        cases.append(((folder, "--sort", "second"), "(did you mean seconds?); keys are: accuracy, algorithm, bits"))
        cases.append(((folder, "--json", "--csv"), "leave one out"))
    else:
        cases.append(((ROOT / "README.md",), "README.md: can't be opened as HDF5"))
        cases.append(((), "Missing argument 'RUN...'"))
    if command in ("plot", "compare"):
        cases.append(((folder, "--output", "p.gif"), "'p.gif' is no picture's name; it has to end in .png, .pdf"))
        metric = ("--metric", "train_loss") if command == "compare" else ()
        cases.append(((folder, *metric, "--output", "/proc/p.png"), "/proc/p.png: No such file or directory; give a"))
    if command == "plot":
        cases.append(((folder, "--axes", "step,stepz"), "no axis 'stepz' (did you mean step?); known: bytes, epoch"))
        cases.append(((folder, "--rows", "eval.colour"), "no row 'eval.colour'; known: "))
        cases.append(((folder, "--rows", "agreement"), "no row 'agreement' (did you mean steps.agreement?); known: "))
        cases.append(((folder, "--votes", "--mean"), "leave out --mean"))
        cases.append(((folder, "--table", "--output", "p.png"), "leave out --output"))
        cases.append(((folder, "--rows", ","), "at least one name is needed"))
        cases.append(((folder, "--axes", ""), "at least one name is needed"))
        cases.append(((folder, "--axes", "step,function_evaluations"), "has anything on it; they have on: step,"))
        for row, why in (("events.kind", "holds no numbers"), ("phases.sign", "has a value for each rank")):
            cases.append(((folder, "--rows", row), f"row '{row}' {why}; known: eval.bytes_down"))
    if command == "compare":
        cases.append(((folder, "--files", "--format", "csv"), "leave out --format"))
        cases.append(((folder, "--files", "--bytes", "9"), "leave out --bytes"))
        cases += [((folder, "--target", target), f"'{target}' is not finite") for target in ("nan", "inf")]
        cases += [
            ((folder, "--bytes", much), told) for much, told in (("0", "'0' is not above 0"), ("x", "not a valid"))
        ]
    for words, told in cases:
        ended = CliRunner().invoke(cli, [command, *map(str, words)])
        said = str(ended.exception) if isinstance(ended.exception, MpisignError) else ended.stderr
        assert told in said.splitlines()[-1] + ended.stderr, (words, said)
        assert ended.exit_code != 0, words
        assert isinstance(ended.exception, (SystemExit, UsageError)), ended.exception


def test_commands_end_with_2_and_one_message(tmp_path):
    ended = mpisign("plot", tmp_path / "nowhere.h5")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == f"mpisign: no file or folder {tmp_path}/nowhere.h5\n"


WITHOUT = """
import sys
sys.modules |= dict.fromkeys({lacking})
from mpisign.cli import main
main()
"""


@pytest.mark.parametrize(
    ("words", "lacking"),
    [
        (("plot",), ("matplotlib",)),
        (("report",), ("matplotlib", "jinja2")),
        (("report",), ("jinja2",)),
        (("compare", "--metric", "train_loss", "--output", "p.png"), ("matplotlib",)),
    ],
)
def test_what_draws_says_what_to_install(folder, tmp_path, words, lacking):
    command, *options = words
    code = WITHOUT.format(lacking=lacking)
    ended = run(sys.executable, "-c", code, command, folder, *options, cwd=tmp_path)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == f"mpisign: {lacking[-1]} is not installed, which this needs: pip install 'mpisign[analysis]'\n"
    assert not list(tmp_path.iterdir())


def test_tables_need_nothing_that_draws(folder, tmp_path):
    code = WITHOUT.format(lacking=("matplotlib", "jinja2", "torch"))
    listed = run(sys.executable, "-c", code, "list", folder, cwd=tmp_path)
    assert listed.code == 0, listed.err
    assert len(listed.out.splitlines()) == 6
    compared = run(sys.executable, "-c", code, "compare", folder, "--metric", "train_loss", cwd=tmp_path)
    assert compared.code == 0, compared.err
    assert "signsgd-mv" in compared.out


def test_a_list_has_a_line_for_each_file(spoilt):
    with h5py.File(spoilt / "table.h5", "w") as file:
        file["rows"] = [1, 2]
    ended = mpisign("list", spoilt, "--json")
    assert ended.code == 2
    assert [line.partition(": ")[0] for line in ended.err.splitlines()] == ["damaged", "damaged", "foreign"]
    rows = {row["file"]: row for row in json.loads(ended.out)}
    states = {name: row["state"] for name, row in rows.items()}
    assert states == dict.fromkeys(("3-1.h5", "3-2.h5", "5-1.h5", "5-2.h5", "sgd.h5"), "complete") | {
        "cut.h5": "damaged",
        "foreign.h5": "damaged",
        "table.h5": "foreign",
    }
    assert rows["table.h5"]["why"] == "an HDF5 file, but not a run of mpisign"
    assert rows["cut.h5"]["bytes"] == (spoilt / "cut.h5").stat().st_size
    one = Run(spoilt / "5-2.h5")
    told = {name: rows["5-2.h5"][name] for name in ("algorithm", "problem", "voters", "steps", "steps_asked")}
    assert list(told.values()) == ["signsgd-mv", "quadratic", "5", 60, 60]
    assert rows["5-2.h5"]["train_loss"] == one["eval"]["train_loss"][-1]
    assert rows["5-2.h5"]["test_accuracy"] is None
    assert rows["5-2.h5"]["bits"] == pytest.approx(one.bits_per_coordinate)
    assert rows["5-2.h5"]["seconds"] == one["steps"]["seconds"][-1]


def test_a_list_is_sorted_by_any_key(spoilt):
    def files(*options):
        out = mpisign("list", spoilt, "--csv", *options).out
        return [row["file"] for row in csv.DictReader(io.StringIO(out))]

    assert files() == ["3-1.h5", "3-2.h5", "5-1.h5", "5-2.h5", "cut.h5", "foreign.h5", "sgd.h5"]
    assert files("--reverse") == files()[::-1]
    losses = {path.name: Run(path)["eval"]["train_loss"][-1] for path in spoilt.glob("[35s]*.h5")}
    bad = ["cut.h5", "foreign.h5"]  # nothing is known of them: they are last, whatever the order
    assert files("--sort", "train_loss") == [*sorted(losses, key=losses.get), *bad]
    assert files("--sort", "train_loss", "--reverse") == [*sorted(losses, key=losses.get, reverse=True), *bad]
    assert files("--sort", "voters")[:5] == ["3-1.h5", "3-2.h5", "sgd.h5", "5-1.h5", "5-2.h5"]
    sizes = {path.name: path.stat().st_size for path in spoilt.glob("*.h5")}
    assert [sizes[name] for name in files("--sort", "bytes")] == sorted(sizes.values())
    assert set(listing.SHOWN) < set(listing.rows(spoilt)[0].shown())
    for shown, key in listing.SHOWN.items():
        assert files("--sort", shown) == files("--sort", key)


def test_a_file_without_its_attributes_is_damaged(folder, tmp_path):
    shutil.copy(folder / "sgd.h5", tmp_path / "sgd.h5")
    with h5py.File(tmp_path / "sgd.h5", "r+") as file:
        del file.attrs["algorithm"]
    ended = mpisign("list", tmp_path)
    assert ended.code == 2
    assert ended.err.startswith("damaged: sgd.h5: attribute algorithm: a single text is needed")
    assert ended.out.split()[-4:] == ["sgd.h5", "damaged", *listing.size((tmp_path / "sgd.h5").stat().st_size).split()]


@pytest.mark.parametrize(
    ("count", "said"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_999, "1000.0 kB"), (2_340_000_000, "2.3 GB")]
)
def test_sizes(count, said):
    assert listing.size(count) == said


def test_a_plot_changes_nothing_of_the_users_matplotlib(folder):
    before = dict(matplotlib.rcParams)
    runs = read_all([folder])[0]
    figure = curves.picture(curves.groups(runs, True), ["eval.train_loss"], ["step"], True)
    assert len(style.encoded(figure)) > 5_000
    assert dict(matplotlib.rcParams) == before
    assert figure.axes[0].spines["top"].get_visible() is False  # though drawn in our style


def test_good_files_exit_with_0(folder, tmp_path):
    for options in ((), ("--votes",), ("--mean", "--axes", "bytes,wire")):
        ended = mpisign("plot", folder, *options, "--output", tmp_path / "p.svg")
        assert (ended.code, ended.out) == (0, f"picture: {tmp_path}/p.svg\n")
        left_out = f"left out: {folder}/sgd.h5: its ranks do not vote\n" if options == ("--votes",) else ""
        assert ended.err == left_out
    assert (tmp_path / "p.svg").read_text().startswith("<?xml")


def test_runs_that_diverged_before_their_first_row_are_the_worst(folder, tmp_path):
    settings = ("problem.name=quadratic", "algorithm.name=sgd", "run.steps=900", "run.record_every=900")
    for lr in (0.1, 1e9):
        with contextlib.suppress(NumericalError):
            here(*settings, f"schedule.lr={lr}", f"run.file={tmp_path}/{lr}.h5", n=2)
    assert Run(tmp_path / "1000000000.0.h5").status.startswith("error")
    (row,) = grid.table(read_all([tmp_path])[0], "train_loss")
    assert row.rate == 0.1
    (alone,) = grid.table(read_all([tmp_path / "1000000000.0.h5"])[0], "train_loss")
    assert alone.said == "diverged"
    assert mpisign("report", tmp_path, "--output", tmp_path / "r.html").code == 0


def test_only_runs_that_ended_are_compared(folder, tmp_path):
    shutil.copy(folder / "3-1.h5", tmp_path / "whole.h5")
    own = ("problem.name=quadratic", "algorithm.name=sgd", f"run.file={tmp_path}/stopped.h5", "run.max_minutes=1e-9")
    with pytest.raises(Stopped):
        here(*own, "schedule.lr=0.1", "run.steps=60", n=3)
    compared = mpisign("compare", tmp_path, "--metric", "train_loss")
    assert (compared.code, len(compared.out.splitlines())) == (0, 4)
    assert f"left out: {tmp_path}/stopped.h5: stopped" in compared.err
    runs = read_all([tmp_path])[0]
    best, *_, everything = report.sections(runs)
    assert (best.name, len(best.rows)) == ("Best of grid", 1)
    assert (everything.note.partition(":")[0], len(everything.rows)) == ("1 run(s) have not ended", 2)


@pytest.mark.parametrize(
    ("text", "said"),
    [("rank 1: the loss is nan at step 3; all ranks stop", "diverged"), ("no space left on the device", "error")],
)
def test_a_run_diverged_only_where_values_were_not_finite(folder, text, said):
    one = Run(folder / "3-1.h5")
    assert grid.table([one], "train_loss")[0].said == f"{one['eval']['train_loss'][-1]:.4g}"
    one["events"].update(kind=np.array(["start", "error"]), text=np.array(["", text]))
    (row,) = grid.table([one], "train_loss")
    assert row.shown()["train_loss"] == said


def test_names_that_are_no_utf8_are_escaped(folder, tmp_path):
    runs = tmp_path / os.fsdecode(b"runs\xff")
    runs.mkdir()
    for name in (b"a\xff.h5", b"b\xff.h5"):
        shutil.copy(folder / "3-1.h5", runs / os.fsdecode(name))
    page = tmp_path / os.fsdecode(b"\xff.html")
    for words in (("plot",), ("plot", "--votes"), ("report", "--output", page)):
        ended = mpisign(words[0], runs, *words[1:])
        assert (ended.code, ended.err) == (0, "")
        assert "\\udcff" in ended.out
    assert "a\\udcff" in page.read_text(encoding="utf-8")
    listed = CliRunner().invoke(cli, ["compare", str(runs), "--metric", "train_loss", "--files"])
    assert Path(os.fsdecode(listed.stdout_bytes.strip())).is_file()


def test_a_run_that_sends_nothing_has_no_line_against_bytes(folder, tmp_path):
    alone = tmp_path / "alone.h5"
    own = ("problem.name=quadratic", "algorithm.name=sgd", "schedule.lr=0.1", "run.steps=60", f"run.file={alone}")
    here(*own, n=1)
    ended = mpisign("plot", alone, folder / "3-1.h5", "--axes", "bytes", "--output", tmp_path / "p.png")
    assert (ended.code, ended.out) == (2, f"picture: {tmp_path}/p.png\n")
    assert ended.err == f"skipped: {alone}: it has nothing on bytes (one voter: nothing travels)\n"
    with pytest.raises(UsageError, match="none of these runs is left"):
        CliRunner().invoke(cli, ["plot", str(alone), "--axes", "bytes,wire"], catch_exceptions=False)
    # the bytes to a target are then no panel either, nor are those to one that nobody reached
    runs = read_all([alone])[0]
    for target in (1e9, -1e9):
        assert len(dots.picture(grid.table(runs, "train_loss", target)).axes) == 1
    sending = Run(folder / "3-1.h5")
    middle = float(np.median(sending["eval"]["train_loss"]))
    assert len(dots.picture(grid.table([sending], "train_loss", middle)).axes) == 2


def test_a_mean_is_against_the_mean_of_its_seeds(folder):
    runs = [Run(folder / f"3-{seed}.h5") for seed in (1, 2)]
    figure = curves.picture(curves.groups(runs, True), ["eval.train_loss"], ["seconds"], True)
    mean = (runs[0]["eval"]["seconds"] + runs[1]["eval"]["seconds"]) / 2
    np.testing.assert_array_equal(figure.axes[0].get_lines()[0].get_xdata(), mean)


def test_nothing_is_left_of_a_file_that_could_not_be_written(tmp_path):
    def spoil(path):
        path.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(UsageError, match="No space left"):
        style.replace(tmp_path / "p.png", spoil)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(UsageError, match=r"folder\.png: "):
        style.replace(tmp_path / "folder.png", lambda path: path.write_text("whole"))
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]


def test_votes_have_a_picture_beside_that_of_the_curves(folder, tmp_path):
    shutil.copy(folder / "3-1.h5", tmp_path / "mine.h5")
    for options, name in (((), "mine.png"), (("--votes",), "mine-votes.png")):
        assert mpisign("plot", tmp_path / "mine.h5", *options).out == f"picture: {tmp_path}/{name}\n"


def test_a_folder_has_a_picture_beside_it(folder, tmp_path):
    mine = tmp_path / "mine.v2"
    mine.mkdir()
    shutil.copy(folder / "3-1.h5", mine)
    for options, name in (((), "mine.v2.png"), (("--votes",), "mine.v2-votes.png")):
        assert mpisign("plot", mine, *options).out == f"picture: {tmp_path}/{name}\n"
    assert mpisign("plot", ".", cwd=mine).out == f"picture: {tmp_path}/mine.v2.png\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.v2", "mine.v2-votes.png", "mine.v2.png"]


def test_a_wrong_name_of_a_row_is_told_once_for_all_runs(folder):
    ended = mpisign("plot", folder, "--rows", "steps.los,foo")
    assert (ended.code, ended.out) == (2, "")
    assert len(ended.err.splitlines()) == 1
    assert ended.err.startswith("mpisign: no row 'steps.los' (did you mean steps.loss?)")
    # what some run has is told of the others alone
    runs = read_all([folder])[0]
    del runs[0]["probes"]["success_vote"]
    curves.check_row(runs, "probes.success_vote")
    with pytest.raises(UsageError, match=r"3-1\.h5: an older mpisign wrote it"):
        curves.column(runs[0], "probes.success_vote")


def test_legends_are_alike_with_and_without_means(folder):
    runs = read_all([folder])[0]
    means, lines = (dict(curves.groups(runs, mean)) for mean in (True, False))
    assert list(lines) == [f"{name}, seed {run.attributes['seed']}" if len(of) > 1 else name
                           for run in runs for name, of in means.items() if run in of]  # fmt: skip


def test_an_envelope_keeps_every_extreme():
    envelope, points = style.envelope, style.POINTS
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
    (one,) = read_all([folder / "3-1.h5"])[0]
    figure = votes.picture([one])
    agreement, ties, flips = (panel.get_lines()[0].get_ydata() for panel in figure.axes[:3])
    # the first row has none before from which signs could differ
    assert np.isnan(flips[0])
    np.testing.assert_allclose(flips[1:], one["steps"]["flips"][1:] / one.attributes["d"])
    assert one["steps"]["flips"][0] == 0
    np.testing.assert_array_equal(agreement, one["steps"]["agreement"])
    np.testing.assert_allclose(ties, one["steps"]["ties"] / one.attributes["d"])
    meshes = [m for panel in figure.axes for m in panel.collections if hasattr(m, "get_coordinates")]
    np.testing.assert_array_equal(meshes[0].get_array(), one["probes"]["voter_agreement"].T)


def test_shares_are_drawn_from_zero_where_there_are_none(folder):
    (one,) = read_all([folder / "3-1.h5"])[0]
    assert not one["steps"]["ties"].any()  # three voters
    ties = votes.picture([one]).axes[1]
    assert ties.get_ylim()[0] == 0 < ties.get_ylim()[1]


def test_a_report_needs_nothing_but_itself(folder, tmp_path):
    page = tmp_path / "report.html"
    assert mpisign("report", folder, "--output", page, "--title", "A <b> study").code == 0
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
    assert mpisign("report", folder, "--output", page).code == 0
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


def test_a_deviation_of_one_seed_is_an_empty_cell(folder):
    ended = mpisign("compare", folder, "--metric", "train_loss", "--format", "csv")
    assert ended.code == 0, ended.err
    deviations = {row["method"]: row["deviation"] for row in csv.DictReader(io.StringIO(ended.out))}
    assert deviations["sgd"] == ""
    assert float(deviations["signsgd-mv"]) > 0


def test_a_key_that_means_nothing_to_a_run_does_not_tell_it_apart():
    one = {"algorithm.name": "doublesqueeze", "algorithm.up": "signs", "algorithm.zeros": "coin"}
    other = one | {"algorithm.up": "topk", "algorithm.zeros": "auto"}
    assert [grouping.telling(job, [one, other]) for job in (one, other)] == [["algorithm.up"]] * 2
