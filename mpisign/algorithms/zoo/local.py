"""Local rounds: several steps on each rank's own rows between two votes."""

from math import pi, sqrt
from typing import Literal

from mpisign.algorithms.estimators import LocalAdam, LocalSteps, Minibatch
from mpisign.algorithms.method import Algorithm, Stages
from mpisign.algorithms.registry import Beta, Count, NonNegative, Positive, algorithm
from mpisign.algorithms.signs import ErrorFeedback, NoisySign, Raw, ScaledSign, StochasticSign
from mpisign.algorithms.updates import Adam, Descent, FrozenAdam
from mpisign.algorithms.votes import Average, Mean, ServerErrorFeedback


@algorithm(
    "z-signfedavg",
    paper="Tang et al. 2023, arXiv:2302.02589",
    lr=1.0,
    known=(
        "The rates of uncompressed FedAvg as the noise grows; at a fixed noise the average of signs is biased towards "
        "the voters' median for Gaussian noise, and unbiased within its range for uniform noise."
    ),
)
def z_signfedavg(
    local_steps: Count = 4,
    local_lr: Positive = 0.01,
    noise: Positive = 1.0,
    law: Literal["gaussian", "uniform"] = "gaussian",
):
    """Signs of what local steps came to, with noise before the sign; averaged.

    u = (x - point after local_steps SGD steps)/local_lr; send sign(u + noise*xi); x -= lr*local_lr*c*noise*mean of
    signs. c = sqrt(pi/2) for xi from N(0, 1), the paper's z = 1; 1 for xi uniform in (-1, 1), z infinite. noise is in
    units of a sum of local_steps gradients; lr is the paper's server rate, over local_lr. Details of this paper are
    reconstructed: the constants.
    """
    factor = local_lr * noise * (sqrt(pi / 2) if law == "gaussian" else 1.0)
    # with uniform noise, +1 has the probability of a stochastic sign of that radius
    sign = NoisySign(noise) if law == "gaussian" else StochasticSign(noise)
    return Algorithm(LocalSteps(local_steps, local_lr), sign, Average(), Descent(factor=factor))


@algorithm(
    "zeroone-adam",
    paper="Lu et al. 2022, arXiv:2202.06009, its local rounds",
    lr=1e-3,
    known=(
        "The rate of Adam with a frozen variance, under bounded gradients (reconstructed). The paper also thins out "
        "the updates of the variance, and lets rounds grow; here the variance is that of the warm-up and rounds are "
        "alike."
    ),
)
def zeroone_adam(
    warmup_steps: Count = 100,
    local_steps: Count = 4,
    beta1: Beta = 0.9,
    beta2: Beta = 0.999,
    epsilon: Positive = 1e-8,
    weight_decay: NonNegative = 0.0,
):
    """Adam on raw floats for warmup_steps, then rounds of local_steps Adam steps and one vote on what they came to.

    The variance is frozen after the warm-up. In a round every rank moves by its own momentum; then the mean of momentum
    over the round travels as scaled signs with error feedback on both sides, takes the place of all momenta, and moves
    x from where the round began by local_steps*lr. Less than 1 bit a coordinate and minibatch. Details of this paper
    are reconstructed: how a round ends.
    """
    correction = 1 - beta2**warmup_steps
    warm = Algorithm(Minibatch(), Raw(), Mean(), Adam(beta1, beta2, epsilon, weight_decay))
    rounds = LocalAdam(local_steps, beta1, epsilon, correction)
    move = FrozenAdam(epsilon, weight_decay, correction, local_steps)
    signs = ErrorFeedback(ScaledSign(), in_x=False)
    bits = Algorithm(rounds, signs, ServerErrorFeedback(in_x=False), move)
    keep = (("update/v", "update/v"), ("update/v", "estimator/variance"), ("update/m", "estimator/m"))
    return Stages(warm, bits, keep, until=warmup_steps)
