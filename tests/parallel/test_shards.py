"""Voters of several ranks: their shards have the bits of voters that hold all of x, and stop together."""

import numpy as np
import pytest
import torch

from mpisign import exchange
from mpisign.algorithms.registry import entries, find
from mpisign.bits.rng import Streams
from mpisign.engine.build import make_stepper
from mpisign.errors import NumericalError, UsageError
from mpisign.layout import TILE, Layout, LayoutShard, SegmentOptions, shard_borders
from mpisign.parallel.inside import Inside
from mpisign.parallel.world import OfShards
from mpisign.problems.digits import Digits
from tests.building import SEED, Setup, digest

pytestmark = pytest.mark.mpi

STEPS = 5
NAMES = [entry.name for entry in entries() if not entry.build().undivided]


class ShardOracle:
    """Asks an oracle for all of the gradient at all of x, and keeps the part that is of a rank's shard."""

    def __init__(self, oracle, shard, inside, x):
        self.oracle, self.shard, self.inside, self.x = oracle, shard, inside, x
        self.problem, self.device, self.rows = oracle.problem, oracle.device, oracle.rows
        self.statistics, self.accumulate, self.clip, self.bad = {}, 1, 0.0, None

    @property
    def loss(self):
        return self.oracle.loss

    def begin(self, t):
        self.oracle.begin(t)

    def gradient_in_place(self):
        return None

    def gradient(self, x, out, again=False):
        whole = self.shard.whole.zeros()
        self.oracle.gradient(self.gathered(x), whole)
        out.copy_(whole[self.shard.origin :][: self.shard.length])
        if self.bad is not None:
            out[self.bad] = torch.nan

    def gathered(self, x):
        """All of x, from the shards of a voter's ranks."""
        whole = self.shard.whole.zeros()
        counts = [hi - lo for lo, hi in self.shard.borders]
        self.inside.comm.Allgatherv(x.numpy(), [whole.numpy(), counts])
        return whole

    def constrain(self, x):
        """Digits have no bounds."""


class Voters:
    """The ranks of a communicator as voters of `of` ranks each, with a Stepper on this rank's shard."""

    def __init__(self, comm, of, algorithm="signum-mv", wanted="auto", chunk=1 << 12, **hyper):
        n, rank = comm.Get_size() // of, comm.Get_rank()
        self.setup = Setup(Digits(hidden=[256]), n)
        inside, across = Inside(comm.Split(rank // of, rank)), comm.Split(rank % of, rank)
        layout = LayoutShard(self.setup.layout, inside)
        x = self.setup.x[layout.origin :][: layout.length].clone()
        self.algorithm = self.setup.algorithm(algorithm, **hyper)
        self.oracle = ShardOracle(self.setup.oracle(rank // of, self.algorithm.sampling), layout, inside, x)
        world, streams = OfShards(across, comm, inside), Streams(SEED, layout.origin)
        chosen = exchange.choose(wanted, self.algorithm, n)
        self.stepper = make_stepper(self.algorithm, chosen, layout, world, streams, [self.oracle], x, chunk=chunk)

    def digest(self):
        return self.setup.layout.digest(self.oracle.gathered(self.stepper.x))


def ranks_of_voters(comm):
    """Two where that is even, else all: one voter."""
    n = comm.Get_size()
    return 2 if n % 2 == 0 else n


@pytest.mark.parametrize("name", NAMES)
def test_shards_have_the_bits_of_the_whole(comm, everywhere, name):
    of = ranks_of_voters(comm)
    voters = Voters(comm, of, name)
    whole = voters.setup.stepper(voters.algorithm)
    for t in range(STEPS):
        mine, theirs = voters.stepper.step(0.01, counting=True), whole.step(0.01, counting=True)
        everywhere(voters.digest() == digest(whole), f"step {t}")
        everywhere(np.float64(mine.loss) == np.float64(theirs.loss), f"loss of step {t}")
        expected, found = theirs.totals(whole.world), mine.totals(voters.stepper.world)
        everywhere(str(found) == str(expected), "counts")  # as text: NaN where no signs are sent
        everywhere(vars(voters.stepper.world.cost) == vars(whole.world.cost), "bits by the method's definition")
    voters.stepper.check_replicas()
    voters.stepper.close()


@pytest.mark.parametrize("wanted", ["sharded", "allgather", "allreduce", "butterfly"])
def test_any_exchange_carries_shards(comm, everywhere, wanted):
    voters = Voters(comm, ranks_of_voters(comm), "dlion-mavo", wanted)
    whole = voters.setup.stepper(voters.algorithm)
    for _ in range(STEPS):
        voters.stepper.step(0.01)
        whole.step(0.01)
    everywhere(voters.digest() == digest(whole), wanted)
    voters.stepper.close()


def test_a_fault_in_one_shard_stops_all_ranks_before_x_moves(comm, everywhere):
    voters = Voters(comm, ranks_of_voters(comm))
    before = voters.stepper.x.clone()
    last = comm.Get_rank() == comm.Get_size() - 1
    voters.oracle.bad = 3 if last else None
    with pytest.raises(NumericalError) as raised:
        voters.stepper.step(0.01)
    at = comm.bcast(voters.stepper.layout.origin + 3 if last else None, root=comm.Get_size() - 1)
    world = voters.stepper.world
    told = f"{world.name_of(world.n - 1)}: the estimate of parameter {voters.setup.layout.name_of(at)} is nan"
    everywhere(str(raised.value).startswith(told), str(raised.value))
    everywhere(torch.equal(voters.stepper.x, before), "x has moved")
    voters.stepper.close()


def test_a_replica_that_drifts_in_one_shard_stops_all_ranks(comm, everywhere):
    voters = Voters(comm, ranks_of_voters(comm))
    if voters.stepper.world.n == 1:
        pytest.skip("one voter has no replicas")
    voters.stepper.step(0.01)
    if comm.Get_rank() == comm.Get_size() - 1:
        voters.stepper.x[0] += 1
    with pytest.raises(NumericalError) as raised:
        voters.stepper.check_replicas()
    everywhere("drifted" in str(raised.value), str(raised.value))
    voters.stepper.close()


def test_what_can_not_be_shared_out_says_so(comm):
    assert {"signsgd-mv", "signum-mv", "ssdm", "dist-ef-signsgd", "terngrad", "adam"} <= set(NAMES)
    reasons = {name: find(name).build().undivided for name in ("ssvr-mv", "powersgd", "qsgd", "z-signfedavg", "topk")}
    assert [name for name, reason in reasons.items() if not reason] == []
    few = Layout({"w": (TILE * (comm.Get_size() - 1),)}) if comm.Get_size() > 1 else None
    if few:
        with pytest.raises(UsageError, match="which can't be dealt to the"):
            LayoutShard(few, Inside(comm))
    two = {"w": SegmentOptions(), "b": SegmentOptions(vote=False)}
    with pytest.raises(UsageError, match="do not vote"):
        LayoutShard(Layout({"w": (TILE * 9,), "b": (8,)}, two), Inside(comm))


@pytest.mark.parametrize(("length", "count"), [(TILE, 1), (3 * TILE + 64, 4), (9 * TILE, 4), (64, 1)])
def test_borders_are_tiles_and_leave_nothing_out(length, count):
    borders = shard_borders(length, count)
    assert [lo for lo, _ in borders] == [0, *(hi for _, hi in borders[:-1])]
    assert borders[-1][1] == length
    assert all(lo % TILE == 0 and hi > lo for lo, hi in borders)
