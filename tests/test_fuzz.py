"""Malformed inputs: one message, the right exit code, no traceback, no hang, nothing overwritten.

Cases are drawn from a seed, so that one that fails can be run again. Most run in this process; a few under mpirun.
"""

import contextlib
import hashlib
import shutil
import time

import click
import numpy as np
import pytest

from mpisign import cli, config
from mpisign.errors import MpisignError
from mpisign.run.resume import ResumeOptions
from mpisign.run.train import simulate
from mpisign.storage import checkpoint, superblock
from tests.cover import rest_is_slow
from tests.files import mnist_folder
from tests.running import ROOT, mpisign
from tests.test_commands import refused

SECONDS = 15  # that a refusal may take
JOB = (ROOT / "jobs/digits.toml").read_bytes()

WRONG_TYPES = (
    'run.steps="many"', "run.steps=1.5", "run.steps=-3", "run.seed=-1", "run.seed=1979-05-27", "run.keep=7",
    "run.file=3", "problem.name=3", "problem.hidden=128", "problem.hidden=[[1]]", "problem.hidden=[-1]",
    "problem.dropout=true", "problem.batch_size=-1", "schedule.lr=nan", "schedule.lr=-1", 'schedule.lr="fast"',
    "schedule.milestones=0.5", "algorithm.name=[]", "algorithm.beta=2", "algorithm.clip=-inf", "exchange.chunk=1",
    "partition.alpha=0", "checkpoint.keep=0", "checkpoint.every_minutes=-1", "run.max_minutes=0", "run=3", "steps=5",
    'run.file="a\\u0000b"', 'run.file="{x}"', 'run.file=""', 'run.file="/"', "theory.gap=0", "nothing.nothing=all",
)  # fmt: skip
ABSURD_SIZES = (
    "run.steps=1000000000000000000", "run.epochs=1e300", "run.evaluations=900000000000000",
    "run.seed=18446744073709551616",
    "problem.hidden=[1000000000000]", "problem.hidden=[100000, 1000000]", "run.threads=1000000000",
    "exchange.chunk=1000000000000000000000", "algorithm.accumulate=1000000000000",
    "schedule.milestones=[2]",
)  # fmt: skip


def call(*arguments) -> tuple[int, str]:
    """The command line in this process: exit code and message; any other exception is a failure."""
    begin = time.monotonic()
    try:
        cli.cli([str(a) for a in arguments], standalone_mode=False)
        code, text = 0, ""
    except MpisignError as error:
        code, text = error.exit_code, str(error)
    except click.ClickException as error:
        code, text = 2, error.format_message()
    except SystemExit as left:
        code, text = left.code, ""
    assert time.monotonic() - begin < SECONDS
    return code, text


def contents(folder) -> dict:
    return {p: hashlib.blake2b(p.read_bytes()).digest() for p in sorted(folder.rglob("*")) if p.is_file()}


@contextlib.contextmanager
def nothing_changed(folder):
    before = contents(folder)
    yield
    after = contents(folder)
    assert before.items() <= after.items()
    assert not [p.name for p in after if p.name.endswith((".tmp", ".lock"))]


def spoil(raw: bytes, case: int) -> bytes:
    """Cut off, a bit flipped, a shard of zeros or noise, or something put in; a matter of the case's number."""
    rng = np.random.default_rng(case)
    at, length = int(rng.integers(len(raw))), int(rng.integers(1, 64))
    noise = rng.integers(0, 256, length, dtype=np.uint8).tobytes()
    spoiled = (
        raw[:at],
        raw[:at] + bytes([raw[at] ^ 1 << int(rng.integers(8))]) + raw[at + 1 :],
        raw[:at] + bytes(length) + raw[at + length :],
        raw[:at] + noise + raw[at + length :],
        raw[:at] + noise + raw[at:],
    )[case % 5]
    # zeros put upon zeros
    return spoiled if spoiled != raw else raw[:-1]


# Jobs


def dry(tmp_path, *arguments):
    with nothing_changed(tmp_path):
        return call("simulate", "-n", 2, "--dry-run", *arguments)


@pytest.mark.parametrize("case", rest_is_slow(range(25), range(10)))
def test_spoiled_jobs(case, tmp_path):
    job = tmp_path / "job.toml"
    job.write_bytes(spoil(JOB, case))
    code, text = dry(tmp_path, job)
    # a byte in a comment does no harm
    assert (code == 0 and not text) or (code == 2 and text)


@pytest.mark.parametrize("setting", WRONG_TYPES)
def test_values_of_another_type(setting, tmp_path):
    code, text = dry(tmp_path, "--set", setting)
    assert code == 2
    assert setting.split("=")[0].split(".")[-1] in text or "[run]" in text


@pytest.mark.parametrize("setting", ABSURD_SIZES)
def test_absurd_sizes(setting, tmp_path):
    code, text = dry(tmp_path, "--set", setting)
    assert code == 2
    assert text


def test_absurd_sizes_of_other_commands(tmp_path):
    for name in ("quadratic", "linear", "targets", "rosenbrock"):
        code, text = dry(tmp_path, "--set", f"problem.name={name}", "--set", "problem.dimension=1000000000000")
        assert (code, "GB are free" in text) == (2, True), text
    assert call("simulate", "-n", 10**10, "--dry-run")[0] == 2
    assert call("sbatch", "--nodes", 0)[0] == 2


@pytest.mark.parametrize(
    "text", ["a = " + "[" * 5000, "a = 1" + "0" * 5000, "\ufeff", "[run]\nsteps = 1\n[run]\n", "\0"]
)
def test_strange_toml(text, tmp_path):
    job = tmp_path / "job.toml"
    job.write_text(text)
    code, told = dry(tmp_path, job)
    assert code == 2
    assert "TOML" in told or "run.steps" in told


# Data


@pytest.mark.parametrize("case", rest_is_slow(range(15), range(8)))
def test_spoiled_images(case, tmp_path):
    folder = mnist_folder(tmp_path)
    file = sorted(folder.iterdir())[case % 4]
    # the head of the file, where sizes stand
    file.write_bytes(spoil(file.read_bytes()[:40], case) + file.read_bytes()[40:])
    settings = (f"problem.path={folder}", "problem.batch_size=4", "run.steps=2", f"run.file={tmp_path}/r.h5")
    code, text = dry(tmp_path, ROOT / "jobs/mnist_mlp.toml", *(p for s in settings for p in ("--set", s)))
    assert (code == 0 and not text) or (code == 2 and str(tmp_path) in text)


@pytest.mark.parametrize("case", rest_is_slow(range(15), range(5)))
def test_spoiled_rows(case, tmp_path):
    rng = np.random.default_rng(1)
    lines = [f"{rng.choice([-1, 1])} 1:{rng.random():.3f} 7:{rng.random():.3f}" for _ in range(30)]
    file = tmp_path / "data"
    file.write_bytes(spoil("\n".join(lines).encode(), case))
    settings = ("problem.name=logistic", f"problem.path={file}", "run.steps=2", f"run.file={tmp_path}/r.h5")
    code, text = dry(tmp_path, *(p for s in settings for p in ("--set", s)))
    assert (code == 0 and not text) or (code == 2 and text)


# Checkpoints and run files


@pytest.fixture(scope="module")
def stopped_run(tmp_path_factory):
    """A folder with a run that stopped at its second checkpoint, and the same run as if it had been killed."""
    folder = tmp_path_factory.mktemp("stopped")
    settings = ("problem.name=quadratic", "run.steps=90", "checkpoint.every_steps=30", f"run.file={folder}/r.h5",
                "run.record_every=1", "run.max_minutes=1e-6")  # fmt: skip
    with pytest.raises(MpisignError):
        simulate(config.load(None, settings), 2, quiet=True, options=ResumeOptions())
    raw = bytearray((folder / "r.h5").read_bytes())
    raw[superblock.FLAGS] = 5  # being written, by SWMR
    raw[superblock.CHECKSUM : superblock.SIZE] = superblock.lookup3(bytes(raw[: superblock.CHECKSUM])).to_bytes(
        4, "little"
    )
    (folder / "killed.h5").write_bytes(raw)
    shutil.copytree(folder / "r.checkpoints", folder / "killed.checkpoints")
    return folder


@pytest.fixture
def folder(stopped_run, tmp_path):
    return shutil.copytree(stopped_run, tmp_path / "copy")


@pytest.mark.parametrize("case", rest_is_slow(range(20), range(10)))
def test_spoiled_checkpoints(case, folder):
    (file,) = checkpoint.saved(folder / "r.h5")
    file.write_bytes(spoil(file.read_bytes(), case))
    with nothing_changed(folder):
        for arguments in (("resume", folder / "r.h5"), ("train", "--set", "run.steps=1", "--init-from", file)):
            code, text = call(*arguments)
            assert code == 2
            assert str(file) in text


def test_other_files_for_checkpoints(folder):
    for strange in (folder / "r.h5", folder, ROOT / "README.md", folder / "nothing"):
        with nothing_changed(folder):
            code, text = call("resume", folder / "r.h5", "--from", strange)
            assert code == 2
            assert str(strange) in text


@pytest.mark.parametrize("name", ["r.h5", "killed.h5"])
@pytest.mark.parametrize("case", rest_is_slow(range(15), range(10)))
def test_spoiled_run_files(case, name, folder):
    file = folder / name
    # where the structure is, and anywhere
    raw = file.read_bytes()
    head = 4000 if case % 2 else len(raw)
    file.write_bytes(spoil(raw[:head], case) + (raw[head:] if case % 5 else b""))
    with nothing_changed(folder):
        for arguments in (
            ("show", file),
            ("show", "--config", file),
            ("repair", file, "--output", folder / "saved.h5"),
        ):
            code, text = call(*arguments)
            assert (code == 0 and not text) or (code == 2 and str(file) in text)


def test_other_files_for_run_files(folder, tmp_path):
    for strange in (*checkpoint.saved(folder / "r.h5"), folder, ROOT / "README.md", tmp_path / "nothing"):
        for command in ("show", "repair", "resume"):
            if command == "show" and strange == folder:
                continue  # lists its runs
            with nothing_changed(folder):
                code, text = call(command, strange)
                assert code == 2
                assert str(strange) in text


# Under mpirun


# found before MPI starts; by root and by every rank while rows are dealt; by root alone; in a file
FAR = (
    (("--set", "run.steps=1.5"), ["run.steps"]),
    (("--set", "problem.name=logistic", "--set", "problem.path=README.md"), ["README.md"]),
    (("--set", "run.file=/proc/no/r.h5"), ["/proc/no"]),
    (("--init-from", "README.md"), ["not a checkpoint"]),
)
NEAR = (
    (("--set", "run.voters=7"), ["run.voters = 7"]),
    (("--set", "problem.hidden=[1000000000000]"), ["GB are free"]),
    (("--set", "problem.name=mnist", "--set", "problem.path=jobs"), ["jobs"]),
    (("jobs",), ["jobs"]),
)


@pytest.mark.parametrize(("arguments", "words"), rest_is_slow((*FAR, *NEAR), FAR[:2]))
def test_under_mpirun(arguments, words):
    refused(mpisign("train", *arguments, n=2, timeout=40), *words)


@pytest.mark.parametrize("case", rest_is_slow([0, 1], [0]))
def test_spoiled_under_mpirun(case, folder):
    file = folder / "r.h5"
    (saved,) = checkpoint.saved(file)
    target = (saved, file)[case]
    target.write_bytes(target.read_bytes()[:3000])
    with nothing_changed(folder):
        refused(mpisign("resume", file, n=2, timeout=40), str(target))
