"""`resnet18` and `resnet20`: residual networks in their form for small images [He et al. 2016, arXiv:1512.03385]."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

GROUPS = 16  # channels per group of GroupNorm, at most


def norm_of(norm: str, channels: int) -> nn.Module:
    """BatchNorm, or GroupNorm with groups of 16 channels."""
    return nn.BatchNorm2d(channels) if norm == "batch" else nn.GroupNorm(max(channels // GROUPS, 1), channels)


class Block(nn.Module):
    """Two 3x3 convolutions with their norms and a way around them [He et al. 2016 fig. 2]."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: str, around: nn.Module):
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.first_norm = norm_of(norm, outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.second_norm = norm_of(norm, outputs)
        self.around = around

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.first_norm(self.first(x)))
        return F.relu(self.second_norm(self.second(h)) + self.around(x))


class Padded(nn.Module):
    """A way around without parameters: every second place, new channels zero [He et al. 2016, option A]."""

    def __init__(self, more: int):
        super().__init__()
        self.more = more

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.more // 2, self.more - self.more // 2))


def resnet18(channels: int, classes: int, norm: str) -> nn.Module:
    """ResNet-18: a 3x3 stem without pooling, 64-128-256-512, 1x1 convolutions around; 11,173,962 parameters (3, 10)."""

    def around(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(inputs, outputs, 1, 2, bias=False), norm_of(norm, outputs))

    return _resnet(channels, classes, norm, (64, 128, 256, 512), 2, around)


def resnet20(channels: int, classes: int, norm: str) -> nn.Module:
    """ResNet-20: 16-32-64 in three blocks each, nothing to learn around them; 269,722 parameters (3, 10)."""
    return _resnet(channels, classes, norm, (16, 32, 64), 3, lambda inputs, outputs: Padded(outputs - inputs))


def _resnet(
    channels: int,
    classes: int,
    norm: str,
    widths: tuple[int, ...],
    blocks: int,
    around: Callable[[int, int], nn.Module],
) -> nn.Module:
    width = widths[0]
    layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, 1, 1, bias=False), norm_of(norm, width), nn.ReLU()]
    for outputs in widths:
        for k in range(blocks):
            narrows = k == 0 and outputs != width
            beside = around(width, outputs) if narrows else nn.Identity()
            layers.append(Block(width, outputs, 2 if narrows else 1, norm, beside))
            width = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))
