"""The bytes that a rank holds, by what they are for."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Memory:
    """Bytes by name, and per coordinate.

    Names: x; moving, the piece of an x in bfloat16 that is in float32; arrays as checkpoints have them, such as
    estimator/m, of all voters of this process together; buffers, those of models; messages, what exchanges hold. A
    SignOptimizer adds copies, parameters that are copies of x, and redistribution, buffers for sharded ones.
    """

    bytes: Mapping[str, int]
    coordinates: int

    @property
    def total(self) -> int:
        return sum(self.bytes.values())

    @property
    def per_coordinate(self) -> dict[str, float]:
        """Bytes per coordinate of x, by name; where x is shared out, of all of x."""
        return {name: held / self.coordinates for name, held in self.bytes.items()}

    def with_more(self, more: Mapping[str, int]) -> "Memory":
        """The same with what else is held, if it is more than nothing."""
        return Memory({**self.bytes, **{name: held for name, held in more.items() if held}}, self.coordinates)

    def __str__(self) -> str:
        """As in `x 4.000, estimator/m 4.000, messages 0.281: 8.281 bytes per coordinate`."""
        parts = ", ".join(f"{name} {each:.3f}" for name, each in self.per_coordinate.items())
        return f"{parts}: {self.total / self.coordinates:.3f} bytes per coordinate"


def without_voter(name: str) -> str:
    """The name of a Stepper's array without the voter whose it is; "buffers" for those of oracles."""
    stage, _, rest = name.partition("/") if name.startswith("stage") else ("", "", name)
    slot, *more = rest.split("/")
    if slot == "oracle":
        return "buffers"
    return "/".join(filter(None, [stage, slot, *more[:1]]))
