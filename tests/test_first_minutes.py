"""What a newcomer meets: wrong names, help, a folder of runs, a taken run file, headers, lines, a Run at hand."""

import re
import shutil
import sys
from types import SimpleNamespace

import h5py
import pytest
from click.testing import CliRunner

from mpisign import config
from mpisign.algorithms.listing import describe
from mpisign.algorithms.registry import find
from mpisign.cli import cli
from mpisign.cli.bench import bench_group
from mpisign.cli.data import data_group
from mpisign.errors import UsageError
from mpisign.exchange import choose
from mpisign.problems import find as find_problem
from mpisign.problems.data.fetch import fetch
from mpisign.run import progress
from mpisign.run.plan import resolve
from mpisign.run.resume import FRESH, ResumeOptions, refuse_existing
from mpisign.run.train import simulate
from mpisign.storage import lock
from mpisign.storage.reader import Run, summary_lines
from tests.running import run

QUICK = ("problem.name=quadratic", "problem.dimension=100", "partition.kind=iid", "run.steps=20")


def load(*settings):
    return config.load(None, settings)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three runs: complete, cut short as by SIGKILL, and one that is none."""
    folder = tmp_path_factory.mktemp("runs")
    for name in ("one", "deeper/two"):
        simulate(load(*QUICK, f"run.file={folder}/{name}.h5"), voters=3, quiet=True)
    with h5py.File(folder / "deeper/two.h5", "r+") as file:
        for column in file["events"].values():
            column.resize(len(column) - 1, axis=0)
    (folder / "damaged.h5").write_bytes(b"\x89HDF\r\n\x1a\n and nothing more")
    return folder


@pytest.mark.parametrize(
    ("setting", "meant"),
    [
        ("run.setps=5", "steps"),
        ("rnu.steps=5", "run"),
        ("run.lr=0.1", "schedule.lr or dense.lr"),
        ("algorithm.lr=0.1", "schedule.lr or dense.lr"),
        ("algorithm.bata=0.5", "beta"),
        ("problem.batchsize=4", "batch_size"),
        ("problem.name=cifar-10", "cifar10"),
        ("problem.name=tests.problems:Awkwrd", "Awkward"),
        ("algorithm.name=Signum_MV", "signum-mv"),
        ("exchange.name=shard", "sharded"),
        ("schedule.kind=cosin", "cosine"),
        ("steps=5", "run.steps or dense.steps"),
    ],
)
def test_what_was_perhaps_meant_is_asked(setting, meant):
    with pytest.raises(UsageError) as refused:
        resolve(load(*QUICK, setting) if not setting.startswith("problem.batch") else load(setting), 2)
    assert f"(did you mean {meant}?)" in str(refused.value)


def test_what_is_like_nothing_is_only_listed():
    with pytest.raises(UsageError, match=r"^unknown algorithm 'xyzzy'; known: absignsgd-mv, abstain-mv, "):
        find("xyzzy")
    with pytest.raises(UsageError, match=r"unknown exchange 'xyzzy'; known: "):
        choose("xyzzy", find("signum-mv").build(), 2)
    with pytest.raises(UsageError, match=r"unknown problem 'xyzzy'; known: "):
        find_problem("xyzzy")
    with pytest.raises(UsageError, match=r"did you mean mushrooms\?\); known: a9a"):
        fetch("mushroms", None, "", print)


def test_a_key_outside_of_any_table_is_told_where_it_belongs(tmp_path):
    job = tmp_path / "job.toml"
    job.write_text("steps = 5\nnesterov = true\n")
    with pytest.raises(UsageError, match=r"'steps' stands outside a table \(did you mean run\.steps"):
        config.load(job)


@pytest.mark.parametrize(
    ("words", "listed"),
    [
        (["trian"], ["did you mean train?", "resume", "simulate"]),
        (["data", "ftech"], ["did you mean fetch?", "show"]),
        (["bench", "xyzzy"], ["commands are", "kernels"]),
        (["train", "--ste", "run.seed=2"], ["did you mean --set?", "--max-time", "--verbose"]),
        (["show", "runs", "--csv", "step"], ["eval", "steps", "trace"]),
    ],
)
def test_errors_of_the_command_line_list_what_is_valid(words, listed):
    ended = run(sys.executable, "-m", "mpisign", *words)
    assert ended.code == 2
    for word in listed:
        assert word in ended.err


@pytest.mark.parametrize("group", [cli, bench_group, data_group], ids=lambda group: group.name)
def test_help_tells_all_of_a_command(group):
    shown = " ".join(CliRunner().invoke(group, ["--help"]).output.split())
    assert "..." not in shown.split("Commands:")[1].replace("...]", "")
    for command in group.commands.values():
        first = " ".join(command.help.split("\n\n")[0].split())
        assert first.rstrip(".") in shown


def test_the_module_is_the_program():
    ended = run(sys.executable, "-m", "mpisign", "--version")
    assert (ended.code, ended.out.split()[0]) == (0, "mpisign,")


def test_a_folder_of_runs_is_listed(folder, monkeypatch):
    shown = CliRunner().invoke(cli, ["show", str(folder)])
    assert shown.exit_code == 2  # of what is damaged
    head, *rows = (line.split() for line in shown.stdout.splitlines())
    assert head == ["run", "algorithm", "problem", "n", "steps", "state", "loss", "bits", "seconds", "size"]
    found = {row[0]: row for row in rows}
    assert found["deeper/two.h5"][1:6] == ["signum-mv", "quadratic", "3", "20/20", "killed"]
    assert found["one.h5"][1:6] == ["signum-mv", "quadratic", "3", "20/20", "complete"]
    assert float(found["one.h5"][6]) == pytest.approx(Run(folder / "one.h5")["eval"]["train_loss"][-1], rel=1e-3)
    assert found["damaged.h5"][1:6] == ["-", "-", "-", "-", "damaged"]
    assert shown.stderr.startswith("damaged: damaged.h5: ")
    monkeypatch.setattr(lock, "held", lambda path: True)
    assert Run(folder / "deeper/two.h5").state == "running"
    assert CliRunner().invoke(cli, ["list", str(folder)]).stdout == shown.stdout.replace("killed ", "running")


def test_a_taken_run_file_is_refused_before_mpi(folder):
    code = (
        "import sys; from mpisign.cli import main\n"
        "try: main()\nexcept SystemExit as end: print(end.code, 'mpi4py.MPI' in sys.modules)"
    )
    flags = [part for setting in (*QUICK, f"run.file={folder}/one.h5") for part in ("--set", setting)]
    # a launcher's promise that no MPI could keep
    promise = {"PMI_RANK": "0", "PMI_SIZE": "2", "MPI_LOCALNRANKS": "2", "PMI_FD": "99"}
    ended = run(sys.executable, "-c", code, "train", *flags, environment=promise)
    assert ended.out.split() == ["2", "False"], ended.err
    assert "exists" in ended.err
    other = run(sys.executable, "-c", code, "train", *flags, environment=promise | {"PMI_RANK": "1"})
    assert (other.out.split(), other.err) == (["2", "False"], "")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["train", "{job}", "--set", "run.steps=abc"], "--set run.steps = 'abc': should be a valid integer"),
        (["train", "{job}"], "job.toml: run.epochs = nan: should be a finite number"),
        (["train", "--set", "run.stepz=5"], "--set: unknown key run.stepz (did you mean steps?)"),
        (["train", "--max-time", "nan"], "--max-time nan: minutes, a finite number above 0"),
        (["resume", "{run}", "--max-time", "-1"], "--max-time -1: minutes, a finite number above 0"),
        (["resume", "{run}", "--set", "checkpoint.keep=0"], "--set checkpoint.keep = 0: should be greater"),
        (["train", "--set", "problem.hidden=-4"], "problem.hidden = -4: should be a list, as in problem.hidden=[-4]"),
        (["algorithms", "--bits", "nan"], "--bits nan: bits per coordinate, a number from 0 on"),
        (["train", "{run}"], "one.h5: a run file is no job; mpisign resume "),
        (["plan", "{run}"], "one.h5: a run file is no job; mpisign resume "),
        (["show", "{empty}"], "empty.h5: can't be opened as HDF5: it is empty"),
        (["show", "{job}"], "job.toml: can't be opened as HDF5: it is none"),
        (["repair", "{folder}"], ": a folder, not a file"),
        (["bench", "kernels", "-d", "0"], "-d 0: coordinates are a whole number from 1"),
    ],
)
def test_a_message_names_what_was_wrong_and_where_it_stood(folder, tmp_path, words, told):
    (tmp_path / "job.toml").write_text("[run]\nepochs = nan\n")
    (tmp_path / "empty.h5").touch()
    known = {"job": tmp_path / "job.toml", "empty": tmp_path / "empty.h5", "folder": folder, "run": folder / "one.h5"}
    ended = CliRunner().invoke(cli, [word.format(**known) for word in words])
    assert isinstance(ended.exception, UsageError)
    assert told in str(ended.exception)


def test_a_job_is_listed_as_no_run_and_not_as_a_damaged_one(folder, tmp_path):
    (tmp_path / "job.toml").touch()
    assert "foreign" in CliRunner().invoke(cli, ["list", str(tmp_path / "job.toml")]).stdout
    assert "damaged" in CliRunner().invoke(cli, ["list", str(folder / "damaged.h5")]).stdout


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ("schedule.warmup=40", "schedule.warmup = 40, but the run has 20 steps: its rate ends at 0.005 and never"),
        ("schedule.warmup=20", ""),
        ("problem.batch_size=1000", "problem.batch_size: voter(s) 0, 1, 2 own fewer rows than that, and take them all"),
        ("problem.batch_size=0", ""),
        ("problem.batch_sizes=[1000, 1, 1]", "problem.batch_sizes: voter(s) 0 own fewer rows than that"),
    ],
)
def test_what_cannot_be_as_the_job_says_is_told(tmp_path, capsys, settings, told):
    job = load(settings, "schedule.lr=0.01", "run.steps=20", "partition.kind=iid", f"run.file={tmp_path}/r.h5")
    simulate(job, voters=3, dry_run=True)
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note")]
    assert [told in note for note in notes] == [True] * bool(told)


@pytest.mark.parametrize("overwrite", ["false", "true"])
@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["exchange.name=foo"], "'foo'"),
        (["run.device=cuda"], "run.device"),
        (["problem.name=logistic", "problem.path=nowhere/a9a"], "nowhere/a9a"),
        ([], "nowhere.ckpt"),
    ],
)
def test_what_is_wrong_with_a_job_is_told_before_that_its_file_is_taken(folder, settings, told, overwrite):
    before = (folder / "one.h5").read_bytes()
    length = [word for word in QUICK if not (settings[:1] == ["problem.name=logistic"] and word.startswith("problem"))]
    options = FRESH if settings else ResumeOptions("never", init_from=folder / "nowhere.ckpt")
    job = load(*length, *settings, f"run.file={folder}/one.h5", f"run.overwrite={overwrite}")
    with pytest.raises(UsageError, match=re.escape(told)):
        simulate(job, voters=3, quiet=True, options=options)
    assert (folder / "one.h5").read_bytes() == before


def test_what_is_not_certain_is_left_to_whoever_opens_the_file(folder, tmp_path, monkeypatch):
    def resolved(*settings):
        return resolve(load(*QUICK, *settings), 3).config

    taken = resolved(f"run.file={folder}/one.h5")
    with pytest.raises(UsageError, match="exists"):
        refuse_existing(taken, FRESH)
    refuse_existing(resolved(f"run.file={folder}/one.h5", "run.overwrite=true"), FRESH)
    refuse_existing(resolved(f"run.file={folder}/none.h5"), FRESH)
    # a run that never took a step
    shutil.copy(folder / "one.h5", tmp_path / "early.h5")
    with h5py.File(tmp_path / "early.h5", "r+") as file:
        for table in ("steps", "eval", "phases", "events"):
            for column in file[table].values():
                column.resize(0, axis=0)
    refuse_existing(resolved(f"run.file={tmp_path}/early.h5"), FRESH)
    # ranks on other machines may not see the file: root alone must not leave
    monkeypatch.setenv("PMI_RANK", "0")
    monkeypatch.setenv("PMI_SIZE", "4")
    monkeypatch.setenv("MPI_LOCALNRANKS", "2")
    refuse_existing(taken, FRESH)


@pytest.mark.parametrize("verbose", [False, True])
def test_the_exchange_has_one_line_of_the_header(tmp_path, capsys, verbose):
    settings = (*QUICK, "algorithm.name=onebit-adam", f"run.file={tmp_path}/r.h5")
    simulate(load(*settings), voters=2, dry_run=True, verbose=verbose)
    shown = capsys.readouterr().out
    assert len(re.findall("^exchange: dense .*, then sharded ", shown, re.MULTILINE)) == 1
    assert ("definition: Stages(" in shown) == verbose
    assert re.search(r"^bytes_per_step: \d+ or \d+ bytes per rank$", shown, re.MULTILINE)
    assert re.search(r"^d: 100 coordinates$", shown, re.MULTILINE)


def test_lines_tell_the_time_that_is_left(monkeypatch, capsys):
    clock = SimpleNamespace(monotonic=lambda: clock.now, now=100.0)
    monkeypatch.setattr(progress, "time", clock)
    lines = progress.Lines(1000)
    clock.now = 130.0  # what is before the first line is no step's time
    lines.update(400, 1.0, 0.1, {})
    clock.now = 140.0
    lines.update(500, 1.0, 0.1, {})
    lines.update(1000, 1.0, 0.1, {})
    first, second, last = capsys.readouterr().out.splitlines()
    assert "left" not in first
    assert second.endswith("10 steps/s  50 s left")
    assert "left" not in last
    assert [progress.duration(s) for s in (42, 400, 11100)] == ["42 s", "7 min", "3 h 05 min"]


def test_a_run_tells_what_it_holds(folder):
    run_ = Run(folder / "one.h5")
    assert run_.tables["steps"] == len(run_["steps"]["step"]) == 2
    shown = repr(run_)
    assert shown.startswith(f"Run('{folder}/one.h5')\nstatus: complete\n")
    assert "n: 3 voter(s)" in shown
    assert "steps (2)" in shown
    assert str(run_.summary()["bytes_up"]) + " bytes per rank" in shown
    with pytest.raises(KeyError, match=r"did you mean steps\?"):
        run_["step"]


def test_numbers_of_the_summary_have_units():
    figures = summary_lines(
        {"n": 2, "seconds": 1.5, "test_accuracy": 0.9, "bytes_up": 8, "best_step": 3, "status": "complete"}
    )
    assert figures == [
        "n: 2 voter(s)", "seconds: 1.5 s", "test_accuracy: 0.9 of the held-out rows", "bytes_up: 8 bytes per rank",
        "best_step: 3", "status: complete",
    ]  # fmt: skip


def test_a_table_becomes_a_data_frame_where_pandas_is(folder, monkeypatch):
    run_ = Run(folder / "one.h5")
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=lambda columns: ("a frame", columns)))
    kind, columns = run_.to_pandas("eval")
    assert kind == "a frame"
    assert columns["step"].tolist() == run_["eval"]["step"].tolist()
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UsageError, match="pip install pandas"):
        run_.to_pandas()


def test_an_algorithm_may_be_named_by_its_module(tmp_path, monkeypatch):
    (tmp_path / "brought_along.py").write_text(
        "from mpisign.algorithms.registry import REGISTRY, algorithm\n"
        "algorithm('brought', paper='none', lr=0.1, known='Nothing.')(REGISTRY['signsgd'].make)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    from mpisign.algorithms.registry import REGISTRY

    try:
        assert "brought(" in describe(find("brought_along:brought"))
        settings = (*QUICK, "algorithm.name=brought_along:brought")
        assert config.run_path(load(*settings), 2).name == "quadratic-brought-n2-seed1.h5"
    finally:
        REGISTRY.pop("brought", None)
    with pytest.raises(UsageError, match="python -m mpisign"):
        find("nowhere_at_all:brought")
