"""Trains a job of mpisign's by torch's DistributedDataParallel over gloo: what a vote is to be compared with.

mpirun -n 4 python analysis/studies/ddp.py jobs/studies/race.toml --hook powersgd-1 --lr 0.1 --file runs/race/x.h5

The same model, start, partition, batches and evaluations as `mpisign train` of that job, by mpisign's own problem and
oracle; gradients travel as DDP sends them, and torch's SGD (momentum 0.9) or Adam moves x. The run file is mpisign's
too, so every script here reads it; its algorithm is called ddp-HOOK-OPTIMIZER. It ends once --until is reached.
"""

import argparse
import math
import sys
from pathlib import Path

import torch
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

from mpisign import config as configuration
from mpisign import paths
from mpisign.bench.peers import start_gloo
from mpisign.config import Algorithm, Config
from mpisign.errors import UsageError
from mpisign.parallel import leaving, mpi
from mpisign.parallel.mpi import Ranks
from mpisign.run.plan import resolve
from mpisign.run.recording import RunLog
from mpisign.run.resume import Start
from mpisign.run.setup import Setup, set_up, use_threads

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


class Log(RunLog):
    """The run file of a run by DDP, under a name of its own; accuracy: the last that was measured."""

    def __init__(self, setup: Setup, ranks: Ranks, name: str):
        super().__init__(setup, ranks, quiet=True)
        self.config = self.config.model_copy(update={"algorithm": Algorithm(name=name)})
        self.accuracy = 0.0

    def _attributes(self) -> dict[str, object]:
        name = self.config.algorithm.name
        own = {
            "algorithm": name,
            "definition": f"torch DistributedDataParallel, {name.removeprefix('ddp-')}",
            "paper": "baseline",
        }
        return super()._attributes() | own | {"exchange": "gloo", "exchange_reason": "DDP", "exchange_details": ""}

    def _segment(self) -> dict[str, object]:
        return super()._segment() | {"mpi": "gloo"}

    def _add(self, table: str, **row) -> None:
        super()._add(table, **row)
        self.accuracy = row.get("test_accuracy", self.accuracy)


class Training:
    """One rank of a run by DDP."""

    def __init__(self, config: Config, options, ranks: Ranks):
        setup = set_up(resolve(config, ranks.size), ranks, ranks.size)
        self.config, self.options, self.stepper = setup.plan.config, options, setup.stepper
        self.x, (self.oracle,) = self.stepper.layout.views(self.stepper.x), self.stepper.oracles
        # one bucket: with more of them PowerSGD hangs over gloo
        self.model = DistributedDataParallel(Model(setup.plan.problem, self.x), bucket_cap_mb=1 << 14)
        if options.hook == "fp16":
            self.model.register_comm_hook(None, default_hooks.fp16_compress_hook)
        elif options.hook.startswith("powersgd"):
            rank = int(options.hook[-1])
            state = powerSGD_hook.PowerSGDState(None, matrix_approximation_rank=rank, start_powerSGD_iter=2)
            self.model.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
        self.optimizer = OPTIMIZERS[options.optimizer](self.model.parameters(), options.lr)
        self.log = Log(setup, ranks, f"ddp-{options.hook}-{options.optimizer}")

    def run(self) -> None:
        """All steps, or as many as --until takes."""
        log, steps = self.log, self.config.run.steps
        log.open(Start("new"))
        self.evaluate()
        for t in range(steps):
            with self.stepper.timer("estimate"):
                self.step(t)
            self.stepper.t = t + 1
            if (t + 1) % self.config.run.eval_every == 0 or t + 1 == steps:
                self.evaluate()
                if log.accuracy >= self.options.until:
                    break
        log.writer.event("complete", t + 1)
        log.close()
        if log.ranks.root:
            end = f"step {t + 1}, held-out accuracy {log.accuracy:.4f}, {log.clock.elapsed():.1f} s"
            print(f"{log.config.algorithm.name}: {end}")

    def step(self, t: int) -> None:
        """Forward, backward with DDP's exchange, and the optimiser's step."""
        self.oracle.begin(t)
        torch.manual_seed(self.oracle.streams.draw("torch", t, self.oracle.voter).seed())
        self.optimizer.zero_grad(set_to_none=False)
        for batch, _ in self.oracle.batches():
            self.model(batch).backward()
        self.oracle.evaluations += self.config.problem.batch_size
        self.optimizer.step()

    def evaluate(self) -> None:
        """A row of /eval, and one of /phases."""
        for own, value in zip(self.x.values(), self.model.module.values, strict=True):
            own.copy_(value.detach())
        self.log.evaluate(math.nan, self.options.lr)
        self.log.check()


def job(path: Path, settings: list[str]) -> Config:
    """A job file without its [sweep], if it has one; the algorithm is a stand-in that any problem offers."""
    tables = {k: v for k, v in configuration.tables(path, settings).items() if k != "sweep"}
    tables["run"] = {k: v for k, v in tables["run"].items() if k != "voters"} | {"overwrite": True, "keep": "none"}
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
        own = (f"schedule.lr={options.lr}", f"run.file={paths.literal(options.file)}")
        config = job(options.job, [*options.settings, *own])
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
