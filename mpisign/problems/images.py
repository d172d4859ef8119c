"""Images of bytes: their normal form, and how they are varied in training."""

import copy

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpisign.bits.rng import Draw
from mpisign.problems.base import Rows
from mpisign.problems.classifier import Classifier
from mpisign.problems.models import Recipe

SHIFT = 4  # pixels by which an image is shifted at most


class Images(Classifier):
    """Rows of inputs uint8 (b, channels, height, width), brought to mean 0 and deviation 1 where the model takes them.

    augment: training images are shifted by up to 4 pixels and mirrored, by the run's own random streams.
    """

    def __init__(self, recipe: Recipe, mean: tuple[float, ...], deviation: tuple[float, ...], augment: bool):
        super().__init__(recipe)
        self.augments = augment
        self._normalise = Normalise(mean, deviation)

    def prepared(self, inputs):
        return self._normalise(inputs)

    def module(self):
        module = super().module()
        module.register_forward_pre_hook(copy.copy(self._normalise).hook)
        return module

    def augment(self, batch, draw, first):
        shifts, mirrored = choices_of(batch.count, draw, first)
        return Rows(inputs=varied(batch["inputs"], shifts, mirrored), labels=batch["labels"])


class Normalise:
    """Brings images uint8 (b, channels, height, width) to float32 of mean 0 and deviation 1, on their own device.

    A class, and none of a problem, so that a module with its hook can be pickled.
    """

    def __init__(self, mean: tuple[float, ...], deviation: tuple[float, ...]):
        self.mean, self.deviation = (torch.tensor(values).view(-1, 1, 1) for values in (mean, deviation))

    def __call__(self, images: Tensor) -> Tensor:
        if self.mean.device != images.device:
            self.mean, self.deviation = self.mean.to(images.device), self.deviation.to(images.device)
        return (images.float() / 255 - self.mean) / self.deviation

    def hook(self, module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        """The same before a module's forward()."""
        return (self(*inputs),)


def choices_of(count: int, draw: Draw, first: int) -> tuple[np.ndarray, np.ndarray]:
    """How each image is varied: (down, right) int64 (2, count) in 0..8, and whether it is mirrored.

    One Philox block an image, from block `first` on.
    """
    blocks = draw.blocks(first, count).astype(np.uint64)
    shifts = (blocks[:, :2] * (2 * SHIFT + 1) >> 32).astype(np.int64).T
    return shifts, blocks[:, 2] >> 31 == 1


def varied(images: Tensor, shifts: np.ndarray, mirrored: np.ndarray) -> Tensor:
    """Images (b, c, h, w), each shifted, black coming in, and mirrored or not; on their own device."""
    count, _, height, width = images.shape
    padded = F.pad(images, (SHIFT,) * 4)
    down, right = torch.from_numpy(np.ascontiguousarray(shifts)).to(images.device).unsqueeze(2)
    rows = torch.arange(height, device=images.device) + down
    columns = torch.arange(width, device=images.device) + right
    flip = torch.from_numpy(mirrored).to(images.device).unsqueeze(1)
    columns = torch.where(flip, columns.flip(1), columns)
    places = torch.arange(count, device=images.device).view(-1, 1, 1)
    return padded[places, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
