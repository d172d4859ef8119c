"""The GPU's kernels, compiled, on a GPU."""

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

from tests.device_kernels import *  # noqa: F403
from tests.device_kernels import assert_same  # noqa: F401


@pytest.fixture
def device():
    return "cuda"
