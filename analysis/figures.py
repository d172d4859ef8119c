"""Remakes every figure, and the table beside it, from run files: `make figures`.

python analysis/figures.py                  all of them
python analysis/figures.py breakdown race   only these
python analysis/figures.py --list           what there is, and which runs each is made of

A figure whose runs are not there is named with the command that makes them, and the exit code is 1; others are made.
"""

import argparse
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STUDIES = "analysis/studies"


@dataclass(frozen=True)
class Figure:
    """A picture: the script and arguments that draw it, the runs it is made of, and what makes those."""

    output: str
    runs: tuple[str, ...]
    draw: str  # SCRIPT ARGUMENTS, {runs} and {output} filled in
    made_by: str

    @property
    def name(self) -> str:
        return Path(self.output).stem


def study(name: str, draw: str, needs: str = "", output: str = "") -> Figure:
    """A figure of one study, whose runs are made by `mpisign simulate` of its job."""
    job = f"mpisign simulate jobs/studies/{name}.toml --jobs 2" + (f" --set problem.path={needs}" if needs else "")
    return Figure(f"{STUDIES}/{output or name}.png", (f"runs/{name}",), draw, job)


VERSUS = "versus.py {runs} --output {output} "
DIGITS = ("signum-mv", "dist-ef-signsgd", "ssdm", "sgd")
BEST = "compare.py {runs} --files --metric "

FIGURES = (
    study("breakdown", VERSUS + "--x adversary.voters --lines adversary.kind --y eval.train_loss --relative --log y "
          "--metric train_loss --xlabel 'lying voters of 27' --ylabel 'f / f at the start' --width 4.5"),
    study("adversaries_mnist", VERSUS + "--x adversary.voters/run.voters --panels adversary.kind "
          "--lines algorithm.name adversary.factor --xlabel 'share of lying voters'", "MNIST"),
    study("votes_quadratic", VERSUS + "--x run.voters --panels problem.noise --lines schedule.kind --log xy "
          "--y eval.train_loss --tail 0.2 --metric train_loss --xlabel voters"),
    study("votes_rosenbrock", VERSUS + "--x run.voters --panels algorithm.accumulate --lines schedule.kind --log xy "
          "--y eval.train_loss --tail 0.2 --metric train_loss --xlabel voters"),
    study("votes_rosenbrock", VERSUS + "--x run.voters --panels algorithm.accumulate --lines schedule.kind --log x "
          "--y probes.success_vote --tail 1 --metric train_loss --xlabel voters", output="votes_rosenbrock_success"),
    study("votes_bimodal", VERSUS + "--x run.voters --lines algorithm.accumulate --y probes.success_vote --tail 1 "
          "--metric train_loss --xlabel voters --log x --ylabel 'share of right votes' --width 4.5"),
    study("heterogeneity", VERSUS + "--x partition.alpha --categories --panels run.voters --width 4.2 "
          "--xlabel 'Dirichlet alpha'", "MNIST"),
    study("heterogeneity", VERSUS + "--x partition.alpha --categories --panels run.voters --width 4.2 "
          "--y probes.descent --tail 1 --xlabel 'Dirichlet alpha'", "MNIST", "heterogeneity_descent"),
    study("heterogeneity", VERSUS + "--x partition.alpha --categories --panels run.voters --width 4.2 "
          "--y probes.dissimilarity --tail 1 --log y --xlabel 'Dirichlet alpha'", "MNIST",
          "heterogeneity_dissimilarity"),
    study("density_cnn", "seeds.py {runs} --output {output} --axes epoch --rows eval.train_loss "
          "probes.gradient_density probes.noise_density probes.smoothness_density probes.critical", "CIFAR10"),
    Figure(f"{STUDIES}/one_noisy_coordinate.png", ("runs/c8",), "seeds.py {runs} --output {output} --axes step "
           "--rows eval.train_loss", "mpisign simulate jobs/figures/c8.toml --jobs 2"),
    Figure(f"{STUDIES}/race.png", ("runs/race_links",), "race.py {runs} --output {output}", "analysis/race.sh MNIST"),
    *(Figure(f"{STUDIES}/{kind}_scaling.png", (f"runs/{kind}_scaling",), "scaling.py {runs} --output {output}",
             "analysis/scaling.sh MNIST") for kind in ("strong", "weak")),
    Figure("analysis/digits.png", tuple(f"runs/picture-{m}.h5" for m in DIGITS),
           "curves.py {runs} --output {output}", "analysis/digits_picture.sh"),
    Figure("analysis/c12.png", ("runs/c12",), "curves.py {runs} --output {output}", "analysis/bands.sh MNIST"),
    Figure("analysis/c13.png", ("runs/c13",), "span.py {runs} --output {output}", "analysis/bands.sh"),
    Figure("analysis/mnist_methods.png", ("runs/mnist_methods",),
           f"{BEST} test_accuracy | curves.py --output {{output}}", "analysis/mnist_methods.sh MNIST"),
    Figure("analysis/shakespeare.png", ("runs/shakespeare_methods",),
           f"{BEST} test_loss | seeds.py --axes step bytes --output {{output}}", "analysis/shakespeare.sh TEXT"),
    *(Figure(f"analysis/papers/{name}.png", (f"runs/{name}",), f"{BEST} {metric} | seeds.py {axes} --output {{output}}",
             "analysis/papers.sh MNIST") for name, metric, axes in (
        ("ssvr_mnist", "train_loss", ""),
        ("signsgd_mnist", "test_accuracy", "--axes bytes gradient_evaluations"),
        ("signsgd_mnist_450mb", "test_accuracy", "--axes bytes gradient_evaluations"))),
    *(Figure(f"analysis/papers/{name}.png", (f"runs/{name}",), "seeds.py {runs} --output {output}",
             "analysis/papers.sh MNIST") for name in ("ssvr_beta", "ssvr_batch")),
)  # fmt: skip


def make(figure: Figure) -> str:
    """Draws one figure; returns what is wrong, or nothing."""
    missing = [run for run in figure.runs if not (ROOT / run).exists()]
    if missing:
        return f"no {missing[0]}; make it by: {figure.made_by}"
    files: list[str] = []
    for part in figure.draw.split(" | "):
        filled = part.format(runs=" ".join(figure.runs), output=figure.output)
        script, *arguments = shlex.split(filled)
        command = [sys.executable, f"analysis/{script}", *files, *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            return f"{script}: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else done.returncode}"
        files = done.stdout.split()
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="FIGURE")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    known = [figure.name for figure in FIGURES]
    if unknown := set(options.names) - set(known):
        parser.error(f"no figure {sorted(unknown)[0]!r}; known: {', '.join(sorted(known))}")
    failed = 0
    for figure in FIGURES:
        if options.names and figure.name not in options.names:
            continue
        if options.list:
            print(f"{figure.name:28} {', '.join(figure.runs)}")
            continue
        wrong = make(figure)
        print(f"{figure.output}: {wrong or 'made'}", flush=True)
        failed += bool(wrong)
    sys.exit(int(failed > 0))


if __name__ == "__main__":
    main()
