"""What is computed: the four slots (estimator, sign rule, vote, update), what fills them, and the zoo of methods.

What an algorithm of another package is made of can be imported from here.
"""

from mpisign.algorithms.messages import Ballots, Direction, Format
from mpisign.algorithms.method import Algorithm, Cycle, Stages
from mpisign.algorithms.registry import algorithm
from mpisign.algorithms.slots import Estimator, Packed, SignRule, State, Step, Update, Vote

__all__ = [
    "Algorithm",
    "Ballots",
    "Cycle",
    "Direction",
    "Estimator",
    "Format",
    "Packed",
    "SignRule",
    "Stages",
    "State",
    "Step",
    "Update",
    "Vote",
    "algorithm",
]
