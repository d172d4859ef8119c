"""`cnn`: a small convolutional network, for a CPU."""

from torch import nn

from mpisign.problems.models.resnet import norm_of


def cnn(channels: int, classes: int, norm: str) -> nn.Module:
    """Three 3x3 convolutions (16-32-64) of stride 2, each with its norm and ReLU, and a mean over places."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((channels, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), norm_of(norm, outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))
