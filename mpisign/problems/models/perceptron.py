"""`mlp`: a multilayer perceptron."""

import math
from collections import OrderedDict
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from mpisign.problems.models.network import Network


class Perceptron(Network):
    """inputs - hidden... - classes with ReLU in between, and dropout behind it."""

    def __init__(self, shape: tuple[int, ...], hidden: list[int], classes: int, dropout: float):
        self._widths, self._dropout = [math.prod(shape), *hidden, classes], dropout
        self.coordinates = sum((inputs + 1) * outputs for inputs, outputs in pairwise(self._widths))

    def initial(self, generator):
        # torch.nn.Linear's own start, uniform in +-1/sqrt(fan in), from the run's random stream
        point = {}
        for k, (inputs, outputs) in enumerate(pairwise(self._widths)):
            bound = 1 / math.sqrt(inputs)
            for name, shape in (("weight", (outputs, inputs)), ("bias", (outputs,))):
                values = generator.uniform(-bound, bound, shape).astype(np.float32)
                point[f"layer{k}.{name}"] = torch.from_numpy(values)
        return point

    def logits(self, parameters, inputs, training):
        h, last = inputs.flatten(1), len(self._widths) - 2
        for k in range(last + 1):
            h = F.linear(h, parameters[f"layer{k}.weight"], parameters[f"layer{k}.bias"])
            if k < last:
                h = F.dropout(F.relu(h), self._dropout, training)
        return h

    def module(self):
        layers: dict[str, nn.Module] = {"flatten": nn.Flatten()}
        for k, (inputs, outputs) in enumerate(pairwise(self._widths)):
            if k:
                layers |= {f"relu{k}": nn.ReLU(), f"dropout{k}": nn.Dropout(self._dropout)}
            layers[f"layer{k}"] = nn.Linear(inputs, outputs)
        return nn.Sequential(OrderedDict(layers))

    def compile(self):
        self.logits = torch.compile(self.logits)
