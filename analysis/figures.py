"""Remakes every figure, and the table beside it, from run files; with --run the runs, too, in minutes to hours.

python analysis/figures.py --run heterogeneity --data data/mnist

Without names it draws all of figures.toml (make figures). --list tells what there is, and which runs each is made of. A
figure whose runs are not there is named with the command that makes them, and the exit code is 1; others are made.
"""

import argparse
import os
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA = {
    "MNIST": "the folder of MNIST's IDX files",
    "CIFAR10": "the folder of CIFAR-10's batches",
    "TEXT": "the text of Shakespeare",
    "LIBSVM": "the folder of the LIBSVM files a9a and mushrooms",
}


@dataclass(frozen=True)
class Figure:
    """A picture or a table; see figures.toml."""

    name: str
    draw: str
    job: str = ""
    make: str = 'mpisign simulate jobs/$JOB.toml --jobs 2 ${DATA:+--set problem.path="$DATA"}'
    runs: str = ""
    data: str = ""
    folder: str = ""

    def __post_init__(self):
        job = Path(self.job)
        object.__setattr__(self, "runs", self.runs or f"runs/{job.name or self.name}")
        own = job.parent if job.parent.name in ("studies", "papers") else ""
        object.__setattr__(self, "folder", self.folder or str(Path("analysis") / own))

    def bash(self, lines: str, data: Path | None) -> int:
        """Runs lines by bash until one fails; returns its exit code."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        output = f"{self.folder}/{self.name}.png"
        names = {"JOB": self.job, "RUNS": self.runs, "OUTPUT": output, "DATA": str(data or ""), "PATH": path}
        script = ["bash", "-euo", "pipefail", "-c", SHELL + lines]
        return subprocess.run(script, cwd=ROOT, env=os.environ | names).returncode


TABLES = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())
SHELL = TABLES.pop("shell") + "\n"
FIGURES = [Figure(name, **table) for name, table in TABLES.items()]


def make(figure: Figure, data: Path | None, run: bool) -> str:
    """Draws one figure, its runs first if they are to be made; returns what is wrong, or nothing."""
    if run and (code := figure.bash(figure.make, data)):
        return f"its runs could not be made (exit code {code})"
    if not (ROOT / figure.runs).exists():
        needs = f" --data {figure.data}" if figure.data else ""
        return f"no {figure.runs}; make it by: python analysis/figures.py --run {figure.name}{needs}"
    code = figure.bash(figure.draw, data)
    return f"could not be drawn (exit code {code})" if code else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="FIGURE")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--run", action="store_true", help="make the runs first")
    parser.add_argument("--data", type=Path, help="what the runs are made of, as --list says")
    options = parser.parse_args()
    known = [figure.name for figure in FIGURES]
    if unknown := set(options.names) - set(known):
        parser.error(f"no figure {sorted(unknown)[0]!r}; known: {', '.join(sorted(known))}")
    chosen = [figure for figure in FIGURES if figure.name in (options.names or known)]
    if options.list:
        for figure in chosen:
            print(f"{figure.name:28} {figure.runs:28} {DATA.get(figure.data, '')}".rstrip())
        return
    needed = sorted({DATA[figure.data] for figure in chosen if figure.data}) if options.run else []
    if len(needed) > 1 or (needed and not options.data):
        parser.error(f"--run needs one --data at a time; it is {'; '.join(needed)}")
    failed = 0
    for figure in chosen:
        wrong = make(figure, options.data and options.data.resolve(), options.run)
        print(f"{figure.name}: {wrong or 'made'}", flush=True)
        failed += bool(wrong)
    sys.exit(int(failed > 0))


if __name__ == "__main__":
    main()
