"""What is computed: the four slots (estimator, sign rule, vote, update), what fills them, and the zoo of methods.

What an algorithm of another package is made of can be imported from here.
"""

from mpisign.algorithms.formats import Format, Planes, RawFloats
from mpisign.algorithms.messages import Ballots, Direction
from mpisign.algorithms.method import Algorithm, Cycle, Phases, Stages
from mpisign.algorithms.registry import Beta, Count, Fraction, NonNegative, Positive, Whole, algorithm
from mpisign.algorithms.slots import Estimator, Packed, SignRule, State, Step, Update, Vote
from mpisign.algorithms.weights import weights_of

__all__ = [
    "Algorithm",
    "Ballots",
    "Beta",
    "Count",
    "Cycle",
    "Direction",
    "Estimator",
    "Format",
    "Fraction",
    "NonNegative",
    "Packed",
    "Phases",
    "Planes",
    "Positive",
    "RawFloats",
    "SignRule",
    "Stages",
    "State",
    "Step",
    "Update",
    "Vote",
    "Whole",
    "algorithm",
    "weights_of",
]
