"""No signs: gradients by factors of low rank."""

from mpisign.algorithms.compressed import Silent
from mpisign.algorithms.estimators import LowRank
from mpisign.algorithms.method import Algorithm
from mpisign.algorithms.registry import Beta, Count, NonNegative, algorithm
from mpisign.algorithms.updates import Sgd
from mpisign.algorithms.votes import Unanimous


@algorithm(
    "powersgd",
    paper="Vogels et al. 2019, arXiv:1905.13727, alg. 1 and 2",
    lr=0.1,
    known=(
        "With error feedback the rate of SGD plus a term in 1/delta^2, for compressors with |C(M) - M|^2 <= "
        "(1 - delta)|M|^2. The best approximation of rank r to a p x q matrix has delta >= r/min(p, q); for one step "
        "of subspace iteration from a warm start no delta is proved."
    ),
    sure="departs",
)
def powersgd(
    rank: Count = 2,
    warm_start: bool = True,
    momentum: Beta = 0.9,
    weight_decay: NonNegative = 0.0,
    nesterov: bool = False,
):
    """Mean gradients by factors of rank `rank`, with error feedback, and SGD with momentum on what they give.

    Vectors are averaged as they are. alg. 2 moves x by lr*(ghat + m), m = momentum*m + ghat; ours by lr*m, and with
    nesterov by lr*(ghat + momentum*m), as torch does. Weight decay is added to ghat, as in the authors' experiments.
    """
    return Algorithm(LowRank(rank, warm_start), Silent(), Unanimous(), Sgd(momentum, weight_decay, nesterov))
