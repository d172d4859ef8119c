"""The GPU's kernels under Triton's interpreter, on the CPU; and that they compile for a GPU, and fuse nothing."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

from tests.device_kernels import *  # noqa: F403
from tests.device_kernels import assert_same  # noqa: F401


@pytest.fixture
def device():
    return "cpu"


def fused(tmp_path, *arguments):
    """Fused multiply-adds in the machine code of each kernel."""
    # the machine code is made by what Triton brings along, no GPU is needed; but not under the interpreter
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "tests.compiled_kernels", *arguments]
    ended = subprocess.run(
        command, cwd=Path(__file__).parent.parent, env=environment, capture_output=True, text=True, timeout=100
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    found = re.findall(r"^(\w+) .* (\d+) instructions, (\d+) fused$", ended.stdout, re.MULTILINE)
    assert all(int(count) > 100 for _, count, _ in found), ended.stdout
    return {name: int(number) for name, _, number in found}


@pytest.mark.slow
def test_kernels_compile_for_a_gpu_and_fuse_nothing(tmp_path):
    assert set(fused(tmp_path, "80").values()) == {0}
    unbound = fused(tmp_path, "80", "--fuse")
    assert unbound["_apply"] > 0, "which counts what it should"
    assert unbound["_blend"] > 0
