"""Error feedback, and Adam in one bit."""

from mpisign.algorithms.estimators import DecidedMomentum, Minibatch, Nesterov
from mpisign.algorithms.method import Algorithm, Stages
from mpisign.algorithms.registry import Beta, Count, NonNegative, Positive, algorithm
from mpisign.algorithms.signs import ErrorFeedback, Raw, ScaledSign
from mpisign.algorithms.updates import Adam, Descent, FrozenAdam, FrozenLamb, Lamb, RawDescent
from mpisign.algorithms.votes import Mean, ScaledMean, ServerErrorFeedback


@algorithm(
    "ef-signsgd",
    paper="Karimireddy et al. 2019, arXiv:1901.09847, alg. 1",
    lr=0.1,
    known=(
        "The O(1/sqrt(T)) of SGD plus a term in 1/(delta^2 T), delta the density of what is sent. Published for one "
        "node; several send scaled signs of their own residuals, which are averaged."
    ),
    sure="stated",
)
def ef_signsgd(feedback: bool = True, weight_decay: NonNegative = 0.0):
    """Scaled signs with error feedback: p = lr*g + e, send (|p|_1/d)*sign(p) for each tensor, e = p - that.

    feedback = False is what the paper's experiments call signSGD: the scaled sign of g, without e. Scales a tensor are
    the code's. On several ranks the mean of what they send moves x: floats down, or, by allgather, n - 1 bits in all.
    """
    sign = ErrorFeedback(ScaledSign()) if feedback else ScaledSign()
    return Algorithm(Minibatch(), sign, ScaledMean(feedback), RawDescent(weight_decay, in_x=feedback))


@algorithm(
    "dist-ef-signsgd",
    paper="Zheng et al. 2019, arXiv:1905.10936, alg. 2 and 3, block-wise",
    lr=0.1,
    known=(
        "The rate of SGD plus a term in 1/delta^2, delta the density of what is sent. A third-party list names a "
        "proof error for decreasing steps: prefer constant or slowly decaying ones."
    ),
    sure="reconstructed",
)
def dist_ef_signsgd(momentum: Beta = 0.0, weight_decay: NonNegative = 0.0):
    """Scaled signs with error feedback on each rank and at the vote; one block is one tensor.

    momentum > 0 is the paper's Nesterov form: m = mu*m + g, p = mu*m + g + residual. Residuals are kept in units of
    x, which equals the paper's factors eta_{t-1}/eta_t without a ratio. Details of this paper are reconstructed: these
    factors.
    """
    estimator = Nesterov(momentum) if momentum else Minibatch()
    return Algorithm(estimator, ErrorFeedback(ScaledSign()), ServerErrorFeedback(), Descent(weight_decay))


@algorithm(
    "onebit-adam",
    paper="Tang et al. 2021, arXiv:2102.02888, alg. 1",
    lr=1e-3,
    known="The rate of SGD with momentum under a variance that has settled; it is frozen after the warm-up.",
    sure="second-hand",
)
def onebit_adam(
    warmup_steps: Count = 100,
    beta1: Beta = 0.9,
    beta2: Beta = 0.999,
    epsilon: Positive = 1e-8,
    weight_decay: NonNegative = 0.0,
):
    """Adam on raw floats for warmup_steps, then its variance is frozen and momentum travels as scaled signs.

    Error feedback on each rank and at the vote, one block a tensor (seen in a secondary text). A scale is |p|_1/d; the
    authors' code, in DeepSpeed, takes |p|_2/sqrt(d). The warm-up corrects the bias of both averages; a coordinate whose
    variance is still 0 does not move afterwards.
    """
    warm = Algorithm(Minibatch(), Raw(), Mean(), Adam(beta1, beta2, epsilon, weight_decay))
    frozen = FrozenAdam(epsilon, weight_decay, 1 - beta2**warmup_steps)
    signs = ErrorFeedback(ScaledSign(), in_x=False)
    bits = Algorithm(DecidedMomentum(beta1), signs, ServerErrorFeedback(in_x=False), frozen)
    keep = (("update/v", "update/v"), ("update/m", "estimator/m"))
    return Stages(warm, bits, keep, until=warmup_steps)


@algorithm(
    "onebit-lamb",
    paper="Li et al. 2021, arXiv:2104.06069",
    lr=1e-3,
    known="The rate of SGD with momentum under a variance that has settled, as onebit-adam (seen second-hand).",
    sure="departs",
)
def onebit_lamb(
    warmup_steps: Count = 100,
    beta1: Beta = 0.9,
    beta2: Beta = 0.999,
    epsilon: Positive = 1e-8,
    average: Beta = 0.9,
    weight_decay: NonNegative = 0.0,
):
    """LAMB on floats for warmup_steps, then its variance and ratios are frozen and momentum travels as scaled signs.

    After the authors' code, in DeepSpeed: x -= lr*c*f*u for each tensor, c the average of |x|/|u| over the warm-up
    (1/(1 - average) should be well below warmup_steps), f from a variance that every rank goes on to average from
    momenta as they were decided. Error feedback as in onebit-adam, a scale per tensor, so that the code's rescaling of
    momenta to one scale has nothing to do. A coordinate whose variance is still 0 does not move afterwards.
    """
    warm = Algorithm(Minibatch(), Raw(), Mean(), Lamb(beta1, beta2, epsilon, weight_decay, average))
    frozen = FrozenLamb(beta1, beta2, epsilon, weight_decay)
    signs = ErrorFeedback(ScaledSign(), in_x=False)
    bits = Algorithm(DecidedMomentum(beta1), signs, ServerErrorFeedback(in_x=False), frozen)
    variance = ("update/v", "update/v"), ("update/v", "update/w"), ("update/ratios", "update/ratios")
    keep = *variance, ("update/m", "update/m"), ("update/m", "estimator/m")
    return Stages(warm, bits, keep, until=warmup_steps)
