"""Builds a Stepper for tests, in one process or on the ranks of a communicator."""

import torch

from mpisign import exchange, zoo
from mpisign.algorithm import find
from mpisign.layout import Layout
from mpisign.problems import Oracle
from mpisign.problems.partition import partition
from mpisign.rng import Streams
from mpisign.stepper import Stepper
from mpisign.world import Local, Mpi
from tests.reference import Reference

assert zoo
torch.set_num_threads(1)

SEED = 2**40 + 11

# hyperparameters under which every part of an entry is at work
CASES = {
    "signsgd-mv": {"weight_decay": 0.1},
    "signum-mv": {"beta": 0.9, "weight_decay": 0.1},
    "ssdm": {"beta": 0.8},
    "dist-ef-signsgd": {"weight_decay": 0.1},
    "ssvr-mv": {"beta": 0.4, "radius": 3.0},
    "sgd": {"momentum": 0.9, "weight_decay": 0.1, "nesterov": True},
    "adam": {"weight_decay": 0.1},
}
WITNESSES = ("signsgd-mv", "signum-mv", "ssdm", "dist-ef-signsgd", "ssvr-mv")


class Setup:
    """A problem, its layout, its start and one oracle for each of n voters."""

    def __init__(self, problem, n, seed=SEED, **oracle):
        self.problem, self.n, self.streams, self.how = problem, n, Streams(seed), oracle
        tables = problem.read()
        problem.adopt(problem.describe(tables))
        generator = self.streams.draw("partition", 0).generator()
        parts = partition("iid", tables.train.count, tables.classes, n, generator)
        start = problem.initial(self.streams.draw("initial", 0).generator())
        self.layout = Layout({k: tuple(p.shape) for k, p in start.items()})
        self.x = self.layout.flatten(start)
        self.rows = [tables.train.take(p) for p in parts]

    def oracle(self, voter):
        how = {"batch_size": 2} | self.how
        return Oracle(self.problem, self.layout, self.rows[voter], voter, self.streams, **how)

    def algorithm(self, name, zeros="auto", ties="auto", **hyper):
        return find(name).build(**(hyper or CASES[name])).with_rules(zeros, ties, self.n)

    def stepper(self, algorithm, name="auto", comm=None, chunk=1 << 20):
        """All voters here, or, with a communicator, this rank's. chunk: bytes of a plane."""
        world = Mpi(comm) if comm and self.n > 1 else Local(self.n)
        carrier = exchange.build(exchange.choose(name, algorithm, self.n), world, self.layout, algorithm, chunk)
        oracles = [self.oracle(v) for v in world.local]
        return Stepper(algorithm, self.layout, carrier, world, self.streams, oracles, self.x.clone())

    def reference(self, name, zeros, ties):
        oracles = [self.oracle(v) for v in range(self.n)]

        def gradient(voter, t, x):
            out = self.layout.zeros()
            oracles[voter].begin(t)
            oracles[voter].gradient(torch.from_numpy(x.copy()), out)
            return out.numpy()

        tensors = [(s.offset, s.size) for s in self.layout.segments]
        return Reference(name, self.n, SEED, self.x.numpy(), tensors, gradient, zeros, ties, **CASES[name])


def digest(stepper):
    return stepper.layout.digest(stepper.x)
