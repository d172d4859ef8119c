"""Warnings that name the user's own line, however many calls of torch and of ours lie in between."""

import sys
import warnings
from pathlib import Path
from types import FrameType

import torch

BETWEEN = tuple(f"{Path(module).parent}/" for module in (torch.__file__, Path(__file__).parent))


def warn(text: str) -> None:
    """Warns at the last line that is neither torch's nor this package's."""
    frame: FrameType | None = sys._getframe(1)
    level = 2
    while frame and frame.f_code.co_filename.startswith(BETWEEN):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, stacklevel=level)
