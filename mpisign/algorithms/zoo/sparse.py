"""Sparse messages: the largest, random or drawn coordinates, values or signs of them, or cosine coefficients."""

from typing import Annotated, Literal

from pydantic import Field

from mpisign.algorithms.compressed import Compressed, MaskedMomentum
from mpisign.algorithms.compressors import Chosen, Drawn, GlobalLargest, Largest, LargestSigns
from mpisign.algorithms.cosine import LARGEST
from mpisign.algorithms.estimators import Cosine, Minibatch, Momentum, Nesterov
from mpisign.algorithms.method import Algorithm, Phases
from mpisign.algorithms.registry import Beta, Count, Fraction, NonNegative, Positive, Whole, algorithm
from mpisign.algorithms.signs import ErrorFeedback, ThresholdSign
from mpisign.algorithms.updates import CosineSignDescent, Descent, RawDescent, Sgd
from mpisign.algorithms.votes import Average, Mean, PresentMajority
from mpisign.layout import TILE

Select = Literal["tile", "all"]


@algorithm(
    "topk",
    paper="Stich, Cordonnier & Jaggi 2018, arXiv:1809.07599, alg. 1; Aji & Heafield 2017, arXiv:1704.05021",
    lr=0.1,
    known="The rate of SGD plus a term in 1/(density^2 T^2) for strongly convex functions.",
    sure="departs",
)
def topk(density: Fraction = 0.01, select: Select = "tile", momentum: Beta = 0.0, weight_decay: NonNegative = 0.0):
    """The largest coordinates of lr*g + e as (place, value), averaged; e keeps all others.

    select "tile" takes a share of each 4096 coordinates, so that messages have one length and 12-bit places; "all" of
    the whole vector, as the papers do, with 32-bit places, by allgather only. momentum: Nesterov's, on each rank.
    """
    sign = ErrorFeedback(Compressed(_largest(density, select)))
    return Algorithm(_local(momentum), sign, Mean(), RawDescent(weight_decay, in_x=True))


def _largest(density: float, select: Select):
    return Largest(density) if select == "tile" else GlobalLargest(density)


def _local(momentum: float):
    return Nesterov(momentum) if momentum else Minibatch()


@algorithm(
    "randk",
    paper="Stich, Cordonnier & Jaggi 2018, arXiv:1809.07599, alg. 1; Konecny & Richtarik 2018, arXiv:1611.07555",
    lr=0.1,
    known="As topk with error feedback; without it SGD with a variance 1/density-fold.",
    sure="departs",
)
def randk(density: Fraction = 0.01, feedback: bool = True, momentum: Beta = 0.0, weight_decay: NonNegative = 0.0):
    """Random coordinates, the same on all ranks, so that no places travel; averaged.

    feedback: the others stay in a residual, p = lr*g + e. False: values are divided by the density, which makes them
    unbiased. Each 4096 coordinates have their share, where the papers draw from all. momentum: Nesterov's, on each
    rank.
    """
    form = Chosen(density, unbiased=not feedback)
    sign = ErrorFeedback(Compressed(form)) if feedback else Compressed(form)
    return Algorithm(_local(momentum), sign, Mean(), RawDescent(weight_decay, in_x=feedback))


@algorithm(
    "dgc",
    paper="Lin et al. 2018, arXiv:1712.01887, alg. 1 to 4",
    lr=0.1,
    known="No proof of its own.",
    sure="departs",
)
def dgc(
    density: Fraction = 0.01,
    select: Select = "tile",
    momentum: Beta = 0.9,
    nesterov: bool = False,
    clip_norm: NonNegative = 0.0,
    warmup_steps: Whole = 0,
    weight_decay: NonNegative = 0.0,
):
    """Deep gradient compression: momentum corrected on each rank, its largest coordinates sent, and forgotten there.

    clip_norm: each rank's gradient is clipped to clip_norm/sqrt(n) first; 0 for never. warmup_steps: so many steps in
    four equal parts of density 1/4, 1/16, 1/64, 1/256 (or `density`, if that is more) come first. They share
    u and v, but each has its own buffer for what was decided, 4 bytes per coordinate. The largest are found exactly,
    over all tensors. The authors' code (synxlin/deep-gradient-compression) has these formulas of u and v, but samples,
    seeks and clips tensor by tensor, averages tensors of one dimension in floats with momentum (dense.parameters does
    here), warms up by powers of its own, and lets weight decay have momentum, where ours is decoupled.
    """

    def at(share: float) -> Algorithm:
        sign = MaskedMomentum(_largest(share, select), momentum, nesterov, clip_norm)
        return Algorithm(Minibatch(), sign, Mean(), RawDescent(weight_decay))

    if not warmup_steps:
        return at(density)
    shares = [max(density, 0.25**k) for k in (1, 2, 3, 4)]
    ends = tuple(warmup_steps * k // 4 for k in (1, 2, 3, 4))
    return Phases((*map(at, shares), at(density)), ends)


@algorithm(
    "strom",
    paper="Strom 2015, Interspeech, Scalable distributed DNN training using commodity GPU cloud computing",
    lr=0.1,
    known="No proof of its own; a threshold too small floods the wire, one too large starves x while residuals grow.",
    sure="reconstructed",
)
def strom(threshold: Positive = 0.01, weight_decay: NonNegative = 0.0):
    """The sign of r where |r| > threshold, r += g - threshold*sign there; averaged, times the threshold.

    The paper adds messages up, so its rate is our lr/n. It sends 31-bit places with a sign; here two planes travel, and
    the integer sum comes down, which every exchange can carry. Details of this paper are reconstructed.
    """
    sign = ErrorFeedback(ThresholdSign(threshold), in_x=False)
    return Algorithm(Minibatch(), sign, Average(), Descent(weight_decay, factor=threshold))


@algorithm(
    "wangni",
    paper="Wangni et al. 2018, arXiv:1710.09854, alg. 3",
    lr=0.1,
    known="The least variance of all unbiased sparse messages of that expected length.",
    sure="departs",
)
def wangni(density: Fraction = 0.05, passes: Count = 2, momentum: Beta = 0.9, weight_decay: NonNegative = 0.0):
    """g_i/p_i with probability p_i = min(1, c|g_i|), else nothing; averaged: unbiased, of least variance.

    density: the share that is sent on average. c by the paper's greedy algorithm, `passes` times. Entries of a 32-bit
    place and a float32 by allgather, as many as there are; the paper also sends 1/c once for all values with p < 1.
    """
    return Algorithm(Minibatch(), Compressed(Drawn(density, passes)), Mean(), Sgd(momentum, weight_decay))


@algorithm(
    "s3gd-mv",
    paper="Park & Lee 2023, arXiv:2302.07475, S3GD-MV",
    lr=1e-2,
    known="By its abstract the rate of signSGD, for a density that suits the number of voters and d. Proof not seen.",
    sure="reconstructed",
)
def s3gd_mv(density: Fraction = 0.01, memory: bool = True, momentum: Beta = 0.0, weight_decay: NonNegative = 0.0):
    """Signs of the largest coordinates of each rank's gradient and memory, majority vote over those present.

    v += g, sends 12-bit places within each 4096 coordinates and signs, and forgets v there; x stays where nobody sent
    or the vote is tied. memory = false: v = g, all that the abstract says. momentum: as in dgc; without memory that of
    signum. Details of this paper are reconstructed: the memory, and where the largest are sought.
    """
    form = LargestSigns(density)
    if memory:
        return Algorithm(Minibatch(), MaskedMomentum(form, momentum), PresentMajority(), Descent(weight_decay))
    estimator = Momentum(momentum) if momentum else Minibatch()
    return Algorithm(estimator, Compressed(form), PresentMajority(), Descent(weight_decay))


@algorithm(
    "demo",
    paper="Peng, Quesnelle & Kingma 2024, arXiv:2411.19870, DeMo",
    lr=1e-3,
    known="No proof of its own.",
    sure="departs",
)
def demo(
    topk: Annotated[int, Field(ge=1, le=TILE)] = 32,
    chunk: Annotated[int, Field(ge=1, le=LARGEST)] = 64,
    decay: Beta = 0.999,
    weight_decay: NonNegative = 0.0,
):
    """The largest cosine coefficients of each rank's momentum, added up; x moves by the signs of what they stand for.

    e = decay*e + lr*g; sends the largest coefficients of the chunks of e, and takes them off e; x -= lr*sign(what their
    sum stands for). A matrix has chunks as high and wide as the largest divisors of its sides up to `chunk`, any other
    parameter rows of them. After the authors' code (bloc97/DeMo), which takes topk of each chunk: here topk of each
    4096 coefficients, as a chunk of 64 x 64 has, so that messages have one length and 12-bit places; a vector's few
    coefficients then compete with those of the matrices beside it. It averages a coefficient over those who sent it;
    here all count. e is kept as coefficients, of which it has as many.
    """
    sign = ErrorFeedback(Compressed(Largest(topk / TILE)), decay=decay)
    return Algorithm(Cosine(chunk=chunk), sign, Mean(), CosineSignDescent(weight_decay, chunk))
