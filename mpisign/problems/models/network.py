"""What a model is to a problem: where it starts, what it gathers, and logits for inputs."""

import copy
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call


class Network:
    """A function of parameters and inputs; it holds no parameters itself."""

    coordinates: int  # parameters in all

    def initial(self, generator: np.random.Generator) -> dict[str, Tensor]:
        """The starting point: float32 tensors by name."""
        raise NotImplementedError

    def statistics(self) -> dict[str, Tensor]:
        """What it gathers besides its parameters, as it starts."""
        return {}

    def logits(self, parameters: Mapping[str, Tensor], inputs: Tensor, training: bool) -> Tensor:
        """(b, ..., classes) for inputs (b, ...)."""
        raise NotImplementedError

    def module(self) -> nn.Module:
        """A torch module of the same parameters and statistics, by the same names, whose values are of no meaning."""
        raise NotImplementedError

    def compile(self) -> None:
        """From now on torch.compile makes what is called."""
        raise NotImplementedError


class Module(Network):
    """A torch module, called with the parameters and statistics that it is given."""

    def __init__(self, module: nn.Module):
        self._module = module
        self._buffers = {name: b for name, b in module.named_buffers() if b.is_floating_point()}
        self.coordinates = sum(p.numel() for p in module.parameters())
        self._call = lambda parameters, inputs: functional_call(module, parameters, inputs)

    def initial(self, generator):
        # each layer starts as torch has it, from the run's own stream; a whole has its say after its parts
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(generator.integers(2**63)))
            for module in reversed(list(self._module.modules())):
                if reset := getattr(module, "reset_parameters", None):
                    reset()
        return {name: p.detach().clone() for name, p in self._module.named_parameters()}

    def statistics(self):
        return {name: b.clone() for name, b in self._buffers.items()}

    def module(self):
        return copy.deepcopy(self._module)

    def logits(self, parameters, inputs, training):
        self._module.train(training)
        return self._call(dict(parameters), inputs)

    def compile(self):
        self._call = torch.compile(self._call)
