"""Every command and snippet of every README, run as it stands in a folder that has only what the README said to make.

The folder has the repository's jobs/, analysis/, slurm/ and Makefile, a link to the environment as .venv, and stand-ins
of a few rows where `mpisign data fetch` would have put data. One rule makes long commands short (SHORTER): a few steps
for what trains, small vectors for what measures, a second for what goes on. What is not run stands in NOT_RUN, with the
reason. A block ```bash is commands, ```python and ```toml are saved under the name in their first line (# NAME.py), or
run; ```text is a picture or what a command prints, and ```diff is made and run by test_optim.py.

All of it takes minutes, so the default run takes a command of each kind (FAST), make demo with 2 ranks instead of 8,
and all snippets, and checks that all other commands, those between backticks and in the comments of jobs and batch
scripts included, are parsed and that the job they name can be resolved. What READMEs link to and name must be there.
"""

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import numpy as np
import pytest

import mpisign.cli as command_line
from mpisign.errors import UsageError
from mpisign.run.plan import resolve
from mpisign.storage.reader import Run
from tests.files import mnist_folder
from tests.running import BIN, ROOT, run
from tests.table import TABLE
from tests.test_images import records

OTHERS = ("build", "wheelhouse", "runs", "data")  # folders of what is made or fetched
# that of the repository first: make demo makes what others look at
READMES = sorted(
    (
        path
        for path in ROOT.rglob("README*")
        if not any(part.startswith(".") or part in OTHERS for part in path.relative_to(ROOT).parts[:-1])
    ),
    key=lambda path: (len(path.parts), path),
)
LONGEST = 220  # lines of the README of the repository

# what is put at the end of a command to make it short, by what it begins with; the first that fits
SHORTER = (
    (r"mpisign (train|simulate)\b.*--(max-time|dry-run)", ""),
    (r"mpisign train\b.*--init-from", "--max-time 0.02 --set run.file=runs/started.h5"),
    (r"mpisign (train|simulate)\b", "--set run.steps=6"),
    (r"mpisign resume\b", "--max-time 0.02"),
    (r"mpisign bench (peers|exchange|profile|explain|optimizer|kernels|ratios)\b", "-d 1e4"),
    (r"mpisign bench overlap\b", "--batch 32 --elsewhere 1 --width 64 --repeats 1"),
)
# codes with which a command may end, beside 0
ENDS = ((r"--max-time", 75), (r"mpisign doctor", 1))
# words that stand for something
STAND_FOR = {
    "JOB": "jobs/digits.toml",
    "RUN": "runs/demo.h5",
    "RUN.h5": "runs/demo.h5",
    "NAME": "ssvr-mv",
    "FOLDER": "runs",
    "CHECKPOINT": "runs/mine.checkpoints/step-1.h5",
    "problem.path=DIR": "problem.path=data/mnist",
    "problem.path=FILE": "problem.path=data/a9a/a9a",
    "jobs/studies/NAME.toml": "jobs/studies/breakdown.toml",
}
NOT_RUN = {
    r"^make test": "these are its tests",
    r"^make endure$": "a quarter of an hour of kills",
    r"^make figures$": "needs the runs of all studies; tests/test_figures.py draws what can be drawn",
    r"^make wheelhouse|^PIP_NO_INDEX": "downloads all packages",
    r"^make setup$": "installs packages",
    r"^make docs$": "tests/test_docs.py makes the site",
    r"^make demo TORCH_INDEX": "downloads torch",
    r"\bpip install\b": "installs packages",
    r"jobs/trainers/": "tests/test_trainers.py runs them, where their libraries are",
    r"^reframe ": "needs ReFrame: tests/test_reframe.py runs it where it is installed",
    r"^sbatch ": "needs Slurm: make test-slurm submits these scripts; the job is checked here",
    r"^srun ": "needs Slurm",
    r"mpisign data fetch \w": "needs a network: tests/test_data.py fetches from a server of its own",
    r"^analysis/[\w/]+\.sh|^python analysis/figures\.py --run": "minutes to hours, some as root for their network",
    r"analysis/others/same_steps\.py": "needs clones: tests/test_analysis.py runs what needs none",
    r"jobs/transformer/voted\.py": "tests/test_optim.py makes the change and runs it",
    r"^python -m mpisign\.bits$": "the installer's work, which compiles all kernels",
    r"^mpisign (train|resume|sbatch|plan|simulate|data show|project)$": "names a command, without its arguments",
    r"^mpisign (plot|repair)$": "names a command, without its arguments",
    r"^python -m mpisign$": "names a command, without its arguments",
    r"^mpisign resume RUN$": "stands in a table beside it with its ranks",
    r"mpisign resume RUN --set problem\.path=PATH$": "the digits have no path: tests/test_moved_data.py moves data",
    r"mpisign project ": "needs SimGrid: tests/test_project.py runs it where smpirun is installed",
    r"^make bench$": "minutes; tests/test_ratios.py measures and compares",
    r"^mpisign bench compare OLD NEW$": "names two files: tests/test_ratios.py compares",
    r"^mpisign bench explain$": "names a command, without its mpirun",
}
# what the default run carries out; everything else by pytest --all
FAST = (
    "make demo",
    ".venv/bin/mpirun -n 4 .venv/bin/mpisign train my_job.toml",
    ".venv/bin/mpisign list  ",
    ".venv/bin/mpisign plot runs/demo.h5 ",
    ".venv/bin/mpisign compare runs  ",
    ".venv/bin/mpisign report ",
    ".venv/bin/mpisign data show data/mnist",
    ".venv/bin/python -m mpisign simulate -n 4 --set algorithm.name=heavy_ball:",
    ".venv/bin/python -m mpisign simulate -n 4 --set algorithm.name=shrunk:",
    ".venv/bin/mpirun -n 2 .venv/bin/python -m mpisign train --set problem.name=least_squares:",
    ".venv/bin/python -m mpisign simulate -n 4 --set problem.name=from_torch:",
    ".venv/bin/mpisign sbatch ",
)


def name_of(source: Path | str) -> str:
    """A README as a test's name has it."""
    return str(Path(source).relative_to(ROOT)) if Path(source).is_absolute() else str(source)


@dataclass(frozen=True)
class Block:
    language: str
    text: str

    @property
    def file(self) -> str:
        """The name under which it is saved: its first line."""
        named = re.match(r"# (\w+\.(?:py|toml))\n", self.text)
        return named[1] if named else ""

    @property
    def commands(self) -> list[str]:
        return (
            [line for line in self.text.splitlines() if line.split("#")[0].strip()] if self.language == "bash" else []
        )


def blocks(readme: Path) -> list[Block]:
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", readme.read_text(), re.DOTALL | re.MULTILINE)
    return [Block(language, text) for language, text in fences]


def prose(readme: Path) -> str:
    """A README without its blocks."""
    return re.sub(r"^```.*?^```$", "", readme.read_text(), flags=re.DOTALL | re.MULTILINE)


def inline(readme: Path) -> list[str]:
    """Commands between backticks, one line each."""
    start = r"(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?(?:mpirun|mpisign|python3?|sbatch|srun|make|pip|analysis/[\w/]+\.sh) "
    spans = (" ".join(text.split()) for text in re.findall(r"`([^`]+)`", prose(readme)))
    return list(dict.fromkeys(text for text in spans if re.match(start, text)))


def heads() -> list[str]:
    """Commands in the comments of jobs and batch scripts."""
    files = sorted([*(ROOT / "jobs").rglob("*.toml"), *(ROOT / "slurm").glob("*.sbatch")])
    lines = [line[1:].strip() for file in files for line in file.read_text().splitlines() if line.startswith("#")]
    start = r"mpisign (plot|compare) |(mpirun|mpisign|srun|sbatch|python|for) .*(mpisign|analysis/|jobs/)"
    return [line for line in lines if re.match(start, line)]


def everything(readme: Path) -> list[str]:
    """All commands of a README."""
    return [*(command for block in blocks(readme) for command in block.commands), *inline(readme)]


def plain(command: str) -> str:
    """A command without its comment, and without the folder of the environment."""
    return command.split("  #")[0].strip().replace(".venv/bin/", "")


def why_not(command: str) -> str:
    """The reason why a command is not run, or ""."""
    return next((reason for pattern, reason in NOT_RUN.items() if re.search(pattern, plain(command))), "")


def shortened(command: str) -> str:
    line, arrow, target = command.split("  #")[0].strip().partition(" > ")
    words = " ".join(STAND_FOR.get(word, word) for word in line.split(" "))
    more = next((more for pattern, more in SHORTER if re.search(pattern, words)), "")
    return f"{words} {more}".rstrip() + arrow + target


def stand_ins(folder: Path) -> None:
    """Tiny data in the formats and places of `mpisign data fetch`."""
    for name in ("mnist", "cifar10", "shakespeare", "a9a"):
        (folder / "data" / name).mkdir(parents=True)
    mnist_folder(folder / "data/mnist", 80)
    for k, name in enumerate([*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]):
        (folder / f"data/cifar10/{name}.bin").write_bytes(records(40, k).tobytes())
    (folder / "data/shakespeare/input.txt").write_text("To be, or not to be: that is the question. " * 200)
    rng = np.random.default_rng(0)
    rows = (f"{rng.choice([-1, 1]):+d} {k % 5 + 1}:1 {k % 7 + 6}:0.5\n" for k in range(60))
    (folder / "data/a9a/a9a").write_text("".join(rows))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The folder in which a reader of the READMEs works."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("jobs", "analysis", "slurm"):
        shutil.copytree(ROOT / name, folder / name)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy2(ROOT / name, folder)
    (folder / ".venv").symlink_to(sys.prefix)
    stand_ins(folder)
    return folder


def recipe(target: str, folder: Path, ranks: int) -> list[str]:
    """The commands of a target of the Makefile, its setup aside."""
    dry = ["make", "-n", "-o", ".venv/.ready", target, f"RANKS={ranks}"]
    printed = subprocess.check_output(dry, cwd=folder, text=True)
    return [line for line in printed.splitlines() if line.startswith(".venv/bin/")]


def carry_out(command: str, folder: Path, ranks: int = 8) -> None:
    """Runs a command, made short; it must end well, and without a traceback. ranks: those of make demo."""
    if command.startswith("make demo"):
        for line in recipe("demo", folder, ranks):
            carry_out(line, folder)
        return
    # as a user has it: no PYTHONPATH, and .venv/bin where the README leaves it out
    path = f"{folder}/.venv/bin{os.pathsep}{os.environ['PATH']}"
    line = shortened(command)
    ended = run("bash", "-c", line, timeout=300, cwd=folder, environment={"PYTHONPATH": "", "PATH": path})
    allowed = {0, *(code for pattern, code in ENDS if re.search(pattern, line))}
    assert ended.code in allowed, f"{line}\n{ended.out}\n{ended.err}"
    assert "Traceback" not in ended.err, f"{line}\n{ended.err}"


def work_through(readme: Path, folder: Path, wanted, ranks: int = 8) -> list[str]:
    """Saves what is to be saved, and runs snippets and the wanted commands, in order; returns the commands run."""
    done = []
    for block in blocks(readme):
        if block.file:
            (folder / block.file).write_text(block.text)
        elif block.language == "python":
            with contextlib.chdir(folder):
                exec(compile(block.text, str(readme), "exec"), {})
        for command in block.commands:
            if wanted(command) and not why_not(command):
                carry_out(command, folder, ranks)
                done.append(command)
    return done


def test_every_block_is_of_a_kind_that_is_run():
    assert READMES[0] == ROOT / "README.md"
    for readme in READMES:
        assert {b.language for b in blocks(readme)} <= {"bash", "python", "toml", "text", "diff"}, readme
        assert readme.read_text().count("\n```") == 2 * len(blocks(readme)), f"{readme}: a block without its end"
        assert all(block.file for block in blocks(readme) if block.language == "toml"), readme


def anchors(readme: Path) -> set[str]:
    """The fragments by which the headings of a README can be linked."""
    titles = re.findall(r"^#+ (.*)$", prose(readme), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def dead_links(readme: Path) -> list[str]:
    """Links of a README to files that are not there, and to headings that their file does not have."""
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(readme)):
        target, _, anchor = link.partition("#")
        file = (readme.parent / target).resolve() if target else readme
        if "://" not in link and not (file.exists() and (not anchor or anchor in anchors(file))):
            dead.append(link)
    return dead


@pytest.mark.parametrize("readme", READMES, ids=name_of)
def test_no_link_is_dead(readme):
    assert dead_links(readme) == []


def test_a_dead_link_would_be_found(tmp_path):
    (tmp_path / "README.md").write_text("# A: title\n[a](#a-title) [b](#b) [c](README.md#a-title) [d](d.md) [e](.)\n")
    assert dead_links(tmp_path / "README.md") == ["#b", "d.md"]


@pytest.mark.parametrize("readme", READMES, ids=name_of)
def test_files_that_are_named_are_there(readme):
    named = re.findall(r"`((?:mpisign|analysis|jobs|slurm|tests)/[\w./-]+)`", prose(readme))
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_the_readme_is_short_and_its_tree_is_that_of_the_repository():
    readme = READMES[0]
    assert len(readme.read_text().splitlines()) <= LONGEST
    tree = next(block.text for block in blocks(readme) if block.text.startswith("mpisign/\n"))
    package = [path for path in (ROOT / "mpisign").iterdir() if not path.name.startswith("_")]
    assert sorted(re.findall(r"^  (\w+)/", tree, re.MULTILINE)) == sorted(p.name for p in package if p.is_dir())
    assert sorted(re.findall(r"\w+\.py\b", tree)) == sorted(p.name for p in package if p.suffix == ".py")
    assert [name for name in re.findall(r"^(\w+)/", tree, re.MULTILINE) if not (ROOT / name).is_dir()] == []


def test_the_zoo_is_what_the_command_writes():
    text = (ROOT / "mpisign/algorithms/README.md").read_bytes()
    written = run(BIN / "mpisign", "algorithms", "--markdown").out.encode()
    assert text.split(b"<!-- mpisign algorithms --markdown -->\n\n")[1].split(b"\n<!-- end -->")[0] == written
    listed = re.findall(r"^\| \[`([a-z0-9-]+)`\]", written.decode(), re.MULTILINE)
    assert sorted(listed) == sorted(TABLE)
    families = prose(READMES[0]).split("## The zoo")[1].split("\n## ")[0]
    assert sorted(re.findall(r"`([a-z0-9-]+)`", families)) == sorted(listed)


def test_one_algorithm_is_not_described_as_markdown():
    refused = run(BIN / "mpisign", "algorithms", "lion", "--markdown")
    assert refused.code == 2
    assert refused.err == "mpisign: --markdown is about the whole zoo; leave out 'lion' or --markdown\n"


def test_nothing_is_listed_that_is_not_there():
    known = [plain(command) for readme in READMES for command in everything(readme)]
    assert [pattern for pattern in NOT_RUN if not any(re.search(pattern, command) for command in known)] == []


@pytest.mark.timeout(600)
def test_the_first_minutes(home):
    """A command of each kind, and all snippets, in the order of the READMEs."""
    done: list[str] = []

    def wanted(command: str) -> bool:
        return command.startswith(FAST) and plain(command) not in map(plain, done)

    for readme in READMES:
        done += work_through(readme, home, wanted, ranks=2)
    assert [start for start in FAST if not any(command.startswith(start) for command in done)] == []
    demo = Run(home / "runs/demo.h5")
    assert demo.complete
    assert demo.attributes["n"] == 2
    assert (home / "runs/demo.png").exists()
    assert "#SBATCH --ntasks-per-node=16" in (home / "mnist.sbatch").read_text()
    for name in ("digits-dist-ef-signsgd", "digits-heavy-ball-mv", "digits-shrunk-signum-mv", "FromTorch-signum-mv"):
        assert Run(home / f"runs/{name}-n4-seed1.h5").complete
    assert Run(home / "runs/LeastSquares-signum-mv-n2-seed1.h5")["eval"]["train_loss"][-1] > 0


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("readme", READMES, ids=name_of)
def test_every_command_runs(readme, home):
    for left in (home / "runs").glob("*"):  # another README may have the same run; all look at that of make demo
        if not left.name.startswith("demo"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    if readme != READMES[0] and not (home / "runs/demo.h5").exists():
        carry_out("make demo", home)
    done = {plain(command) for command in work_through(readme, home, lambda command: True)}
    for command in inline(readme):
        if command not in done and not why_not(command):
            # what the commands of the blocks have left
            saved = sorted((home / "runs/mine.checkpoints").glob("*.h5"))
            carry_out(command.replace("CHECKPOINT", str(saved[-1]) if saved else ""), home)


def parts(command: str) -> list[list[str]]:
    """The words of each call of mpisign, or of a script of ours, in a command."""
    program = r"(?:mpisign(?=\s|$)|analysis/[\w/]+\.\w+|slurm/\w+\.sbatch)"
    calls = re.findall(rf"{program}[^;&|>#()]*", command.split("  #")[0])
    return [[STAND_FOR.get(word, word) for word in shlex.split(call)] for call in calls]


def check(words: list[str]) -> None:
    """Raises what a call of mpisign would raise for its words alone; a script must be there."""
    program, *rest = words
    if program.endswith(".sbatch"):
        rest = ["train", *rest]
    elif program != "mpisign":
        assert (ROOT / program).exists(), program
        if program == "analysis/figures.py" and rest:
            figures = tomllib.loads((ROOT / "analysis/figures.toml").read_text())
            assert set(takewhile(lambda word: not word.startswith("-"), rest[1:])) <= set(figures), rest
        return
    context, command, name = command_line.click.Context(command_line.cli, info_name="mpisign"), command_line.cli, ""
    while hasattr(command, "commands") and rest:
        name, command, rest = command.resolve_command(context, rest)
    # a command's mere name needs no more than that it is one
    how = command.make_context(name, list(rest), parent=context).params if rest else {}
    if how and name in ("train", "simulate", "plan", "sbatch"):
        check_job(how, resolved=name != "plan")


def check_job(how: dict, resolved: bool) -> None:
    """The job that is named, with its settings; resolved: whether the command needs its data's place, too."""
    loaded = command_line._read(how["job"], how)
    if isinstance(loaded, list):
        configs = [p.config for p in loaded if p.settings is not None][:1]
    else:
        configs = [loaded]
    for config in configs:
        if resolved and ":" not in config.problem.name + config.algorithm.name:
            resolve(config, config.run.voters or how.get("voters") or 4)


@pytest.mark.parametrize("source", ["jobs", *READMES], ids=name_of)
def test_every_command_is_valid(source, monkeypatch, tmp_path):
    """Commands are parsed, and their jobs resolved, without being run."""
    monkeypatch.chdir(ROOT)
    saved = {} if source == "jobs" else {block.file: block.text for block in blocks(source) if block.file}
    for file, text in saved.items():
        (tmp_path / file).write_text(text)
    for command in heads() if source == "jobs" else everything(source):
        for words in parts(command) if "mpisign.bits" not in command else []:
            with told(command):
                check([str(tmp_path / word) if word in saved else word for word in words])
        for target in re.findall(r"^(?:[A-Z_]+=\S+ )*make ([a-z-]+)", command):
            assert f"\n{target}:" in (ROOT / "Makefile").read_text(), command


@contextlib.contextmanager
def told(command: str):
    """Says of which command an error is."""
    try:
        yield
    except Exception as error:
        raise AssertionError(f"{command}\n{error}") from error


def test_a_wrong_command_would_be_found():
    with pytest.raises(UsageError, match="did you mean steps"):
        check(["mpisign", "train", "--set", "run.stps=3"])
    with pytest.raises(UsageError, match=r"problem\.path"):
        check(["mpisign", "sbatch", "jobs/mnist_mlp.toml", "--nodes", "4"])
    with pytest.raises(command_line.click.UsageError, match="No such option"):
        check(["mpisign", "sbatch", "--task", "4"])
