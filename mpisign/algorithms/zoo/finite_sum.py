"""Methods of one node that reduce variance by a second point, by snapshots, or by reshuffling."""

from mpisign.algorithms import theory
from mpisign.algorithms.estimators import Minibatch, Momentum, SnapshotStorm, Storm, Svrg
from mpisign.algorithms.method import Algorithm
from mpisign.algorithms.registry import Beta, Count, Fraction, NonNegative, Whole, algorithm
from mpisign.algorithms.signs import Sign
from mpisign.algorithms.updates import Descent
from mpisign.algorithms.votes import Majority
from mpisign.algorithms.zoo.known import ONE_NODE


@algorithm(
    "ssvr",
    paper="Jiang et al. 2024, arXiv:2406.00489, alg. 1",
    lr=1e-3,
    known=f"E|grad|_1 = O(d^(1/2) T^(-1/3)) under average smoothness. {ONE_NODE} See ssvr-mv and dvr-sign.",
    sure="reconstructed",
    theory=theory.ssvr,
    heterogeneous="refuted",
)
def ssvr(beta: Fraction = 0.5, start_batches: Count = 1, weight_decay: NonNegative = 0.0):
    """Sign of STORM: v = g(x_t) + (1 - beta)*(v - g(x_{t-1})), both gradients on the same batch.

    start_batches is B0: v starts as the mean of so many gradients. Details of this paper are reconstructed: the shape
    of the algorithm and the theorem's parameters; the estimator was seen in the authors' later paper, and the beta of
    the experiments is not known.
    """
    return Algorithm(Storm(beta, start_batches=start_batches), Sign(), Majority(), Descent(weight_decay))


@algorithm(
    "ssvr-fs",
    paper="Jiang et al. 2024, arXiv:2406.00489, alg. 2",
    lr=1e-3,
    known=f"E|grad|_1 = O(m^(1/4) d^(1/2) T^(-1/2)) for a sum of m functions. {ONE_NODE}",
    sure="reconstructed",
    theory=theory.ssvr_fs,
    heterogeneous="refuted",
)
def ssvr_fs(beta: Fraction = 0.01, every: Whole = 0, weight_decay: NonNegative = 0.0):
    """Sign of STORM with a snapshot: v as in ssvr, less beta*(g(w) - full gradient at w), on one batch.

    w is renewed every `every` steps (the paper's I), 0 for each pass over the rank's rows; v starts as the full
    gradient. Three gradients a row of the batch, and all rows at a snapshot. Details of this paper are reconstructed:
    the snapshot's term, and the theorem's I = m and beta = O(1/m).
    """
    return Algorithm(SnapshotStorm(beta, every), Sign(), Majority(), Descent(weight_decay))


@algorithm(
    "signsvrg",
    paper="Chzhen & Schechtman 2023, arXiv:2305.13187",
    lr=1e-3,
    known=f"Finite sums: O(T^(-1/2)) if smooth, O(1/T) if convex too (abstract). {ONE_NODE}",
    sure="reconstructed",
    heterogeneous="refuted",
)
def signsvrg(every: Whole = 0, weight_decay: NonNegative = 0.0):
    """Sign of g(x) - g(w) + full gradient at w, on rows drawn with replacement.

    w is renewed every `every` steps, 0 for as many as make a pass. Details of this paper are reconstructed: the update.
    """
    return Algorithm(Svrg(every, "replacement"), Sign(), Majority(), Descent(weight_decay))


@algorithm(
    "signrr",
    paper="Qin et al. 2023, arXiv:2310.15976, SignRR",
    lr=1e-3,
    known=(
        "O(log(nT)/sqrt(nT) + |sigma|_1) in the first versions, n rows and T passes. Reshuffling does not in general "
        "repair the sign's bias: on two rows E|grad| stays 1/2 for ever (jobs/figures/c5.toml). A revision of 2026 is "
        f"said to withdraw the rate for this reason; we could not confirm it. {ONE_NODE}"
    ),
    sure="reconstructed",
    heterogeneous="refuted",
)
def signrr(weight_decay: NonNegative = 0.0):
    """Sign of the gradient on rows in reshuffled passes.

    Details of this paper are reconstructed: its rate is lr/sqrt(t + 1) or constant.
    """
    return Algorithm(Minibatch("reshuffle"), Sign(), Majority(), Descent(weight_decay))


@algorithm(
    "signrvr",
    paper="Qin et al. 2023, arXiv:2310.15976, SignRVR",
    lr=1e-3,
    known=(
        "O(log(nT)/sqrt(nT) + log(nT)*sqrt(n)/sqrt(T)) in the first versions, n rows and T passes. A revision of "
        f"2026 is said to have O(sqrt(d/T)) in averaged l1; we could not confirm it. {ONE_NODE}"
    ),
    sure="stated",
    heterogeneous="refuted",
)
def signrvr(every: Whole = 0, weight_decay: NonNegative = 0.0):
    """Sign of SVRG's estimate on reshuffled rows, with a snapshot at each pass. On several nodes dist-signrvr."""
    return Algorithm(Svrg(every, "reshuffle"), Sign(), Majority(), Descent(weight_decay))


@algorithm(
    "signrvm",
    paper="Qin et al. 2023, arXiv:2310.15976, SignRVM",
    lr=1e-3,
    known="As signrvr, with momentum.",
    sure="reconstructed",
    heterogeneous="refuted",
)
def signrvm(beta: Beta = 0.9, every: Whole = 0, weight_decay: NonNegative = 0.0):
    """Sign of a moving average of signrvr's estimate. On several nodes dist-signrvm.

    Details of this paper are reconstructed: the form of the average.
    """
    return Algorithm(Momentum(beta, of=Svrg(every, "reshuffle")), Sign(), Majority(), Descent(weight_decay))
