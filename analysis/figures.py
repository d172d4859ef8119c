"""Remakes every figure, and the table beside it, from run files; with --run the runs, too, in minutes to hours.

python analysis/figures.py --run heterogeneity --data data/mnist

Without names it draws all (make figures). --list tells what there is, and which runs each is made of. A figure whose
runs are not there is named with the command that makes them, and the exit code is 1; others are made.
"""

import argparse
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MNIST, CIFAR10, TEXT = "folder of MNIST's IDX files", "folder of CIFAR-10's batches", "text of Shakespeare"
LIBSVM = "folder of the LIBSVM files a9a and mushrooms"
# bash runs all lines, with $RUNS, $OUTPUT and $DATA
AGAINST, PLOT, COMPARE = (f"python analysis/{script}.py" for script in ("against", "plot", "compare"))
BANDS, STUDIES, ON_DATA = (
    "python analysis/bands.py jobs/figures",
    "python analysis/studies",
    ' --set problem.path="$DATA"',
)


@dataclass(frozen=True)
class Figure:
    """A picture or a table: lines that draw it, lines that make its runs, and what --data has to be for those."""

    name: str
    runs: str
    draw: tuple[str, ...]
    make: tuple[str, ...]
    data: str = ""
    folder: str = "analysis"

    @property
    def output(self) -> str:
        return f"{self.folder}/{self.name}.png"

    @property
    def made_by(self) -> str:
        return f"python analysis/figures.py --run {self.name}" + (f" --data PATH, the {self.data}" if self.data else "")

    def bash(self, lines: tuple[str, ...], data: Path | None = None) -> int:
        """Runs lines one after another until one fails; returns its exit code."""
        paths = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        names = {"RUNS": self.runs, "OUTPUT": self.output, "DATA": str(data or ""), "PATH": paths}
        script = ["bash", "-euo", "pipefail", "-c", "\n".join(lines)]
        return subprocess.run(script, cwd=ROOT, env=os.environ | names).returncode


def of_job(job: str, *draw: str, data: str = "", name: str = "", folder: str = "analysis") -> Figure:
    """A figure of all points of a job, which `mpisign simulate` makes."""
    own, path = job.rpartition("/")[2], ON_DATA if data else ""
    return Figure(name or own, f"runs/{own}", draw, (f"mpisign simulate jobs/{job}.toml --jobs 2{path}",), data, folder)


def study(job: str, against: str, data: str = "", name: str = "") -> Figure:
    draw = f"{AGAINST} $RUNS --output $OUTPUT {against}"
    return of_job(f"studies/{job}", draw, data=data, name=name, folder="analysis/studies")


def best(metric: str, draw: str) -> str:
    """A line that draws the runs of the best rates."""
    return f"{COMPARE} $RUNS --files --metric {metric} | xargs {draw}"


def paper(job: str, metric: str = "", axes: str = "epoch gradient_evaluations") -> Figure:
    """Picture and table of all runs of a job, or of those of the best rates by a metric."""
    draw, table = f"{PLOT} --mean --axes {axes} --output $OUTPUT", f"{PLOT} --table > ${{OUTPUT%.png}}.md"
    lines = (best(metric, line) if metric else f"{line} $RUNS" for line in (draw, table))
    return of_job(f"papers/{job}", *lines, data=MNIST, folder="analysis/papers")


def scaling(kind: str) -> Figure:
    """Runs on 1, 2, 4 and 8 simulated hosts, which share the cores of this machine; needs root."""
    job = f"train jobs/{kind}_scaling.toml --overwrite{ON_DATA} --set run.steps=100 --set run.threads=1"
    make = (f"OMP_NUM_THREADS=1 timeout 600 analysis/links.sh {n} 1gbit {job} --set algorithm.name={method} "
            f"--set schedule.lr={lr} > /dev/null" for method, lr in (("signum-mv", 0.001), ("sgd", 0.1))
            for n in (1, 2, 4, 8))  # fmt: skip
    draw = ("python analysis/scaling.py $RUNS --output $OUTPUT",)
    return Figure(f"{kind}_scaling", f"runs/{kind}_scaling", draw, tuple(make), MNIST, "analysis/studies")


def trained(n: int, file: str, settings: str) -> str:
    """A line that makes one run by mpirun."""
    train = f"timeout 300 mpirun -n {n} mpisign train --overwrite --set run.file=$RUNS/{file}.h5"
    return f"{train} {settings} > /dev/null"


METHODS, EXCHANGES = ("signum-mv", "dist-ef-signsgd", "ssdm", "sgd"), ("sharded", "allgather", "allreduce")
CONVEX = (("signum-mv", 0.1, "inverse-sqrt"), ("dist-ef-signsgd", 1.0, "constant"), ("sgd", 1.0, "constant"))
VOTERS = "--x run.voters --metric train_loss --xlabel voters"
LOSS, SUCCESS = (
    f"{VOTERS} --log xy --y eval.train_loss --tail 0.2",
    f"{VOTERS} --log x --y probes.success_vote --tail 1",
)
ALPHA = "--x partition.alpha --categories --panels run.voters --width 4.2 --xlabel 'Dirichlet alpha'"

FIGURES = (
    study("breakdown", "--x adversary.voters --lines adversary.kind --y eval.train_loss --relative --log y --metric "
          "train_loss --xlabel 'lying voters of 27' --ylabel 'f / f at the start' --width 4.5"),
    study("adversaries_mnist", "--x adversary.voters/run.voters --panels adversary.kind --lines algorithm.name "
          "adversary.factor --xlabel 'share of lying voters'", MNIST),
    study("votes_quadratic", f"{LOSS} --panels problem.noise --lines schedule.kind"),
    study("votes_rosenbrock", f"{LOSS} --panels algorithm.accumulate --lines schedule.kind"),
    study("votes_rosenbrock", f"{SUCCESS} --panels algorithm.accumulate --lines schedule.kind",
          name="votes_rosenbrock_success"),
    study("votes_bimodal", f"{SUCCESS} --lines algorithm.accumulate --ylabel 'share of right votes' --width 4.5"),
    study("heterogeneity", ALPHA, MNIST),
    study("heterogeneity", f"{ALPHA} --y probes.descent --tail 1", MNIST, "heterogeneity_descent"),
    study("heterogeneity", f"{ALPHA} --y probes.dissimilarity --tail 1 --log y", MNIST, "heterogeneity_dissimilarity"),
    of_job("studies/density_cnn", f"{PLOT} --mean $RUNS --output $OUTPUT --axes epoch --rows eval.train_loss "
           "probes.gradient_density probes.noise_density probes.smoothness_density probes.critical",
           data=CIFAR10, folder="analysis/studies"),
    Figure("race", "runs/race_links", (f"{STUDIES}/race.py $RUNS --output $OUTPUT",),
           ('analysis/studies/race.sh "$DATA"',), MNIST, "analysis/studies"),
    *map(scaling, ("strong", "weak")),
    Figure("digits", "runs/digits", (f"{PLOT} $RUNS/{{{','.join(METHODS)}}}.h5 --output $OUTPUT",),
           tuple(trained(8, name, f"--set algorithm.name={name}") for name in METHODS)),
    Figure("digits_seeds", "runs/digits_seeds", (
        "for run in $RUNS/*.h5; do mpisign show $run | grep ^test_accuracy; done | tee $RUNS/accuracies.txt",
        "echo median: $(sort -n -k 2 $RUNS/accuracies.txt | sed -n 3p)",
    ), tuple(trained(8, f"seed{seed}", f"--set run.seed={seed}") for seed in range(1, 6))),
    Figure("bits", "runs/bits", tuple(
        f"echo $(mpisign show $RUNS/{name}-{n}.h5 | grep ^wire_bits), {name}, n = {n}, 2(n-1)/n: {2 * (n - 1) / n:.4f}"
        for n in (2, 3, 4, 8) for name in EXCHANGES
    ), tuple(
        trained(n, f"{name}-{n}", f"jobs/quadratic.toml --set problem.dimension=1000000 --set run.steps=20 "
                f"--set run.keep=none --set exchange.name={name}")
        for n in (2, 3, 4, 8) for name in EXCHANGES
    )),
    Figure("logistic", "runs/logistic", (f"{STUDIES}/logistic_gap.py $RUNS",), tuple(
        f'for file in "$DATA"/{data}{{,.gz,.bz2}}; do [ ! -f "$file" ] || ' + trained(
            4, f"{data}-{kind}-{name}", f'jobs/logistic.toml --set problem.path="$file" --set partition.kind={kind} '
            f"--set algorithm.name={name} --set schedule.lr={lr} --set schedule.kind={schedule}") + "; done"
        for data in ("a9a", "mushrooms") for kind in ("iid", "sorted") for name, lr, schedule in CONVEX
    ), LIBSVM),
    Figure("bands", "runs/c1", (f"{BANDS}/{{c1,c2,c3,c5,c6,c7}}.toml",),
           tuple(f"mpisign simulate jobs/figures/{c}.toml --jobs 2" for c in ("c1", "c2", "c3", "c5", "c6", "c7"))),
    of_job("figures/c8", f"{PLOT} --mean $RUNS --output $OUTPUT --axes step --rows eval.train_loss",
           f"{BANDS}/c8.toml", name="one_noisy_coordinate", folder="analysis/studies"),
    of_job("figures/c12", f"{PLOT} $RUNS --output $OUTPUT", f"{BANDS}/c12.toml{ON_DATA}", data=MNIST),
    of_job("figures/c13", f"{STUDIES}/span.py $RUNS --output $OUTPUT", f"{BANDS}/c13.toml"),
    of_job("mnist_methods", f"{COMPARE} $RUNS --target 0.9 --format markdown",
           best("test_accuracy", f"{PLOT} --output $OUTPUT"), data=MNIST),
    of_job("shakespeare_methods", best("test_loss", f"{PLOT} --mean --axes step bytes --output $OUTPUT"),
           best("test_loss", f"{PLOT} --table > analysis/shakespeare.md"), data=TEXT, name="shakespeare"),
    paper("ssvr_mnist", "train_loss"),
    paper("signsgd_mnist", "test_accuracy", "bytes gradient_evaluations"),
    paper("signsgd_mnist_450mb", "test_accuracy", "bytes gradient_evaluations"),
    paper("ssvr_beta"),
    paper("ssvr_batch"),
)  # fmt: skip


def make(figure: Figure, data: Path | None, run: bool) -> str:
    """Draws one figure, its runs first if they are to be made; returns what is wrong, or nothing."""
    if run and (code := figure.bash(figure.make, data)):
        return f"its runs could not be made (exit code {code})"
    if not (ROOT / figure.runs).exists():
        return f"no {figure.runs}; make it by: {figure.made_by}"
    code = figure.bash(figure.draw, data)
    return f"could not be drawn (exit code {code})" if code else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="FIGURE")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--run", action="store_true", help="make the runs first")
    parser.add_argument("--data", type=Path, help="what the runs are to be made of, see --list")
    options = parser.parse_args()
    known = {figure.name: figure for figure in FIGURES}
    if unknown := set(options.names) - known.keys():
        parser.error(f"no figure {sorted(unknown)[0]!r}; known: {', '.join(sorted(known))}")
    chosen = [figure for figure in FIGURES if figure.name in (options.names or known)]
    if options.list:
        print(*(f"{f.name:28} {f.runs}{f', of the {f.data}' if f.data else ''}" for f in chosen), sep="\n")
        return
    needed = {figure.data for figure in chosen if figure.data} if options.run else set()
    if len(needed) > 1 or (needed and not options.data):
        parser.error(f"--run needs --data, one at a time: {'; or '.join(f'the {data}' for data in sorted(needed))}")
    data = options.data and options.data.resolve()
    failed = 0
    for figure in chosen:
        wrong = make(figure, data, options.run)
        print(f"{figure.name}: {wrong or 'made'}", flush=True)
        failed += bool(wrong)
    sys.exit(int(failed > 0))


if __name__ == "__main__":
    main()
