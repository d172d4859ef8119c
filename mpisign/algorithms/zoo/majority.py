"""Deterministic signs: majority votes and averages."""

from typing import Literal

from mpisign.algorithms import theory
from mpisign.algorithms.compressed import Compressed
from mpisign.algorithms.compressors import BlockSigns
from mpisign.algorithms.estimators import Lion, Minibatch, Momentum
from mpisign.algorithms.method import Algorithm
from mpisign.algorithms.registry import Beta, Count, Fraction, NonNegative, Positive, algorithm
from mpisign.algorithms.signs import ConfidentSign, Sign
from mpisign.algorithms.updates import Descent
from mpisign.algorithms.votes import Average, BlockMajority, LearnedWeights, Majority
from mpisign.algorithms.zoo.known import MEDIAN


@algorithm(
    "signsgd-mv",
    paper="Bernstein et al. 2018, arXiv:1802.04434, alg. 3",
    lr=1e-3,
    known=(
        "For like voters, thm. 2: the mean |grad|_1 over K steps is O(1/sqrt(K)) with batches of K, so O(N^(-1/4)) in "
        "N = K^2 gradients of a voter. With batches of one and symmetric unimodal noise, Bernstein et al. 2019, thm. "
        "1: O(1/sqrt(K)) in a mixed measure, |g_i| where |g_i|/sigma_i is above 2/sqrt(3) and g_i^2/sigma_i elsewhere, "
        f"which in l1 is O(K^(-1/4)). {MEDIAN}"
    ),
    sure="stated",
    theory=theory.signsgd_mv,
    heterogeneous="refuted",
)
def signsgd_mv(weight_decay: NonNegative = 0.0):
    """Sign of the gradient on each rank, majority vote across ranks. The paper's delta is our lr."""
    return Algorithm(Minibatch(), Sign(), Majority(), Descent(weight_decay))


@algorithm(
    "signum-mv",
    paper="Bernstein et al. 2019, arXiv:1810.05291, alg. 1",
    lr=1e-3,
    known=f"The 2019 theorems are for beta = 0; the 2018 one for momentum has a warm-up that nobody runs. {MEDIAN}",
    sure="stated",
    heterogeneous="refuted",
)
def signum_mv(beta: Beta = 0.9, weight_decay: NonNegative = 0.0):
    """Sign of momentum on each rank, majority vote across ranks. The paper's eta, lambda: lr, weight_decay."""
    return Algorithm(Momentum(beta), Sign(), Majority(), Descent(weight_decay))


@algorithm(
    "abstain-mv",
    paper="Bernstein et al. 2018, arXiv:1802.04434, what it proposes for voters that are unsure",
    lr=1e-3,
    known=f"Nothing is proved of it. {MEDIAN}",
    sure="reconstructed",
    heterogeneous="refuted",
)
def abstain_mv(threshold: NonNegative = 0.5, beta: Beta = 0.9, weight_decay: NonNegative = 0.0):
    """Sign of momentum where it is large, no vote elsewhere; majority of those who vote.

    A voter is sure where |m| is above `threshold` times the mean of |m| over its tensor. Nobody's vote is a tie: x
    stays there with ties = "zero", else a coin decides. Details of this paper are reconstructed: the threshold.
    """
    return Algorithm(Momentum(beta), ConfidentSign(threshold), Majority(), Descent(weight_decay))


@algorithm(
    "absignsgd-mv",
    paper="Zhou & Pu 2026, ICLR, ABSignSGD-MV (openreview NQsdnYkCar)",
    lr=1e-3,
    known=(
        "O(1/sqrt(K)) where each block has its turn at least once in every so many steps (seen in a secondary text). "
        f"{MEDIAN}"
    ),
    sure="reconstructed",
    heterogeneous="refuted",
)
def absignsgd_mv(blocks: Count = 4, order: Literal["cyclic", "shuffled"] = "cyclic", weight_decay: NonNegative = 0.0):
    """Sign of the gradient on one block of coordinates per step, majority vote on it: 1/blocks bits each way.

    x stays in all other blocks, but for weight_decay. Block k has every blocks-th word of 64 coordinates, from the k-th
    on (the authors' blocks are layers, of which the backward pass can leave some out; that is not built in), and blocks
    is a power of two up to 64. "shuffled" draws a new order from the seed once each block had its turn. Equations seen
    in a secondary text. Details of this paper are reconstructed: sign(0) and ties are new coins at every step.
    """
    form = BlockSigns(blocks, order == "shuffled")
    return Algorithm(Minibatch(), Compressed(form), BlockMajority(form), Descent(weight_decay))


@algorithm(
    "dlion-mavo",
    paper="Liu et al. 2024, arXiv:2404.00438, majority vote",
    lr=1e-4,
    known=(
        f"With weight decay it solves a problem with the constraint |weight_decay * x| <= 1 (reconstructed). {MEDIAN}"
    ),
    sure="second-hand",
    heterogeneous="refuted",
)
def dlion_mavo(beta1: Beta = 0.9, beta2: Beta = 0.99, weight_decay: NonNegative = 0.0):
    """Distributed Lion: sign of beta1*m + (1 - beta1)*g on each rank, majority vote; m is never shared.

    Equations seen in a secondary text. x -= lr*(vote + weight_decay*x). The authors' code takes ties and sign(0) as -1:
    that is zeros = "minus" and ties = "minus" (biased: see "sign(0) and ties" in
    mpisign/algorithms/README.md).
    """
    return Algorithm(Lion(beta1, beta2), Sign(), Majority(), Descent(weight_decay))


@algorithm(
    "signsgd-fv",
    paper="Park, Poor & Lee 2024, arXiv:2403.16372 (signSGD-FV); Park & Lee 2024, arXiv:2402.01340 (signSGD-FD)",
    lr=1e-3,
    known=f"Built for voters whose batches differ in size. {MEDIAN}",
    sure="departs",
    heterogeneous="refuted",
)
def signsgd_fv(
    plain: Count = 100,
    resolution: Count = 4,
    limit: Positive = 10.0,
    forget: Fraction = 1.0,
    negative: bool = True,
    weight_decay: NonNegative = 0.0,
):
    """Federated voting: each voter's weight is the log odds of its past agreement, coordinate by coordinate.

    After the authors' code: the first `plain` rounds count alike, weights are clipped to +-limit. Ours are whole
    multiples of 1/resolution, so that a vote stays an integer count. Where it is counted it keeps 4 bytes a voter
    and coordinate. Weights below 0 are those of signSGD-FD, with which a voter that lies all the time helps; negative =
    False stops them at 0.
    """
    vote = LearnedWeights(plain, resolution, limit, forget, negative)
    return Algorithm(Minibatch(), Sign(), vote, Descent(weight_decay))


@algorithm(
    "dlion-avg",
    paper="Liu et al. 2024, arXiv:2404.00438, averaging",
    lr=1e-4,
    known="As dlion-mavo; the average of signs keeps how strongly the voters agree.",
    sure="second-hand",
    heterogeneous="refuted",
)
def dlion_avg(beta1: Beta = 0.9, beta2: Beta = 0.99, weight_decay: NonNegative = 0.0):
    """Distributed Lion with the mean of the signs instead of their majority; log2(n + 1) bits down.

    Equations seen in a secondary text, as those of dlion-mavo.
    """
    return Algorithm(Lion(beta1, beta2), Sign(), Average(), Descent(weight_decay))
