"""The package as a stranger gets it: built, installed in an empty folder without the repository, and run there.

python -m tests.package                  sdist and wheel, the wheel in a fresh environment with MPICH
python -m tests.package --lowest         the same with the lowest versions that pyproject.toml allows
"""

import argparse
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from pathlib import Path

from tests.running import ROOT

EXTRAS = ("mpich", "analysis")
LOOP = """
import torch
from mpisign.optim import SignOptimizer

torch.manual_seed(0)
model = torch.nn.Linear(8, 1)
optimizer = SignOptimizer(model, "signum-mv", lr=0.01)
x = torch.randn(256, 8)
y = x.sum(1, keepdim=True)
for step in range(300):
    optimizer.zero_grad()
    loss = torch.nn.functional.mse_loss(model(x), y)
    loss.backward()
    optimizer.step()
assert loss.item() < 0.01, loss.item()
"""


def run(*command, cwd, seconds=600) -> str:
    """What a command prints, which must end well; the repository is not on its path."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    ended = subprocess.run([str(c) for c in command], cwd=cwd, env=environment, timeout=seconds, text=True,
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
    if ended.returncode:
        sys.exit(f"{' '.join(map(str, command))}: exit code {ended.returncode}\n{ended.stdout[-4000:]}")
    return ended.stdout


def build(folder: Path) -> Path:
    """Builds sdist and wheel, looks into both, and returns the wheel."""
    run(sys.executable, "-m", "build", "--outdir", folder, ROOT, cwd=folder)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    inside = set(zipfile.ZipFile(wheel).namelist())
    jobs = {f"mpisign/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "jobs").rglob("*.toml")}
    code = {path.relative_to(ROOT).as_posix() for path in (ROOT / "mpisign").rglob("*.py")}
    lacking = (jobs | code | {"mpisign/py.typed", "mpisign/figures/report.html"}) - inside
    assert not lacking, f"{wheel.name} lacks {sorted(lacking)}"
    assert not [name for name in inside if name.endswith((".nbi", ".nbc", ".pyc"))], "compiled code in the wheel"
    with tarfile.open(sdist) as opened:
        packed = {name.partition("/")[2] for name in opened.getnames()}
    wanted = {"setup.py", "README.md", "LICENSE", "jobs/digits.toml", "slurm/train.sbatch", "mpisign/__init__.py"}
    assert not wanted - packed, f"{sdist.name} lacks {sorted(wanted - packed)}"
    return wheel


def lowest() -> list[str]:
    """The lower bounds of what an installation with EXTRAS needs, as exact versions."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + [line for extra in EXTRAS for line in project["optional-dependencies"][extra]]
    return [re.sub(r">=", "==", line) for line in wanted]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lowest", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "dist").mkdir()
        wheel = build(folder / "dist")
        print(f"built {wheel.name}")
        empty = folder / "empty"
        empty.mkdir()
        run(sys.executable, "-m", "venv", "venv", cwd=empty)
        pins = lowest() if options.lowest else ["--constraint", ROOT / "constraints.txt"]
        run("venv/bin/pip", "install", "--quiet", f"{wheel}[{','.join(EXTRAS)}]", *pins, cwd=empty, seconds=1200)
        print(run("venv/bin/pip", "list", "--format=freeze", cwd=empty))
        use(empty)
    print("the installed package works")


def use(empty: Path) -> None:
    """What a stranger does first, in a folder that has an environment and nothing else."""
    mpirun, mpisign = ["venv/bin/mpirun", "-n", 2], "venv/bin/mpisign"
    told = run(*mpirun, mpisign, "train", "digits", "--set", "run.epochs=2", "--set", "run.file=first.h5", cwd=empty)
    print(told)
    assert "complete" in run(mpisign, "show", "first.h5", cwd=empty)
    assert "complete" in run(mpisign, "list", ".", cwd=empty)
    run(mpisign, "plot", "first.h5", "--output", "first.png", cwd=empty)
    assert (empty / "first.png").stat().st_size > 5_000
    run(mpisign, "report", "first.h5", cwd=empty)
    assert "data:image/png;base64," in (empty / "report.html").read_text()
    script = run(mpisign, "sbatch", "digits", "--nodes", 2, "--tasks", 4, cwd=empty)
    (job,) = re.findall(r"\S*digits\.toml", script)
    assert Path(empty, job).is_file(), job
    assert "signum-mv" in run(mpisign, "algorithms", cwd=empty)
    (empty / "loop.py").write_text(LOOP)
    run(*mpirun, "venv/bin/python", "loop.py", cwd=empty)


if __name__ == "__main__":
    main()
