"""Models cut by FSDP2's fully_shard, whose ranks are one voter: the bits of voters that hold all of the model."""

import os

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn

import mpisign
from mpisign.errors import MpisignError, UsageError
from mpisign.optim import SignOptimizer

if not dist.is_gloo_available():
    pytest.skip("this torch has no gloo", allow_module_level=True)

from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

pytestmark = [pytest.mark.mpi(min_size=2), pytest.mark.timeout(240)]

STEPS = 50
FOUR = ("signsgd-mv", "signum-mv", "dist-ef-signsgd", "ssdm")


def network(dtype=torch.float32):
    """Pieces of 101 rows are uneven, and one row leaves all ranks but the first with nothing."""
    torch.manual_seed(1)
    layers = nn.Linear(90, 101), nn.Tanh(), nn.LayerNorm(101), nn.Linear(101, 7), nn.Linear(7, 1)
    model = nn.Sequential(*layers)
    model.register_buffer("table", torch.zeros(3))
    return model.to(dtype)


def ranks_of_voters(comm):
    """Two where that is even, else all: one voter."""
    n = comm.Get_size()
    return 2 if n % 2 == 0 else n


def mesh_of(comm, of):
    if not dist.is_initialized():
        mpisign.start_process_group()
    return init_device_mesh("cpu", (comm.Get_size() // of, of), mesh_dim_names=("replicate", "shard"))


class Voters:
    """All ranks as voters of two (or of all, where their number is odd): a sharded model each, and its optimiser."""

    def __init__(self, world, algorithm="signum-mv", dtype=torch.float32, odd="", **how):
        self.rank, self.of = world.Get_rank(), ranks_of_voters(world)
        self.mesh = mesh_of(world, self.of)
        self.model = network(dtype) if odd != "small" else nn.Sequential(nn.Linear(9, 9))
        if odd == "others start elsewhere" and self.rank:
            with torch.no_grad():
                for t in (*self.model.parameters(), *self.model.buffers()):
                    t.add_(1.0)
        self.model[0].bias.requires_grad_(odd != "others start elsewhere")
        mesh = self.mesh if odd == "replicated" else self.mesh["shard"]
        for module in (self.model[0], self.model) if odd != "plain" else ():
            fully_shard(module, mesh=mesh)
        self.inside = world.Split(self.rank // self.of, self.rank)
        self.across = world.Split(self.rank % self.of, self.rank)
        self.optimizer = SignOptimizer(self.model, algorithm, **{"lr": 0.01, "comm": world, "voters": self.mesh} | how)
        self.t = 0

    def backward(self):
        """The gradients of a batch that is this rank's own."""
        self.optimizer.zero_grad()
        generator = torch.Generator().manual_seed(1000 * self.t + self.rank)
        batch = torch.randn(4, 90, generator=generator).to(next(self.model.parameters()).dtype)
        self.model(batch).square().mean().backward()
        self.t += 1

    def step(self):
        self.backward()
        self.optimizer.step()

    def whole(self, what=lambda p: p):
        """All parameters, or what hangs on them, put together from the pieces of the voter's ranks."""
        pieces = [what(p).detach().to_local().clone() for p in self.model.parameters()]
        everyone = self.inside.allgather(pieces)
        return [torch.cat(of_ranks) for of_ranks in zip(*everyone, strict=True)]

    def same(self, other):
        return all(torch.equal(one, two) for one, two in zip(self.whole(), other.whole(), strict=True))


class Unsharded:
    """Voters of one rank each that get the gradients of sharded ones."""

    def __init__(self, voters, algorithm, **how):
        self.model = network(voters.whole()[0].dtype)
        with torch.no_grad():
            for p, start in zip(self.model.parameters(), voters.whole(), strict=True):
                p.copy_(start)
        self.optimizer = SignOptimizer(self.model, algorithm, **{"lr": 0.01, "comm": voters.across} | how)

    def step(self, gradients):
        for p, gradient in zip(self.model.parameters(), gradients, strict=True):
            p.grad = gradient.clone()
        self.optimizer.step()

    def whole(self):
        return list(self.model.parameters())


def test_a_process_group_without_torchrun(comm, everywhere):
    if not dist.is_initialized():
        text = told(lambda: mpisign.start_process_group("pigeons"))
        everywhere(text.startswith("backend = 'pigeons': this torch has gloo"), text)
    mesh_of(comm, 1)
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    told_by = [int(os.environ[name]) for name in names]
    rank, n = comm.Get_rank(), comm.Get_size()
    everywhere(told_by == [rank, n, rank, n] and (dist.get_rank(), dist.get_world_size()) == (rank, n), f"{told_by}")
    everywhere("runs already" in told(mpisign.start_process_group), "a second time")


def follow(voters, reference, steps):
    """Steps of both by the same gradients; whether they are alike after the last."""
    for _ in range(steps):
        voters.backward()
        gradients = voters.whole(lambda p: p.grad)
        voters.optimizer.step()
        reference.step(gradients)
    return voters.same(reference)


CASES = [(name, 10) for name in FOUR[2:]] + [pytest.param(name, STEPS, marks=pytest.mark.slow) for name in FOUR]


@pytest.mark.parametrize(("algorithm", "steps"), CASES)
def test_a_sharded_voter_has_the_bits_of_an_unsharded_one(comm, everywhere, algorithm, steps):
    voters = Voters(comm, algorithm)
    reference = Unsharded(voters, algorithm)
    for t in range(0, steps, 5):
        everywhere(follow(voters, reference, 5), f"x after step {t + 5}")
    told, whole = voters.optimizer.statistics, reference.optimizer.statistics
    everywhere(told.agreement == whole.agreement and told.flips == whole.flips, "statistics")


@pytest.mark.parametrize("how", ["group", "communicator", "mesh of one dimension", "dense_steps"])
def test_votes_travel_by_either_library(comm, everywhere, how):
    of = ranks_of_voters(comm)
    given = {
        "group": lambda: {"comm": dist.group.WORLD},
        "communicator": lambda: {"voters": comm.Split(comm.Get_rank() // of)},
        "mesh of one dimension": lambda: {"voters": mesh_of(comm, of)["shard"]},
        "dense_steps": lambda: {"dense_steps": 2, "weight_decay": 0.1},
    }
    mesh_of(comm, of)  # which starts the group
    more = {"dense_steps": 2, "weight_decay": 0.1} if how == "dense_steps" else {}
    voters = Voters(comm, "signum-mv", **given[how]())
    everywhere(follow(voters, Unsharded(voters, "signum-mv", **more), 4), how)


def test_bfloat16_parameters_are_copies_of_x(comm, everywhere):
    voters = Voters(comm, "signum-mv", torch.bfloat16, lr=1e-3, check_every=2)
    reference = Unsharded(voters, "signum-mv", lr=1e-3)
    everywhere(follow(voters, reference, 8), "parameters")
    x, shard = reference.optimizer.gradients.x, voters.optimizer.stepper.layout
    mine = x[shard.origin :][: shard.length]
    everywhere(torch.equal(voters.optimizer.gradients.x, mine), "x in float32")
    everywhere(not torch.equal(mine, mine.bfloat16().float()), "which tells more")


def test_bytes_are_those_of_the_vote_alone(comm, everywhere):
    """Those of a voter's ranks together: 2(N-1)/N bits per coordinate, its pads and the headers."""
    voters = Voters(comm, "signum-mv", exchange="sharded")
    voters.step()
    told, n = voters.optimizer.statistics, comm.Get_size() // voters.of
    bits = 8 * voters.of * (told.bytes_up + told.bytes_down) / voters.optimizer.layout.size
    least = 2 * (n - 1) / n
    everywhere(least <= bits <= 1.1 * least, f"{bits} bits per coordinate")


# What a loop does besides


def test_what_a_loop_writes_is_taken_over(comm, everywhere):
    voters = Voters(comm, lr=0.0, check_every=1)
    with torch.no_grad():
        for p in voters.model.parameters():
            p.mul_(2.0)
    before = voters.whole()
    voters.step()
    everywhere(all(map(torch.equal, before, voters.whole())), "in place")
    voters.backward()
    if voters.rank == comm.Get_size() - 1:
        next(voters.model.parameters()).to_local().data.add_(1.0)
    with pytest.raises(UsageError) as raised:
        voters.optimizer.step()
    everywhere("'0.weight' was changed unnoticed" in str(raised.value), str(raised.value))


def test_an_evaluation_between_backward_and_step_leaves_nothing_old_behind(comm, everywhere):
    voters, other = Voters(comm), Voters(comm)
    for evaluates, one in ((True, voters), (False, other)):
        for _ in range(3):
            one.backward()
            if evaluates:
                with torch.no_grad():
                    one.model(torch.ones(2, 90))
            one.optimizer.step()
    everywhere(voters.same(other), "parameters")


def test_clipping_and_accumulation(comm, everywhere):
    voters = Voters(comm, "sgd", momentum=0.0)
    for clip in (True, False):
        voters.backward()
        voters.model(torch.ones(2, 90)).square().mean().backward()
        if clip:
            nn.utils.clip_grad_norm_(voters.model.parameters(), 1e-3)
        before = voters.whole()
        voters.optimizer.step()
        moved = max((one - two).abs().max().item() for one, two in zip(before, voters.whole(), strict=True))
        everywhere((0 < moved <= 1.01e-5) == clip and moved > 0, f"moved by {moved}")


def test_a_closure_and_a_gradient_scaler(comm, everywhere):
    voters, last = Voters(comm), comm.Get_rank() == comm.Get_size() - 1
    voters.backward()
    voters.optimizer.step(lambda: torch.tensor(float(comm.Get_rank())))
    loss = voters.optimizer.statistics.loss
    everywhere(loss == (comm.Get_size() - 1) / 2, f"the mean loss is {loss}")
    scaler, before = torch.amp.GradScaler("cpu", init_scale=8.0), voters.whole()
    for overflow in (True, False):
        voters.optimizer.zero_grad()
        scaler.scale(voters.model(torch.ones(2, 90)).square().mean()).backward()
        if overflow and last:
            next(voters.model.parameters()).grad.to_local().fill_(torch.inf)
        scaler.step(voters.optimizer)
        scaler.update()
        everywhere(voters.optimizer.statistics.skipped == overflow, f"skipped: {not overflow}")
        everywhere(all(map(torch.equal, before, voters.whole())) == overflow, "whether x has moved")


def test_all_start_from_root(comm, everywhere):
    """Frozen parameters in pieces and buffers, too."""
    voters = Voters(comm, odd="others start elsewhere")
    everyone = comm.allgather([*voters.whole(), voters.model.table])
    everywhere(all(map(torch.equal, everyone[0], everyone[-1])), "parameters and buffers")
    everywhere(torch.equal(everyone[0][-1], torch.zeros(3)), "of root")
    voters.model.table.fill_(comm.Get_rank())
    voters.optimizer.average_buffers()
    everywhere(voters.model.table[0].item() == (comm.Get_size() - 1) / 2, "means of all ranks")


# Saving


@pytest.fixture
def folder(comm, tmp_path_factory):
    """One folder of all ranks."""
    return comm.bcast(tmp_path_factory.mktemp("saved") if comm.Get_rank() == 0 else None)


def test_checkpoints_are_of_voters_whatever_their_ranks(comm, everywhere, folder):
    voters = Voters(comm, "dist-ef-signsgd")
    reference = Unsharded(voters, "dist-ef-signsgd")
    everywhere(follow(voters, reference, 3), "before")
    voters.optimizer.save(folder / "sharded.h5", epoch=3)
    if voters.rank % voters.of == 0:
        reference.optimizer.save(folder / "whole.h5", epoch=3)
    comm.Barrier()

    again, other = Voters(comm, "dist-ef-signsgd"), Unsharded(voters, "dist-ef-signsgd")
    everywhere(other.optimizer.load(folder / "sharded.h5") == {"epoch": 3}, "by voters of one rank")
    everywhere(again.optimizer.load(folder / "whole.h5") == {"epoch": 3}, "by voters of several")
    again.t = voters.t
    everywhere(follow(again, other, 3) and follow(voters, reference, 3) and voters.same(again), "and on")


def test_state_dicts_of_torch_come_back(comm, everywhere):
    voters = Voters(comm, "signum-mv", torch.bfloat16, lr=1e-3)
    for _ in range(3):
        voters.step()
    model, state = get_model_state_dict(voters.model), voters.optimizer.state_dict()
    model = {name: value.clone() for name, value in model.items()}
    again = Voters(comm, "signum-mv", torch.bfloat16, lr=1e-3)
    again.optimizer.load_state_dict(state)
    set_model_state_dict(again.model, model)
    again.t = voters.t
    for one in (voters, again):
        one.step()
    everywhere(voters.same(again), "parameters")
    everywhere(torch.equal(voters.optimizer.gradients.x, again.optimizer.gradients.x), "x")
    whole = Unsharded(voters, "signum-mv").optimizer
    text = told(lambda: whole.load_state_dict(state))
    everywhere("a state_dict of rank" in text, text)


def test_a_state_that_is_wrong_on_one_rank_is_refused_by_all(comm, everywhere):
    """Where states take all ranks, with parameters of 16 bits; with float32 each rank has its own to itself."""
    voters = Voters(comm, "signum-mv", torch.bfloat16, lr=1e-3)
    voters.step()
    state, calls = voters.optimizer.state_dict(), voters.optimizer.roll.place.done
    voters.step()
    before, last = voters.whole(), comm.Get_rank() == comm.Get_size() - 1
    text = told(lambda: voters.optimizer.load_state_dict({"state": {}} if last else state))
    everywhere("a state_dict without the state of a rank" in text, text)
    everywhere(voters.optimizer.stepper.t == 2, "the step")
    everywhere(all(map(torch.equal, before, voters.whole())), "nothing was loaded anywhere")
    everywhere(voters.optimizer.roll.place.done == calls + 2, "a step and a call that all have made")
    if last:
        voters.optimizer.param_groups[0]["odd"] = object()
    text = told(voters.optimizer.state_dict)
    everywhere("which can't be saved" in text, text)

    alone = Voters(comm, "signum-mv").optimizer
    calls = alone.roll.place.done
    for _ in range(comm.Get_rank()):
        alone.state_dict()
    everywhere(alone.roll.place.done == calls, "each as often as it likes")


@pytest.mark.parametrize("flat", [False, True], ids=["nested", "flat"])
def test_the_checkpoint_of_torch_distributed(comm, everywhere, folder, flat):
    options = StateDictOptions(flatten_optimizer_state_dict=flat)

    def states(one):
        optimizer = get_optimizer_state_dict(one.model, one.optimizer, options=options)
        return {"model": get_model_state_dict(one.model), "optimizer": optimizer}

    voters, again = Voters(comm, "dist-ef-signsgd"), Voters(comm, "dist-ef-signsgd", lr=0.5)
    for _ in range(3):
        voters.step()
    dcp.save(states(voters), checkpoint_id=folder)
    again.step()
    found = states(again)
    dcp.load(found, checkpoint_id=folder)
    set_model_state_dict(again.model, found["model"])
    set_optimizer_state_dict(again.model, again.optimizer, found["optimizer"], options=options)
    everywhere(again.optimizer.stepper.t == 3, "the step")
    again.t = voters.t
    for _ in range(3):
        voters.step()
        again.step()
    everywhere(voters.same(again), "and on")


# What is refused


def told(work):
    """The text of the error that work raises."""
    try:
        work()
    except MpisignError as error:
        return str(error)
    return "nothing"


REFUSED = {
    "powersgd": {"algorithm": "powersgd"},
    "more than a gradient at x: two points": {"algorithm": "ssvr-mv"},
    "overlap=True is not there": {"overlap": True},
    "which can't be dealt to the": {"odd": "small"},
    "is not sharded": {"odd": "plain"},
    "is replicated": {"odd": "replicated"},
    "voters = 3": {"voters": 3},
}


@pytest.mark.parametrize("word", REFUSED)
def test_what_does_not_go_together_is_told_in_one_message(comm, everywhere, word):
    text = told(lambda: Voters(comm, **REFUSED[word]))
    everywhere(word in text, text)


@pytest.mark.mpi(min_size=3)
def test_voters_have_as_many_ranks(comm, everywhere):
    voters = comm.Split(int(comm.Get_rank() == 0))
    text = told(lambda: Voters(comm, voters=voters))
    everywhere("voters of different sizes: 1 rank(s) per voter on rank(s) 0" in text, text)


def test_what_is_wrong_on_one_rank_stops_all_before_anything_moves(comm, everywhere):
    voters, last = Voters(comm, "signsgd-mv"), comm.Get_rank() == comm.Get_size() - 1
    before = voters.whole()

    def spoiled(spoil):
        voters.backward()
        if last:
            spoil()
        return told(voters.optimizer.step)

    def poison():
        next(voters.model.parameters()).grad.to_local()[0, 0] = torch.nan

    def other_rate():
        voters.optimizer.param_groups[0]["lr"] = 0.5

    def lose():
        next(voters.model.parameters()).grad = None

    text = spoiled(poison)
    everywhere("the estimate of parameter 0.weight" in text and "is nan" in text, text)
    text = spoiled(lose)
    everywhere("'0.weight' has no gradient on rank(s)" in text, text)
    text = spoiled(other_rate)
    everywhere("lr of parameter group 0 is" in text, text)
    everywhere(all(map(torch.equal, before, voters.whole())), "nothing has moved")
