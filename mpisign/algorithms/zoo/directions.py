"""One bit per step: votes on one random direction, which all voters draw from the run's seed."""

from mpisign.algorithms.compressed import Silent
from mpisign.algorithms.estimators import SharedDirection
from mpisign.algorithms.method import Algorithm
from mpisign.algorithms.registry import Count, NonNegative, Positive, algorithm
from mpisign.algorithms.updates import VotedDescent
from mpisign.algorithms.votes import Unanimous


@algorithm(
    "feedsign",
    paper="Cai, Chen & Zhu 2025, arXiv:2501.17610, FeedSign",
    lr=1e-3,
    known=(
        "By its abstract a rate of exp(-t) in t steps under its assumptions. What a step gains falls with the "
        "dimension, as for all methods of one direction: it is for fine-tuning."
    ),
    sure="reconstructed",
    heterogeneous="claimed",
)
def feedsign(smoothing: Positive = 0.001, weight_decay: NonNegative = 0.0):
    """x -= lr*b*z, z from N(0, 1), b the majority of the voters' signs of f(x + mu*z) - f(x - mu*z).

    mu is smoothing. No gradient is taken, and nothing travels but a sign of each voter, a word in its header. Where the
    vote is tied, x stays, but for weight_decay. Both points are compared on one batch. Details of this paper are
    reconstructed: what it does with ties and with equal values. Its form for differential privacy is not built in.
    """
    return Algorithm(SharedDirection(smoothing=smoothing), Silent(), Unanimous(), VotedDescent(weight_decay))


@algorithm(
    "compsgd-mv",
    paper="Kornilov et al. 2025, arXiv:2502.07923, MajorityVote-CompSGD",
    lr=0.03,
    known=(
        "By its abstract O(eps^-6) comparisons, up to logarithms and with high probability, for a mean gradient norm "
        "of eps under symmetric noise with heavy tails."
    ),
    sure="reconstructed",
)
def compsgd_mv(comparisons: Count = 1, smoothing: NonNegative = 0.0, weight_decay: NonNegative = 0.0):
    """x -= lr*b*e, e uniform on the unit sphere, b the majority of comparisons of f at x + lr*e and at x - lr*e.

    An oracle that says only which of two points is better is enough. Each voter compares on `comparisons` batches, and
    sends the sign of the sum of what they say. smoothing: another distance of the two points than lr; 0 for lr, the
    length of a step. Details of this paper are reconstructed: that both points are compared on one batch, what a tie
    does (x stays, but for weight_decay), and the votes of several voters, each with batches of its own.
    """
    estimator = SharedDirection(sphere=True, smoothing=smoothing, comparisons=comparisons)
    return Algorithm(estimator, Silent(), Unanimous(), VotedDescent(weight_decay))
