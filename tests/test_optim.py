"""The library face from outside: the README's change, the application's bits, packages that add entries, DDP's hook."""

import difflib
import re
import subprocess
import sys
import textwrap
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from mpisign import config
from mpisign.algorithms import dense
from mpisign.errors import UsageError
from mpisign.optim import SignOptimizer
from mpisign.problems.synthetic import Quadratic
from mpisign.run.train import simulate
from mpisign.storage.reader import Run, load_parameters
from tests.building import Setup
from tests.comparing import differing
from tests.cover import rest_is_slow
from tests.own_loop import BATCH, RATE, SEED
from tests.running import BIN, ROOT, mpisign, run, train

EXAMPLE = ROOT / "jobs/transformer"


def test_the_readme_shows_the_change_that_makes_the_example_vote():
    before, after = ((EXAMPLE / f"{name}.py").read_text().splitlines() for name in ("plain", "voted"))
    start = before.index("import argparse")  # the docstrings tell how to start either
    lines = difflib.unified_diff(before[start - 1 :], after[after.index("import argparse") - 1 :], n=1, lineterm="")
    changed = [line for line in list(lines)[2:] if not line.startswith("@@")]
    block = re.search(r"```diff\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    assert [line.rstrip() for line in changed] == [line.rstrip() for line in block.splitlines() if line != "..."]


def test_the_readme_of_the_library_shows_lines_of_the_sharded_example():
    block = re.search(r"```diff\n(.*?)```", (ROOT / "mpisign/optim/README.md").read_text(), re.DOTALL)[1]
    assert block.replace("\n+", "\n").removeprefix("+") in (EXAMPLE / "sharded.py").read_text()


def test_the_example_trains():
    ended = run(BIN / "mpirun", "-n", 2, sys.executable, EXAMPLE / "voted.py", "--steps", 50, timeout=100)
    assert ended.code == 0, ended.err
    assert float(ended.values["held out"]) < 3.6  # of about 4.6 at the start
    assert len(ended.out.splitlines()) == 2  # by root alone


# other algorithms have the bits of a Stepper in parallel/test_optim.py
@pytest.mark.parametrize("algorithm", rest_is_slow(("signum-mv", "dist-ef-signsgd"), ("signum-mv",)))
def test_a_loop_has_the_bits_of_the_application(tmp_path, algorithm):
    settings = [
        "problem.name=tests.own_loop:Windows", f"problem.batch_size={BATCH}", f"run.seed={SEED}", "run.steps=12",
        f"run.file={tmp_path}/app.h5", f"algorithm.name={algorithm}", f"schedule.lr={RATE}", "run.threads=1",
        "partition.kind=iid", "schedule.kind=constant",
    ]  # fmt: skip
    ended = train(*settings, n=3, timeout=100)
    assert ended.code == 0, ended.err
    looped = run(BIN / "mpirun", "-n", 3, sys.executable, "-m", "tests.own_loop", tmp_path, 12, algorithm, timeout=100)
    assert looped.code == 0, looped.err
    app, loop = load_parameters(tmp_path / "app.model"), np.load(tmp_path / "loop.npz")
    assert app.keys() == set(loop)
    for name in app:
        np.testing.assert_array_equal(app[name], loop[name], err_msg=name)


# Packages of other people

PACKAGE = '''
from mpisign.algorithms.method import Algorithm
from mpisign.algorithms.registry import algorithm
from mpisign.algorithms.estimators import Minibatch
from mpisign.problems import Problem
from mpisign.algorithms.signs import Sign
from mpisign.algorithms.updates import Descent
from mpisign.algorithms.votes import Average
import torch

@algorithm("borrowed", paper="Doe 2027", lr=0.05, known="nothing")
def borrowed():
    """Sign of the gradient, averaged."""
    return Algorithm(Minibatch(), Sign(), Average(), Descent())

class Bowl(Problem):
    def __init__(self, width: int = 3):
        self.width = width
    def initial(self, generator):
        return {"x": torch.ones(self.width)}
    def loss(self, parameters, batch):
        return parameters["x"].square().sum() / 2
    def measure(self, parameters, rows):
        return {"loss": float(self.loss(parameters, None)), "rows": 1}
'''


@pytest.fixture
def package(tmp_path):
    """An installed package with entry points, one of which is broken; what it takes to find it."""
    (tmp_path / "doe.py").write_text(PACKAGE)
    info = tmp_path / "doe-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: doe\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[mpisign.algorithms]\ndoe = doe\nbroken = doe.missing\n[mpisign.problems]\nbowl = doe:Bowl\n"
    )
    return {"PYTHONPATH": f"{tmp_path}:{ROOT}"}


def test_a_package_adds_algorithms_and_problems(package, tmp_path):
    listed = mpisign("algorithms", environment=package)
    assert listed.code == 0
    assert "borrowed" in listed.out
    settings = ["problem.name=bowl", "problem.width=4", "algorithm.name=borrowed", "run.steps=60"]
    ended = train(*settings, f"run.file={tmp_path}/r.h5", environment=package)
    assert ended.code == 0, ended.err
    assert Run(tmp_path / "r.h5")["eval"]["train_loss"][-1] < 0.1
    unknown = train("algorithm.name=lend", environment=package)
    assert unknown.code == 2
    assert "borrowed" in unknown.err
    assert "doe.missing" in unknown.err  # what could not be loaded is told where a name is missed
    problem = train("problem.name=bow", environment=package)
    assert problem.code == 2
    assert "bowl" in problem.err


# Errors of one rank in a script


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("if rank == 1: raise KeyError('lost')", None, ["KeyError: 'lost'", "rank 1/2"]),
        pytest.param(
            "model.weight.grad = None if rank else model.weight.grad; opt.step()",
            2,
            ["no gradient on rank(s) [1]"],
            marks=pytest.mark.slow,
        ),
        ("model.weight.grad.fill_(float('nan')) if rank else None; opt.step()", 3, ["rank 1", "is nan"]),
    ],
)
def test_an_error_in_a_script_ends_all_ranks(tmp_path, line, code, words):
    (tmp_path / "script.py").write_text(
        textwrap.dedent(f"""
        import torch
        from mpisign.optim import SignOptimizer
        model = torch.nn.Linear(3, 2)
        opt = SignOptimizer(model, lr=0.1)
        rank = opt.ranks.rank
        for t in range(3):
            opt.zero_grad()
            model(torch.ones(1, 3)).sum().backward()
            if t == 1:
                {line}
            else:
                opt.step()
        print("went on")
        """)
    )
    ended = run(BIN / "mpirun", "-n", 2, sys.executable, tmp_path / "script.py", timeout=60)
    assert ended.code == code or (code is None and ended.code)
    assert all(word in ended.err for word in words), ended.err
    assert "went on" not in ended.out
    assert code is None or ended.err.count("mpisign: ") == 1


def test_what_a_loop_cannot_give_is_refused():
    model = nn.Linear(2, 2)
    for how, words in (
        ({"algorithm": "dist-signrvr"}, ["finite sum", "signum-mv"]),
        ({"algorithm": "signam"}, ["unknown algorithm", "signum-mv"]),
        ({"beta": 2.0}, ["algorithm.beta", "2.0"]),
        ({"bta": 0.5}, ["algorithm.bta", "beta"]),
        ({"lr": -1.0}, ["lr = -1.0"]),
        ({"exchange": "pigeon"}, ["pigeon", "sharded"]),
        ({"comm": 3}, ["comm = 3", "mpi4py"]),
    ):
        with pytest.raises(UsageError) as raised:
            SignOptimizer(model, **how)
        assert all(word in str(raised.value) for word in words), str(raised.value)
    with pytest.raises(UsageError, match="no parameters"):
        SignOptimizer([])
    optimizer = SignOptimizer(model)
    with pytest.raises(UsageError, match="can't be added later"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})
    with pytest.raises(UsageError, match="with momentum"):
        SignOptimizer([{"params": model.parameters(), "momentum": 0.5}])


# Warnings

QUIET = """
import sys, torch
from mpisign.optim import SignOptimizer
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(4, 9), torch.nn.BatchNorm1d(9), torch.nn.Linear(9, 2))
for overlap in (False, True):
    opt = SignOptimizer(model, lr=torch.tensor(0.1), overlap=overlap, betas=(0.9, 0.99), algorithm="dlion-mavo")
    cycle = torch.optim.lr_scheduler.OneCycleLR(opt, 0.1, 20, cycle_momentum=False)
    schedules = [torch.optim.lr_scheduler.StepLR(opt, 2), cycle]
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0, enabled=not overlap)
    for t in range(4):
        opt.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(torch.randn(6, 4)).float().square().mean()
        scaler.scale(loss).backward()
        scaler.step(opt)
        scaler.update()
        for schedule in schedules:
            schedule.step()
    with opt.averaged_buffers():
        model.eval()(torch.randn(6, 4))
    model.train()
    opt.save(sys.argv[1], epoch=torch.tensor(3), betas=(0.9, 0.99))
    assert opt.load(sys.argv[1]) == {"epoch": torch.tensor(3), "betas": (0.9, 0.99)}
    opt.load_state_dict(opt.state_dict())
    assert opt.param_groups[0]["max_lr"] == 0.1, opt
if opt.ranks.root:
    print("quiet")
"""


def test_nothing_warns_in_a_usual_script(tmp_path):
    (tmp_path / "quiet.py").write_text(QUIET)
    command = [sys.executable, "-W", "error", tmp_path / "quiet.py", tmp_path / "saved.h5"]
    ended = run(BIN / "mpirun", "-n", 2, *command, timeout=100)
    assert (ended.code, ended.out, ended.err) == (0, "quiet\n", "")


# What does not vote, in the application

DENSE = ["dense.steps=4", 'dense.parameters=["*.bias"]', "dense.lr=0.1", "run.steps=12", "run.record_every=1"]


def test_dense_parameters_and_a_dense_warm_start_in_the_application(tmp_path):
    files = [tmp_path / "ranks.h5", tmp_path / "one.h5"]
    flags = [part for s in DENSE for part in ("--set", s)]
    for file, how in zip(files, ({"n": 3}, {}), strict=True):
        command = ["train"] if how else ["simulate", "-n", 3]
        ended = mpisign(*command, *flags, "--set", "exchange.name=sharded", "--set", f"run.file={file}", **how)
        assert ended.code == 0, ended.err
    assert differing(*files) == []
    steps = Run(files[0])["steps"]
    sent = np.diff(steps["bytes_up"] + steps["bytes_down"], prepend=0)
    assert sent[:4].min() > 15 * sent[4:].max()  # floats first, then bits, and floats of the biases
    assert np.isnan(steps["agreement"][:4]).all()
    assert (steps["agreement"][4:] > 0).all()


def test_a_problem_of_which_all_is_averaged(tmp_path):
    """Whatever its voters could do together: they then send floats one by one, as sgd does."""

    def ends_at(name, *more):
        settings = ["problem.name=quadratic", "problem.dimension=100", f"algorithm.name={name}", "schedule.lr=0.1"]
        settings += ["schedule.kind=constant", "run.steps=5", "run.overwrite=true", f"run.file={tmp_path}/r.h5", *more]
        simulate(config.load(None, settings), 3, quiet=True)
        return load_parameters(tmp_path / "r.model")["x"]

    close = partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-7)
    everything = 'dense.parameters=["x"]'
    close(ends_at("signsgd-mv", everything), ends_at("sgd", "algorithm.momentum=0"))
    # what has momentum after the vote, or on each rank, keeps it for what is averaged
    heavy = ends_at("sgd")
    for method in (("qsgd",), ("dgc",), ("dgc", "algorithm.warmup_steps=4")):
        close(ends_at(*method, everything), heavy, err_msg=str(method))
    close(ends_at("qsgd", everything, "dense.lr=0.05"), ends_at("sgd", "schedule.lr=0.05"))


def test_a_dense_warm_start_hands_its_momentum_on():
    setup = Setup(Quadratic(dimension=50), 2)
    method = dense.warm_start(setup.algorithm("qsgd"), 3, factor=0.5)
    stepper, reference = setup.stepper(method, "allgather"), setup.reference(method)
    for _ in range(6):
        stepper.step(0.1)
        reference.step(0.1)
    np.testing.assert_allclose(stepper.x, reference.x, rtol=1e-5, atol=1e-6)
    momentum = stepper.states()["stage1/update/m"]
    np.testing.assert_allclose(momentum, reference.stages[1]["update"].m, rtol=1e-4, atol=1e-5)


def test_dense_settings_that_do_not_fit_are_refused():
    for setting, words in (
        ('dense.parameters=["nothing*"]', ["nothing*", "layer0.bias"]),
        ("dense.steps=-1", ["dense.steps", "-1"]),
        ("dense.rate=1", ["dense.rate", "parameters"]),
    ):
        ended = train(setting, "run.steps=2")
        assert ended.code == 2
        assert all(word in ended.err for word in words), ended.err
    setup = Setup(Quadratic(dimension=3), 2)
    for name in ("onebit-adam", "dvr-sign"):
        with pytest.raises(UsageError, match=name):
            dense.with_averaging(setup.algorithm(name))
    for name in ("onebit-adam", "sgd"):
        with pytest.raises(UsageError, match=name):
            dense.warm_start(setup.algorithm(name), 3)


# torch.distributed

HOOK = """
import copy, io, sys, torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel as DDP
from mpisign.errors import UsageError
from mpisign.optim.ddp import SignVote, sign_vote
rank, beta = int(sys.argv[1]), float(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{sys.argv[3]}", rank=rank, world_size=3)
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(30, 70), torch.nn.Linear(70, 3))
twin, ddp, state = copy.deepcopy(model), DDP(model, bucket_cap_mb=0.004), SignVote(beta=beta)
ddp.register_comm_hook(state, sign_vote)
opt = torch.optim.SGD(ddp.parameters(), lr=0.125)
torch.manual_seed(rank)
momenta = [torch.zeros_like(p) for p in twin.parameters()]
for t in range(4):
    if t == 2:  # goes on in a DDP made anew, from a state that was saved
        file = io.BytesIO()
        torch.save([state, model.state_dict()], file)
        file.seek(0)
        state, weights = torch.load(file, weights_only=False)
        model.load_state_dict(weights)
        ddp = DDP(model, bucket_cap_mb=0.004)
        ddp.register_comm_hook(state, sign_vote)
    twin.load_state_dict(model.state_dict())
    x = torch.randn(8, 30)
    for net, optimizer in ((ddp, opt), (twin, twin)):
        optimizer.zero_grad()
        net(x).square().sum().backward()
    for m, p, own in zip(momenta, model.parameters(), twin.parameters()):
        m.mul_(beta).add_(own.grad, alpha=1 - beta)
        tally = m.sign()
        dist.all_reduce(tally)
        assert torch.equal(tally.sign(), p.grad), t
    opt.step()
assert state.state_dict()["step"] == 4
if beta:
    other = DDP(torch.nn.Linear(30, 70))
    other.register_comm_hook(wrong := SignVote(), sign_vote)
    wrong.load_state_dict(state.state_dict())
    try:
        other(x).sum().backward()
    except UsageError as error:
        assert "momenta were saved for buckets of" in str(error)
    else:
        raise AssertionError("another model took the momenta")
print("voted")
dist.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.parametrize("beta", rest_is_slow((0.0, 0.9), (0.9,)))
def test_the_hook_of_ddp_is_a_majority_vote(tmp_path, beta):
    (tmp_path / "hook.py").write_text(HOOK)
    command = [sys.executable, "-W", "error", tmp_path / "hook.py"]
    ranks = [
        subprocess.Popen([*command, str(r), str(beta), tmp_path / "meet"], stdout=subprocess.PIPE, text=True, cwd=ROOT)
        for r in range(3)
    ]
    try:
        told = [process.communicate(timeout=60)[0] for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    assert told == ["voted\n"] * 3


WORKERS = """
import torch, mpisign
from mpisign.optim import SignOptimizer
from torch.utils.data import DataLoader, TensorDataset
found = []
for workers in (0, 2):
    torch.manual_seed(mpisign.rank())
    rows = TensorDataset(torch.randn(48, 20), torch.randn(48, 1))
    generator = torch.Generator().manual_seed(mpisign.rank())
    loader = DataLoader(rows, 8, shuffle=True, num_workers=workers, generator=generator)
    model = torch.nn.Sequential(torch.nn.Linear(20, 30), torch.nn.Tanh(), torch.nn.Linear(30, 1))
    with torch.no_grad():
        [p.fill_(0.1) for p in model.parameters()]
    opt = SignOptimizer(model, "signum-mv", lr=1e-3, overlap=True, exchange="sharded")
    for epoch in range(2):
        for x, y in loader:
            opt.zero_grad()
            torch.nn.functional.mse_loss(model(x), y).backward()
            opt.step()
    assert opt.stepper.t == 12
    found.append(opt.gradients.x.clone())
assert torch.equal(*found) and not torch.equal(found[0], torch.full_like(found[0], 0.1))
if mpisign.rank() == 0:
    print("alike")
"""


def test_a_loader_may_have_workers():
    """Which are forked beside MPI, the watchdog and the roll call, of which they are no ranks."""
    ended = run(BIN / "mpirun", "-n", 2, BIN / "python", "-c", WORKERS, timeout=150)
    assert (ended.code, ended.out) == (0, "alike\n"), ended.err
