"""Estimates that reduce variance: STORM, SVRG, and a mean gradient tracked by the vote."""

from typing import Literal

from mpisign.algorithms import theory
from mpisign.algorithms.estimators import Correction, FullGradient, Lion, LionStorm, Minibatch, Momentum, Storm, Svrg
from mpisign.algorithms.method import Algorithm, Cycle, Stages
from mpisign.algorithms.registry import Beta, Count, Fraction, NonNegative, Whole, algorithm
from mpisign.algorithms.signs import Raw, ScaledStochasticSign, Sign, StochasticSign
from mpisign.algorithms.updates import Descent
from mpisign.algorithms.votes import Majority, RandomisedMajority, TrackedQuantised, TrackedSign
from mpisign.algorithms.zoo.known import FLOOR, MEDIAN, Radius
from mpisign.errors import UsageError


@algorithm(
    "ssvr-mv",
    paper="Jiang et al. 2024, arXiv:2406.00489, alg. 3",
    lr=1e-3,
    known=f"Option 1: O(d^(1/2) T^(-1/2) + d n^(-1/2)). {FLOOR} Option 2: E|grad|_2 = O(d^(1/4) T^(-1/4)), no floor.",
    sure="reconstructed",
    theory=theory.ssvr_mv,
    heterogeneous="refuted",
)
def ssvr_mv(
    option: Literal[1, 2] = 1,
    beta: Fraction = 0.5,
    radius: Radius = "max",
    refresh: Count = 100,
    project: NonNegative | None = None,
    weight_decay: NonNegative = 0.0,
):
    """STORM on each rank, stochastic sign of radius R; option 1 majority, option 2 randomised majority.

    A fixed radius is the paper's (R = 4G in option 1, R = G in option 2); one that is safe makes every bit nearly a
    coin flip, so the default is the shared maximum of each coordinate, as in sto-signsgd. project: v is kept in the
    Euclidean ball of this radius, 0 for none; left out, it is R for option 2 with a fixed R, else none. Details of
    this paper are reconstructed: that R = G, the randomised sign of the vote, and the projection of what is kept.
    """
    if project is None:
        project = radius if option == 2 and not isinstance(radius, str) else 0.0
    vote = Majority() if option == 1 else RandomisedMajority()
    return Algorithm(Storm(beta, project), StochasticSign(radius, refresh), vote, Descent(weight_decay))


@algorithm(
    "dlion-unbiased",
    paper="Jiang & Zhang 2025, arXiv:2508.12327, distributed Lion with unbiased signs both ways",
    lr=1e-3,
    known=(
        "Without STORM O(max{d^(1/4) T^(-1/4), d^(1/10) (nT)^(-1/5)}), with it O(d^(1/4) T^(-1/4)) "
        "(abstract); no floor."
    ),
    sure="reconstructed",
)
def dlion_unbiased(
    beta1: Beta = 0.9,
    beta2: Beta = 0.99,
    storm: bool = True,
    radius: Radius = "max",
    refresh: Count = 100,
    weight_decay: NonNegative = 0.0,
):
    """Lion on each rank, its average m by STORM's rule; stochastic sign of radius R up, a randomised majority down.

    v = g(x_t) + beta1*(m - g(x_{t-1})), m likewise with beta2, both gradients on one batch; storm = False is Lion
    itself, at one gradient a row. Radii as in ssvr-mv. Details of this paper are reconstructed: where STORM's
    correction enters, the first step (m = g), and the radius.
    """
    estimator = LionStorm(beta1, beta2) if storm else Lion(beta1, beta2)
    return Algorithm(estimator, StochasticSign(radius, refresh), RandomisedMajority(), Descent(weight_decay))


@algorithm(
    "dvr-sign",
    paper="Jiang et al. 2026, arXiv:2609.18656, DVR-Sign and DVR-Sign-FS",
    lr=1e-3,
    known=(
        "E|grad|_1 = O(sqrt(d/K) + sqrt(d)*(a/(nK))^(1/3)), a = d for this compressor; unlike voters are allowed "
        "and there is no floor."
    ),
    sure="departs",
    theory=theory.dvr_sign,
    heterogeneous="proved",
)
def dvr_sign(
    beta: Fraction = 0.5, start_batches: Count = 1, snapshot_every: Whole = 0, weight_decay: NonNegative = 0.0
):
    """z = (1 - beta)*z + mean of Q(g(x_t) - (1 - beta)*g(x_{t-1})), kept by the vote; decides sign(z).

    Q(v) = R*(stochastic sign of v with radius R = max|v|) for each tensor: one float a tensor beside the bits (the
    paper takes the whole vector as one block). start_batches is B0 (the paper's batches are of one row): x stays
    for B0 - 1 steps while z is the mean of all Q(g). snapshot_every = q > 0 is the finite-sum form: at every q-th
    step z is the exact mean of full local gradients, sent as raw floats, and beta is 0 in between.
    """
    return _tracking(TrackedSign, beta, start_batches, snapshot_every, weight_decay)


@algorithm(
    "dvr-q",
    paper="Jiang et al. 2026, arXiv:2609.18656, DVR-Q and DVR-Q-FS",
    lr=0.01,
    known="E|grad|_2 = O(sqrt(a/K) + sqrt(a)/(nK)^(1/3)), a = d for this compressor; unlike voters allowed.",
    sure="departs",
    theory=theory.dvr_q,
    heterogeneous="proved",
)
def dvr_q(beta: Fraction = 0.5, start_batches: Count = 1, snapshot_every: Whole = 0, weight_decay: NonNegative = 0.0):
    """As dvr-sign, but decides Q(z), unbiased for z: x -= lr*Q(z), one float a tensor beside the bits down too."""
    return _tracking(TrackedQuantised, beta, start_batches, snapshot_every, weight_decay)


def _tracking(vote, beta, start_batches, snapshot_every, weight_decay):
    """One of the three forms: plain, with a start of several batches, or for finite sums."""
    if snapshot_every and start_batches > 1:
        raise UsageError(
            f"algorithm.start_batches = {start_batches} and snapshot_every = {snapshot_every}: the finite-sum form "
            "starts from a full gradient; give one of the two"
        )
    move, keep = Descent(weight_decay), (("vote/z", "vote/z"),)
    between = 0.0 if snapshot_every else beta
    corrected = Algorithm(Correction(between), ScaledStochasticSign(), vote(between), move)
    if snapshot_every:
        exact = Algorithm(FullGradient(), Raw(weighted=False), vote(beta=1.0), move)
        return Cycle(exact, corrected, keep, every=snapshot_every)
    if start_batches == 1:
        return corrected
    still = Descent(weight_decay, first=start_batches - 1)
    gather = Algorithm(Minibatch(), ScaledStochasticSign(), vote(start=True), still)
    return Stages(gather, corrected, keep, until=start_batches)


@algorithm(
    "dist-signrvr",
    paper="Qin et al. 2023, arXiv:2310.15976, dist-SignRVR",
    lr=1e-3,
    known=(
        "O(log(n0 T)/sqrt(n0 T) + log(n0 T)*sqrt(n0)/sqrt(T)) in the first versions, n0 the rows of one machine and T "
        "passes over them. Reshuffling alone does not repair the sign's bias (see signrr); the snapshot here does. "
        f"{MEDIAN}"
    ),
    sure="reconstructed",
    heterogeneous="refuted",
)
def dist_signrvr(every: Whole = 0, weight_decay: NonNegative = 0.0):
    """Sign of g(x) - g(w) + full gradient at w on each rank's own reshuffled rows, majority vote.

    w is renewed every `every` steps, 0 for each pass over the rank's own rows. Details of this paper are reconstructed:
    the vote and the sharded form.
    """
    return Algorithm(Svrg(every, "reshuffle"), Sign(), Majority(), Descent(weight_decay))


@algorithm(
    "dist-signrvm",
    paper="Qin et al. 2023, arXiv:2310.15976, dist-SignRVM",
    lr=1e-3,
    known=f"As dist-signrvr, with momentum. {MEDIAN}",
    sure="reconstructed",
    heterogeneous="refuted",
)
def dist_signrvm(beta: Beta = 0.9, every: Whole = 0, weight_decay: NonNegative = 0.0):
    """Sign of a moving average of dist-signrvr's estimate, majority vote.

    Details of this paper are reconstructed: the form of the average.
    """
    return Algorithm(Momentum(beta, of=Svrg(every, "reshuffle")), Sign(), Majority(), Descent(weight_decay))
