"""Who may look at messages before they depart: voters that lie, and probes."""

from typing import TYPE_CHECKING, Protocol

import numpy as np

from mpisign.messages import Direction

if TYPE_CHECKING:
    from mpisign.exchange.base import Exchange


class Adversary(Protocol):
    """Lying voters: see adversary.py."""

    def tamper(self, exchange: "Exchange", c: int) -> None:
        """Changes what lying local voters packed for chunk c; all ranks call it in the same order."""

    def inflate(self, scales: list[np.ndarray]) -> list[np.ndarray]:
        """The scales (segments,) that local voters announce, given the honest ones."""


class Witness(Protocol):
    """Whoever looks on: see probe.py."""

    def departing(self, exchange: "Exchange", c: int) -> None:
        """Local voters' messages for chunk c lie in exchange.packed_into, as they will be sent."""

    def decided(self, direction: Direction) -> None:
        """A chunk's verdict."""
