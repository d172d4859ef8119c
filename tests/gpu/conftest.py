"""Everything here needs a GPU; without one it is skipped, and says so."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _needs_a_gpu():
    if not torch.cuda.is_available():
        pytest.skip(f"no GPU that torch {torch.__version__} can use")
