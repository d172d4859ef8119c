"""Seconds until a set accuracy on MNIST: a vote against DDP's float32, fp16 and PowerSGD, on whatever link there is.

    MPISIGN=.venv/bin/python analysis/links.sh 4 200mbit analysis/time_to_accuracy.py DIR

Each method first finds its rate: of three, the one that takes the fewest steps, not timed. Then it is timed from the
same start, evaluations left out. All share model (784-512-10), rows and batches of 64 a rank; one thread a rank.
"""

import argparse
import time

import torch

from mpisign import exchange, mpi, problems
from mpisign.algorithm import find
from mpisign.bench.peers import start_gloo
from mpisign.bench.table import Table, machine
from mpisign.choosing import measured
from mpisign.layout import Layout
from mpisign.problems import Oracle
from mpisign.problems.share import share_rows
from mpisign.rng import Streams
from mpisign.stepper import Stepper
from mpisign.train import load_kernels, use_threads
from mpisign.world import Mpi

BATCH, EVERY, LIMIT = 64, 10, 1500  # rows a rank, steps between evaluations, steps at most
METHODS = {
    "mpisign, signum-mv": (1e-4, 3e-4, 1e-3),
    "mpisign, dist-ef-signsgd": (0.03, 0.1, 0.3),
    "DDP float32, SGD": (0.03, 0.1, 0.3),
    "DDP float32, Adam": (3e-4, 1e-3, 3e-3),
    "DDP fp16 hook, SGD": (0.03, 0.1, 0.3),
    "DDP PowerSGD rank 1, SGD": (0.03, 0.1, 0.3),
}


class Setup:
    """What all methods share: the problem, this rank's rows, the start, the held-out rows."""

    def __init__(self, path, ranks):
        self.ranks, self.streams = ranks, Streams(1)
        self.problem = problems.find("mnist")(path=path, hidden=[512])
        generator = self.streams.draw("partition", 0).generator()
        share = share_rows(self.problem, ranks, ranks.size, generator, kind="iid", alpha=0.0, labels=0, min_rows=1)
        self.rows, self.test = share.train[0], share.test
        self.start = self.problem.initial(self.streams.draw("initial", 0).generator())
        self.layout = Layout({name: tuple(p.shape) for name, p in self.start.items()})

    def accuracy(self, parameters) -> float:
        """Held out, by root, told to all."""
        found = self.problem.measure(parameters, self.test) if self.ranks.root else None
        return self.ranks.share(found and found["correct"] / found["rows"])


def ours(setup, name, rate):
    """(one step, the parameters) of an algorithm of mpisign."""
    ranks, algorithm = setup.ranks, find(name).build().with_rules("auto", "auto", setup.ranks.size)
    chosen = measured(exchange.choose("auto", algorithm, ranks.size), (algorithm,), ranks.comm, setup.layout.length)
    world, x = Mpi(ranks.comm), setup.layout.flatten(setup.start)
    carriers = exchange.build(chosen, world, setup.layout, algorithm)
    oracle = Oracle(setup.problem, setup.layout, setup.rows, world.rank, setup.streams, batch_size=BATCH)
    stepper = Stepper(algorithm, setup.layout, carriers, world, setup.streams, [oracle], x)
    return lambda: stepper.step(rate), setup.layout.views(x)


def theirs(setup, name, rate):
    """The same of DDP."""
    from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
    from torch.nn.parallel import DistributedDataParallel

    names = [k.replace(".", "_") for k in setup.start]
    model = torch.nn.Module()
    for k, p in zip(names, setup.start.values(), strict=True):
        model.register_parameter(k, torch.nn.Parameter(p.clone()))

    def views():
        return dict(zip(setup.start, (getattr(model, k) for k in names), strict=True))

    model.forward = lambda batch: setup.problem.loss(views(), batch)
    ddp = DistributedDataParallel(model, bucket_cap_mb=1 << 14)  # one bucket: with more PowerSGD hangs over gloo
    if "fp16" in name:
        ddp.register_comm_hook(None, default_hooks.fp16_compress_hook)
    if "PowerSGD" in name:
        state = powerSGD_hook.PowerSGDState(None, matrix_approximation_rank=1, start_powerSGD_iter=2)
        ddp.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
    kind = torch.optim.Adam(ddp.parameters(), lr=rate) if "Adam" in name else None
    optimizer = kind or torch.optim.SGD(ddp.parameters(), lr=rate, momentum=0.9)
    rows, generator = setup.rows.tensors(), torch.Generator().manual_seed(setup.ranks.rank)

    def step():
        optimizer.zero_grad()
        ddp(rows.take(torch.randint(rows.count, (BATCH,), generator=generator))).backward()
        optimizer.step()

    return step, views()


def run(setup, name, rate, target, limit=LIMIT):
    """(steps, seconds) to the target; (None, None) if it is not met within the limit."""
    make = ours if name.startswith("mpisign") else theirs
    step, parameters = make(setup, name.removeprefix("mpisign, "), rate)
    seconds = 0.0
    for taken in range(0, limit, EVERY):
        setup.ranks.wait()
        begin = time.perf_counter()
        for _ in range(EVERY):
            step()
        setup.ranks.wait()
        seconds += time.perf_counter() - begin
        if setup.accuracy(parameters) >= target:
            return taken + EVERY, seconds
    return None, None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", help="folder of MNIST's IDX files")
    parser.add_argument("--target", type=float, default=0.95)
    parser.add_argument("--rates", nargs="+", type=float, help="one a method, instead of looking for the best of three")
    options = parser.parse_args()
    ranks = mpi.start(1)
    use_threads(1)
    load_kernels(ranks)
    start_gloo(ranks)
    setup = Setup(options.path, ranks)
    columns = {"method": "", "rate": ".2g", "steps": ",.0f", "seconds": ".1f", "ms a step": ".1f"}
    about = {"n": ranks.size, "d": setup.layout.size, "target": options.target, "batch a rank": BATCH}
    table = Table(f"time to an accuracy of {options.target}", columns, about | {"hosts": ranks.hosts} | machine())
    for k, (name, grid) in enumerate(METHODS.items()):
        if options.rates:
            rate = options.rates[k]
        else:
            tried = {r: run(setup, name, r, options.target)[0] or LIMIT + 1 for r in grid}
            rate = min(tried, key=tried.get)
        steps, seconds = run(setup, name, rate, options.target)
        each = {"ms a step": seconds and seconds / steps * 1e3}
        table.add(method=name, rate=rate, steps=steps, seconds=seconds, **each)
        if ranks.root:
            print(name, rate, steps, seconds, flush=True)
    if ranks.root:
        print(table.markdown(), flush=True)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
