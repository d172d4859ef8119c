"""Models by name: a perceptron, convolutional networks, residual networks, a small transformer for text."""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import nn

from mpisign.errors import UsageError, choices
from mpisign.problems.models.cnn import cnn
from mpisign.problems.models.gpt import char_gpt
from mpisign.problems.models.network import Module, Network
from mpisign.problems.models.perceptron import Perceptron
from mpisign.problems.models.resnet import resnet18, resnet20

IMAGES: dict[str, Callable[[int, int, str], nn.Module]] = {"cnn": cnn, "resnet18": resnet18, "resnet20": resnet20}
NAMES = ("mlp", *IMAGES)  # what classifies rows; a char-gpt is for text
NORMS = ("batch", "group")


@dataclass(frozen=True)
class Recipe:
    """A model to be built once the shape of its inputs is known.

    norm: "batch", or "group" for GroupNorm, which has no statistics. hidden and dropout are of an mlp.
    Raises UsageError for unknown names and numbers out of range.
    """

    name: str
    norm: str = "batch"
    hidden: list[int] = field(default_factory=list)
    dropout: float = 0.0

    def __post_init__(self):
        if self.name not in NAMES:
            raise UsageError(f"problem.model = {self.name!r}: known: {choices(NAMES)}")
        if self.norm not in NORMS:
            raise UsageError(f"problem.norm = {self.norm!r}: known: {choices(NORMS)}")
        if any(width < 1 for width in self.hidden):
            raise UsageError(f"problem.hidden = {self.hidden}: the width of a layer is at least 1")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"problem.dropout = {self.dropout}: a fraction in [0, 1)")

    def build(self, shape: tuple[int, ...], classes: int) -> Network:
        """shape: of one row's inputs. Raises UsageError, on all ranks alike, for a shape the model can't take."""
        if self.name == "mlp":
            return Perceptron(shape, self.hidden, classes, self.dropout)
        if len(shape) != 3 or min(shape[1:]) < 8:
            raise UsageError(
                f"problem.model = {self.name!r} takes images (channels, height, width) of 8 x 8 pixels or more, but a "
                f'row here has shape {list(shape)}; use "mlp"',
                agreed=True,
            )
        return Module(IMAGES[self.name](shape[0], classes, self.norm))


__all__ = ["NAMES", "Module", "Network", "Recipe", "char_gpt"]
