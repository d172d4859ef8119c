"""Builds a Stepper for tests, in one process or on the ranks of a communicator."""

import numpy as np
import torch

from mpisign import exchange
from mpisign.algorithms import zoo
from mpisign.algorithms.registry import find
from mpisign.bits.rng import Streams
from mpisign.engine.build import make_stepper
from mpisign.layout import Layout
from mpisign.parallel.world import Local, Mpi
from mpisign.problems import Oracle
from mpisign.problems.data.partition import partition
from tests.reference import Reference

assert zoo
torch.set_num_threads(1)

SEED = 2**40 + 11
PROGRESS = {"counters": {}, "rows": {}, "best": None, "kept_step": 0}  # what a run tells its checkpoints


class Setup:
    """A problem, its layout, its start and one oracle for each of n voters."""

    def __init__(self, problem, n, seed=SEED, kind="iid", **oracle):
        self.problem, self.n, self.seed, self.streams, self.how = problem, n, seed, Streams(seed), oracle
        tables = problem.read()
        self.rows = [None] * n
        if tables:
            problem.adopt(problem.describe(tables))
            generator = self.streams.draw("partition", 0).generator()
            parts = partition(kind, tables.train.count, tables.classes, n, generator)
            self.rows = [tables.train.take(p) for p in parts]
        start = problem.initial(self.streams.draw("initial", 0).generator())
        self.layout = Layout({k: tuple(p.shape) for k, p in start.items()})
        self.x = self.layout.flatten(start)

    def oracle(self, voter, sampling=""):
        how = {"batch_size": 2} | self.how | ({"sampling": sampling} if sampling else {})
        return Oracle(self.problem, self.layout, self.rows[voter], voter, self.streams, **how)

    def algorithm(self, name, zeros="auto", ties="auto", **hyper):
        return find(name).build(**hyper).with_rules(zeros, ties, self.n)

    def stepper(self, algorithm, name="auto", comm=None, chunk=1 << 20, progress="calls", node_size=0, staged=None):
        """All voters here, or, with a communicator, this rank's. chunk: bytes of a plane."""
        world = Mpi(comm) if comm and self.n > 1 else Local(self.n)
        chosen = exchange.choose(name, algorithm, self.n)
        oracles = [self.oracle(v, algorithm.sampling) for v in world.local]
        options = {"chunk": chunk, "progress": progress, "node_size": node_size, "staged": staged}
        return make_stepper(algorithm, chosen, self.layout, world, self.streams, oracles, self.x.clone(), **options)

    def reference(self, algorithm):
        shapes, tensors = zip(*((s.shape, (s.offset, s.size)) for s in self.layout.segments), strict=True)
        oracle = SlowOracle(self, algorithm.sampling)
        return Reference(algorithm, self.n, self.seed, self.x.numpy(), shapes, tensors, oracle)


class SlowOracle:
    """Gradients for a Reference: numpy in, numpy out."""

    def __init__(self, setup, sampling):
        self.oracles = [setup.oracle(v, sampling) for v in range(setup.n)]
        self.setup, self.layout = setup, setup.layout

    def _ask(self, voter, t, x, ask):
        out, oracle = self.layout.zeros(), self.oracles[voter]
        oracle.begin(t)
        ask(oracle, torch.from_numpy(x.copy()), out)
        return out.numpy()

    def gradient(self, voter, t, x):
        return self._ask(voter, t, x, lambda oracle, point, out: oracle.gradient(point, out))

    def several(self, voter, t, x, batches):
        return self._ask(voter, t, x, lambda oracle, point, out: oracle.gradient(point, out, batches=batches))

    def value(self, voter, t, x):
        oracle = self.oracles[voter]
        oracle.begin(t)
        return oracle.value(torch.from_numpy(x.copy()))

    def objective(self, x):
        """The mean of all voters' own functions."""
        return sum(oracle.objective(torch.from_numpy(x.copy())) for oracle in self.oracles) / len(self.oracles)

    def full(self, voter, t, x):
        return self._ask(voter, t, x, lambda oracle, point, out: oracle.full_gradient(point, out))

    def clipped(self, voter, t, x, norm):
        """Row by row, from gradients of single rows."""
        oracle, total, count = self.oracles[voter], np.zeros(self.layout.length), 0
        oracle.begin(t)
        for batch, size in oracle.batches():
            for k in range(size):
                g = self.layout.zeros()
                oracle.problem.gradient(
                    self.layout.views(torch.from_numpy(x.copy())), batch.take(slice(k, k + 1)), self.layout.views(g)
                )
                g = g.numpy().astype(float)
                total += g * min(1.0, norm / max(np.linalg.norm(g), 1e-30))
                count += 1
        return (total / count).astype(np.float32)

    def rows_of_batch(self, voter, t):
        """Numbers of the rows of step t's batch, found by looking for each among all of the voter's rows."""
        oracle, everything = self.oracles[voter], as_matrix(self.setup.rows[voter])
        oracle.begin(t)
        rows = [one for batch, _ in oracle.batches() for one in as_matrix(batch)]
        return [int(np.flatnonzero((everything == one).all(axis=1))[0]) for one in rows]

    def of_row(self, voter, t, x, row):
        """The gradient of one row's loss at x without the regulariser, by the problem's gradient; float64."""
        rows = self.setup.rows[voter].take(slice(row, row + 1)).tensors()
        whole = self._of_problem(x, lambda problem, point, out: problem.gradient(point, rows, out))
        return whole - self.of_regulariser(voter, x)

    def of_regulariser(self, voter, x):
        return self._of_problem(x, lambda problem, point, out: problem.penalise(point, out))

    def _of_problem(self, x, ask):
        out = self.layout.zeros()
        ask(self.setup.problem, self.layout.views(torch.from_numpy(x.copy())), self.layout.views(out))
        return out.numpy().astype(float)

    def count(self, voter):
        return self.setup.rows[voter].count

    def steps_a_pass(self, voter):
        return self.oracles[voter].steps_a_pass


def as_matrix(rows):
    """All arrays of rows side by side, float64, sparse ones too."""
    arrays = [a.toarray() if hasattr(a, "toarray") else np.asarray(a) for a in rows.arrays.values()]
    return np.concatenate([a.reshape(rows.count, -1).astype(float) for a in arrays], axis=1)


def digest(stepper):
    return stepper.layout.digest(stepper.x)
