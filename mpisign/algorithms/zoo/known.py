"""What several entries share, word for word."""

from typing import Literal

from mpisign.algorithms.registry import Positive

Radius = Literal["max", "running"] | Positive

MEDIAN = (
    "A majority of signs follows the median of the voters' gradients, not their mean: with unlike rows it need not "
    "approach a stationary point of the mean (Chen et al. 2020)."
)

ONE_NODE = (
    "Published for one node. On several, each works on its own rows and a majority of signs decides, about which "
    "the paper says nothing: it follows the median of the voters' estimates, not their mean."
)

FLOOR = (
    "The bound keeps a term d/sqrt(n) that no number of steps removes, and a gradient floor is proved even with "
    "exact local gradients: with R = 4, log-cosh on 3 voters stays at |f'| = 1/1542 (arXiv:2609.18656, prop. 1). The "
    "floor depends on R: on the same example the default radius, the largest of any voter, stays at 0.0303."
)
