"""Noise and chance before or in the sign."""

from math import log, sqrt
from typing import Literal

from mpisign.algorithms import theory
from mpisign.algorithms.estimators import ClippedRows, Minibatch, Momentum, NormalisedMomentum
from mpisign.algorithms.method import Algorithm
from mpisign.algorithms.registry import Beta, Count, Fraction, NonNegative, Positive, algorithm
from mpisign.algorithms.signs import NoisySign, Raw, Silenced, StochasticSign
from mpisign.algorithms.updates import Descent, Sgd
from mpisign.algorithms.votes import Average, Majority, Median, RandomisedMajority, SignErrorFeedback
from mpisign.algorithms.zoo.known import FLOOR, Radius


@algorithm(
    "noisy-signsgd",
    paper="Chen et al. 2020, arXiv:1906.01736, alg. 3",
    lr=1e-3,
    known="The expected median approaches the mean as O(1/noise), but noise also slows every step.",
    sure="second-hand",
)
def noisy_signsgd(noise: NonNegative = 0.01, weight_decay: NonNegative = 0.0):
    """sign(g + noise*xi), xi from N(0, 1), majority vote. The paper's b is our noise, in units of the gradient.

    Seen in a third-party specification. Theory asks for an odd number of voters.
    """
    return Algorithm(Minibatch(), NoisySign(noise), Majority(), Descent(weight_decay))


@algorithm(
    "noisy-median",
    paper="Chen et al. 2020, arXiv:1906.01736, alg. 4",
    lr=0.1,
    known="E|grad|^2 = O(d^(2/3) T^(-1/3)) at noise (T*d)^(1/6) and rate (T*d)^(-2/3) (thm. 6, seen second-hand).",
    sure="second-hand",
    theory=theory.noisy_median,
    heterogeneous="proved",
)
def noisy_median(noise: NonNegative = 0.01):
    """Coordinate median of g + noise*xi. Not a sign vote: raw floats, 32 bits a coordinate each way.

    Seen in a third-party specification. An even number of voters takes the mean of the two in the middle.
    """
    return Algorithm(Minibatch(), Raw(weighted=False, noise=noise), Median(), Sgd())


@algorithm(
    "dp-sign",
    paper="Jin et al. 2020, arXiv:2002.10940, dp-sign",
    lr=1e-3,
    known="It makes no privacy claim here: the accounting of many steps and of the sampling is not done.",
    sure="stated",
)
def dp_sign(
    clip_rows: Positive = 1.0, epsilon: Positive = 1.0, delta: Fraction = 1e-5, weight_decay: NonNegative = 0.0
):
    """+1 with probability Phi(g/sigma), every row's gradient clipped to norm clip_rows; majority vote.

    sigma = sqrt(2*log(1.25/delta))*clip_rows/epsilon, added to the mean of the clipped gradients, as in the author's
    code. This makes no privacy claim: nothing is accounted over steps, rows or samples.
    """
    sigma = sqrt(2 * log(1.25 / delta)) * clip_rows / epsilon
    return Algorithm(ClippedRows(clip_rows), NoisySign(sigma), Majority(), Descent(weight_decay))


@algorithm(
    "sto-signsgd",
    paper="Jin et al. 2020, arXiv:2002.10940, sto-sign",
    lr=1e-3,
    known="It converges to a neighbourhood; the rate quoted by others is O(d^(3/8) T^(-1/8)).",
    sure="second-hand",
)
def sto_signsgd(
    radius: Radius = "max",
    refresh: Count = 100,
    error_feedback: bool = False,
    factor: NonNegative = 0.0,
    weight_decay: NonNegative = 0.0,
):
    """+1 with probability (b + g)/(2b), majority vote. The paper's b is our radius.

    radius "max" is that of the author's code: for each coordinate the largest |g| of any voter, shared as raw floats
    every `refresh` steps (64(n-1)/n bits a coordinate each time; the code has refresh = 1).
    error_feedback: the vote keeps e and decides
    s = sign(p), p = tally/n + e, e = p - factor*s; factor 0 is the code's 1/n (the paper's own is not known to us).
    """
    vote = SignErrorFeedback(factor) if error_feedback else Majority()
    return Algorithm(Minibatch(), StochasticSign(radius, refresh), vote, Descent(weight_decay))


@algorithm(
    "ternary-vote",
    paper="Jin et al. 2024, arXiv:2402.10816, TernaryVote",
    lr=1e-3,
    known=(
        "By its abstract the rate of sto-signsgd, with fewer than half of the voters blind attackers. It makes no "
        "privacy claim here: the paper's f-differential privacy is not accounted."
    ),
    sure="reconstructed",
    heterogeneous="claimed",
)
def ternary_vote(radius: Radius = "max", silence: Beta = 0.5, refresh: Count = 100, weight_decay: NonNegative = 0.0):
    """No vote with probability `silence`, else +1 with probability (A + g)/(2A); majority of those who vote.

    The paper's A is our radius, as in sto-signsgd, and its B is A/(1 - silence): +1 with probability (A + g)/(2B), -1
    with (A - g)/(2B), so that the mean of what is sent is g/B. Nobody's vote is a tie. Details of this paper are
    reconstructed: these probabilities; and a radius that voters share is ours.
    """
    sign = Silenced(StochasticSign(radius, refresh), silence)
    return Algorithm(Minibatch(), sign, Majority(), Descent(weight_decay))


@algorithm(
    "sto-signsgd-running",
    paper="Yu et al. 2026, arXiv:2604.15416, StoSignSGD",
    lr=1e-3,
    known=(
        "Unbiased after a rescaling of each coordinate; convergence is claimed for non-smooth functions too (seen "
        "second-hand). Published for one node; on several, each keeps its own radii and the vote weighs them alike."
    ),
    sure="second-hand",
)
def sto_signsgd_running(beta: Beta = 0.9, weight_decay: NonNegative = 0.0):
    """sign(m + G*u), u uniform in (-1, 1), G the largest |m| so far of each coordinate; nothing is shared.

    Equations seen in a secondary text: m = beta*m + (1 - beta)*g, G = max(G, |m|), x -= lr*(sign + weight_decay*x). Its
    G is the running radius of a stochastic sign: sign(m + G*u) is +1 with probability (1 + m/G)/2.
    """
    return Algorithm(Momentum(beta), StochasticSign("running"), Majority(), Descent(weight_decay))


@algorithm(
    "ssdm",
    paper="Safaryan & Richtarik 2021, arXiv:1905.12938, alg. 3",
    lr=0.03,
    known=(
        "E|grad| = O(K^(-1/4)) where all voters share one objective. Version 6 (June 2026) withdraws the claim for "
        "unlike data: the proof of theorem 8 needed every voter's gradient to be unbiased for the same function. In "
        "one dimension it is a vote of signs and goes to the median."
    ),
    sure="reconstructed",
    theory=theory.ssdm,
    heterogeneous="refuted",
)
def ssdm(
    beta: Beta = 0.9, radius: Literal["norm"] | Radius = "norm", refresh: Count = 100, weight_decay: NonNegative = 0.0
):
    """Stochastic sign of momentum with its own norm as radius, averaged; no vote is taken.

    The paper's gamma is our lr: a step has length gamma*|tally|/n a coordinate. Another radius is not SSDM: one that
    all voters share (a number, or "max") makes the average unbiased for the mean gradient over that radius. Details of
    this paper are reconstructed: m starts as the first gradient.
    """
    estimator = Momentum(beta, start="estimate")
    return Algorithm(estimator, StochasticSign(radius, refresh), Average(), Descent(weight_decay))


@algorithm(
    "mv-signsgd-sim",
    paper="Sun et al. 2023, PMLR 202:33077 (no arXiv number), MV-sto-signSGD-SIM",
    lr=1e-3,
    known=f"O(d T^(-1/4) + d n^(-1/2)). {FLOOR}",
    sure="reconstructed",
    theory=theory.mv_signsgd_sim,
    heterogeneous="refuted",
)
def mv_signsgd_sim(beta: Beta = 0.9, radius: Radius = "max", refresh: Count = 100, weight_decay: NonNegative = 0.0):
    """Stochastic sign of momentum, majority vote: ssvr-mv's option 1 with an average in STORM's place.

    The paper's theta is our beta; a fixed radius is its form, "max" and "running" as in sto-signsgd. Details of this
    paper are reconstructed: the stochastic operator.
    """
    return Algorithm(Momentum(beta), StochasticSign(radius, refresh), Majority(), Descent(weight_decay))


@algorithm(
    "mvsm",
    paper="Jiang et al. 2025, arXiv:2507.12091, MVSM",
    lr=1e-3,
    known=(
        f"Option 1: O(d^(1/2) T^(-1/2) + d n^(-1/2)). {FLOOR} Option 2: "
        "O(max{d^(1/4) T^(-1/4), d^(1/10) T^(-1/5)}), no floor (abstract)."
    ),
    sure="reconstructed",
)
def mvsm(
    option: Literal[1, 2] = 2,
    beta: Beta = 0.9,
    radius: Radius = "max",
    refresh: Count = 100,
    weight_decay: NonNegative = 0.0,
):
    """Stochastic sign of momentum up; option 1 majority, option 2 a randomised majority down, unbiased both ways.

    Option 1 is mv-signsgd-sim but for the first average; option 2 is option 2 of ssvr-mv, by the same authors, with an
    average in STORM's place. Radii as there. Details of this paper are reconstructed: m starts as the first gradient.
    """
    vote = Majority() if option == 1 else RandomisedMajority()
    estimator = Momentum(beta, start="estimate")
    return Algorithm(estimator, StochasticSign(radius, refresh), vote, Descent(weight_decay))


@algorithm(
    "birder",
    paper="Peng et al. 2023, NeurIPS 36 (no arXiv number), Birder; BinSGDM in an earlier version",
    lr=1e-3,
    known=(
        "The rate of Adam is claimed (abstract). It needs no warm-up on floats, unlike onebit-adam. A voter whose "
        "gradient keeps its sign sends that, whatever its size: with unlike rows x goes to the median of the voters' "
        "minima in one dimension, not to the minimum of their mean."
    ),
    sure="reconstructed",
    heterogeneous="refuted",
)
def birder(beta: Beta = 0.95, down: Literal["mean", "sign"] = "mean", weight_decay: NonNegative = 0.0):
    """Stochastic sign of m/b in [-1, 1], b the average of |g| as m is of g; averaged, x -= lr*mean.

    A bit is unbiased for m/b without any radius that is shared. down "sign": a randomised majority, unbiased for the
    mean, so that one bit comes down. The paper's hierarchical all-reduce is exchange.name = "hierarchical", in which
    nodes add their ranks' bits, not floats. Where a rank never had a gradient, it sends fair coins. Details of this
    paper are reconstructed: the rule, one beta for both averages, and its default.
    """
    vote = Average() if down == "mean" else RandomisedMajority()
    return Algorithm(NormalisedMomentum(beta), StochasticSign(1.0), vote, Descent(weight_decay))
