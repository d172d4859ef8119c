"""SignOptimizer on all ranks: the bits of a Stepper with an oracle, overlap, groups and saving."""

import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn

from mpisign.errors import UsageError
from mpisign.exchange import hierarchical
from mpisign.exchange.nodes import nodes_of
from mpisign.optim import SignOptimizer
from mpisign.problems.digits import Digits
from tests.building import SEED, Setup, digest
from tests.raising import told

pytestmark = pytest.mark.mpi

STEPS = 6
ALGORITHMS = [
    ("signum-mv", {"weight_decay": 0.1}),
    ("signsgd-mv", {"zeros": "abstain", "ties": "zero"}),
    ("dlion-mavo", {}),
    ("birder", {}),
    ("ssdm", {}),
    ("dist-ef-signsgd", {}),
    ("ssvr-mv", {"refresh": 2}),
    ("sgd", {"momentum": 0.9}),
]
IDS = [name for name, _ in ALGORITHMS]


class Loop:
    """A user's loop over the batches that the application would draw, with parameters of its own."""

    def __init__(self, comm, problem=None, **how):
        self.comm, self.n, self.rank = comm, comm.Get_size(), comm.Get_rank()
        self.problem = problem or Digits(hidden=[70, 50])
        self.setup = Setup(self.problem, self.n)
        self.oracle = self.setup.oracle(self.rank)
        start = self.problem.initial(self.setup.streams.draw("initial", 0).generator())
        noise = 0.0 if self.rank == 0 else 1.0  # what other ranks start from is of no matter
        self.parameters = {name: nn.Parameter(p + noise) for name, p in start.items()}
        self.t = 0

    def make(self, algorithm, **how):
        how = {"lr": 0.01, "seed": SEED, "comm": self.comm, "chunk": 512} | how
        self.optimizer = SignOptimizer(list(self.parameters.items()), algorithm, **how)
        return self.optimizer

    def batch(self):
        return self.oracle.rows.take(self.oracle._sample(self.t))

    def closure(self):
        self.optimizer.zero_grad()
        loss = self.problem.loss(self.parameters, self.batch())
        loss.backward()
        return loss

    def step(self):
        if self.optimizer._two_points:
            self.optimizer.step(self.closure)
        else:
            self.closure()
            self.optimizer.step()
        self.t += 1

    def digest(self):
        x = self.optimizer.layout.flatten({name: p.data for name, p in self.parameters.items()})
        return self.optimizer.layout.digest(x)


def digests_of(loop, steps=STEPS):
    found = []
    for _ in range(steps):
        loop.step()
        found.append(loop.digest())
    return found


@pytest.mark.parametrize(("name", "hyper"), ALGORITHMS, ids=IDS)
def test_the_bits_of_the_application(comm, everywhere, name, hyper):
    loop = Loop(comm)
    loop.make(name, exchange="dense" if name == "sgd" and loop.n > 1 else "auto", **hyper)
    rules = {k: hyper[k] for k in ("zeros", "ties") if k in hyper}
    own = {k: v for k, v in hyper.items() if k not in rules}
    stepper = loop.setup.stepper(loop.setup.algorithm(name, **rules, **own), "auto", comm)
    expected = []
    for _ in range(STEPS):
        stepper.step(0.01)
        expected.append(digest(stepper))
    everywhere(digests_of(loop) == expected, f"{name} in a loop")


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("overlap", [False, True])
def test_ranks_may_have_several_votes(comm, everywhere, overlap):
    """With the bits of the application; a list that is not the same on all ranks, or not of them, is refused."""
    loop, weights = Loop(comm), [15, 4, 1, 7, 2, 2, 9, 3][: comm.Get_size()]
    loop.make("signum-mv", weights=weights, overlap=overlap)
    stepper = loop.setup.stepper(loop.setup.algorithm("signum-mv").with_weights(tuple(weights)), "auto", comm)
    plain = loop.setup.stepper(loop.setup.algorithm("signum-mv"), "auto", comm)
    expected = []
    for _ in range(STEPS):
        stepper.step(0.01)
        plain.step(0.01)
        expected.append(digest(stepper))
    everywhere(digests_of(loop) == expected and expected[-1] != digest(plain), "votes are weighed")
    for wrong, word in (([*weights, 1], "one each"), ([0, *weights[1:]], "weights"), (3, "weights = 3")):
        with pytest.raises(UsageError, match=word):
            Loop(comm).make("signum-mv", weights=wrong)
    with pytest.raises(UsageError, match="weights"):
        Loop(comm).make("signum-mv", weights=[1 + loop.rank] * loop.n)
    with pytest.raises(UsageError, match="dist-ef-signsgd"):
        Loop(comm).make("dist-ef-signsgd", weights=weights)


ODD = {
    "": lambda loop: None,
    "transposed": lambda loop: turn(loop.parameters["layer0.weight"]),
    "missing": lambda loop: setattr(loop.parameters["layer1.bias"], "grad", None),
}


def turn(p):
    p.grad = p.grad.t().contiguous().t()


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("how", [{}, {"zeros": "abstain"}, {"exchange": "allgather"}, {"dense_steps": 2}], ids=str)
def test_gradients_are_packed_where_they_lie(comm, everywhere, monkeypatch, how, odd):
    """With the bits of a copy, which is made where one is missing, its memory is not in order, or floats travel."""
    found, read = [], []
    for in_place in (False, True):
        loop = Loop(comm)
        loop.make("signsgd-mv", **how)
        if not in_place:
            monkeypatch.setattr(loop.optimizer.gradients, "gradient_in_place", lambda: None)
        digests = []
        for _ in range(STEPS):
            loop.closure()
            ODD[odd](loop)
            loop.optimizer.step()
            loop.t += 1
            digests.append(loop.digest())
        found.append(digests)
        g = loop.optimizer.stepper.stages[-1].estimator_states[0]["g"]
        read.append(bool(g.any()) if "dense_steps" not in how else None)
    everywhere(found[0] == found[1], f"the bits of a copy: {found}")
    everywhere(read[0] is not False and read[1] in (bool(odd), None), f"g was filled: {read}")


@pytest.mark.parametrize("dense", [False, True], ids=["all vote", "biases averaged"])
@pytest.mark.parametrize(("name", "hyper"), [a for a in ALGORITHMS if a[0] not in ("ssvr-mv",)], ids=str)
def test_overlap_changes_no_bit(comm, everywhere, name, hyper, dense):
    found = []
    for overlap in (False, True):
        loop = Loop(comm)
        named = list(loop.parameters.items())
        groups = [{"params": named}]
        if dense:
            groups = [
                {"params": [p for p in named if "weight" in p[0]]},
                {"params": [p for p in named if "bias" in p[0]], "vote": False, "lr": 0.1},
            ]
        whole = name in ("ssdm", "dist-ef-signsgd")  # a norm, scales: these need all of v first
        warned = pytest.warns(UserWarning, match="no overlap") if overlap and whole and not loop.rank else nullcontext()
        with warned:
            loop.optimizer = SignOptimizer(groups, name, 0.01, comm=comm, seed=3, chunk=512, overlap=overlap, **hyper)
        expected = overlap and loop.n > 1 and not whole
        everywhere(loop.optimizer.overlaps == expected, "it says whether it overlaps")
        found.append(digests_of(loop))
    everywhere(found[0] == found[1], f"{name} with overlap")


@pytest.mark.parametrize("hyper", [{}, {"zeros": "abstain", "ties": "zero"}], ids=["one plane", "two planes"])
@pytest.mark.mpi(min_size=2)
def test_overlap_of_a_vote_by_nodes_changes_no_bit(comm, everywhere, monkeypatch, hyper):
    """Counted and sent between nodes of two ranks while backward works, in whatever order of time."""
    monkeypatch.setattr(hierarchical, "nodes_of", lambda comm, _: nodes_of(comm, 2))
    found = []
    for exchange, overlap in (("sharded", False), ("hierarchical", False), ("hierarchical", True)):
        loop = Loop(comm)
        loop.make("signum-mv", exchange=exchange, overlap=overlap, chunk=512, **hyper)
        everywhere(loop.optimizer.choices[0].name == exchange, "by that exchange")
        found.append(digests_of(loop))
        loop.optimizer.stepper.close()
    everywhere(found[0] == found[1] == found[2], "the same bits")


def test_several_backward_passes_before_a_step(comm, everywhere):
    found = []
    for overlap in (False, True):
        loop = Loop(comm)
        loop.make("signum-mv", overlap=overlap)
        for _ in range(STEPS):
            loop.optimizer.zero_grad()
            with loop.optimizer.no_sync():
                loop.problem.loss(loop.parameters, loop.batch()).backward()
            loop.problem.loss(loop.parameters, loop.batch()).backward()
            loop.optimizer.step()
            loop.t += 1
        found.append(loop.digest())
    everywhere(found[0] == found[1], "accumulated with overlap")


def test_groups_have_rates_decays_and_averages(comm, everywhere):
    """Biases go along the mean gradient, added in voter order; a group's rate and decay are its own."""
    loop, lr = Loop(comm), 0.05
    weights = [(k, p) for k, p in loop.parameters.items() if "weight" in k]
    biases = [(k, p) for k, p in loop.parameters.items() if "bias" in k]
    groups = [
        {"params": weights[:1], "lr": 0.01, "weight_decay": 0.5},
        {"params": weights[1:]},
        {"params": biases, "vote": False, "lr": lr},
    ]
    loop.optimizer = optimizer = SignOptimizer(groups, "signsgd-mv", 0.02, comm=comm, seed=3)
    before = {k: p.detach().clone() for k, p in loop.parameters.items()}
    loop.step()
    for k, p in biases:
        total = torch.zeros_like(p)
        for row in comm.allgather(p.grad.numpy()):
            total += torch.from_numpy(row)
        mean = total / loop.n
        expected = np.float32(1.0) * before[k].numpy() + np.float32(-lr) * mean.numpy()
        everywhere(np.array_equal(p.detach().numpy(), expected), f"{k} moved along the mean")
    moved = {k: (p.detach() - before[k]).abs().max().item() for k, p in weights}
    everywhere(abs(moved[weights[1][0]] - 0.02) < 1e-6, "the default rate")
    decayed = before[weights[0][0]] * (1 - 0.01 * 0.5)
    everywhere(
        ((loop.parameters[weights[0][0]].detach() - decayed).abs() < 0.0101).all(), "a rate and decay of its own"
    )
    optimizer.param_groups[1]["lr"] = 0.0
    still = weights[1][1].detach().clone()
    loop.step()
    everywhere(torch.equal(weights[1][1].detach(), still), "rates are read at every step")


def test_schedulers_and_statistics(comm, everywhere):
    loop = Loop(comm)
    # ranks that share memory need send nothing
    optimizer = loop.make("signsgd-mv", zeros="coin", ties="coin", exchange="sharded")
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    before = loop.parameters["layer0.weight"].detach().clone()
    loop.step()
    scheduler.step()
    middle = loop.parameters["layer0.weight"].detach().clone()
    loop.step()
    after = loop.parameters["layer0.weight"].detach()
    everywhere(torch.allclose((middle - before).abs(), torch.tensor(0.01), atol=1e-6), "the first rate")
    everywhere(torch.allclose((after - middle).abs(), torch.tensor(0.005), atol=1e-6), "half of it")
    s = optimizer.statistics
    everywhere(s.step == 2 and 0 < s.agreement <= 1 and s.seconds["sign"] > 0, f"{s}")
    everywhere((s.bytes_up > 0) == (loop.n > 1), f"{s}")
    everywhere(
        len(set(comm.allgather((s.agreement, s.ties, s.flips, s.bytes_up, s.bytes_down)))) == 1, "all know the same"
    )


@pytest.mark.parametrize("name", ["dist-ef-signsgd", "ssvr-mv", "sgd"])
def test_a_saved_optimiser_goes_on_bit_for_bit(comm, everywhere, tmp_path_factory, name):
    folder = comm.bcast(str(tmp_path_factory.mktemp("saved")) if comm.Get_rank() == 0 else None)
    loop = Loop(comm)
    loop.make(name)
    digests_of(loop, 3)
    loop.optimizer.save(f"{folder}/all.h5", epoch=4)
    mine, model = loop.optimizer.state_dict(), {k: p.detach().clone() for k, p in loop.parameters.items()}
    torch.save({"optimizer": mine, "model": model}, f"{folder}/{loop.rank}.pt")
    expected = digests_of(loop, 3)

    again = Loop(comm)
    again.make(name, lr=0.5)
    again.t = 3
    everywhere(again.optimizer.load(f"{folder}/all.h5") == {"epoch": 4}, "what else was saved")
    everywhere(digests_of(again, 3) == expected, f"{name} from all ranks' checkpoint")

    third = Loop(comm)
    third.make(name, lr=0.5)
    third.t = 3
    saved = torch.load(f"{folder}/{loop.rank}.pt", weights_only=True)
    with torch.no_grad():
        for k, p in third.parameters.items():
            p.copy_(saved["model"][k])
    third.optimizer.load_state_dict(saved["optimizer"])
    everywhere(digests_of(third, 3) == expected, f"{name} from a state_dict a rank")
    if loop.n > 1:
        wrong = torch.load(f"{folder}/{(loop.rank + 1) % loop.n}.pt", weights_only=True)
        with pytest.raises(UsageError, match="every rank has a state of its own"):
            third.optimizer.load_state_dict(wrong["optimizer"])


def test_what_a_vote_keeps_is_saved_by_coordinate(comm, everywhere, tmp_path_factory):
    """Saved by an optimiser whose chunks go backwards, read by one whose chunks do not."""
    folder = comm.bcast(str(tmp_path_factory.mktemp("saved")) if comm.Get_rank() == 0 else None)
    found, hyper = [], {"radius": 1.0, "error_feedback": True, "exchange": "sharded" if comm.Get_size() > 1 else "auto"}
    for overlap in (True, False):
        loop = Loop(comm)
        loop.make("sto-signsgd", overlap=overlap, **hyper)
        everywhere(loop.optimizer.overlaps == (overlap and loop.n > 1), "overlaps")
        if overlap:
            digests_of(loop, 3)
            loop.optimizer.save(f"{folder}/kept.h5")
        else:
            loop.optimizer.load(f"{folder}/kept.h5")
            loop.t = 3
        found.append(digests_of(loop, 3))
    everywhere(found[0] == found[1], "goes on alike")


def test_an_overflow_is_skipped_by_all(comm, everywhere):
    loop, scaler = Loop(comm), torch.amp.GradScaler("cpu", init_scale=2.0**10)
    optimizer = loop.make("signum-mv")
    plain = Loop(comm)
    plain.make("signum-mv")
    plain.step()
    for overflow in (True, False):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=False):
            loss = loop.problem.loss(loop.parameters, loop.batch())
        scaler.scale(loss).backward()
        if overflow and loop.rank == loop.n - 1:
            loop.parameters["layer0.weight"].grad[0, 0] = math.inf
        before = loop.digest()
        scaler.step(optimizer)
        scaler.update()
        everywhere(optimizer.statistics.skipped == overflow, "skipped")
        everywhere((loop.digest() == before) == overflow, "x moves without an overflow only")
    everywhere(loop.digest() == plain.digest(), "gradients are unscaled: a step without a scaler has the same bits")


@pytest.mark.mpi(min_size=2)
def test_a_scaler_does_not_overlap(comm, everywhere):
    loop, scaler = Loop(comm), torch.amp.GradScaler("cpu", init_scale=1.0)
    loop.make("signum-mv", overlap=True)
    scaler.scale(loop.problem.loss(loop.parameters, loop.batch())).backward()
    if loop.rank == 0:
        loop.parameters["layer0.weight"].grad.fill_(math.inf)
    kind, text = told(lambda: scaler.step(loop.optimizer))
    everywhere(kind is UsageError and "overlap" in text, f"{kind}: {text}")


def test_autocast_compile_and_buffers(comm, everywhere):
    torch.manual_seed(comm.Get_rank())
    model = nn.Sequential(nn.Linear(8, 70), nn.BatchNorm1d(70), nn.ReLU(), nn.Linear(70, 2))
    optimizer = SignOptimizer(model, "signum-mv", 0.01, comm=comm)
    means = comm.allgather(model[1].running_mean.sum().item())
    everywhere(len(set(means)) == 1, "buffers come from root")
    fast = torch.compile(model, backend="eager")
    for _ in range(3):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = fast(torch.randn(16, 8)).float().square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    optimizer.stepper.check_replicas()
    everywhere(model[0].weight.dtype == torch.float32, "x stays float32")


def test_a_second_look_moves_running_statistics_and_draws_once(comm, everywhere):
    torch.manual_seed(comm.Get_rank())
    model = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 2))
    optimizer = SignOptimizer(model, "ssvr-mv", 0.01, comm=comm)
    looks, masks = [], []
    model[2].register_forward_hook(lambda _, given, out: masks.append((out == 0).clone()))
    for _ in range(3):
        batch, count = torch.randn(16, 8), model[1].num_batches_tracked.item()

        def closure(batch=batch):
            looks.append(1)
            optimizer.zero_grad()
            loss = model(batch).square().mean()
            loss.backward()
            return loss

        optimizer.step(closure)
        everywhere(model[1].num_batches_tracked.item() == count + 1, "running statistics move once a step")
    everywhere(len(looks) == 5, "one look at the first step, two at others")
    everywhere(torch.equal(masks[1], masks[2]), "one dropout mask at both points")
    everywhere(not torch.equal(masks[2], masks[3]), "and another one at the next step")


@pytest.mark.mpi(min_size=2)
def test_optimisers_on_communicators_of_their_own(comm, everywhere):
    part = comm.Split(comm.Get_rank() % 2)
    model = nn.Linear(5, 3)
    optimizer = SignOptimizer(model, "signum-mv", 0.01, comm=part)
    both = nn.Linear(5, 3)
    whole = SignOptimizer(both, "signum-mv", 0.01, comm=comm)
    for t in range(4):
        for net, opt in ((model, optimizer), (both, whole)):
            opt.zero_grad()
            net(torch.full((2, 5), 1.0 + t + comm.Get_rank() % 2)).square().sum().backward()
            opt.step()
    optimizer.stepper.check_replicas()
    whole.stepper.check_replicas()
    everywhere(optimizer.ranks.size == part.Get_size() and whole.ranks.size == comm.Get_size(), "each its own voters")
