"""The table of papers: one function an algorithm, whose signature is the only list of hyperparameters.

Our symbols: g gradient, v estimate, m moving average, n voters, lr learning rate, t step from 0. Where a line of a
paper was recalled or taken from another text, the docstring says so. `known` is what is known of convergence.
"""

from math import log, sqrt
from typing import Literal

from mpisign import theory
from mpisign.algorithm import Algorithm, Beta, Count, Cycle, Fraction, NonNegative, Positive, Stages, algorithm
from mpisign.estimators import (
    ClippedRows,
    Correction,
    DecidedMomentum,
    FullGradient,
    Lion,
    Minibatch,
    Momentum,
    Nesterov,
    Storm,
    Svrg,
)
from mpisign.signs import ErrorFeedback, NoisySign, Raw, ScaledSign, ScaledStochasticSign, Sign, StochasticSign
from mpisign.updates import Adam, Descent, FrozenAdam, Sgd
from mpisign.votes import (
    Average,
    LearnedWeights,
    Majority,
    Mean,
    Median,
    RandomisedMajority,
    ServerErrorFeedback,
    SignErrorFeedback,
    TrackedQuantised,
    TrackedSign,
)

Radius = Literal["max", "running"] | Positive

# What several methods share, word for word.
MEDIAN = (
    "A majority of signs follows the median of the voters' gradients, not their mean: with unlike rows it need not "
    "approach a stationary point of the mean (Chen et al. 2020)."
)
FLOOR = (
    "The bound keeps a term d/sqrt(n) that no number of steps removes, and a gradient floor is proved even with "
    "exact local gradients: log-cosh on 3 voters stays at 1/1542 (arXiv:2609.18656, prop. 1)."
)


# Majority votes


@algorithm(
    "signsgd-mv",
    paper="Bernstein et al. 2018, arXiv:1802.04434, alg. 3",
    lr=1e-3,
    known=f"O(1/sqrt(K)) in l1 for like voters, with batches of K or symmetric unimodal noise. {MEDIAN}",
    theory=theory.signsgd_mv,
)
def signsgd_mv(weight_decay: NonNegative = 0.0):
    """Sign of the gradient on each rank, majority vote across ranks. The paper's delta is our lr."""
    return Algorithm(Minibatch(), Sign(), Majority(), Descent(weight_decay))


@algorithm(
    "signum-mv",
    paper="Bernstein et al. 2019, arXiv:1810.05291, alg. 1",
    lr=1e-3,
    known=f"The 2019 theorems are for beta = 0; the 2018 one for momentum has a warm-up that nobody runs. {MEDIAN}",
)
def signum_mv(beta: Beta = 0.9, weight_decay: NonNegative = 0.0):
    """Sign of momentum on each rank, majority vote across ranks. The paper's eta, lambda: lr, weight_decay."""
    return Algorithm(Momentum(beta), Sign(), Majority(), Descent(weight_decay))


@algorithm(
    "dlion-mavo",
    paper="Liu et al. 2024, arXiv:2404.00438, majority vote",
    lr=1e-4,
    known=f"With weight decay it solves a problem with the constraint |weight_decay * x| <= 1 (recalled). {MEDIAN}",
)
def dlion_mavo(beta1: Beta = 0.9, beta2: Beta = 0.99, weight_decay: NonNegative = 0.0):
    """Distributed Lion: sign of beta1*m + (1 - beta1)*g on each rank, majority vote; m is never shared.

    Equations seen in a secondary text. x -= lr*(vote + weight_decay*x).
    """
    return Algorithm(Lion(beta1, beta2), Sign(), Majority(), Descent(weight_decay))


@algorithm(
    "signsgd-fv",
    paper="Park & Lee 2024, arXiv:2403.16372 (signSGD-FV)",
    lr=1e-3,
    known=f"Built for voters whose batches differ in size. {MEDIAN}",
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
    and coordinate. negative = False stops weights at 0; with True a voter that lies all the time helps.
    """
    vote = LearnedWeights(plain, resolution, limit, forget, negative)
    return Algorithm(Minibatch(), Sign(), vote, Descent(weight_decay))


# Noise before the sign


@algorithm(
    "noisy-signsgd",
    paper="Chen et al. 2020, arXiv:1906.01736, alg. 3",
    lr=1e-3,
    known="The expected median approaches the mean as O(1/noise), but noise also slows every step.",
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
    theory=theory.noisy_median,
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


# Stochastic signs


@algorithm(
    "sto-signsgd",
    paper="Jin et al. 2020, arXiv:2002.10940, sto-sign",
    lr=1e-3,
    known="It converges to a neighbourhood; the rate quoted by others is O(d^(3/8) T^(-1/8)).",
)
def sto_signsgd(
    radius: Radius = "max",
    refresh: Count = 1,
    error_feedback: bool = False,
    factor: NonNegative = 0.0,
    weight_decay: NonNegative = 0.0,
):
    """+1 with probability (b + g)/(2b), majority vote. The paper's b is our radius.

    radius "max" is that of the author's code: for each coordinate the largest |g| of any voter, shared as raw floats
    every `refresh` steps (64(n-1)/n bits a coordinate each time). error_feedback: the vote keeps e and decides
    s = sign(p), p = tally/n + e, e = p - factor*s; factor 0 is the code's 1/n (the paper's own is not known to us).
    """
    vote = SignErrorFeedback(factor) if error_feedback else Majority()
    return Algorithm(Minibatch(), StochasticSign(radius, refresh), vote, Descent(weight_decay))


@algorithm(
    "ssdm",
    paper="Safaryan & Richtarik 2021, arXiv:1905.12938, alg. 3",
    lr=0.03,
    known=(
        "E|grad| = O(K^(-1/4)) where all voters share one objective. Version 6 (June 2026) withdraws the claim for "
        "unlike data: the proof of theorem 8 needed every voter's gradient to be unbiased for the same function. In "
        "one dimension it is a vote of signs and goes to the median."
    ),
    theory=theory.ssdm,
)
def ssdm(beta: Beta = 0.9, weight_decay: NonNegative = 0.0):
    """Stochastic sign of momentum with its own norm as radius, averaged; no vote is taken.

    m starts as the first gradient (recalled, not seen). The paper's gamma is our lr: a step has length
    gamma*|tally|/n a coordinate.
    """
    return Algorithm(Momentum(beta, start="estimate"), StochasticSign("norm"), Average(), Descent(weight_decay))


@algorithm(
    "dlion-avg",
    paper="Liu et al. 2024, arXiv:2404.00438, averaging",
    lr=1e-4,
    known="As dlion-mavo; the average of signs keeps how strongly the voters agree.",
)
def dlion_avg(beta1: Beta = 0.9, beta2: Beta = 0.99, weight_decay: NonNegative = 0.0):
    """Distributed Lion with the mean of the signs instead of their majority; log2(n + 1) bits down."""
    return Algorithm(Lion(beta1, beta2), Sign(), Average(), Descent(weight_decay))


@algorithm(
    "mv-signsgd-sim",
    paper="Sun et al. 2023, PMLR 202:33077 (no arXiv number), MV-sto-signSGD-SIM",
    lr=1e-3,
    known=f"O(d T^(-1/4) + d n^(-1/2)). {FLOOR}",
    theory=theory.mv_signsgd_sim,
)
def mv_signsgd_sim(
    beta: Beta = 0.9, radius: Radius = "max", refresh: Count = 1, weight_decay: NonNegative = 0.0
):
    """Stochastic sign of momentum, majority vote: ssvr-mv's option 1 with an average in STORM's place.

    The stochastic operator is recalled, the name and the rate were seen. The paper's theta is our beta; a fixed
    radius is its form, "max" and "running" as in sto-signsgd.
    """
    return Algorithm(Momentum(beta), StochasticSign(radius, refresh), Majority(), Descent(weight_decay))


@algorithm(
    "ssvr-mv",
    paper="Jiang et al. 2024, arXiv:2406.00489, alg. 3",
    lr=1e-3,
    known=f"Option 1: O(d^(1/2) T^(-1/2) + d n^(-1/2)). {FLOOR} Option 2: E|grad|_2 = O(d^(1/4) T^(-1/4)), no floor.",
    theory=theory.ssvr_mv,
)
def ssvr_mv(
    option: Literal[1, 2] = 1,
    beta: Fraction = 0.5,
    radius: Radius = "max",
    refresh: Count = 1,
    project: NonNegative | None = None,
    weight_decay: NonNegative = 0.0,
):
    """STORM on each rank, stochastic sign of radius R; option 1 majority, option 2 randomised majority.

    A fixed radius is the paper's (R = 4G in option 1, R = G in option 2); one that is safe makes every bit nearly a
    coin flip, so the default is the shared maximum of each coordinate, as in sto-signsgd. project: v is kept in the
    Euclidean ball of this radius, 0 for none; left out, it is R for option 2 with a fixed R, else none. That R = G,
    the randomised sign of the vote, and the projection of what is kept, are recalled, not seen.
    """
    if project is None:
        project = radius if option == 2 and not isinstance(radius, str) else 0.0
    vote = Majority() if option == 1 else RandomisedMajority()
    return Algorithm(Storm(beta, project), StochasticSign(radius, refresh), vote, Descent(weight_decay))


# Estimates of the mean gradient, kept where votes are counted


@algorithm(
    "dvr-sign",
    paper="Jiang et al. 2026, arXiv:2609.18656, DVR-Sign and DVR-Sign-FS",
    lr=1e-3,
    known="E|grad|_1 = O(sqrt(d/K) + sqrt(d)*(a/(nK))^(1/3)), a = d for this compressor; no floor, unlike voters allowed.",
    theory=theory.dvr_sign,
)
def dvr_sign(
    beta: Fraction = 0.5,
    start_batches: Count = 1,
    snapshot_every: int = 0,
    weight_decay: NonNegative = 0.0,
):
    """z = (1 - beta)*z + mean of Q(g(x_t) - (1 - beta)*g(x_{t-1})), kept by the vote; decides sign(z).

    Q(v) = R*(stochastic sign of v with radius R = max|v|) for each tensor: one float a tensor beside the bits (the
    paper takes the whole vector as one block). start_batches is B0: x stays for B0 - 1 steps while z is the mean of
    all Q(g). snapshot_every = q > 0 is the finite-sum form: at every q-th step z is the exact mean of full local
    gradients, sent as raw floats, and beta is 0 in between.
    """
    tracked = TrackedSign(0.0 if snapshot_every else beta)
    return _tracking(tracked, TrackedSign, beta, start_batches, snapshot_every, weight_decay)


@algorithm(
    "dvr-q",
    paper="Jiang et al. 2026, arXiv:2609.18656, DVR-Q and DVR-Q-FS",
    lr=0.01,
    known="E|grad|_2 = O(sqrt(a/K) + sqrt(a)/(nK)^(1/3)), a = d for this compressor; unlike voters allowed.",
    theory=theory.dvr_q,
)
def dvr_q(
    beta: Fraction = 0.5,
    start_batches: Count = 1,
    snapshot_every: int = 0,
    weight_decay: NonNegative = 0.0,
):
    """As dvr-sign, but decides Q(z), unbiased for z: x -= lr*Q(z), one float a tensor beside the bits down too."""
    tracked = TrackedQuantised(0.0 if snapshot_every else beta)
    return _tracking(tracked, TrackedQuantised, beta, start_batches, snapshot_every, weight_decay)


def _tracking(tracked, vote, beta, start_batches, snapshot_every, weight_decay):
    if snapshot_every < 0:
        raise theory.usage("snapshot_every", snapshot_every, "0 for none, or the steps between snapshots")
    move, keep = Descent(weight_decay), (("vote/z", "vote/z"),)
    corrected = Algorithm(Correction(tracked.beta), ScaledStochasticSign(), tracked, move)
    if snapshot_every:
        exact = Algorithm(FullGradient(), Raw(weighted=False), vote(beta=1.0), move)
        return Cycle(exact, corrected, keep, every=snapshot_every)
    if start_batches == 1:
        return corrected
    still = Descent(weight_decay, first=start_batches - 1)
    gather = Algorithm(Minibatch(), ScaledStochasticSign(), vote(start=True), still)
    return Stages(gather, corrected, keep, until=start_batches)


# Snapshots on each rank


@algorithm(
    "dist-signrvr",
    paper="Qin et al. 2023, arXiv:2310.15976, dist-SignRVR",
    lr=1e-3,
    known=(
        "O(log(nT)/sqrt(nT) + log(nT)*sqrt(n)/sqrt(T)) in the first versions. Plain SignRR was downgraded in the "
        f"revision of August 2026: reshuffling does not repair the sign's bias; the snapshot here does. {MEDIAN}"
    ),
)
def dist_signrvr(every: int = 0, weight_decay: NonNegative = 0.0):
    """Sign of g(x) - g(w) + full gradient at w on each rank's own reshuffled rows, majority vote.

    w is renewed every `every` steps, 0 for each pass over the rank's own rows. The vote and the sharded form are
    recalled. Use problem.sampling = "reshuffle", the default.
    """
    return Algorithm(Svrg(_every(every)), Sign(), Majority(), Descent(weight_decay))


@algorithm(
    "dist-signrvm",
    paper="Qin et al. 2023, arXiv:2310.15976, dist-SignRVM",
    lr=1e-3,
    known=f"As dist-signrvr, with momentum. {MEDIAN}",
)
def dist_signrvm(beta: Beta = 0.9, every: int = 0, weight_decay: NonNegative = 0.0):
    """Sign of a moving average of dist-signrvr's estimate, majority vote. The form of the average is recalled."""
    return Algorithm(Momentum(beta, of=Svrg(_every(every))), Sign(), Majority(), Descent(weight_decay))


def _every(every: int) -> int:
    if every < 0:
        raise theory.usage("every", every, "0 for one pass over the rows, or a number of steps")
    return every


# Error feedback, and Adam in one bit


@algorithm(
    "dist-ef-signsgd",
    paper="Zheng et al. 2019, arXiv:1905.10936, alg. 2 and 3, block-wise",
    lr=0.1,
    known=(
        "The rate of SGD plus a term in 1/delta^2, delta the density of what is sent. A third-party list names a "
        "proof error for decreasing steps: prefer constant or slowly decaying ones."
    ),
)
def dist_ef_signsgd(momentum: Beta = 0.0, weight_decay: NonNegative = 0.0):
    """Scaled signs with error feedback on each rank and at the vote; one block is one tensor.

    momentum > 0 is the paper's Nesterov form: m = mu*m + g, p = mu*m + g + residual. Residuals are kept in units of
    x, which equals the paper's eta_{t-1}/eta_t factors (recalled) without a ratio.
    """
    estimator = Nesterov(momentum) if momentum else Minibatch()
    return Algorithm(estimator, ErrorFeedback(ScaledSign()), ServerErrorFeedback(), Descent(weight_decay))


@algorithm(
    "onebit-adam",
    paper="Tang et al. 2021, arXiv:2102.02888, alg. 1",
    lr=1e-3,
    known="The rate of SGD with momentum under a variance that has settled; it is frozen after the warm-up.",
)
def onebit_adam(
    warmup_steps: Count = 100,
    beta1: Beta = 0.9,
    beta2: Beta = 0.999,
    epsilon: Positive = 1e-8,
    weight_decay: NonNegative = 0.0,
):
    """Adam on raw floats for warmup_steps, then its variance is frozen and momentum travels as scaled signs.

    Error feedback on each rank and at the vote, one block a tensor (seen in a secondary text). The warm-up corrects
    the bias of both averages; a coordinate whose variance is still 0 does not move afterwards.
    """
    warm = Algorithm(Minibatch(), Raw(), Mean(), Adam(beta1, beta2, epsilon, weight_decay))
    frozen = FrozenAdam(epsilon, weight_decay, 1 - beta2**warmup_steps)
    signs = ErrorFeedback(ScaledSign(), in_x=False)
    bits = Algorithm(DecidedMomentum(beta1), signs, ServerErrorFeedback(in_x=False), frozen)
    keep = (("update/v", "update/v"), ("update/m", "estimator/m"))
    return Stages(warm, bits, keep, until=warmup_steps)


# Baselines


@algorithm("sgd", paper="baseline: mean of float32 gradients", lr=0.1, known="The usual rates.")
def sgd(momentum: Beta = 0.9, weight_decay: NonNegative = 0.0, nesterov: bool = False):
    """SGD with momentum on the mean gradient."""
    return Algorithm(Minibatch(), Raw(), Mean(), Sgd(momentum, weight_decay, nesterov))


@algorithm(
    "adam",
    paper="baseline: Kingma & Ba 2015, arXiv:1412.6980; decoupled weight decay",
    lr=1e-3,
    known="It can diverge on some convex problems (Reddi et al. 2018); in practice it is the one to beat.",
)
def adam(beta1: Beta = 0.9, beta2: Beta = 0.999, epsilon: Positive = 1e-8, weight_decay: NonNegative = 0.0):
    """Adam on the mean gradient."""
    return Algorithm(Minibatch(), Raw(), Mean(), Adam(beta1, beta2, epsilon, weight_decay))
