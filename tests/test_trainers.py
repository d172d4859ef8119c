"""SignOptimizer in the trainers of others: their examples, and runs that are cut and go on; make test-trainers."""

import importlib.util
import re

import pytest

from tests.running import BIN, run

LIBRARIES = {"transformers": "huggingface", "accelerate": "accelerated", "lightning": "lightning_module"}
RIGHT = {"huggingface": ("held out", "--steps", 30, 0.0, 3.6), "accelerated": ("right", "--epochs", 20, 0.9, 1.0)}
RIGHT["lightning_module"] = RIGHT["accelerated"]

pytestmark = pytest.mark.timeout(240)


def installed(name):
    reason = f"{name} is not installed: make test-trainers"
    return pytest.param(name, marks=pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=reason))


def script(n, *arguments, launcher="mpirun"):
    """What root's script prints, with a thread per rank."""
    environment = {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    begin = {"mpirun": (BIN / "mpirun", "-n", n, BIN / "python"), "torchrun": (BIN / "torchrun", "--nproc-per-node", n)}
    ended = run(*begin[launcher], *arguments, timeout=200, environment=environment)
    assert ended.code == 0, ended.err
    return ended.out


@pytest.mark.parametrize("library", [installed(name) for name in LIBRARIES])
def test_examples_say_the_same_by_either_launcher(library):
    what, flag, count, least, most = RIGHT[LIBRARIES[library]]
    command = f"jobs/trainers/{LIBRARIES[library]}.py", flag, count
    out = script(2, *command)
    found = re.search(rf"{what}: ([\d.]+)", out)[0]
    assert found in script(2, *command, launcher="torchrun")
    assert least < float(re.search(rf"{what}: ([\d.]+)", out)[1]) < most


@pytest.mark.parametrize("way", ["", "-factory"])
@pytest.mark.parametrize("library", [installed(name) for name in LIBRARIES])
def test_a_run_that_is_cut_goes_on_bit_for_bit(library, way, tmp_path):
    if way and library != "transformers":
        pytest.skip(f"{library} makes no optimiser by itself")
    out = script(2, "-m", "tests.trainers", f"{library}{way}", tmp_path)
    assert "ranks: 2 voters: 2 steps: 8 8 alike: True" in out


def test_a_launcher_is_hidden_from_others_only():
    code = (
        "import os, mpisign; mpisign.hide_launcher(); from mpisign.optim import SignOptimizer; import torch; "
        "opt = SignOptimizer(torch.nn.Linear(3, 3)); "
        "mine = mpisign.rank(), mpisign.size(), opt.stepper.world.n, [k for k in os.environ if 'RANK' in k]; "
        "everyone = opt.ranks.allgather(mine); mpisign.rank() or print(everyone)"
    )
    assert script(2, "-c", code) == "[(0, 2, 2, []), (1, 2, 2, [])]\n"
