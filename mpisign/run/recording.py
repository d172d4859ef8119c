"""What a run tells: rows of its file, evaluations, the header and the summary. It never changes the run."""

import math
import os
import platform
from collections.abc import Mapping
from importlib.metadata import version

import numpy as np
import torch

from mpisign import __version__
from mpisign.algorithms.slots import State
from mpisign.config import run_path
from mpisign.engine.stepper import Outcome
from mpisign.engine.timing import Timer
from mpisign.errors import StorageError, printable
from mpisign.parallel import mpi
from mpisign.parallel.device import name_of, peak
from mpisign.parallel.mpi import Ranks
from mpisign.parallel.watchdog import WATCH
from mpisign.problems.data.loader import DeviceLoader
from mpisign.run import budget, progress
from mpisign.run.evaluate import gradient_norms, measure, statistics
from mpisign.run.mirror import Mirror
from mpisign.run.resume import COUNTED, Start
from mpisign.run.setup import Setup
from mpisign.storage import checkpoint
from mpisign.storage.reader import Run
from mpisign.storage.schema import PHASES, SIMULATED, SNR_EDGES, TABLES
from mpisign.storage.writer import NoWriter, RunWriter

LOST = "MPISIGN_LOST"  # the hosts that a batch script goes on without, since the segment before
LISTED = 8  # voters that a note names
COUNTERS = ("up", "down", "other", "evaluations", "values", "clipped", "seconds")
METHOD = ("method_up", "method_down")  # bits by the method's definition; older checkpoints do not know of them
PER_RANK = ("up", "down", "other", *METHOD)  # sums over all ranks of which their mean is told


class RunLog:
    """Watches one Stepper; collective where it measures, silent on ranks other than root."""

    def __init__(self, setup: Setup, ranks: Ranks, quiet: bool = False, verbose: bool = False):
        """quiet: nothing is printed. verbose: the header tells all."""
        self.plan, self.config, self.share, self.stepper = setup.plan, setup.plan.config, setup.share, setup.stepper
        self.rows_per_minibatch, self.ranks, self.quiet, self.verbose = setup.rows_per_minibatch, ranks, quiet, verbose
        self.why_threads = setup.why_threads
        self.world, self.oracles, self.everyone = self.stepper.world, self.stepper.oracles, setup.everyone
        self.test = [DeviceLoader(part, self.stepper.layout.device) if part else None for part in self.share.test]
        self.printer = self._make_printer()
        self.writer = NoWriter()
        self.path = run_path(self.config, self.world.n)
        self.best, self.kept, self.kept_step = math.inf, self._point({}), 0  # all of x and what goes with it, by name
        self.before = dict.fromkeys((*COUNTERS, *METHOD), 0)  # what was counted before this segment of the run
        self.seen = (0, 0)  # steps before this segment, and rows of minibatches in them
        self.voters = self.world.n  # most of any segment
        self.rows = dict.fromkeys(COUNTED, 0)  # of each table of the run file; root's are right
        self.counted: tuple[dict[str, float], dict[str, float]] = {}, {}  # at last, by this process and by all

    def _make_printer(self) -> progress.Silent:
        shown = self.ranks.root and not self.quiet
        seconds = lambda: self.before["seconds"] + self.clock.elapsed()  # noqa: E731
        run, launched = self.config.run, bool(mpi.launch().by)
        return progress.make(shown, run.steps, launched, run.log == "json", seconds)

    # Start and end

    def open(self, start: Start) -> None:
        """Opens the run file on root; raises UsageError on all ranks if that can't be."""
        going_on = start.kind == "resume"
        with self.ranks.agreed(), WATCH.at("opening the run file"):
            if self.ranks.root:
                self._make_writer(start, start.rows() if going_on else None)
        segment, text = self._segment(), start.text
        if going_on and self.ranks.root and (changes := start.changes(segment)):
            text += f"; from here on the bits may differ, as there is another {changes}"
        self._add("segments", step=self.stepper.t, **segment)
        if lost := os.environ.get(LOST, ""):
            self.event("lost", self.stepper.t, f"no longer answered: {printable(lost)}")
        self.event("resume" if going_on else "start", self.stepper.t, text)
        if start.regrouped:
            self.event("ranks", self.stepper.t, start.regrouped)
        self.clock = Timer()

    def _make_writer(self, start: Start, tables: dict[str, dict[str, np.ndarray]] | None) -> None:
        """On root. tables: the rows so far of a run that goes on."""
        run, contents = self.config.run, (self._attributes(), self.config.text(), self._arrays())
        settings = {"overwrite": run.overwrite or start.run is not None, "mode": run.recorder}
        if tables:
            self.voters = max(self.world.n, *tables["segments"]["n"])
        self.writer = RunWriter(self.path, *contents, **settings, widths=self._widths(), tables=tables)
        if tables is None:
            checkpoint.remove_all(self.path)
        self.rows |= {table: len(columns["step"]) for table, columns in (tables or {}).items()}

    def complete(self) -> None:
        """Keeps the parameters and marks the run as complete. Raises StorageError on all ranks if that can't be."""
        last = self._point(statistics(self.stepper, self.everyone))
        with self.ranks.agreed():
            if self.config.run.keep != "none" and self.ranks.root:
                self._save_model(last)
            self.writer.event("complete", self.stepper.t)
            if self.writer.failure:
                raise self.writer.failure
        self.printer.event("complete", self.stepper.t, exit_code=0)

    def event(self, kind: str, step: int, text: str = "", exit_code: int | None = None) -> None:
        """A row of /events, told where the run is followed. exit_code: of an end, with which the process will leave."""
        self.writer.event(kind, step, text)
        self.printer.event(kind, step, text, exit_code)

    def _save_model(self, last: State) -> None:
        file, keeps_last = self.path.with_suffix(".model"), self.config.run.keep == "last"
        point, step = (last, self.stepper.t) if keeps_last else (self.kept, self.kept_step)
        parameters = self.stepper.layout.whole.views(point["x"]) | {k: a for k, a in point.items() if k != "x"}
        try:
            checkpoint.save_model(file, parameters, step=step, run_file=self.path.name)
        except (OSError, RuntimeError) as error:
            raise StorageError(f"can't write {file}: {error}") from error

    def close(self) -> None:
        """Closes what is open, whatever happened."""
        self.printer.close()
        self.writer.close()

    # What a checkpoint remembers of a run file

    def progress(self) -> dict[str, object]:
        """What is to be known to go on, for JSON. Collective."""
        totals = {name: value for name, value in self._totals().items() if math.isfinite(value)}
        seconds = self.before["seconds"] + self.clock.elapsed()
        kept = {"best": self.best if math.isfinite(self.best) else None, "kept_step": self.kept_step}
        rows = {t: self.rows[t] for t in COUNTED}
        counted = {"counters": totals | {"seconds": seconds}, "seen": self._rows_seen()}
        return counted | kept | {"rows": rows, "data": self.share.data}

    def restore_counters(self, progress: dict, kept: State | None, before: int) -> None:
        """Goes on counting from what progress() told. before: how many voters counted it."""
        self.before |= dict.fromkeys(METHOD, math.nan) | progress["counters"]
        if before != self.world.n:
            # means over ranks are told: those of each stretch add up
            for name in PER_RANK:
                self.before[name] *= self.world.n / before
        if "seen" in progress:
            self.seen = self.stepper.t, progress["seen"]
        self.best = math.inf if progress["best"] is None else progress["best"]
        self.kept, self.kept_step = self.kept if kept is None else kept, progress["kept_step"]

    def _add(self, table: str, **row) -> None:
        self.writer.append(table, **row)
        self.rows[table] = self.rows.get(table, 0) + 1

    def summarise(self) -> None:
        """Prints the summary as it stands in the run file."""
        if self.ranks.root and not self.quiet:
            self.printer.figures("summary", Run(self.path).summary())

    # Rows

    def record(self, outcome: Outcome, lr: float) -> None:
        """A row of /steps for the step just taken, whose votes were counted."""
        row = {"step": self.stepper.t, "loss": outcome.loss, "learning_rate": lr}
        self._add("steps", **row, **outcome.totals(self.everyone), **self._costs())

    def check(self) -> None:
        """Compares replicas and writes the phases' seconds of every rank."""
        self.stepper.check_replicas()
        measured = [*self.stepper.timer.take(), float(peak(self.stepper.layout.device))]
        rows = self.everyone.gather(np.array(measured))
        for (rank, *_), (*seconds, memory) in zip(self.everyone.by_process, rows, strict=True):
            row = dict(zip(PHASES, seconds, strict=True)) | {"memory": int(memory)}
            self._add("phases", step=self.stepper.t, rank=rank, **row)

    def evaluate(self, loss: float, lr: float) -> None:
        """A row of /eval at the present point."""
        stepper, step = self.stepper, self.stepper.t
        with stepper.timer("evaluate"):
            gathered, everyone = statistics(stepper, self.everyone), self.everyone
            x = stepper.oracles[0].whole(stepper.x)
            figures = measure(stepper, everyone, x, self.test, gathered)
            figures |= gradient_norms(stepper, everyone, x, self.config.run.exact_gradient)
            self._add("eval", step=step, **figures, **self._costs())
            if self.config.run.trace:
                point = [p.reshape(-1).cpu().numpy() for p in stepper.layout.whole.views(x).values()]
                self._add("trace", step=step, x=np.concatenate(point))
        shown = {name: figures[name] for name in ("train_loss", "test_accuracy")}
        self.printer.update(step, loss if step else figures["train_loss"], lr, shown)
        accuracy = figures["test_accuracy"]
        better = -accuracy if math.isfinite(accuracy) else figures["train_loss"]
        if self.config.run.keep == "best" and better < self.best:
            self.best = better
            self.keep(step, gathered)

    def probed(self, row: Mapping[str, object]) -> None:
        """A row of /probes for the step just taken."""
        # voters that only another segment of the run has
        absent = np.full(self.voters - self.world.n, math.nan)
        own = {c.name: np.append(row[c.name], absent) for c in TABLES["probes"] if c.each == "voter"}
        self._add("probes", step=self.stepper.t, epoch=self._epoch(), **{**row, **own})

    def keep(self, step: int, gathered: State | None = None) -> None:
        """Keeps the present point, after `step` steps, for the end of the run. Collective, where nothing is given."""
        point = self._point(statistics(self.stepper, self.everyone) if gathered is None else gathered)
        if self.ranks.root or self.config.run.lost_ranks != "stop":  # root may be lost
            self.kept, self.kept_step = {k: a.clone() for k, a in point.items()}, step

    def _point(self, gathered: State) -> State:
        """All of x, and a model's statistics beside it, by name. Collective among the ranks of a voter."""
        return {"x": self.oracles[0].whole(self.stepper.x)} | gathered

    def _costs(self) -> dict[str, float]:
        """Cumulative costs, the same numbers for every table."""
        total, n = self._totals(), self.world.n
        return {
            "epoch": self._epoch(),
            "bytes_up": round(total["up"] / n),
            "bytes_down": round(total["down"] / n),
            "bytes_other": round(total["other"] / n),
            "method_bytes_up": total["method_up"] / 8 / n,
            "method_bytes_down": total["method_down"] / 8 / n,
            "gradient_evaluations": int(total["evaluations"]),
            "function_evaluations": int(total["values"]),
            "clipped": int(total["clipped"]),
            "seconds": self.before["seconds"] + self.clock.elapsed(),
        }

    def _epoch(self) -> float:
        """Rows of minibatches so far, over all rows."""
        return self._rows_seen() / max(self.share.rows.sum(), 1)

    def _rows_seen(self) -> int:
        """Rows of minibatches so far, of all voters together."""
        (steps, rows), minibatches = self.seen, self.stepper.algorithm.minibatches
        return rows + (minibatches(self.stepper.t) - minibatches(steps)) * self.rows_per_minibatch

    def _totals(self) -> dict[str, float]:
        """Bytes, the method's bits, gradients taken and gradients clipped, over all ranks, since the run began."""
        traffic, cost = self.world.traffic, self.world.cost
        now = {"up": traffic.up, "down": traffic.down, "other": traffic.other}
        for name in ("evaluations", "values", "clipped"):
            now[name] = sum(getattr(oracle, name) for oracle in self.oracles)
        total = self.everyone.sums(now) | {"method_up": cost.up, "method_down": cost.down}
        self.counted = now, total
        return {name: self.before[name] + value for name, value in total.items()}

    # What is written once

    def _attributes(self) -> dict[str, object]:
        plan = self.plan
        return {
            "mpisign_version": __version__,
            "algorithm": plan.entry.name,
            "definition": repr(plan.algorithm),
            "paper": plan.entry.paper,
            "problem": self.config.problem.name,
            "exchange": ", ".join(choice.name for choice in plan.choices),
            "exchange_reason": "; ".join(choice.reason for choice in plan.choices),
            "exchange_details": "; ".join(choice.details for choice in plan.choices if choice.details),
            "n": self.voters,
            "d": self.stepper.layout.size,
            "seed": str(self.config.run.seed),
            "data": self.share.data,
        }

    def _arrays(self) -> dict[str, np.ndarray]:
        segments = self.stepper.layout.segments
        return {
            "layout/name": np.array([s.name.encode() for s in segments]),
            "layout/shape": np.array([str(list(s.shape)).encode() for s in segments]),
            "layout/offset": np.array([s.offset for s in segments]),
            "layout/size": np.array([s.size for s in segments]),
            "partition/rows": self.share.rows,
            "partition/class_counts": self.share.class_counts,
        }

    def _widths(self) -> dict[str, int]:
        traced = self.stepper.layout.size if self.config.run.trace else 0
        return {"coordinate": traced, "voter": self.voters, "bin": len(SNR_EDGES) + 1}

    def _segment(self) -> dict[str, object]:
        packages = [f"{p} {version(p)}" for p in ("torch", "numpy", "mpi4py", "h5py", "numba")]
        return {
            "n": self.world.n,
            "hosts": self.ranks.hosts,
            "device": name_of(self.stepper.layout.device),
            "threads": self.ranks.threads,
            "mpi": self.ranks.library or SIMULATED,
            "versions": ", ".join([f"python {platform.python_version()}", *packages]),
            "torch_build": f"{torch.__version__} {torch.backends.cpu.get_cpu_capability()}",
        }

    def print_header(self) -> None:
        """What runs where, before the first step."""
        ranks, config, plan, say = self.ranks, self.config, self.plan, self.printer.line
        d = self.stepper.layout.size
        say(f"mpisign {__version__}: {plan.entry.name} on {config.problem.name}, {d:,} coordinates")
        each = f", of {self.world.each} ranks each" if self.world.each > 1 else ""
        owner = "rank" if each else "voter"
        say(f"mpi: {ranks.library or SIMULATED}; ranks per host: {ranks.hosts}; voters: {self.world.n}{each}")
        why = f" ({self.why_threads})" if self.why_threads else ""
        say(f"device: {name_of(self.stepper.layout.device)}, {ranks.threads} thread(s) per rank{why}")
        if plan.preset:
            say(f"preset: {plan.preset}")
        say(f"exchange: {', then '.join(f'{choice.name} ({choice.reason})' for choice in plan.choices)}")
        if self.verbose:
            for details in (choice.details for choice in plan.choices if choice.details):
                say(f"exchange: {details}")
            say(f"definition: {plan.algorithm!r}")
        if (rows := self.share.rows).any():
            say(f"rows per {owner}: {rows.min()} to {rows.max()}, partition {config.partition.kind}")
        self._print_notes(owner)
        if weights := self.stepper.exchange.vote.weights_of(range(self.world.n)):
            say(f"votes per voter: {min(weights)} to {max(weights)}, {sum(weights)} in all")
        if (lies := config.adversary).voters:
            liars = f"the first {lies.voters} of {self.world.n} voters"
            say(f"adversary: {liars} lie ({lies.kind}, factor {lies.factor:g})")
        batches = f", {self.rows_per_minibatch} rows each, all voters together" if self.rows_per_minibatch else ""
        say(f"steps: {config.run.steps:,}{batches}")

    def _print_notes(self, owner: str) -> None:
        """What of the job can't be as it says, though it runs. owner: of rows, a voter or a rank."""
        run, problem, schedule, rows = self.config.run, self.config.problem, self.config.schedule, self.share.rows
        sizes, key = budget.batch_sizes(self.config, len(rows)), "batch_sizes" if problem.batch_sizes else "batch_size"
        asked = problem.batch_sizes or problem.batch_size != type(problem).model_fields["batch_size"].default
        short = [str(voter) for voter, (size, own) in enumerate(zip(sizes, rows, strict=True)) if size > own]
        if short and asked and rows.any():
            first = ", ".join(short[:LISTED]) + (", ..." if len(short) > LISTED else "")
            self.printer.note(f"problem.{key}: {owner}(s) {first} own fewer rows than that, and take them all")
        if schedule.warmup > run.steps:
            highest = schedule.lr * run.steps / schedule.warmup
            text = f"schedule.warmup = {schedule.warmup}, but the run has {run.steps} steps: its rate ends at"
            self.printer.note(f"{text} {highest:.3g} and never reaches schedule.lr = {schedule.lr:g}")

    @property
    def kept_to_be(self) -> State | None:
        """A point as large as the one that will be kept besides the present one, if any is."""
        return self._point({}) if self.config.run.keep in ("best", "uniform") else None

    def print_costs(self, mirror: Mirror | None = None) -> None:
        """What a run would cost, in place of taking it. Collective. mirror: of checkpoints in memory, if it has any."""
        self.print_header()
        costs = budget.foretold(self.config, self.stepper, self.share)
        if mirror:
            sizes = mirror.sizes(self.stepper, self.config.text(), self.kept_to_be)
            costs |= dict(zip(("shared_memory_per_rank", "shared_memory_per_node"), sizes, strict=True))
        self.printer.close()  # a bar goes before what is below it
        self.printer.figures("costs", costs)
        if self.verbose:
            self.printer.line(f"memory: {self.stepper.memory()}")
        self.close()
