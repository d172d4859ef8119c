"""The table of papers: one function an algorithm, whose signature is the only list of hyperparameters.

Our symbols: g gradient, v estimate, m moving average, n voters, lr learning rate, t step from 0. Where details
of a paper are reconstructed or taken from another text, the docstring says so. `known` is what is known of convergence.
Methods that were published for one node (single, finite_sum) vote by majority where there are several.
"""

# in the order in which they are listed
from mpisign.algorithms.zoo import single  # isort: skip
from mpisign.algorithms.zoo import finite_sum  # isort: skip
from mpisign.algorithms.zoo import majority  # isort: skip
from mpisign.algorithms.zoo import stochastic  # isort: skip
from mpisign.algorithms.zoo import variance_reduced  # isort: skip
from mpisign.algorithms.zoo import directions  # isort: skip
from mpisign.algorithms.zoo import local  # isort: skip
from mpisign.algorithms.zoo import feedback  # isort: skip
from mpisign.algorithms.zoo import quantised  # isort: skip
from mpisign.algorithms.zoo import sparse  # isort: skip
from mpisign.algorithms.zoo import low_rank  # isort: skip
from mpisign.algorithms.zoo import matrices  # isort: skip
from mpisign.algorithms.zoo import dense  # isort: skip

__all__ = [
    "dense",
    "directions",
    "feedback",
    "finite_sum",
    "local",
    "low_rank",
    "majority",
    "matrices",
    "quantised",
    "single",
    "sparse",
    "stochastic",
    "variance_reduced",
]
