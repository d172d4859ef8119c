"""`mpisign train`: a job from its plan to its summary.

    plan -> ranks -> rows -> layout and x -> run file -> steps -> summary
"""

import math
import platform
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from mpisign import __version__, bits, checkpoint, exchange, mpi, progress
from mpisign.config import Config
from mpisign.errors import MpisignError, NumericalError, UsageError
from mpisign.layout import Layout
from mpisign.mpi import Ranks
from mpisign.plan import Plan, resolve
from mpisign.problems import Oracle
from mpisign.problems.share import share_rows
from mpisign.recorder import NoRecorder, Recorder
from mpisign.results import Run
from mpisign.rng import Streams
from mpisign.schedules import Schedule
from mpisign.stepper import Stepper
from mpisign.timing import PHASES, Timer
from mpisign.world import Local, Mpi

EVALUATIONS = 30  # a run, where run.eval_every is 0


def train(config: Config, dry_run: bool = False) -> None:
    """Runs a job on all ranks of MPI's world; root prints and writes.

    Raises UsageError before anything is written, NumericalError once the run file is closed.
    """
    plan = resolve(config, mpi.launch().size)
    ranks = mpi.start(config.run.threads)
    if ranks.size != mpi.launch().size:
        # a launcher that says nothing in the environment: only MPI knew how many there are
        plan = resolve(config, ranks.size)
    torch.set_num_threads(ranks.threads)
    _compile_once_a_node(ranks)
    job = Job(plan, ranks)
    if dry_run:
        job.estimate_costs()
    else:
        job.run()


def _compile_once_a_node(ranks: Ranks) -> None:
    # the first rank of a node fills numba's cache, the others read it
    if ranks.local_rank == 0:
        bits.compile_ahead()
    ranks.wait(ranks.node)
    if ranks.local_rank:
        bits.compile_ahead()


class Job:
    """One run: everything that lives from the first step to the last."""

    def __init__(self, plan: Plan, ranks: Ranks):
        self.plan, self.ranks = plan, ranks
        config, streams = plan.config, Streams(plan.config.run.seed)
        generator = streams.draw("partition", 0).generator()
        self.share = share_rows(plan.problem, ranks, generator, **config.partition.model_dump())
        self.steps, self.rows_a_step = self._length(config)
        self.config = config.model_copy(update={"run": config.run.model_copy(update={"steps": self.steps})})
        self.timer = Timer()

        start = plan.problem.initial(streams.draw("initial", 0).generator())
        self.layout = Layout({name: tuple(p.shape) for name, p in start.items()})
        x = self.layout.flatten(start)
        ranks.bcast(x.numpy())
        self.world = Mpi(ranks.comm) if ranks.size > 1 else Local()
        self.oracle = Oracle(
            plan.problem,
            self.layout,
            self.share.train,
            ranks.rank,
            streams,
            batch_size=config.problem.batch_size,
            accumulate=config.algorithm.accumulate,
            clip=config.algorithm.clip,
            sampling=config.problem.sampling,
        )
        carrier = exchange.build(plan.choice, self.world, self.layout, plan.algorithm, config.exchange.chunk)
        self.stepper = Stepper(
            plan.algorithm, self.layout, carrier, self.world, streams, [self.oracle], x, self._weights(), self.timer
        )
        s = config.schedule
        self.schedule = Schedule(s.kind, s.lr, self.steps, s.warmup, s.milestones, s.decay)
        self.test = self.share.test.tensors() if self.share.test else None

    def _length(self, config: Config) -> tuple[int, int]:
        """Steps of the run, and rows that all ranks see in a step (0 without rows)."""
        rows, run = self.share.rows, config.run
        if not rows.any():
            if run.steps is None:
                raise UsageError(
                    f"run.epochs = {run.epochs}: problem {config.problem.name!r} has no rows to pass over; "
                    "set run.steps instead",
                    agreed=True,
                )
            return run.steps, 0
        batch = np.minimum(config.problem.batch_size or rows.max(), rows)
        a_step = int(batch.sum()) * config.algorithm.accumulate
        return run.steps or math.ceil(run.epochs * rows.sum() / a_step), a_step

    def _weights(self) -> np.ndarray:
        """Of each rank in the objective, adding up to n: all 1, or by rows."""
        rows = self.share.rows
        if self.config.run.objective == "ranks" or not rows.any():
            return np.ones(len(rows))
        return rows / rows.sum() * len(rows)

    # A run

    def run(self) -> None:
        """Steps, evaluations, records; closes the run file whatever happens, and prints the summary."""
        path = self._path()
        self.recorder = self._open(path)
        self.printer = progress.make(self.ranks.root, self.steps)
        self._print_header()
        try:
            self._loop()
        except NumericalError as error:
            self.recorder.event("error", self.stepper.t, str(error))
            raise
        else:
            self._save_model(path)
            self.recorder.event("complete", self.stepper.t)
        finally:
            self.printer.close()
            self.recorder.close()
        if self.ranks.root:
            for name, value in Run(path).summary().items():
                print(f"{name}: {value}")

    def _loop(self) -> None:
        run = self.config.run
        eval_every = run.eval_every or max(1, self.steps // EVALUATIONS)
        self.best, self.best_x, self.best_step = math.inf, None, 0
        self.clock = Timer()
        self._evaluate(0, math.nan)
        for t in range(self.steps):
            lr, last = self.schedule(t), t + 1 == self.steps
            counting = (t + 1) % run.record_every == 0 or last
            outcome = self.stepper.step(lr, counting)
            if counting:
                with self.timer("record"):
                    self._record(outcome, lr)
            if (t + 1) % run.check_every == 0 or last:
                with self.timer("record"):
                    self._check()
            if (t + 1) % eval_every == 0 or last:
                self._evaluate(t + 1, outcome.loss)
            else:
                self.printer.update(t + 1, outcome.loss, lr)

    def _costs(self) -> dict[str, float]:
        """Cumulative costs, the same numbers for every table of the run file."""
        traffic, n = self.world.traffic, self.world.n
        total = self.world.sums({"up": traffic.up, "down": traffic.down, "evaluations": self.oracle.evaluations})
        return {
            "epoch": self.stepper.t * self.rows_a_step / max(self.share.rows.sum(), 1),
            "bytes_up": round(total["up"] / n),
            "bytes_down": round(total["down"] / n),
            "gradient_evaluations": int(total["evaluations"]),
            "seconds": self.clock.elapsed(),
        }

    def _record(self, outcome, lr: float) -> None:
        counts, n = self.stepper.exchange.counts, self.world.n
        total = self.world.sums(
            {
                "agreement": counts.agreement,
                "ties": counts.ties,
                "flips": counts.flips,
                "zeros": outcome.zeros,
                "clips": outcome.clips,
                "clipped": self.oracle.clipped,
            }
        )
        signs = not self.plan.algorithm.sign.up().raw
        total["agreement"] = total["agreement"] / (n * self.layout.size) if signs else math.nan
        whole = {k: int(total[k]) for k in ("ties", "flips", "zeros", "clips", "clipped")}
        self.recorder.append(
            "steps",
            step=self.stepper.t,
            loss=outcome.loss,
            learning_rate=lr,
            agreement=total["agreement"],
            **whole,
            **self._costs(),
        )

    def _check(self) -> None:
        self.stepper.check_replicas()
        seconds = self.world.gather(np.array(self.timer.take()))
        for rank, row in enumerate(seconds):
            self.recorder.append("phases", step=self.stepper.t, rank=rank, **dict(zip(PHASES, row, strict=True)))

    def _evaluate(self, step: int, loss: float) -> None:
        with self.timer("evaluate"):
            found = self._measure()
            costs = self._costs()
        self.recorder.append("eval", step=step, **found, **costs)
        shown = {k: v for k, v in found.items() if math.isfinite(v) and k != "test_loss"}
        self.printer.update(step, loss if step else found["train_loss"], self.schedule(step), shown)
        better = -found["test_accuracy"] if math.isfinite(found["test_accuracy"]) else found["train_loss"]
        if self.config.run.keep == "best" and better < self.best:
            self.best, self.best_x, self.best_step = better, self.stepper.x.clone(), step

    def _measure(self) -> dict[str, float]:
        x, n = self.stepper.x, self.world.n
        own = self.oracle.measure(x, self.oracle.rows)
        weight = float(self.stepper.weights[self.ranks.rank]) / n
        sums = {"train": weight * own["loss"] / own["rows"]}
        if self.test:
            sums |= {f"test_{k}": v for k, v in self.oracle.measure(x, self.test).items()}
        total = self.world.sums(sums)
        rows = total.get("test_rows", 0)
        return {
            "train_loss": total["train"] + self.oracle.penalty(x),
            "test_loss": total["test_loss"] / rows if rows else math.nan,
            "test_accuracy": total["test_correct"] / rows if rows and "test_correct" in total else math.nan,
        }

    # The run file

    def _path(self) -> Path:
        c = self.config
        names = {"problem": c.problem.name.rpartition(":")[2], "algorithm": c.algorithm.name}
        try:
            return Path(c.run.file.format(**names, n=self.ranks.size, seed=c.run.seed))
        except (KeyError, IndexError, ValueError) as error:
            raise UsageError(
                f"run.file = {c.run.file!r}: {error} is none of its fields, which are: {{problem}}, {{algorithm}}, {{n}}, {{seed}}",
                agreed=True,
            ) from error

    def _open(self, path: Path) -> NoRecorder:
        recorder, error = NoRecorder(), None
        if self.ranks.root:
            run = self.config.run
            try:
                recorder = Recorder(
                    path, self._attributes(), self.config.text(), self._arrays(), overwrite=run.overwrite, mode=run.recorder
                )
            except MpisignError as found:
                error = found
        self.ranks.agree(error)
        recorder.append("segments", step=0, **self._segment())
        recorder.event("start", 0)
        return recorder

    def _attributes(self) -> dict[str, object]:
        plan = self.plan
        return {
            "mpisign_version": __version__,
            "algorithm": plan.entry.name,
            "definition": repr(plan.algorithm),
            "paper": plan.entry.paper,
            "problem": self.config.problem.name,
            "exchange": plan.choice.name,
            "exchange_reason": plan.choice.reason,
            "n": self.ranks.size,
            "d": self.layout.size,
            "seed": str(self.config.run.seed),
        }

    def _arrays(self) -> dict[str, np.ndarray]:
        segments = self.layout.segments
        return {
            "layout/name": np.array([s.name.encode() for s in segments]),
            "layout/shape": np.array([str(list(s.shape)).encode() for s in segments]),
            "layout/offset": np.array([s.offset for s in segments]),
            "layout/size": np.array([s.size for s in segments]),
            "partition/rows": self.share.rows,
            "partition/class_counts": self.share.class_counts,
        }

    def _segment(self) -> dict[str, object]:
        packages = ("torch", "numpy", "mpi4py", "h5py", "numba")
        return {
            "n": self.ranks.size,
            "hosts": self.ranks.hosts,
            "device": self.config.run.device,
            "threads": self.ranks.threads,
            "mpi": self.ranks.library,
            "versions": ", ".join([f"python {platform.python_version()}", *(f"{p} {version(p)}" for p in packages)]),
            "torch_build": f"{torch.__version__} {torch.backends.cpu.get_cpu_capability()}",
        }

    def _save_model(self, path: Path) -> None:
        run = self.config.run
        if run.keep == "none" or not self.ranks.root:
            return
        x, step = (self.best_x, self.best_step) if run.keep == "best" else (self.stepper.x, self.stepper.t)
        checkpoint.save_model(path.with_suffix(".model.h5"), self.layout.views(x), step=step, run_file=path.name)

    # What is printed

    def _print_header(self) -> None:
        ranks, config, plan = self.ranks, self.config, self.plan
        say = self.printer.line
        say(f"mpisign {__version__}: {plan.entry.name} on {config.problem.name}, {self.layout.size:,} coordinates")
        say(f"mpi: {ranks.library}; ranks a host: {ranks.hosts}")
        say(f"device: {config.run.device}, {ranks.threads} thread(s) a rank")
        say(f"exchange: {plan.choice.name} ({plan.choice.reason})")
        if (rows := self.share.rows).any():
            say(f"rows a rank: {rows.min()} to {rows.max()}, partition {config.partition.kind}")
        say(f"steps: {self.steps}")

    def estimate_costs(self) -> None:
        """Prints what a run would cost, without a step: the dry run."""
        self.printer = progress.make(self.ranks.root, self.steps)
        self._print_header()
        up, down = self.stepper.exchange.bytes_a_step()
        total = self.world.sums({"up": up, "down": down})
        rows = self.rows_a_step or self.world.n * self.config.algorithm.accumulate
        self.printer.line(f"d: {self.layout.size}")
        self.printer.line(f"bytes_per_step: {round((total['up'] + total['down']) / self.world.n)}")
        self.printer.line(f"memory_per_rank: {self.stepper.memory()}")
        self.printer.line(f"evaluations_per_step: {rows * self.plan.algorithm.estimator.evaluations()}")
        self.printer.close()
