"""Every wrong job is answered with what was wrong, the value, and what is valid."""

import contextlib
import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpisign import config, paths
from mpisign.config import run_path
from mpisign.errors import UsageError
from mpisign.problems import PROBLEMS
from mpisign.run import sweep
from mpisign.run.plan import resolve
from mpisign.run.train import simulate
from mpisign.storage import checkpoint
from mpisign.storage.reader import Run
from tests.running import ROOT


def resolved(*settings, job=None, voters=2):
    return resolve(config.load(job, settings), voters)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["run.setps=5"], ["run.setps", "steps"]),
        (["runs.steps=5"], ["unknown key runs", "partition"]),
        (["algorithm.name=signmu"], ["'signmu'", "signum-mv", "ssdm"]),
        (["algorithm.betta=0.5"], ["algorithm.betta", "beta", "weight_decay", "accumulate"]),
        (["algorithm.beta=high"], ["algorithm.beta", "'high'"]),
        (["algorithm.beta=1.5"], ["algorithm.beta", "1.5", "less than 1"]),
        (["algorithm.weight_decay=-0.1"], ["algorithm.weight_decay", "-0.1", "greater than or equal to 0"]),
        (["algorithm.name=ssvr-mv", "algorithm.radius=-1"], ["algorithm.radius", "-1", "greater than 0"]),
        (["algorithm.name=ssvr-mv", "algorithm.radius=most"], ["algorithm.radius", "'most'", "'max' or 'running'"]),
        (["algorithm.name=dvr-sign", "algorithm.snapshot_every=-2"], ["snapshot_every", "-2", "greater than or equal"]),
        (["algorithm.name=dvr-q", "algorithm.snapshot_every=9", "algorithm.start_batches=2"], ["give one of the two"]),
        (["algorithm.name=dp-sign", "problem.name=quadratic", "run.steps=5"], ["finite sum", "algorithms that fit"]),
        (
            ["algorithm.name=dvr-sign", "algorithm.snapshot_every=5", "problem.name=quadratic", "run.steps=5"],
            ["finite sum"],
        ),
        (["run.voters=3"], ["run.voters", "2 rank(s)", "mpisign simulate"]),
        (["run.preset=theory", "algorithm.name=adam"], ["no preset theory for adam", "dvr-sign"]),
        (["algorithm.name=ssvr-mv", "algorithm.beta=0"], ["algorithm.beta", "greater than 0"]),
        (["exchange.name=pigeon"], ["'pigeon'", "allgather"]),
        (["exchange.name=dense"], ["'dense'", "sign words", "sharded"]),
        (["algorithm.name=sgd", "exchange.name=sharded"], ["raw floats", "dense-mpi"]),
        (["problem.name=cifar"], ["'cifar'", "digits", "package.module:factory"]),
        (["problem.name=nowhere:Factory"], ["nowhere", "importable"]),
        (["problem.hiden=[3]"], ["problem.hiden", "hidden", "dropout"]),
        (["problem.name=mnist"], ["problem.path", "missing"]),
        (["schedule.lr=-0.1"], ["schedule.lr", "-0.1", "greater than 0"]),
        (["schedule.kind=linear"], ["schedule.kind", "cosine"]),
        (["run.steps"], ["table.key=value"]),
        (["run.device=tpu"], ["run.device", "'cpu'"]),
        (["run.precision=half"], ["run.precision", "'bf16'"]),
        (["run.compile=true", "problem.name=quadratic", "run.steps=5"], ["run.compile", "leave it out"]),
        (["run.precision=bf16", "problem.name=quadratic", "run.steps=5"], ["run.precision", "float32"]),
        (["algorithm.name=ssdm", "algorithm.ties=zero"], ["algorithm.ties", "ssdm"]),
        (
            ["algorithm.name=ssvr-mv", "problem.name=tests.problems:OnePoint"],
            ["two points", "algorithms that fit"],
        ),
        (["algorithm.name=ssvr-mv", "algorithm.option=3"], ["algorithm.option = 3", "1 or 2"]),
    ],
)
def test_bad_configuration(settings, words):
    with pytest.raises(UsageError) as caught:
        resolved(*settings)
    assert caught.value.exit_code == 2
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[run]\nstep = 5\n", ["job.toml", "run.step", "steps"]),
        ("[run\n", ["job.toml", "not valid TOML"]),
        ("steps = 5\n", ["job.toml", "'steps'", "outside a table", "run"]),
        ("[problem]\nname = 'digits'\n", ["run.steps", "run.epochs"]),
        ("[run]\nsteps = 5\nepochs = 1.0\n", ["run.steps", "run.epochs"]),
        (None, ["job.toml", "No such file"]),
    ],
)
def test_bad_job_files(text, words, tmp_path):
    job = tmp_path / "job.toml"
    if text is not None:
        job.write_text(text)
    with pytest.raises(UsageError) as caught:
        resolved(job=job)
    for word in words:
        assert word in str(caught.value)


def test_the_built_in_job_is_the_one_in_jobs():
    assert config.load(ROOT / "jobs/digits.toml", ()) == config.load(None, ())


@pytest.mark.parametrize("job", sorted((ROOT / "jobs").rglob("*.toml")), ids=lambda p: p.stem)
def test_jobs_resolve(job, tmp_path, request):
    text = job.read_text()
    settings = ["problem.path=somewhere"] if "problem.path" in text else []
    if "[sweep]" in text:
        settings.append(f"sweep.folder={tmp_path}")  # and not what somebody ran here before
    points = sweep.read(job, settings)
    configs = [p.config for p in points if p.settings] if points else [config.load(job, settings)]
    # of a sweep the first and the last point, and all by --all
    for one in configs if request.config.getoption("--all") else configs[:: max(len(configs) - 1, 1)]:
        n = one.run.voters or 2
        resolved = resolve(one, n)
        again = resolve(config.Config(**_tables(resolved.config)), n)
        assert again.config == resolved.config, "a stored configuration resolves to itself"


def _tables(stored):
    import tomllib

    return tomllib.loads(stored.text())


def test_defaults_are_written_out():
    stored = _tables(resolved("algorithm.name=ssdm").config)
    assert stored["algorithm"] == {
        "name": "ssdm", "zeros": "coin", "ties": "auto", "accumulate": 1, "clip": 0.0, "beta": 0.9, "radius": "norm",
        "refresh": 100, "weight_decay": 0.0,
    }  # fmt: skip
    assert stored["schedule"]["lr"] == 0.03
    assert stored["problem"]["test_fraction"] == 0.2


def test_one_voter_gets_the_mathematics_and_several_a_coin():
    assert resolved(voters=1).algorithm.sign.zeros == "abstain"
    assert resolved(voters=1).algorithm.vote.ties == "zero"
    assert resolved(voters=2).algorithm.sign.zeros == "coin"
    assert resolved("algorithm.ties=plus", voters=1).algorithm.vote.ties == "plus"


def test_a_setting_for_the_length_takes_the_place_of_the_files():
    job = ROOT / "jobs/digits.toml"
    assert resolved("run.steps=7", job=job).config.run.epochs is None
    assert resolved("run.epochs=7", "problem.path=x", job=ROOT / "jobs/logistic.toml").config.run.steps is None
    with pytest.raises(UsageError, match="all given"):
        resolved("run.steps=7", "run.epochs=7", job=job)


def test_another_problem_or_algorithm_drops_the_arguments_of_the_built_in_one():
    assert resolved("problem.name=quadratic", "run.steps=5").config.problem.arguments["dimension"] == 100
    assert resolved("algorithm.name=sgd").config.schedule.lr == 0.1


@pytest.mark.parametrize(
    "settings",
    [
        ("algorithm.name=sgd", "schedule.lr=0.5", "algorithm.momentum=0.3"),
        ("problem.name=mnist", "problem.path=x", "problem.hidden=[7]", "problem.dropout=0.1", "run.steps=3"),
        ("problem.name=wilson", "algorithm.name=ssdm", "schedule.lr=0.5", "problem.count=7", "partition.kind=sorted"),
        ("schedule.kind=step", "schedule.lr=0.5", "partition.kind=iid", "partition.alpha=9.5", "run.epochs=2.5"),
    ],
)
def test_the_order_of_settings_does_not_matter(settings):
    found = [config.load(None, order) for order in itertools.permutations(settings)]
    assert all(other == found[0] for other in found)
    for key, value in (setting.split("=") for setting in settings):
        table, _, name = key.partition(".")
        assert str(found[0].written[table][name]) == value.strip('"')


def test_the_last_of_two_settings_for_a_key_counts():
    assert config.load(None, ("schedule.lr=1", "algorithm.name=sgd", "schedule.lr=2")).schedule.lr == 2


WITHOUT_PATH = (
    "digits",
    "linear",
    "matrix-linear",
    "quadratic",
    "reflections",
    "rosenbrock",
    "targets",
    "two-planes",
    "wilson",
)


@pytest.mark.parametrize("name", WITHOUT_PATH)
def test_the_built_in_job_takes_any_problem_by_its_name_alone(name, tmp_path):
    job = config.load(None, (f"problem.name={name}", f"run.file={tmp_path}/r.h5"))
    simulate(job, 2, dry_run=True, quiet=True)


@pytest.mark.parametrize("name", sorted(set(PROBLEMS) - set(WITHOUT_PATH)))
def test_a_problem_that_needs_a_path_says_which(name):
    with pytest.raises(UsageError, match=rf"problem.path is missing \({PROBLEMS[name].hints['path']}\); set it"):
        resolved(f"problem.name={name}")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("problem.name=quadratic", "run.epochs=130"), "has no rows to pass over"),
        (("problem.name=targets", "partition.kind=dirichlet"), "no draw of 1000"),
        (("problem.name=tests.problems:Plain", "partition.kind=dirichlet"), "needs classes"),
    ],
)
def test_what_somebody_set_does_not_give_way(settings, words):
    with pytest.raises(UsageError, match=words):
        simulate(config.load(None, settings), 2, dry_run=True, quiet=True)


def test_a_run_file_tells_what_took_the_place(tmp_path, monkeypatch):
    monkeypatch.setattr("mpisign.run.setup.STEPS", 3)
    for name, settings in (("tests.problems:Plain", ("run.steps=4",)), ("quadratic", ())):
        job = config.load(None, (f"problem.name={name}", f"run.file={tmp_path}/{{problem}}.h5", *settings))
        simulate(job, 2, quiet=True)
    assert Run(tmp_path / "Plain.h5").config["partition"]["kind"] == "iid"
    assert Run(tmp_path / "quadratic.h5").config["run"]["steps"] == 3


@pytest.mark.parametrize("name", ["signum-lr0.01", "r", "r.hdf5", ".h5", "r.H5", "r.h5.model", "{seed}"])
def test_a_run_file_without_the_ending_is_refused_with_its_name(name):
    with pytest.raises(UsageError, match=r"ends in \.h5; set run\.file=.*\.h5"):
        resolved(f"run.file={name}")


@given(st.lists(st.text("ab.h5", min_size=1, max_size=6), min_size=2, max_size=2, unique=True))
def test_two_run_files_share_no_product(names):
    paths = []
    for name in names:
        with contextlib.suppress(UsageError):
            paths.append(run_path(config.load(None, (f'run.file="{name}.h5"',)), 1))
            paths.append(run_path(config.load(None, (f'run.file="{name}"',)), 1))
    products = [p for path in set(paths) for p in (path, path.with_suffix(".model"), checkpoint.folder(path))]
    assert len(set(products)) == len(products)


def test_a_job_file_is_utf_8_whatever_the_locale(tmp_path, monkeypatch):
    job = tmp_path / "job.toml"
    job.write_bytes("\ufeff[run]\nsteps = 5\nfile = 'größe.h5'\n".encode())
    monkeypatch.setattr("locale.getpreferredencoding", lambda *_: "ascii")
    assert config.load(job).run.file == "größe.h5"
    job.write_bytes(b"[run]\nsteps = 5 # \xe9\n")
    with pytest.raises(UsageError, match=r"not valid TOML.*0xe9"):
        config.load(job)
    with pytest.raises(UsageError, match="Is a directory"):
        config.load(tmp_path)
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: (_ for _ in ()).throw(PermissionError(13, "Not allowed")))
    with pytest.raises(UsageError, match=r"can't read the job file .*Not allowed"):
        config.load(job)


def test_a_global_batch_is_dealt_to_all_ranks():
    job = config.load(None, ("problem.global_batch_size=24",))
    assert [resolve(job, n).config.problem.batch_size for n in (1, 2, 8)] == [24, 12, 3]
    with pytest.raises(UsageError, match=r"global_batch_size = 24 .* 5 ranks"):
        resolve(job, 5)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("~/runs/a.h5", "/home/me/runs/a.h5"), ("$SCRATCH/{algorithm}.h5", "/scratch/{me}/signum-mv.h5"),
        ("${SCRATCH}_2/n{n}.h5", "/scratch/{me}_2/n3.h5"), ("a$$b.h5", "a$b.h5"), ("a~b.h5", "a~b.h5"),
        ("./~/a.h5", "~/a.h5"), ("5$.h5", "5$.h5"),
    ],
)  # fmt: skip
def test_paths_mean_what_they_mean_to_a_shell(monkeypatch, written, meant):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("SCRATCH", "/scratch/{me}")
    made = config.load(None, (f"run.file={written}",))
    assert str(run_path(made, 3)) == meant
    assert str(run_path(config.load(None, (f"run.file={paths.literal(written)}",)), 3)) == str(Path(written))


@pytest.mark.parametrize("written", ["$NOWHERE_AT_ALL/r.h5", "${NOWHERE_AT_ALL}/r.h5", "~nobody-at-all/r.h5"])
def test_variables_and_homes_that_are_not_there(written):
    with pytest.raises(UsageError, match=r"run\.file"):
        run_path(config.load(None, (f"run.file={written}",)), 3)
    job = config.load(None, ("problem.name=mnist", f"problem.path={written}"))
    with pytest.raises(UsageError, match=r"problem\.path"):
        resolve(job, 1)


def test_a_problems_path_of_a_shell(monkeypatch, tmp_path):
    monkeypatch.setenv("HERE", str(tmp_path))
    job = config.load(None, ("problem.name=mnist", "problem.path=$HERE/mnist"))
    assert resolve(job, 1).problem.path == tmp_path / "mnist"
    assert job.problem.arguments["path"] == "$HERE/mnist", "what is kept is what was written"
