"""Local rounds: several steps on each rank's own rows between two votes."""

from math import pi, sqrt
from typing import Literal

from mpisign.algorithms.compressed import Compressed
from mpisign.algorithms.compressors import Largest, LargestMeans, WholeNumbers
from mpisign.algorithms.estimators import (
    InnerAdam,
    InnerLion,
    InnerOptimiser,
    InnerSgd,
    LocalAdam,
    LocalSteps,
    Minibatch,
    SharedLion,
)
from mpisign.algorithms.growth import Doubling
from mpisign.algorithms.method import Algorithm, Thinned
from mpisign.algorithms.registry import Beta, Count, Fraction, NonNegative, Positive, algorithm
from mpisign.algorithms.signs import ErrorFeedback, NoisySign, Raw, ScaledSign, Sign, StochasticSign
from mpisign.algorithms.updates import Descent, LionDescent, RawDescent, RoundAdam, ThinnedAdam
from mpisign.algorithms.votes import Average, Majority, Mean, ServerErrorFeedback
from mpisign.algorithms.zoo.known import MEDIAN

Inner = Literal["sgd", "adam", "lion"]
OPTIMISERS: dict[Inner, InnerOptimiser] = {"sgd": InnerSgd(), "adam": InnerAdam(), "lion": InnerLion()}


@algorithm(
    "local-sign",
    paper="baseline: the local steps of McMahan et al. 2017, arXiv:1602.05629, and a vote on where they lead",
    lr=1e-3,
    known=f"Nothing of its own. {MEDIAN}",
    sure="departs",
    heterogeneous="refuted",
)
def local_sign(
    local_steps: Count = 4,
    local_lr: Positive = 0.01,
    inner: Inner = "sgd",
    vote: Literal["majority", "average"] = "majority",
    weight_decay: NonNegative = 0.0,
):
    """Sign of what local steps of an optimiser came to on each rank, majority vote: 1/local_steps bits per minibatch.

    Each rank walks from x by local_steps steps of rate local_lr, by SGD, Adam or Lion, whose averages it keeps, and
    sends the sign of x less where it ends. x -= lr*vote, from where the walk began. With one step of "sgd" it is
    signsgd-mv, with one of "lion" dlion-mavo or, averaged, dlion-avg. The combination is a baseline of our own.
    """
    decide = Majority() if vote == "majority" else Average()
    return Algorithm(LocalSteps(local_steps, local_lr, OPTIMISERS[inner]), Sign(), decide, Descent(weight_decay))


@algorithm(
    "local-sign-momentum",
    paper="Yu et al. 2024, arXiv:2411.17866, alg. 1",
    lr=1e-3,
    known=(
        "By its abstract O(1/T^(1/4)) in the l1 norm of the gradient for local SGD, and O(1/sqrt(T)) for an instance "
        "with a randomised sign. Proofs not seen."
    ),
    sure="reconstructed",
)
def local_sign_momentum(
    local_steps: Count = 12,
    inner: Inner = "adam",
    beta1: Beta = 0.95,
    beta2: Beta = 0.98,
    eta: Positive = 1.0,
    weight_decay: NonNegative = 0.0,
):
    """Lion on the mean of what local steps came to: x moves by the sign of a momentum that all ranks share.

    v = (x - point after local_steps steps of rate lr)/lr on each rank, its mean travels as floats, 32/local_steps bits
    per minibatch; x -= eta*lr*(sign(beta1*m + (1 - beta1)*v) + weight_decay*x), then m = beta2*m + (1 - beta2)*v.
    inner: whose steps these are; each rank keeps its averages. The randomised sign of the theory is none of the
    algorithm's. Details of this paper are reconstructed: betas, eta, and where the rates stand.
    """
    walk = LocalSteps(local_steps, 0.0, OPTIMISERS[inner])
    return Algorithm(walk, Raw(), Mean(), LionDescent(beta1, beta2, weight_decay, eta))


@algorithm(
    "fedlion",
    paper="Tang & Chang 2024, arXiv:2402.09941",
    lr=1e-3,
    known=(
        "By its abstract faster than FedAvg, O(1/sqrt(T)) where gradients are dense and voters not too unlike. Proof "
        "not seen."
    ),
    sure="second-hand",
)
def fedlion(local_steps: Count = 5, beta1: Beta = 0.9, beta2: Beta = 0.99, weight_decay: NonNegative = 0.0):
    """Lion's local steps from one shared momentum; sums of their signs travel as whole numbers, and are averaged.

    Each rank takes local_steps = E steps of rate lr; (x - where it ends)/lr is a whole number from -E to E in each
    coordinate, sent in log2(2E + 1) bits, rounded up to whole ones. x -= lr*mean of them; the mean of the momenta, as
    floats, is what all ranks begin the next round with: 32 bits each way per round, beside which the numbers are few.
    weight_decay is ours, decoupled. Equations seen in a secondary text.
    """
    walk, numbers = SharedLion(local_steps, 0.0, InnerLion(beta1, beta2)), Compressed(WholeNumbers(local_steps))
    return Algorithm(walk, numbers, Mean(), RawDescent(weight_decay))


@algorithm(
    "sparseloco",
    paper="Sarfi et al. 2025, arXiv:2508.15706, SparseLoCo",
    lr=1e-3,
    known="No proof of its own.",
    sure="reconstructed",
)
def sparseloco(
    local_steps: Count = 15,
    density: Fraction = 0.03,
    quantised: bool = True,
    decay: Beta = 0.95,
    outer_lr: Positive = 1.0,
    beta1: Beta = 0.9,
    beta2: Beta = 0.999,
    epsilon: Positive = 1e-8,
    weight_decay: NonNegative = 0.0,
):
    """AdamW's local steps; the largest coordinates of what they came to travel in two bits, with error feedback.

    e = decay*e + x - point after local_steps AdamW steps of rate lr, whose averages each rank keeps; sends the largest
    coordinates of e, a share of each 4096, takes them off e, and x -= outer_lr*mean of what was sent. weight_decay is
    AdamW's, within the steps. quantised: values travel as a sign and one of two magnitudes, means over a tile; else as
    float32. All voters count in the mean, also those that sent nothing there. Equations seen in a secondary text; code
    said to be the authors' takes chunks of 64 x 64 of each parameter, four magnitudes per tensor, and means over those
    that sent. Details of this paper are reconstructed: the two bits, and defaults.
    """
    walk = LocalSteps(local_steps, 0.0, InnerAdam(beta1, beta2, epsilon, weight_decay))
    form = LargestMeans(density) if quantised else Largest(density)
    return Algorithm(walk, ErrorFeedback(Compressed(form), decay=decay), Mean(), RawDescent(factor=outer_lr, in_x=True))


@algorithm(
    "z-signfedavg",
    paper="Tang et al. 2023, arXiv:2302.02589",
    lr=1.0,
    known=(
        "The rates of uncompressed FedAvg as the noise grows; at a fixed noise the average of signs is biased towards "
        "the voters' median for Gaussian noise, and unbiased within its range for uniform noise."
    ),
    sure="reconstructed",
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
    paper="Lu et al. 2022, arXiv:2202.06009",
    lr=1e-3,
    known="The rate of Adam with a frozen variance, under bounded gradients (reconstructed).",
    sure="departs",
)
def zeroone_adam(
    warmup_steps: Count = 100,
    thin_every: Count = 16,
    local_steps: Count = 4,
    grow_every: Count = 16,
    beta1: Beta = 0.9,
    beta2: Beta = 0.999,
    epsilon: Positive = 1e-8,
    weight_decay: NonNegative = 0.0,
):
    """Adam in one bit but for floats ever more rarely, then rounds that grow: Adam steps and one vote on their mean.

    In the first warmup_steps steps gradients travel as floats, and change the variance, where an interval begins; in
    it as scaled signs with error feedback on both sides, and only momentum changes. Intervals are 1 and double after
    every thin_every. Then the variance stays, and a step is a round of 1, 2, 4, ... up to local_steps minibatches, the
    double after every grow_every rounds: every rank moves by its own momentum, whose mean over the round travels as
    scaled signs, with residuals that begin anew, takes the place of all momenta, and moves x from where the round
    began; 1/local_steps bits per minibatch at last. After the authors' code, in DeepSpeed, with details of our own:
    that doubles rounds by minibatches, corrects no averages, decays weights inside of rounds, and takes |p|_2/sqrt(d)
    for a scale.
    """
    intervals, lengths = Doubling(thin_every, warmup_steps), Doubling(grow_every, local_steps)
    adam, signs = ThinnedAdam(intervals, beta1, beta2, epsilon, weight_decay), ErrorFeedback(ScaledSign(), in_x=False)
    floats = Algorithm(Minibatch(), Raw(), Mean(), adam)
    between = Algorithm(Minibatch(), signs, ServerErrorFeedback(in_x=False), adam)
    correction = 1 - beta2 ** intervals.count(warmup_steps)
    walks = LocalAdam(lengths, warmup_steps, beta1, epsilon, correction)
    move = RoundAdam(epsilon, weight_decay, correction, lengths, warmup_steps)
    rounds = Algorithm(walks, signs, ServerErrorFeedback(in_x=False), move)
    moments = (("update/m", "update/m"), ("update/v", "update/v"))
    keep = (*moments, ("update/m", "estimator/m"), ("update/v", "estimator/variance"))
    return Thinned(floats, between, rounds, intervals, warmup_steps, keep)
