"""The one factory of exchanges and the Stepper that uses them, for jobs, the library, measurements and tests."""

from typing import Any, TypeVar

import numpy as np
from torch import Tensor

from mpisign import exchange
from mpisign.algorithms.method import Method
from mpisign.bits.rng import Streams
from mpisign.engine.header import numbers_of
from mpisign.engine.stepper import Stepper
from mpisign.engine.timing import Timer
from mpisign.layout import Layout
from mpisign.parallel.watchdog import WATCH
from mpisign.parallel.world import World
from mpisign.problems import Oracle

Of = TypeVar("Of", bound=Stepper)


def make_stepper(
    algorithm: Method,
    choices: tuple[exchange.Choice, ...],
    layout: Layout,
    world: World,
    streams: Streams,
    oracles: list[Oracle],
    x: Tensor,
    weights: np.ndarray | None = None,
    timer: Timer | None = None,
    kind: type[Of] = Stepper,
    **options: Any,
) -> Of:
    """A Stepper (of that kind) whose messages travel as chosen. Collective.

    choices: one per stage of the algorithm. oracles, x, weights, timer: as a Stepper takes them. options: chunk,
    progress, reverse, node_size, gpu_aware and staged, as exchange.make_exchanges takes them.
    """
    headers = [numbers_of(stage, layout) for stage in algorithm.stages]
    with WATCH("the making of the exchanges"):
        exchanges = exchange.make_exchanges(choices, world, layout, algorithm, headers=headers, **options)
    return kind(algorithm, layout, exchanges, world, streams, oracles, x, weights, timer)
