"""Trains a job of mpisign's by torch's DistributedDataParallel over gloo: what a vote is to be compared with.

mpirun -n 4 python analysis/studies/ddp.py jobs/studies/race.toml --hook powersgd-1 --lr 0.1 --file runs/race/x.h5

The same model, start, partition, batches and evaluations as `mpisign train` of that job, by mpisign's own problem and
oracle; gradients travel as DDP sends them, and torch's SGD (momentum 0.9) or Adam moves x. The run file is mpisign's
too, so every script here reads it; its algorithm is called ddp-HOOK-OPTIMIZER. It ends once --until is reached.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

from mpisign import __version__
from mpisign import config as configuration
from mpisign.bench.peers import start_gloo
from mpisign.config import Algorithm, Config
from mpisign.engine.timing import Timer
from mpisign.errors import UsageError
from mpisign.parallel import leaving, mpi
from mpisign.problems.data.loader import DeviceLoader
from mpisign.run.evaluate import measure
from mpisign.run.plan import resolve
from mpisign.run.setup import set_up, use_threads
from mpisign.storage.schema import TABLES
from mpisign.storage.writer import NoWriter, RunWriter

HOOKS = ("float32", "fp16", "powersgd-1", "powersgd-2")
OPTIMIZERS = {
    "sgd": lambda parameters, lr: torch.optim.SGD(parameters, lr=lr, momentum=0.9),
    "adam": lambda parameters, lr: torch.optim.Adam(parameters, lr=lr),
}


class Model(torch.nn.Module):
    """A problem of mpisign as a module, whose forward pass is the loss of a batch."""

    def __init__(self, problem, start):
        super().__init__()
        self.problem, self.names = problem, list(start)
        self.values = torch.nn.ParameterList(torch.nn.Parameter(p.clone()) for p in start.values())

    def forward(self, batch):
        return self.problem.loss(dict(zip(self.names, self.values, strict=True)), batch)


class Training:
    """One rank of a run by DDP."""

    def __init__(self, config: Config, options, ranks):
        self.options, self.ranks = options, ranks
        setup = set_up(resolve(config, ranks.size), ranks, ranks.size)
        self.config, self.stepper, (self.oracle,) = setup.plan.config, setup.stepper, setup.stepper.oracles
        self.x = self.stepper.layout.views(self.stepper.x)
        self.test = [DeviceLoader(part, self.stepper.layout.device) for part in setup.share.test]
        # one bucket: with more of them PowerSGD hangs over gloo
        self.model = DistributedDataParallel(Model(setup.plan.problem, self.x), bucket_cap_mb=1 << 14)
        if options.hook == "fp16":
            self.model.register_comm_hook(None, default_hooks.fp16_compress_hook)
        elif options.hook.startswith("powersgd"):
            rank = int(options.hook[-1])
            state = powerSGD_hook.PowerSGDState(None, matrix_approximation_rank=rank, start_powerSGD_iter=2)
            self.model.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
        self.optimizer = OPTIMIZERS[options.optimizer](self.model.parameters(), options.lr)
        self.timer, self.recorder = Timer(), NoWriter()

    @property
    def name(self) -> str:
        return f"ddp-{self.options.hook}-{self.options.optimizer}"

    def run(self) -> None:
        """All steps, or as many as --until takes."""
        if self.ranks.root:
            self.recorder = RunWriter(self.options.file, self._attributes(), self._job(), {}, overwrite=True)
        self._row("segments", step=0, n=self.ranks.size, hosts=self.ranks.hosts, device="cpu",
                  threads=self.ranks.threads, mpi="gloo", versions=f"torch {torch.__version__}")  # fmt: skip
        self.recorder.event("start", 0)
        self.timer.start = time.perf_counter()
        accuracy = self.evaluate(0)
        for t in range(self.config.run.steps):
            with self.timer("estimate"):
                self.step(t)
            if (t + 1) % self.config.run.eval_every == 0 or t + 1 == self.config.run.steps:
                accuracy = self.evaluate(t + 1)
                if accuracy >= self.options.until:
                    break
        self.recorder.event("complete", t + 1)
        self.recorder.close()
        if self.ranks.root:
            print(f"{self.name}: step {t + 1}, held-out accuracy {accuracy:.4f}, {self.timer.elapsed():.1f} s")

    def step(self, t: int) -> None:
        """Forward, backward with DDP's exchange, and the optimiser's step."""
        self.oracle.begin(t)
        torch.manual_seed(self.oracle.streams.draw("torch", t, self.ranks.rank).seed())
        self.optimizer.zero_grad(set_to_none=False)
        for batch, _ in self.oracle.batches():
            self.model(batch).backward()
        self.optimizer.step()

    def evaluate(self, step: int) -> float:
        """A row of /eval, and one of /phases; returns the held-out accuracy."""
        with self.timer("evaluate"):
            for own, value in zip(self.x.values(), self.model.module.values, strict=True):
                own.copy_(value.detach())
            figures = measure(self.stepper, self.test, {})
        evaluations = step * self.ranks.size * self.config.problem.batch_size
        self._row("eval", step=step, **figures, seconds=self.timer.elapsed(), gradient_evaluations=evaluations)
        phases = dict(zip(self.timer.phases, self.timer.take(), strict=True))
        for rank, row in enumerate(self.stepper.world.gather(np.array(list(phases.values())))):
            self._row("phases", step=step, rank=rank, **dict(zip(phases, row, strict=True)))
        return figures["test_accuracy"]

    def _row(self, table: str, **known) -> None:
        """A row whose other columns are empty."""
        kinds = {"S": "", "f": float("nan"), "i": 0}
        empty = {column.name: kinds[column.dtype[0]] for column in TABLES[table]}
        self.recorder.append(table, **(empty | known))

    def _attributes(self) -> dict[str, object]:
        return {
            "mpisign_version": __version__,
            "algorithm": self.name,
            "definition": f"torch DistributedDataParallel, {self.options.hook}, {self.options.optimizer}",
            "paper": "baseline",
            "problem": self.config.problem.name,
            "exchange": "gloo",
            "exchange_reason": "DDP",
            "n": self.ranks.size,
            "d": self.stepper.layout.size,
            "seed": str(self.config.run.seed),
        }

    def _job(self) -> str:
        schedule = self.config.schedule.model_copy(update={"lr": self.options.lr})
        algorithm = Algorithm(name=self.name)
        return self.config.model_copy(update={"schedule": schedule, "algorithm": algorithm}).text()


def job(path: Path, settings: list[str]) -> Config:
    """A job file without its [sweep], if it has one; the algorithm is a stand-in that any problem offers."""
    tables = {k: v for k, v in configuration.tables(path, settings).items() if k != "sweep"}
    tables["run"].pop("voters", None)
    tables["algorithm"] = {"name": "sgd"}
    return configuration.make(tables, f"{path}: ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", type=Path, metavar="JOB.toml")
    parser.add_argument("--hook", choices=HOOKS, default="float32")
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="sgd")
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--until", type=float, default=2.0, help="held-out accuracy at which it ends")
    parser.add_argument("--set", action="append", default=[], metavar="TABLE.KEY=VALUE", dest="settings")
    parser.add_argument("--file", type=Path, required=True)
    options = parser.parse_args()
    try:
        config = job(options.job, options.settings)
        ranks = mpi.start(config.run.threads)
        use_threads(ranks.threads)
        if missing := start_gloo(ranks):
            raise UsageError(missing, agreed=True)
        Training(config, options, ranks).run()
        torch.distributed.destroy_process_group()
    except Exception as error:
        sys.exit(leaving.leave(error))


if __name__ == "__main__":
    main()
